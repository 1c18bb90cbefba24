"""A person's own film through the real server on ccl-tiny: a sound for its picture, a picture for its sound.

The films are clips of the procedural world at 29.97 frames a second with 44.1 kHz stereo: their true events
are known.
"""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from test_server import add, node, node_id

from ccl_pack.ccl_core.host.media.picture import open_film
from ccl_pack.ccl_core.host.media.sound_file import read_sound
from ccl_pack.ccl_core.metrics.matching import f1
from ccl_pack.ccl_core.training.world.evaluate import Result, measure
from ccl_pack.ccl_core.training.world.scene import Clip, sample_clip
from ccl_tools.server import ComfyServer, Prompt
from ccl_tools.workflow import to_prompt
from support import templates
from support.films import NTSC, packets
from support.own_films import write_clip

FRAMES = 61  # 2.035 s
# Of one object; what is made of them has to be where it is heard, or seen, to 62.5 ms.
LEAST_F1 = 0.95


@pytest.fixture(scope="module")
def template(server: ComfyServer) -> Prompt:
    return to_prompt(templates.read(templates.FIRST), server.get("/object_info"))


def for_film(template: Prompt, name: str, caption: str, keep: str) -> Prompt:
    """The template with a film in it, whose size and length the latent takes."""
    prompt = copy.deepcopy(template)
    video = add(prompt, "LoadVideo", file=name)
    checkpoint = node_id(prompt, "CCLCheckpointLoader")
    node(prompt, "CCLEmptyAVLatent").update(
        {"size": "from material", "length": "from material", "video": video}
    )
    encoded = add(
        prompt,
        "CCLEncodeAV",
        latent=[node_id(prompt, "CCLEmptyAVLatent"), 0],
        video=video,
        keep=keep,
        image_fit="crop",
        length_fit="pad",
        video_vae=[checkpoint, 2],
        audio_vae=[checkpoint, 3],
    )
    sampler = node(prompt, "CCLJointSampler")
    sampler["latent_image"] = encoded
    prompt[sampler["positive"][0]]["inputs"]["prompt"] = caption
    return prompt


def made_of(
    server: ComfyServer, template: Prompt, number: int, keep: str
) -> tuple[Path, Path, Clip, dict[str, Any]]:
    """The film, what became of it, its truth, and what is measured of the result."""
    clip = sample_clip(np.random.default_rng(700 + number), frames=FRAMES, fps=float(NTSC), objects=1)
    name = f"own{number}.mp4"
    film = write_clip(server.base / "input" / name, clip, NTSC)
    run = server.run(for_film(template, name, clip.caption, keep))
    assert run.status == "success", run.error
    made = server.base / f"made_{keep}_{number}.mp4"
    made.write_bytes(server.view(run.files(".mp4")[0]))
    return film, made, clip, measured(made, clip)


def measured(path: Path, clip: Clip) -> dict[str, Any]:
    film = open_film(str(path))
    heard = read_sound(str(path), Fraction(0), film.seconds)
    images = torch.cat(list(film.at(film.fps, int(film.seconds * film.fps + Fraction(1, 2)))))
    return measure(clip, Result(images, heard.waveform.mean(0), heard.sample_rate), float(film.fps))


def length(path: Path, kind: str) -> float:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return float(stream.duration * stream.time_base)


@pytest.mark.parametrize("numbers", [range(4), pytest.param(range(24), marks=pytest.mark.long)])
def test_a_sound_for_my_film_is_where_things_hit(
    server: ComfyServer, template: Prompt, numbers: range
) -> None:
    rows = []
    for number in numbers:
        film, made, clip, row = made_of(server, template, number, "picture")
        assert packets(made, "video") == packets(film, "video")
        assert length(made, "video") == length(film, "video")
        assert length(made, "audio") == pytest.approx(length(film, "video"), abs=float(1 / NTSC))
        rows.append((row["onsets_true"], len(clip.contacts), row["onsets"]))
    matched, true, found = map(sum, zip(*rows, strict=True))
    assert true > 3 * len(numbers) / 2
    assert f1(matched, true, found) >= LEAST_F1, rows


@pytest.mark.parametrize("numbers", [range(4), pytest.param(range(24), marks=pytest.mark.long)])
def test_a_picture_for_my_sound_hits_when_it_is_heard(
    server: ComfyServer, template: Prompt, numbers: range
) -> None:
    rows = []
    for number in numbers:
        film, made, clip, row = made_of(server, template, number, "sound")
        assert packets(made, "audio") == packets(film, "audio")
        assert length(made, "video") == pytest.approx(length(film, "video"), abs=4 / 16)
        rows.append((row["contacts_true"], len(clip.contacts), row["contacts"]))
    matched, true, found = map(sum, zip(*rows, strict=True))
    assert f1(matched, true, found) >= LEAST_F1, rows
