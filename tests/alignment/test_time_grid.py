"""The time grids of each kind of model: our arithmetic, and what ComfyUI's code says of the others."""

from __future__ import annotations

from fractions import Fraction

import pytest
from comfy.latent_formats import LTXAV, MiniMaxH3Video
from comfy.ldm.lightricks.symmetric_patchifier import AudioPatchifier
from comfy.ldm.minimax.model import FRAME_PER_TOKEN
from comfy_extras import nodes_minimax_h3 as h3

from ccl_pack.ccl_core.alignment.time_grid import GRIDS, WAN, Steps, TimeGrid, grid_of_shapes
from ccl_pack.ccl_core.alignment.timeline import frames_of, latent_frames_of
from support.tiny import other_model

LTX2, H3, _ = GRIDS
BOTH = [pytest.param(grid.video, id=grid.name) for grid in GRIDS]
BOTH.append(pytest.param(LTX2.audio, id="sound of LTX-2"))


def test_wan_counts_as_the_timeline_does() -> None:
    assert [WAN.video.before(i) for i in range(1, 30)] == [frames_of(i) for i in range(1, 30)]
    assert [WAN.video.covering(i) for i in range(1, 30)] == [latent_frames_of(i) for i in range(1, 30)]
    assert [WAN.video.filled(count) for count in (1, 4, 5, 8, 9, 81)] == [1, 1, 2, 2, 3, 21]


def test_frames_and_latent_frames_of_ltx_2_are_those_of_its_vae() -> None:
    # `VAE.upscale_ratio` of the host: a * 8 - 7.
    assert [LTX2.video.before(i) for i in range(1, 6)] == [1, 9, 17, 25, 33]
    assert max(LTX2.video.cycle) == LTXAV.temporal_downscale_ratio == 8
    assert LTX2.video_channels == (LTXAV.latent_channels,)


def test_tokens_of_ltx_2_are_those_of_its_model() -> None:
    patchifier = other_model().model.diffusion_model.a_patchifier
    assert isinstance(patchifier, AudioPatchifier)
    begins = patchifier._get_audio_latent_time_in_sec(0, 50, dtype=None, device="cpu")
    units = LTX2.audio_rate * LTX2.audio.mean  # a second
    assert [float(LTX2.audio.before(i) / units) for i in range(50)] == pytest.approx(begins.tolist())
    assert LTX2.audio_rate == 25


@pytest.mark.parametrize("length", [5, 22, 39, 124, 362])
def test_lengths_of_h3_are_those_of_its_nodes(length: int) -> None:
    frames, latent_frames, tokens = h3.temporal_shape(length)
    assert H3.video.before(latent_frames) == frames == length
    assert H3.video.covering(length) == H3.video.nearest_length(Fraction(length)) == latent_frames
    assert H3.video.covering(length - 1) == latent_frames < H3.video.covering(length + 1)
    assert H3.tokens(Fraction(length, 24) * H3.audio_rate) == tokens
    assert (H3.fps, H3.audio_rate, H3.video.cycle) == (h3.FPS, h3.AUDIO_LATENT_FPS, FRAME_PER_TOKEN)
    assert H3.video_channels == (MiniMaxH3Video.latent_channels,)


@pytest.mark.parametrize("steps", BOTH)
def test_a_clip_that_is_cut_keeps_the_units_of_its_steps(steps: Steps) -> None:
    for cut in range(0, 31, len(steps.cycle)):
        begin = steps.unit_of_cut(cut)
        # The last unit of the step that it begins with.
        assert begin == steps.before(cut + 1) - 1
        assert [steps.before(cut + i) - begin for i in range(1, 12)] == [
            steps.before(i) for i in range(1, 12)
        ]


@pytest.mark.parametrize("steps", BOTH)
@pytest.mark.parametrize("units", [Fraction(n, 8) for n in range(0, 160, 3)])
def test_nothing_is_nearer_than_the_nearest(steps: Steps, units: Fraction) -> None:
    distances = [abs(steps.before(i) - units) for i in range(40)]
    assert distances[steps.nearest(units)] == min(distances)
    cuts = range(0, 40, len(steps.cycle))
    found = steps.nearest_cut(units)
    assert found in cuts and abs(steps.unit_of_cut(found) - units) == min(
        abs(steps.unit_of_cut(i) - units) for i in cuts
    )


def test_a_clip_of_h3_is_cut_where_a_latent_frame_holds_one_picture() -> None:
    assert [H3.video.unit_of_cut(cut) for cut in (0, 5, 10)] == [0, 17, 34]
    assert [H3.video.held(cut) for cut in (0, 5, 10)] == [1, 1, 1]
    assert [WAN.video.unit_of_cut(cut) for cut in (0, 1, 2, 3)] == [0, 4, 8, 12]
    assert [LTX2.video.unit_of_cut(cut) for cut in (0, 1, 2, 3)] == [0, 8, 16, 24]


def test_the_last_place_where_another_clip_can_begin() -> None:
    assert WAN.video.last_cut(5) == 4 and LTX2.video.last_cut(5) == 4
    # Two latent frames, five frames, are the shortest clip of H3.
    assert H3.video.last_cut(12) == 10
    # Behind the last token, where all are equally long.
    assert WAN.audio.last_cut(34) == 34 and LTX2.audio.last_cut(34) == 33


@pytest.mark.parametrize(
    ("video", "audio", "grid"),
    [
        ((1, 16, 5, 4, 4), (1, 8, 34), WAN),
        ((1, 48, 5, 4, 4), None, WAN),
        (None, (1, 20, 157), WAN),
        ((2, 128, 5, 2, 2), (2, 8, 33, 16), LTX2),
        ((2, 128, 5, 2, 2), None, LTX2),
        (None, (2, 8, 33, 16), LTX2),
        ((1, 24, 12, 4, 4), (1, 32, 2, 65), H3),
        ((1, 24, 12, 4, 4), None, H3),
        (None, (1, 32, 2, 65), H3),
        # A picture, and streams of two models.
        (None, (1, 4, 64, 64), None),
        ((1, 16, 5, 4, 4), (1, 8, 33, 16), None),
        ((1, 128, 5, 2, 2), (1, 32, 2, 65), None),
        ((1, 16, 4, 4), None, None),
    ],
)
def test_the_model_of_a_latent_is_told_by_its_shapes(
    video: tuple | None, audio: tuple | None, grid: TimeGrid | None
) -> None:
    assert grid_of_shapes(video, audio) is grid
