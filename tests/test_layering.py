"""Imports point downwards only: nodes, ccl_core/host, ccl_core/model, the pure files; and between rooms
of training.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["pure", "model", "host", "nodes"]
NODE_API = {
    "comfy_api",
    "folder_paths",
    "nodes",
    "server",
    "latent_preview",
    "node_helpers",
    "execution",
    "comfy_execution",
    "comfy_extras",
}
PURE_MAY = {"torch"}
MODEL_MAY = {"torch", "einops", "torchaudio", "comfy"}
MODEL_COMFY = (
    "comfy.ldm",
    "comfy.ops",
    "comfy.patcher_extension",
    "comfy.rmsnorm",
    "comfy.model_management",
    "comfy.model_prefetch",
    "comfy.quant_ops",
)
HOST_MAY = {*MODEL_MAY, "av", "safetensors", "sentencepiece", "numpy", "transformers"}


def layer_of(path: PurePosixPath) -> str:
    """The layer a file of the pack belongs to."""
    if path.parts[0] in ("nodes", "__init__.py"):
        return "nodes"
    return path.parts[1] if path.parts[1] in ("host", "model", "training") else "pure"


def shipped() -> list[PurePosixPath]:
    files = [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "ccl_core").rglob("*.py")]
    return sorted(PurePosixPath(file.relative_to(ROOT).as_posix()) for file in files)


FILES = [path for path in shipped() if layer_of(path) != "training"]


def imports(path: PurePosixPath, source: str) -> list[str]:
    """Every import in the file, also inside functions; relative ones as the path they reach, starting
    with a dot.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = list(path.parts[: len(path.parts) - node.level])
            base = folder + (node.module.split(".") if node.module else [])
            found += ["./" + "/".join([*base, alias.name]) for alias in node.names]
    return found


def resolve(target: str) -> PurePosixPath:
    """The file of the pack behind a relative import, which may name something inside that file."""
    path = PurePosixPath(target)
    for candidate in (path, path.parent):
        for file in (candidate.with_name(candidate.name + ".py"), candidate / "__init__.py"):
            if candidate.name and (ROOT / file).is_file():
                return file
    raise AssertionError(f"{target} is no file of the pack")


def faults(path: PurePosixPath, source: str) -> list[str]:
    """What this file imports against the rules."""
    layer, bad = layer_of(path), []
    for name in imports(path, source):
        if name.startswith("./"):
            below = layer_of(resolve(name))
            if below == "training" or LAYERS.index(below) > LAYERS.index(layer):
                bad.append(f"{path} ({layer}) imports {name} ({below})")
        elif not allowed(layer, name):
            bad.append(f"{path} ({layer}) imports {name}")
    return bad


def allowed(layer: str, name: str) -> bool:
    """Whether a file of this layer may import this module from outside the pack."""
    package = name.split(".")[0]
    if package in ("ccl_core", "ccl_pack"):
        return False
    if package in sys.stdlib_module_names:
        return package not in ("subprocess", "socket", "urllib", "http")
    if layer == "pure":
        return package in PURE_MAY
    if layer == "model":
        return package in MODEL_MAY and (package != "comfy" or name.startswith(MODEL_COMFY))
    if layer == "host":
        return package in HOST_MAY
    return package in NODE_API | HOST_MAY


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downwards(path: PurePosixPath) -> None:
    assert faults(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("ccl_core/alignment/tarp.py", "import comfy.ops"),
        ("ccl_core/alignment/tarp.py", "from ..host.media import latents"),
        ("ccl_core/alignment/tarp.py", "import einops"),
        ("ccl_core/model/joint.py", "import folder_paths"),
        ("ccl_core/model/joint.py", "from comfy import model_patcher"),
        ("ccl_core/model/joint.py", "from ..host.media.latents import split"),
        ("ccl_core/host/media/latents.py", "from comfy_api.latest import io"),
        ("ccl_core/host/media/latents.py", "from ....nodes import NODES"),
        ("ccl_core/host/media/latents.py", "from ...training.world.scene import sample_clip"),
        ("nodes/latents.py", "from ccl_core.tarp import windows"),
        ("nodes/latents.py", "import subprocess"),
    ],
)
def test_a_forbidden_import_is_found(path: str, line: str) -> None:
    assert faults(PurePosixPath(path), f"def f():\n    {line}\n")


# What each room of ccl_core/training may import of the others.
ROOMS = {
    "flow": set(),
    "muon": set(),
    "world": set(),
    "finetune": {"flow", "muon"},
    "tiny": {"flow", "muon", "world"},
}
TRAINING = [path for path in shipped() if layer_of(path) == "training" and path.name != "__init__.py"]


def room_of(path: PurePosixPath) -> str:
    """The room of training that a file belongs to, which for flow and muon is the file itself."""
    return path.parts[2].removesuffix(".py")


def strays(path: PurePosixPath, source: str) -> list[str]:
    """What this file of training imports that its room may not."""
    may = ROOMS[room_of(path)] | {room_of(path)}
    bad = []
    for name in imports(path, source):
        below = resolve(name) if name.startswith("./") else None
        if below is None:
            continue
        if layer_of(below) == "nodes" or (layer_of(below) == "training" and room_of(below) not in may):
            bad.append(f"{path} imports {name}")
    return bad


@pytest.mark.parametrize("path", TRAINING, ids=str)
def test_rooms_of_training_import_downwards(path: PurePosixPath) -> None:
    assert strays(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("ccl_core/training/flow.py", "from .tiny.clips import write_clips"),
        ("ccl_core/training/finetune/load.py", "from ..tiny.clips import write_clips"),
        ("ccl_core/training/finetune/load.py", "from ..world import scene"),
        ("ccl_core/training/world/judge.py", "from ..tiny import clips"),
        ("ccl_core/training/tiny/clips.py", "from ..finetune.settings import Settings"),
        ("ccl_core/training/tiny/clips.py", "from ....nodes import NODES"),
    ],
)
def test_a_stray_import_of_training_is_found(path: str, line: str) -> None:
    assert strays(PurePosixPath(path), f"def f() -> None:\n    {line}\n")


# Within the pure files, the model and the host: a file imports of its own group or of one above it in this
# list.
GROUPS = [
    ["counts", "config", "tasks", "guidance", "notices", "repository"],
    ["families"],
    ["alignment"],
    ["metadata", "prompts", "memory", "cost", "metrics", "attention_maps"],
    [
        "model/spans",
        "model/speech_text",
        "model/times",
        "model/rotary",
        "model/attention",
        "model/sparse",
        "model/audio/",
    ],
    ["model/blocks"],
    ["model/streams"],
    ["model/audio_stream", "model/interactions"],
    ["model/layer", "model/kept"],
    ["model/heard"],
    ["model/joint"],
    [
        "host/files/read",
        "host/files/gguf",
        "host/files/values",
        "host/diagnosis",
        "host/latent_checks",
        "host/regions",
        "host/hooks",
        "host/kept_parts",
        "host/step_cache",
        "host/storyboard",
        "host/progress",
        "host/branches",
        "host/video_wrappers",
        "host/turns",
    ],
    [
        "host/texts",
        "host/patches",
        "host/audio_shift",
        "host/run",
        "host/published",
        "host/out_of_memory",
        "host/bypass",
        "host/sparse",
        "host/saving",
    ],
    ["host/both_experts", "host/given"],
    ["host/before_lora"],
    ["host/vae", "host/base_model", "host/experts"],
    ["host/media", "host/guider", "host/face_mask", "host/identity"],
    ["host/substeps"],
    ["host/files/shapes", "host/files/translate", "host/files/resemblance", "host/files/identify"],
    ["host/files/quantised", "host/files/assemble"],
    ["host/files/configure", "host/files/check"],
    ["host/files/build", "host/files/lora", "host/memory", "host/forecast"],
]
ORDERED = [path for path in FILES if path.parts[0] == "ccl_core" and path.name != "__init__.py"]


def group_of(path: PurePosixPath) -> int:
    """The place of a file in the order; AssertionError for a file that nobody has given one."""
    name = path.as_posix().removeprefix("ccl_core/").removesuffix(".py").removesuffix("__init__")
    fitting = [
        (len(start), place) for place, group in enumerate(GROUPS) for start in group if name.startswith(start)
    ]
    # `model/audio_stream` is no part of `model/audio/`, and the longest name that fits decides.
    assert fitting, f"{path} stands in no group of tests/test_layering.py"
    return max(fitting, key=lambda fit: fit[0])[1]


def climbs(path: PurePosixPath, source: str) -> list[str]:
    """What this file imports from further down the list."""
    targets = [(name, resolve(name)) for name in imports(path, source) if name.startswith("./")]
    return [f"{path} imports {name}" for name, target in targets if group_of(target) > group_of(path)]


@pytest.mark.parametrize("path", ORDERED, ids=str)
def test_rooms_of_the_core_import_downwards(path: PurePosixPath) -> None:
    assert climbs(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("ccl_core/config.py", "from .families import FAMILIES"),
        ("ccl_core/alignment/timeline.py", "from ..memory import Clip"),
        ("ccl_core/model/blocks.py", "from .streams import StreamPass"),
        ("ccl_core/model/interactions/cca.py", "from ..layer import run_layer"),
        ("ccl_core/host/files/read.py", "from .identify import identify"),
        ("ccl_core/host/files/identify.py", "from .build import load_model"),
        ("ccl_core/host/vae/audio.py", "from ..files.build import load_model"),
        ("ccl_core/host/run.py", "from .experts import Experts"),
        ("ccl_core/host/media/encode.py", "from ..memory import report"),
    ],
)
def test_an_import_that_climbs_is_found(path: str, line: str) -> None:
    assert climbs(PurePosixPath(path), f"{line}\n")
