"""Streams of one latent that cover the same seconds, and those that do not."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ccl_pack.ccl_core.alignment.agreement import disagreement
from ccl_pack.ccl_core.alignment.sizing import Grid, audio_tokens_of, pinned_at, size_av
from ccl_pack.ccl_core.alignment.timeline import latent_frames_of
from ccl_pack.ccl_core.families import FAMILIES

SIXTEEN, TOKENS = Fraction(16), Fraction(32)
GRIDS = {
    "ccl": Grid(SIXTEEN, 8, 2, TOKENS, 16000, exact_c=True),
    "causal": Grid(SIXTEEN, 8, 2, TOKENS, 16000),
    "ovi": Grid(
        Fraction(24), 16, 2, Fraction(125, 4), 16000, pinned=pinned_at(Fraction(24), Fraction(125, 4))
    ),
    "mova": Grid(Fraction(24), 8, 2, Fraction(50), 48000),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("frames", [1, 5, 9, 33, 81, 121, 193, 881])
@pytest.mark.parametrize("fps", [None, 12, Fraction(30000, 1001)])
def test_what_the_sizes_of_the_pack_make_agrees(name: str, frames: int, fps: Fraction | None) -> None:
    grid = GRIDS[name]
    sized = size_av(grid, width=256, height=256, frames=frames, fps=fps)
    assert disagreement(sized.latent_frames, sized.audio_tokens, sized.fps, grid.audio_rate) is None


def test_the_presets_of_all_families_agree() -> None:
    seen = 0
    for family in FAMILIES.values():
        latent = family.published.get("audio_latent")
        if latent is None:
            continue
        fps = family.published["fps"]
        for preset in family.presets:
            frames = latent_frames_of(preset.frames)
            tokens = preset.audio_tokens or audio_tokens_of(frames, fps, latent.rate)
            assert disagreement(frames, tokens, fps, latent.rate) is None, preset.title
            seen += 1
    assert seen > 3


@pytest.mark.parametrize(
    ("latent_frames", "tokens"),
    [
        (9, 18),  # 33 frames with the sound of 9
        (8, 72),  # a latent frame less than the sound was made for
        (8, 65),  # what TrimVideoLatent leaves of 9 and 66: a latent frame and a token less
        (10, 72),  # one more
        (9, 144),
        (9, 1),
    ],
)
def test_a_latent_frame_too_many_or_too_few_is_told(latent_frames: int, tokens: int) -> None:
    fault = disagreement(latent_frames, tokens, SIXTEEN, TOKENS)
    assert f"({tokens} tokens of 32 a second)" in fault and "frames at 16 fps" in fault
