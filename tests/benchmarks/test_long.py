"""benchmarks/long.py: what it counts at seams, and in the scenes of a clip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from ccl_bench import long
from ccl_pack.ccl_core.host.media.film_parts import write_part
from ccl_pack.ccl_core.host.media.sound_file import Sound
from ccl_pack.ccl_core.training.world.clip import PALETTE


def ball(colour: str, frames: int, start: int = 10) -> torch.Tensor:
    """A block of 12 pixels that goes on by one in each frame."""
    images = torch.zeros(frames, 64, 64, 3)
    for k in range(frames):
        images[k, 20:32, start + k : start + k + 12] = torch.tensor(PALETTE[colour]) / 255
    return images


def test_a_jump_at_a_seam_is_seen() -> None:
    images = torch.cat([ball("red", 8), ball("red", 8, start=26), ball("cyan", 8)])
    steps = long.steps_of(images, 16)
    found = long.at_seams(steps, [8], 1)
    assert found["seams"] == [pytest.approx(9 / 64, abs=1e-3)] * 2
    assert found["elsewhere"] == [pytest.approx(1 / 64, abs=1e-3)] * 2
    assert long.asked_colour(images, 16) == [1.0, 1.0]
    assert long.asked_colour(images, 12) == [1.0, pytest.approx(8 / 12, abs=1e-3)]


def test_a_click_at_a_seam_is_heard() -> None:
    waveform = 0.1 * torch.sin(torch.arange(32000) * 0.2)[None]
    waveform[0, 16000] = 1.0
    flux = long.flux_of(Sound(waveform, 16000, "mono"))
    assert len(flux) == 32 and flux.argmax() == 16
    found = long.at_seams(flux, [16], 0)
    assert found["seams"][0] > 2 * found["elsewhere"][1]


def test_packets_are_those_of_the_sound(tmp_path: Path) -> None:
    long.write_soundtrack(tmp_path / "track.mp4", 1.0)
    found = long.packets(tmp_path / "track.mp4")
    # AAC of 1024 samples, and one packet for its delay.
    assert len(found) == 17 and long.packets(tmp_path / "track.mp4") == found
    write_part(ball("red", 5), Fraction(16), tmp_path / "silent.mp4")
    with pytest.raises(IndexError):
        long.packets(tmp_path / "silent.mp4")
