"""benchmarks/talking.py: what it is told, and what it asks of the nodes; a tiny model of random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ccl_bench import talking, talking_mask, talking_nodes
from ccl_bench.generate import Loaded
from ccl_bench.tiny_options import CHECKPOINT, TALKING
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.host.media.latents import split
from ccl_pack.ccl_core.host.texts import of_streams
from ccl_pack.ccl_core.metadata import write_config
from ccl_pack.ccl_core.model.speech_text import bytes_of
from ccl_pack.ccl_core.training.tiny.face_asked import AskedFace, ask_faces
from ccl_pack.ccl_core.training.world.face_cheats import CHEATS
from ccl_pack.ccl_core.training.world.face_regions import FACE, regions_of
from ccl_pack.ccl_core.training.world.face_report import COLUMNS
from ccl_pack.ccl_core.training.world.face_score import KEPT, TASKS
from ccl_tools.console import ScriptError
from support import faces, tiny
from support.commands import load

command = load("benchmarks/talking.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talking") / "random.safetensors"
    said = {"ccl_config": write_config(faces.CONFIG)}
    save_file(tiny.state_dict(faces.CONFIG), path, metadata=said)
    return path


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Iterator[Loaded]:
    with torch.inference_mode():
        yield talking_nodes.load(checkpoint, talking_nodes.beside(TALKING))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def options(checkpoint: Path, *words: str) -> Any:
    told = ["--seed", "1", "--report", "r.json", "--checkpoint", str(checkpoint), "--clips", "1"]
    return command.parse([*told, "--steps", "2", *words])


def asked(task: str, count: int = 1) -> list[AskedFace]:
    return ask_faces(1, count, talking.FRAMES, faces.FPS, TASKS[task].kept)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--clips", "0"], "at least 1"),
        (["--seed", "-1"], "--seed at least 0"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--task", "v2a"], "invalid choice"),
        (["--voice"], "--voice is for the task dubbing, got joint"),
        (["--checkpoint", "nowhere"], "nowhere is not there"),
        (["--encoders", "nowhere"], "--encoders nowhere is not there"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], told: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options(checkpoint, *words)
    assert re.search(told, capsys.readouterr().err)


def test_the_tasks_are_those_of_the_count() -> None:
    assert set(command.TASKS) == set(TASKS)
    assert FAMILIES["uniavgen"].coupling == faces.CONFIG.interaction.kind


def test_a_model_that_reads_no_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="reads no words"):
        talking_nodes.load(CHECKPOINT)
    alone = tmp_path / "alone.safetensors"
    save_file({"x": torch.zeros(1)}, alone)
    assert talking_nodes.is_whole(CHECKPOINT) and not talking_nodes.is_whole(alone)
    with pytest.raises(ScriptError, match="holds no encoders"):
        talking_nodes.beside(alone)


def test_the_model_that_ships_shares_the_encoders_of_ccl_tiny() -> None:
    assert talking_nodes.beside(TALKING) == CHECKPOINT


def test_texts_of_a_batch_are_captions_and_words(loaded: Loaded) -> None:
    some = asked("joint", 2)
    positive, negative = (text[0][0] for text in talking_nodes.texts(loaded, some))
    video, words = of_streams(positive)
    assert video.shape[0] == words.shape[0] == negative.shape[0] == 2
    for row, one in zip(words, some, strict=True):
        said = bytes_of(one.clip.transcript)[0]
        assert torch.equal(row[: len(said)], said) and not row[len(said) :].any()
    assert not of_streams(negative)[1].any()


GIVEN = {"joint": (), "reference": (), "dubbing": ("video",), "driven": ("audio",)}


@pytest.mark.parametrize("task", GIVEN)
def test_a_task_gives_its_streams(task: str, loaded: Loaded) -> None:
    latent = split(talking_nodes.latents(loaded, asked(task), TASKS[task]))
    for stream in ("video", "audio"):
        mask = getattr(latent, f"{stream}_mask")
        kept = mask is not None and not mask.any()
        assert kept is (stream in GIVEN[task]), stream


def test_a_continuation_keeps_a_second_of_both(loaded: Loaded) -> None:
    latent = split(talking_nodes.latents(loaded, asked("continuation"), TASKS["continuation"]))
    assert latent.video.shape[2:] == (9, 8, 8) and latent.audio.shape[2] == 66
    # 17 frames are five latent frames, and 1.0625 s are 34 tokens.
    assert (latent.video_mask[0, 0, :, 0, 0] == 0).tolist() == [True] * 5 + [False] * 4
    assert (latent.audio_mask[0, 0] == 0).tolist() == [True] * 34 + [False] * 32


SHOWN = {
    "joint": {"reference_latents"},
    "reference": {"reference_latents", "reference_audio"},
    "continuation": {"reference_latents"},
    "dubbing": {"reference_latents"},
    "driven": {"reference_latents"},
}


@pytest.mark.parametrize("task", SHOWN)
def test_a_task_shows_a_picture_and_where_asked_a_voice(task: str, loaded: Loaded) -> None:
    some = asked(task)
    latent = talking_nodes.latents(loaded, some, TASKS[task])
    made = talking_nodes.conditionings(loaded, some, TASKS[task], latent)
    assert set(made) == {"positive", "negative"}
    for conditioning in made.values():
        assert SHOWN[task] == set(conditioning[0][1]) & {"reference_latents", "reference_audio"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_in_batches_and_keeps_what_is_given(
    task: str, loaded: Loaded, checkpoint: Path
) -> None:
    chosen = options(checkpoint, "--task", task, "--steps", "1", "--batch", "2")
    answers = talking.answer(loaded, asked(task, 2), TASKS[task], talking_nodes.Sampling(steps=1), chosen)
    assert len(answers.found) == 2 and answers.seconds > 0
    assert answers.exact == ([True, True] if task == "continuation" else [])


def test_what_was_kept_is_compared_to_the_bit(loaded: Loaded) -> None:
    latent = talking_nodes.latents(loaded, asked("continuation"), TASKS["continuation"])
    assert talking_nodes.is_kept(latent, latent) == [True]
    av = split(latent)
    for place, kept in ((0, False), (-1, True)):
        changed = [av.video.clone(), av.audio.clone()]
        changed[1][0, 3, place] += 1e-6 + changed[1][0, 3, place].abs()
        other = {**latent, "samples": type(latent["samples"])(changed)}
        assert talking_nodes.is_kept(latent, other) == [kept]


def test_without_coupling_a_face_does_not_hear(loaded: Loaded) -> None:
    task = TASKS["driven"]
    some = asked("driven")
    videos = {}
    for coupled in (True, False):
        made = []
        for shift in (0, 4000):
            clip = some[0].clip
            heard = talking_nodes.sound([np.roll(clip.waveform, shift)])
            latent = talking_nodes.encode(loaded, talking.FRAMES, {"audio": heard})
            texts = talking_nodes.conditionings(loaded, some, task, latent)
            sampling = talking_nodes.Sampling(steps=2, coupled=coupled)
            made.append(split(talking_nodes.sample(loaded, texts, latent, sampling, 3)).video)
        videos[coupled] = (made[0] - made[1]).abs().max()
    assert videos[True] > 1e-3 and videos[False] < 1e-5


def test_guidance_of_scale_1_is_none_and_its_lowest_noise_level_counts(loaded: Loaded) -> None:
    some = asked("joint")
    latent = talking_nodes.latents(loaded, some, TASKS["joint"])
    texts = talking_nodes.conditionings(loaded, some, TASKS["joint"], latent)
    made = {
        name: split(talking_nodes.sample(loaded, texts, latent, sampling, 3)).video
        for name, sampling in {
            "published": talking_nodes.Sampling("ma_cfg", steps=2),
            "from .5": talking_nodes.Sampling("ma_cfg", steps=2, lowest_sigma=0.5),
            "never": talking_nodes.Sampling("ma_cfg", steps=2, lowest_sigma=100.0),
            "none": talking_nodes.Sampling("ma_cfg", steps=2, scale=1.0),
            "other mode, none": talking_nodes.Sampling("cfg", steps=2, scale=1.0),
        }.items()
    }
    assert torch.equal(made["published"], made["from .5"])
    assert torch.equal(made["none"], made["never"])
    assert torch.equal(made["none"], made["other mode, none"])
    assert not torch.equal(made["published"], made["none"])


def test_a_report_has_the_answers_beside_ceilings_cheats_and_no_coupling(
    loaded: Loaded, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = options(checkpoint, "--task", "continuation", "--report", str(tmp_path / "report.json"))
    found = talking.evaluate(loaded, chosen)
    command.write(chosen, found)
    report = json.loads(chosen.report.read_text())
    assert (report["task"], report["seed"], report["checkpoint"]) == ("continuation", 1, checkpoint.name)
    assert set(report["beside"]) == {"world", "vae", "uncoupled", *CHEATS}
    assert set(report["against"]) == {"uncoupled", *CHEATS}
    assert set(COLUMNS) <= set(report["total"]) and len(report["per_clip"]) == 1
    assert report["total"]["prefix_exact"]["value"] == report["beside"]["uncoupled"]["prefix_exact"] == 1
    assert 0 <= report["mask"]["iou"] <= 1 and report["mask"]["grid"] == [4, 4]
    # Random weights say nothing, and the world's own clip says all.
    assert report["total"]["words_right"]["value"] == 0 and report["beside"]["world"]["words_right"] == 1
    for row in report["against"].values():
        here = {name: column["here"] for name, column in row["columns"].items()}
        assert here == {name: report["total"][name]["value"] for name in here}
    command.show(found)
    shown = capsys.readouterr().out
    assert re.search(r"words_right +0\.000", shown)
    assert re.search(r"beyond one shape +(yes|no) +visemes_right", shown)
    assert re.search(r"mask: IoU [\d.]+ on the face, [\d.]+ of the best constant mask", shown)
    assert re.search(r"goal prefix_exact +1\.000 of 1\.0: met", shown)


def test_a_mask_that_is_the_face_is_right_and_one_that_is_all_is_not(loaded: Loaded) -> None:
    some = asked("joint", 4)
    covers = [torch.from_numpy(regions_of(one.clip)[FACE]) for one in some]
    right = talking_mask.compare(loaded.model, some, covers)
    assert right["iou"] == 1 and right["share"][FACE] > 0.95 and right["mean"][FACE] > 0.95
    assert right["goal"]["met"] is (right["constant_iou"] <= 0.7)
    whole = talking_mask.compare(loaded.model, some, [torch.ones_like(cover) for cover in covers])
    assert whole["iou"] <= whole["constant_iou"] < 1 and not whole["goal"]["met"]
    assert set(whole["mean"].values()) <= {1.0, None}


def test_the_mask_is_asked_of_the_node_for_each_clip(loaded: Loaded) -> None:
    some = asked("joint", 3)
    found = talking_mask.masks(loaded, some, batch=2)
    assert [mask.shape for mask in found] == [(talking.FRAMES, 64, 64)] * 3
    alone = talking_mask.masks(loaded, some[2:], batch=1)
    assert torch.allclose(found[2], alone[0], atol=1e-4)


def test_kept_frames_fill_latent_frames() -> None:
    assert KEPT % 4 == 1 and KEPT < talking.FRAMES
