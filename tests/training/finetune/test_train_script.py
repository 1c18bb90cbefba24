"""scripts/train.py: real media to a trained model, and a killed run that ends as the unbroken one does."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import comfy.model_management
import pytest
import torch
from safetensors.torch import load_file

from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_model
from ccl_pack.ccl_core.host.files.identify import section, stated_config
from ccl_pack.ccl_core.host.files.lora import Strengths, apply_lora
from ccl_pack.ccl_core.host.files.read import read
from ccl_pack.ccl_core.training.finetune.cache import Cache
from ccl_pack.ccl_core.training.finetune.load import read_model
from ccl_pack.ccl_core.training.finetune.media import Shape, read_media
from ccl_pack.ccl_core.training.finetune.order import generator_of
from ccl_pack.ccl_core.training.finetune.run import finetune
from ccl_pack.ccl_core.training.finetune.saves import saves
from ccl_pack.ccl_core.training.finetune.settings_file import read_settings
from ccl_pack.ccl_core.training.finetune.trainer import FineTuner
from ccl_pack.ccl_core.training.tiny.clips import write_clips
from ccl_tools.console import ScriptError
from ccl_tools.sample_clips import make
from ccl_tools.tiny_stages import export
from support.ccl_tiny import CONFIGS
from support.commands import load
from support.tiny_runs import configuration, log_lines, saved

script = load("scripts/train.py")
ROOT = Path(__file__).resolve().parents[3]
CCL_TINY = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
PATIENCE = 240


@pytest.fixture(autouse=True)
def in_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """The script tells the console more than other tests expect."""
    level, handlers = logging.root.level, list(logging.root.handlers)
    yield
    logging.root.setLevel(level)
    for handler in logging.root.handlers[:]:
        if handler not in handlers:
            logging.root.removeHandler(handler)


def media(folder: Path, model: dict, how: dict, clips: int = 1, held_out: int = 0) -> Path:
    """The configuration of a run on ccl-tiny and some clips, as docs/training.md describes it."""
    make(folder / "clips", clips, seconds=0.7, size=(48, 32), voice=False)
    whole = {
        "model": {"video": str(CCL_TINY)} | model,
        "encoders": {"checkpoint": str(CCL_TINY)},
        "data": {"clips": "clips", "cache": "cache", "sizes": [[48, 32]], "frames": [9]}
        | {"validation_clips": held_out},
        "train": {"out": "out", "steps": 30, "precision": "fp32", "warmup": 1, "threads": 1, "export": "fp32"}
        | how,
    }
    (folder / "train.json").write_text(json.dumps(whole))
    return folder / "train.json"


def fixed_loss(trainer: FineTuner) -> float:
    (entry,) = trainer.order.batch(0)
    with torch.no_grad():
        times = torch.linspace(0.1, 0.9, 5).split(1)
        found = [trainer.losses([entry.load()], ["joint"], t, generator_of(5)) for t in times]
    return float(sum(sum(losses.values()) for losses in found))


def run_here(path: Path) -> tuple[float, FineTuner]:
    """The cache phase by the script, then training; the loss of a fixed draw before it and the trainer
    after it.
    """
    script.main(script.arguments(["--config", str(path), "--phase", "cache", "--cpu"]))
    settings = read_settings(path)
    assembly, config = read_model(settings.model)
    before = fixed_loss(FineTuner(settings, assembly, config, torch.device("cpu")))
    return before, finetune(settings, assembly, config, torch.device("cpu"))


def test_a_fresh_interaction_overfits_one_real_clip_and_nothing_else_moves(tmp_path: Path) -> None:
    path = media(
        tmp_path, {"fresh": ["interaction"]}, {"rates": {"interaction": 1e-2}, "tasks": {"joint": 1}}
    )
    before, trainer = run_here(path)
    assert fixed_loss(trainer) < 0.8 * before
    lines = log_lines(tmp_path / "out" / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert all(0 < value < 100 for line in lines for value in line["loss"].values())
    stored, shipped = load_file(saved(tmp_path) / "model.safetensors"), load_file(CCL_TINY)
    moved = {
        section(key) for key, value in stored.items() if not torch.equal(value, shipped[key].to(value.dtype))
    }
    assert moved == {"a2v", "v2a"}
    load_model(str(saved(tmp_path) / "model.safetensors"))


def test_a_lora_on_real_media_loads_and_gives_the_trained_output(tmp_path: Path) -> None:
    how = dict.fromkeys(("interaction", "audio", "video"), "lora")
    rates = dict.fromkeys(how, 2e-3)
    before, trainer = run_here(
        media(tmp_path, {}, how | {"rates": rates, "tasks": {"joint": 1}, "steps": 20, "lora_rank": 4})
    )
    assert fixed_loss(trainer) < 0.95 * before
    loaded = load_model(str(CCL_TINY), {"dtype": torch.float32})
    patched = apply_lora(loaded, str(saved(tmp_path) / "lora.safetensors"), Strengths())
    patched.patch_model()
    clip = Cache(tmp_path / "cache").entries()[0].load()
    inputs = [clip.video[None], clip.audio[None]]
    time, text = torch.full((1,), 500.0), clip.text[None]
    with torch.no_grad():
        wanted, made, plain = (
            model(inputs, (time, time), text, transformer_options={})
            for model in (
                trainer.model,
                patched.model.diffusion_model,
                load_model(str(CCL_TINY), {"dtype": torch.float32}).model.diffusion_model,
            )
        )
    for stream in range(2):
        torch.testing.assert_close(made[stream], wanted[stream], atol=2e-3, rtol=2e-3)
        assert not torch.allclose(plain[stream], wanted[stream], atol=2e-2)


@pytest.mark.parametrize("whole", [True, False], ids=["all in one", "with its encoders beside"])
def test_samples_of_every_task_come_from_a_save_that_loads(tmp_path: Path, whole: bool) -> None:
    clip = "clips/clip-000.mp4"
    samples = [
        {"task": "t2av", "caption": "a red ball bounces, drum"},
        {"task": "v2a", "caption": "a bell", "clip": clip, "seed": 3},
        {"task": "a2v", "caption": "a white ball falls", "clip": clip},
    ]
    how = {"steps": 2, "save_every": 1, "samples": samples, "export_whole": whole, "ema": 0.5}
    path = media(tmp_path, {}, how | ({} if whole else {"video": "lora", "lora_rank": 2}))
    script.main(script.arguments(["--config", str(path), "--cpu"]))
    made = sorted(file.name for file in (tmp_path / "out" / "samples").iterdir())
    assert made == [
        f"step-{step:06}-{i}-{task}.mp4" for step in (1, 2) for i, task in enumerate(("t2av", "v2a", "a2v"))
    ]
    shape = Shape(Fraction(16), 16000, 1, ((48, 32),), (9,))
    for name in made:
        film = read_media(tmp_path / "out" / "samples" / name, shape)
        assert film.frames.shape == (9, 32, 48, 3) and film.waveform.shape == (1, 9000)
    for folder in saves(tmp_path / "out").values():
        assert load_model(str(folder / "model.safetensors")).model.ccl_config.video.dim == 160
        if whole:
            model = load_checkpoint(str(folder / "model.safetensors"))[0]
            assert model.model.ccl_config == stated_config(read(str(CCL_TINY)))


def test_a_sample_that_fails_leaves_the_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "words.txt").write_text("no film")
    fails = {"task": "a2v", "caption": "", "clip": "words.txt"}
    path = media(tmp_path, {}, {"steps": 1, "samples": [fails, {"task": "t2av", "caption": ""}]})
    script.main(script.arguments(["--config", str(path), "--cpu"]))
    assert [file.name for file in (tmp_path / "out" / "samples").iterdir()] == ["step-000001-1-t2av.mp4"]


def test_a_clip_that_no_sample_can_use_is_told_before_clips_are_encoded(tmp_path: Path) -> None:
    (tmp_path / "song.wav").touch()
    for task, clip, words in (("v2a", "song.wav", "has no picture"), ("a2v", "gone.mp4", "is not there")):
        path = media(tmp_path, {}, {"samples": [{"task": task, "caption": "", "clip": clip}]})
        with pytest.raises(ScriptError, match=words):
            script.main(script.arguments(["--config", str(path), "--cpu"]))
        assert not (tmp_path / "cache").exists()


def test_films_of_the_world_become_a_checkpoint_by_the_shipped_configuration(tmp_path: Path) -> None:
    list(write_clips(tmp_path / "clips", 8, 0, 33, 1))
    whole = json.loads((CONFIGS / "ccl-tiny-one-object.json").read_text())
    whole["model"]["config"] = str(CONFIGS / whole["model"]["config"])
    whole["encoders"]["checkpoint"] = str(CCL_TINY)
    whole["data"] |= {"clips": "clips", "cache": "cache", "validation_clips": 2}
    short = {"steps": 2, "batch": 3, "threads": 1, "validation_times": 1}
    whole["train"] |= short | {"out": "out", "samples": whole["train"]["samples"][:1]}
    (tmp_path / "train.json").write_text(json.dumps(whole))
    script.main(script.arguments(["--config", str(tmp_path / "train.json"), "--cpu"]))
    trained = saved(tmp_path) / "model.safetensors"
    assert [path.suffix for path in (tmp_path / "out" / "samples").iterdir()] == [".mp4"]

    out = tmp_path / "again.safetensors"
    export(argparse.Namespace(seed=0, weights=trained, out=out, model_only=False))
    first, second = (load_checkpoint(str(path))[0] for path in (trained, out))
    for name, value in first.model.diffusion_model.state_dict().items():
        torch.testing.assert_close(second.model.diffusion_model.state_dict()[name], value)


def test_faults_of_the_configuration_are_said_in_words(tmp_path: Path) -> None:
    path = configuration(tmp_path, train={"steps": 0})
    with pytest.raises(ScriptError, match=r"train\.steps is 0: give 1 or more"):
        script.main(script.arguments(["--config", str(path), "--phase", "train", "--cpu"]))


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_curve_of_the_unbroken_one(tmp_path: Path) -> None:
    """SIGKILL to a real process between two saves; it makes samples, and the unbroken one makes none."""
    how = {
        "steps": 24,
        "save_every": 8,
        "validate_every": 6,
        "accumulate": 2,
        "video": "lora",
        "ema": 0.95,
        "threads": 1,
        "audio": "full",
        "optimiser": "muon",
        "audio_lag": [0.5, 4],
        "loss_weights": {"motion": 3, "loudness": 1},
        "rates": {"interaction": 1e-4, "audio": 1e-4, "video": 1e-4},
        "muon_rates": {"interaction": 1e-3, "audio": 1e-3},
        "text_drop": 0.3,
    }
    samples = {"samples": [{"task": "t2av", "caption": "a red ball bounces, drum"}]}
    folders = [tmp_path / name for name in ("unbroken", "killed")]
    paths = []
    for folder in folders:
        folder.mkdir()
        paths.append(media(folder, {}, how | (samples if folder.name == "killed" else {}), 3, 1))
        script.main(script.arguments(["--config", str(paths[-1]), "--phase", "cache", "--cpu"]))
    train = [sys.executable, str(ROOT / "scripts" / "train.py"), "--phase", "train", "--cpu", "--config"]
    subprocess.run([*train, str(paths[0])], capture_output=True, check=True)
    command = [*train, str(paths[1])]
    log = folders[1] / "out" / "log.jsonl"
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE
        while (
            time.monotonic() < deadline
            and process.poll() is None
            and not (log.exists() and '"step": 11' in log.read_text())
        ):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
    reached = log_lines_whole(log)[-1]["step"]
    state = torch.load(saved(folders[1]) / "state.pt", weights_only=True)["step"]
    assert 8 <= state < reached < 24
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"step {state} of 24" in done.stderr + done.stdout

    unbroken = folders[0] / "out"
    assert log_lines(log) == log_lines(unbroken / "log.jsonl")
    for file in ("model.safetensors", "lora.safetensors"):
        ours, theirs = (load_file(saved(folder) / file) for folder in reversed(folders))
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert len(list((folders[1] / "out" / "samples").iterdir())) == 3


def log_lines_whole(path: Path) -> list[dict]:
    """The lines of a log whose last one may have been cut."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
