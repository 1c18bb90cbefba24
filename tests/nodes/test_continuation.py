"""Continuations of clips by ccl-tiny: the start to the bit, and no seam to see or to hear behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ccl_bench import generate
from ccl_pack.ccl_core.host.media.latents import split
from ccl_pack.ccl_core.metrics.matching import match_events
from ccl_pack.ccl_core.metrics.onsets import HOP, WINDOW, detect_onsets, spectral_flux, to_mono
from ccl_pack.ccl_core.training.world.contacts import contacts_of, track_foreground
from ccl_pack.ccl_core.training.world.evaluate import draw_clips
from ccl_pack.nodes.cutting import CCLJoinAV
from ccl_pack.nodes.guidance import CCLJointSampler
from ccl_pack.nodes.tasks import CCLSetTask
from support.by_hand import TINY

# The last 13 of 33 frames go on with 20 new ones: together as long as what ccl-tiny was trained on.
CLIPS, FRAMES, FPS = 4, 33, 16
KEPT, NEW = 13 / FPS, 20 / FPS
STEPS = 30


@pytest.fixture(scope="module")
def continued() -> tuple[dict[str, Any], dict[str, Any], list]:
    """The clips, what they became, and both decoded: frames and waveform of each."""
    with torch.inference_mode():
        loaded = generate.load(TINY)
        clips = draw_clips(3, 2 * CLIPS, FRAMES, loaded.fps)[1::2]
        latent = generate.stack([generate.encode(loaded, clip, True, True) for clip in clips])
        task = {"task": "continuation", "kept_seconds": KEPT, "new_seconds": NEW}
        window = CCLSetTask.execute(latent, task)[0]
        settings = generate.defaults(CCLJointSampler, "mode", generate.GUIDANCE)
        settings |= {"seed": 1, "steps": STEPS, "sampler_name": generate.SAMPLER}
        positive = generate.conditioning(loaded, [clip.caption for clip in clips])
        negative = generate.conditioning(loaded, [""])
        texts = {"positive": positive, "negative": negative}
        made = CCLJointSampler.execute(model=loaded.model, latent_image=window, **texts, **settings)[0]
        whole = CCLJoinAV.execute(latent, made, KEPT)[0]
        return latent, whole, generate.decode(loaded, whole, CLIPS)


def test_the_clip_is_the_start_of_the_longer_one_to_the_bit(continued: tuple) -> None:
    before, after = split(continued[0]), split(continued[1])
    assert torch.equal(after.video[:, :, : before.video.shape[2]], before.video)
    assert torch.equal(after.audio[..., : before.audio.shape[2]], before.audio)
    assert after.video.shape[2] == 14 and after.audio.shape[2] == 106


def test_nothing_jumps_where_the_new_part_begins(continued: tuple) -> None:
    for result in continued[2]:
        track = track_foreground(result.frames)
        steps = torch.stack([track.x.diff(), track.y.diff()]).abs().amax(dim=0)
        seam = steps[FRAMES - 2 : FRAMES + 1]  # the last step of the clip, that into the new part, its first
        assert seam.max() <= steps[: FRAMES - 1].max()


def test_nothing_is_heard_where_the_new_part_begins(continued: tuple) -> None:
    for result in continued[2]:
        flux = spectral_flux(to_mono(result.waveform), WINDOW, HOP)
        seam = round(FRAMES / FPS * result.sample_rate / HOP)
        around = WINDOW // HOP
        assert flux[seam - around : seam + around + 1].max() <= flux[: seam - around].max()


def test_the_new_part_sounds_when_something_hits(continued: tuple) -> None:
    matched = contacts = 0
    for result in continued[2]:
        seen = contacts_of(track_foreground(result.frames), FPS)
        heard = detect_onsets(result.waveform, result.sample_rate)
        hits = [time for time in seen if time > FRAMES / FPS]
        contacts += len(hits)
        matched += len(match_events(hits, heard, 0.0625).pairs)
    assert contacts > 1 and matched >= 0.75 * contacts
