"""The configuration of a run: every fault is named with its place."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ccl_pack.ccl_core.host.files.identify import stated_config
from ccl_pack.ccl_core.host.files.read import read
from ccl_pack.ccl_core.training.finetune.load import read_model
from ccl_pack.ccl_core.training.finetune.settings import Settings
from ccl_pack.ccl_core.training.finetune.settings_file import read_settings
from ccl_pack.ccl_core.training.flow import PAPER_MIX
from support.ccl_tiny import CONFIGS

WHOLE = {
    "model": {
        "video": "wan.safetensors",
        "audio": "audio.safetensors",
        "interaction": "interaction.safetensors",
    },
    "encoders": {
        "video_vae": "vae.safetensors",
        "audio_vae": "vocos.safetensors",
        "text_encoder": "umt5.safetensors",
    },
    "data": {"clips": "clips", "cache": "cache", "sizes": [[832, 480], [480, 832]], "frames": [49, 81]},
    "train": {"out": "out", "steps": 100, "audio": "lora", "rates": {"interaction": 1e-4, "audio": 1}},
}


def written(tmp_path: Path, **changes: dict[str, Any]) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({part: entries | changes.get(part, {}) for part, entries in WHOLE.items()}))
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path))
    assert settings.model.parts.audio == str(tmp_path / "audio.safetensors")
    assert settings.data.sizes == ((832, 480), (480, 832)) and settings.data.captions is None
    assert settings.train.trained == ["interaction", "audio"] and settings.train.rates["audio"] == 1.0
    assert settings.train.tasks == PAPER_MIX and sum(PAPER_MIX.values()) == pytest.approx(1)


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text()
    for i, block in enumerate(text.split("```json")[1:]):
        (tmp_path / f"{i}.json").write_text(block.split("```")[0])
        assert read_settings(tmp_path / f"{i}.json").train.steps > 0


@pytest.mark.parametrize("part", ["model", "encoders", "data", "train"])
def test_the_documentation_names_every_entry(part: str) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text()
    rows = "\n".join(line for line in text.splitlines() if line.startswith(f"| `{part}"))
    kind = get_type_hints(Settings)[part]
    assert [entry.name for entry in fields(kind) if f"{entry.name}`" not in rows] == []


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("train", {"steps": "many"}, "train.steps is 'many', wanted a whole number"),
        ("train", {"stps": 3}, "train has the unknown entries"),
        ("train", {"precision": "fp8"}, "known are 'bf16', 'fp32'"),
        ("train", {"interaction": "frozen", "audio": "frozen"}, 'set one to "lora" or "full"'),
        ("train", {"tasks": {"dub": 1}}, "give shares of"),
        ("train", {"times": [0.9, 0.5]}, "the lower first"),
        ("train", {"video": "full"}, "train.rates has none for video"),
        ("data", {"sizes": [[832]]}, r"data.sizes\[0\] has 1 entries, wanted 2"),
        ("data", {"frames": []}, "at least one entry"),
        ("encoders", {"video_vae": None}, "nothing says where video_vae is"),
        ("model", {"video": None}, "model has neither video and config"),
        ("model", {"config": "ccl.json"}, "model has both video and config"),
        ("model", {"fresh": ["video"]}, 'train.video is "frozen", which does not train it'),
        ("train", {"optimiser": "muon", "muon_rates": {"audio": 1}}, "muon_rates has none for interaction"),
        ("train", {"audio_lag": [4, 0.5]}, "two shifts above 0, the lower first"),
        ("train", {"loss_weights": {"speed": 1}}, "give motion and loudness"),
        ("train", {"samples": [{"task": "v2a", "caption": "a dog"}]}, "name the clip"),
        ("train", {"keep": 0}, "train.keep is 0"),
        ("train", {"threads": 0}, "train.threads is 0: give 1 or more"),
        ("train", {"clip": 0}, "train.clip is 0.0: give a number above 0"),
        ("train", {"shift": 0}, "train.shift is 0.0: give a number above 0"),
        ("train", {"decay": -0.5}, "train.decay is -0.5: give a share from 0 to 1"),
        ("train", {"text_drop": 10}, "train.text_drop is 10.0: give a share from 0 to 1"),
        ("train", {"ema": 1}, "train.ema is 1.0: give 0 or more, and less than 1"),
        ("data", {"validation_clips": -1}, "data.validation_clips is -1: give 0 or more"),
        ("model", {"fresh": ["text"]}, r"model.fresh\[0\] is 'text', known are"),
    ],
)
def test_faults_are_named(tmp_path: Path, part: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_settings(written(tmp_path, **{part: change}))


def test_a_vocoder_of_its_own_is_refused_before_the_first_save(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, encoders={"vocoder": "bigvgan.safetensors"}, train={"export_whole": True})
    with pytest.raises(ValueError, match="a vocoder of its own has no place in one file"):
        read_settings(path)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_settings(tmp_path / "train.json")
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(ValueError, match="the file lacks model, encoders, data, train"):
        read_settings(tmp_path / "train.json")
    with pytest.raises(ValueError, match="cannot be read"):
        read_settings(tmp_path / "gone.json")


def test_the_stages_of_ccl_tiny_fit_the_model_that_is_shipped_and_follow_each_other() -> None:
    stages = [read_settings(CONFIGS / f"ccl-tiny-{name}.json") for name in ("one-object", "hard", "pairs")]
    shipped = stated_config(read(stages[0].encoders.checkpoint))
    assembly, config = read_model(stages[0].model)
    assert config == replace(shipped, text_encoder=None, latent_rgb_factors=None)
    assert assembly.sd == {} and stages[0].train.trained == ["interaction", "audio", "video"]
    for former, later in pairwise(stages):
        last = Path(former.train.out) / f"step-{former.train.steps:06}" / "model.safetensors"
        assert Path(later.model.video) == last and later.encoders == former.encoders
    assert stages[0].train.steps * 0.65 < 2 * 3600, "seconds of a step on one core"
    assert all(stage.train.steps * 0.48 < 2 * 3600 for stage in stages[1:]), "on two cores"
