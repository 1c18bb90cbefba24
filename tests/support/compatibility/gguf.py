"""ComfyUI-GGUF: a joint model and plain Wan from files of Q8_0, read and run by that pack.

It dequantises to half precision, which rounds by 2 ** -11 (5e-4). It does so to the same numbers on both
sides: under a LoRA, which it adds behind, the video of a pair has to be that of Wan as with any other node.
Against the numbers of the file in float32 both may be off by twice that rounding.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.ccl_core.host.files import build
from ccl_pack.ccl_core.metadata import write_config
from support.compatibility.checkouts import GGUF, module
from support.compatibility.host import with_lora
from support.compatibility.table import EXPERTS, Row, distance
from support.gguf_files import write
from support.tiny import CONFIG, config, patcher, state_dict
from support.uncoupled import sample, uncoupled, wan_of

ROUNDING = 2 * 2**-11


class Pair(NamedTuple):
    """A joint model whose coupling adds nothing and the Wan that its video is, each from a file of Q8_0.

    Ours is read by our loader with the pack's reader and layers, Wan by the loader of the pack.
    held: the numbers that the joint file holds.
    """

    joint: ModelPatcher
    wan: ModelPatcher
    held: dict[str, Tensor]


def from_files(kind: str, folder: str, seed: int = 0) -> Pair:
    pack = module(GGUF, "nodes")
    host_nodes.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"] = pack.UnetLoaderGGUF
    interaction = InteractionConfig(kind, (0, 1), OPTIONS[kind]())
    # What the host assumes of a Wan: heads of 128, times of 256 and texts of 4096.
    sizes = {"text_dim": 4096, "ffn_dim": 64}
    video = replace(CONFIG.video, dim=128, num_heads=1, freq_dim=256, **sizes)
    chosen = config(interaction=interaction, video=video, audio=replace(CONFIG.audio, **sizes))
    weights = uncoupled(state_dict(chosen, seed), kind)
    fields = {"general.architecture": "wan"}
    own_fields = fields | {"ccl_config": write_config(chosen)}
    held = write(Path(folder) / "joint.gguf", weights, own_fields, half=False)
    own = {key: value for key, value in weights.items() if not key.startswith(("audio.", "interaction."))}
    write(Path(folder) / "wan.gguf", own, fields, half=False)
    folder_paths.add_model_folder_path("diffusion_models", folder)
    try:
        (wan,) = pack.UnetLoaderGGUF().load_unet("wan.gguf")
    finally:
        folder_paths.folder_names_and_paths["diffusion_models"][0].remove(folder)
    # Its published shift, as the joint model has its own.
    wan = ModelSamplingSD3().patch(wan, chosen.shift)[0]
    return Pair(build.load_model(str(Path(folder) / "joint.gguf")), wan, held)


@cache
def of_gguf(column: str) -> tuple[ModelPatcher, ModelPatcher]:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        if column != EXPERTS:
            return from_files(column, first)[:2]
        high, low = from_files("bridge", first), from_files("bridge", second, seed=1)
        attach_low_noise(high.joint, low.joint, 0.95)
        return high.joint, low.wan


def rounding(kind: str) -> tuple[float, float, float]:
    """How far video and sound of the pair, and plain Wan, are from the numbers of their files in float32."""
    with tempfile.TemporaryDirectory() as folder:
        joint, wan, held = from_files(kind, folder)
        chosen = joint.model.ccl_config
        sections = {"interaction": chosen.interaction, "video": chosen.video, "audio": chosen.audio}
        exact = patcher(weights=held, **sections)
        video, audio = map(distance, sample(joint), sample(exact))
        return video, audio, distance(sample(wan, sound=False)[0], sample(wan_of(exact), sound=False)[0])


ROWS = [
    Row("UnetLoaderGGUF", with_lora, pair=of_gguf, of_high=True),
]
