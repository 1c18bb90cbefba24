"""The examples of CONTRIBUTING.md, loaded as the files that they name and used as their sections say."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from ccl_pack.ccl_core import memory
from ccl_pack.ccl_core.config import OPTIONS, BridgeOptions, InteractionConfig
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.guidance import MODES, N0, T0, TC, branch_weights, default_settings
from ccl_pack.ccl_core.host.files.build import load_model
from ccl_pack.ccl_core.model.interactions import INTERACTIONS
from ccl_pack.nodes.guidance import CCLJointSampler
from ccl_tools.environment import PACK_NAME, ROOT
from support import tiny

BLOCK = re.compile(r"^```python\n# (\S+\.py)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    path: code for path, _, code in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
}
FAMILY = "ccl_core/families/duo.py"
COUPLING = "ccl_core/model/interactions/summary.py"
NODE = "nodes/sound_off.py"
RENAMED = "nodes/replacements.py"
MODE = "ccl_core/guidance.py"
OPTIONS_OF_COUPLING = "ccl_core/config.py"
TEXTS = tiny.conditioning(1), tiny.conditioning(2)


class Loader:
    """Examples as modules of the pack, at the place that their first line names."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def new_file(self, path: str) -> ModuleType:
        return self._module(path, EXAMPLES[path])

    def part_of(self, path: str, rows: bool = False) -> ModuleType:
        """Lines that are added to a file, which have its names; rows of a table are the value of ROWS."""
        code = f"ROWS = {{\n{EXAMPLES[path]}}}\n" if rows else EXAMPLES[path]
        return self._module(path.replace(".py", "_example.py"), f"from .{Path(path).stem} import *\n{code}")

    def _module(self, path: str, code: str) -> ModuleType:
        file = self.folder / Path(path).name
        file.write_text(code, encoding="utf-8")
        name = ".".join([PACK_NAME, *Path(path).with_suffix("").parts])
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        self.monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    return Loader(tmp_path, monkeypatch)


def sample(model: Any) -> list[torch.Tensor]:
    """On the sampler of the host."""
    run = host_nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *TEXTS, tiny.av_latent())
    return run[0]["samples"].unbind()


def test_the_page_has_an_example_for_each_recipe() -> None:
    assert set(EXAMPLES) == {MODE, FAMILY, COUPLING, OPTIONS_OF_COUPLING, NODE, RENAMED}


def test_the_mode_is_a_row_that_the_nodes_read(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    ((name, mode),) = load.part_of(MODE, rows=True).ROWS.items()
    monkeypatch.setitem(MODES, name, mode)
    assert branch_weights(name, default_settings(name)) == {TC: (1, 1), T0: (2, 2), N0: (-2, -2)}
    (combo,) = (entry for entry in CCLJointSampler.define_schema().inputs if entry.id == "mode")
    assert name in [option.key for option in combo.options]
    model, latent = tiny.patcher(), tiny.av_latent()
    choices = [{"mode": name, "video_cfg": scale, "audio_cfg": scale} for scale in (3.0, 1.0)]
    guided, plain = (
        CCLJointSampler.execute(model, *TEXTS, latent, 1, 2, "euler", "simple", 1.0, chosen)[0][
            "samples"
        ].unbind()
        for chosen in choices
    )
    assert not any(torch.equal(x, y) for x, y in zip(guided, plain, strict=True))


def test_the_family_is_a_row_that_loads(
    load: Loader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = load.new_file(FAMILY).DUO
    audio = replace(tiny.CONFIG.audio, in_dim=128, out_dim=128, rope="token")
    coupling = InteractionConfig(row.coupling, (0, 1), BridgeOptions())
    config = replace(tiny.CONFIG, audio=audio, interaction=coupling, family="duo", **row.published)
    # The heads of the tiny streams are narrower than Wan's.
    heads = {"video": {"num_heads": 2}, "audio": {"num_heads": 2, "rope": "token"}}
    monkeypatch.setitem(FAMILIES, "duo", replace(row, streams=heads))
    file = tmp_path / "duo.safetensors"
    save_file({name_of_duo(key): value for key, value in tiny.state_dict(config).items()}, file)
    model = load_model(str(file), {"dtype": torch.float32})
    assert model.model.ccl_config == config


def name_of_duo(key: str) -> str:
    """The example's name of one of our keys."""
    if key.startswith("interaction."):
        _, layer, direction, rest = key.split(".", 3)
        return f"bond.{layer}.{'to_eyes' if direction == 'a2v' else 'to_ears'}.{rest}"
    return f"ears.{key.removeprefix('audio.')}" if key.startswith("audio.") else f"eyes.{key}"


def test_the_coupling_is_two_rows_that_load_and_sample(
    load: Loader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = load.part_of(OPTIONS_OF_COUPLING).SummaryOptions
    monkeypatch.setitem(OPTIONS, "summary", options)
    monkeypatch.setitem(INTERACTIONS, "summary", load.new_file(COUPLING).Summary)
    coupling = InteractionConfig("summary", (0, 1), options())
    file = tiny.write(tmp_path / "summary.safetensors", interaction=coupling)
    model = load_model(str(file), {"dtype": torch.float32})
    made = sample(model)
    closed = model.clone()
    closed.model_options["transformer_options"] |= {"a2v_cross_attn": False, "v2a_cross_attn": False}
    apart = sample(closed)
    assert all(torch.isfinite(x).all() and not torch.equal(x, y) for x, y in zip(made, apart, strict=True))
    weights = model.model.diffusion_model.interaction.parameters()
    assert memory.parameters(model.model.ccl_config)["interaction"] == sum(
        weight.numel() for weight in weights
    )


def test_the_node_drops_the_sound(load: Loader) -> None:
    node = load.new_file(NODE).CCLDropSound
    assert node.GET_NODE_INFO_V1()["category"] == "CCL/latent"
    latent = tiny.av_latent()
    made = node.execute(latent=latent)[0]
    assert torch.equal(made["samples"], latent["samples"].unbind()[0]) and made["fps"] == 16.0


def test_the_renamed_node_stands_in_the_place_of_the_old_one(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.node_replace_manager import NodeReplaceManager

    [row] = load.new_file(RENAMED).REPLACEMENTS
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, row.new_node_id, load.new_file(NODE).CCLDropSound)
    manager = NodeReplaceManager()
    manager.register(row)
    inputs = {"av_latent": ["1", 0], "strength": 0.5}
    prompt = {"2": {"class_type": row.old_node_id, "inputs": inputs, "_meta": {"title": "mute"}}}
    manager.apply_replacements(prompt)
    assert (prompt["2"]["class_type"], prompt["2"]["inputs"]) == ("CCLDropSound", {"latent": ["1", 0]})
