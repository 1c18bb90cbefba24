"""Trim, join, mask and set the task of latents of every model with sound, and of one stream alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_lt import LTXVSeparateAVLatent
from torch import Tensor

from ccl_pack.nodes.cutting import CCLJoinAV, CCLTrimAV
from ccl_pack.nodes.tasks import CCLMaskAV, CCLSetTask
from nodes import common_ksampler
from support.av_models import AV_LATENTS, LTX_FPS, h3_latent, ltx_latent, own_latent
from support.ltx_vaes import ltx_video_vae
from support.tiny import conditioning, other_model, packed_model

Latent = dict[str, Any]
# Of LTX-2 alone, whose latents do not say it.
FPS = {"LTX-2": LTX_FPS}


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


def streams(latent: Latent) -> list[Tensor]:
    """The streams with their time as third axis."""
    video, audio = latent["samples"].unbind()
    return [video, over_time(audio)]


def over_time(audio: Tensor) -> Tensor:
    return audio.movedim(3, 2) if audio.shape[1] == 32 else audio


def alone(latent: Latent, stream: str) -> Latent:
    return LTXVSeparateAVLatent.execute(latent)[("video", "audio").index(stream)]


def trim(latent: Latent, start: float, end: float = 0.0, **given: Any) -> Latent:
    return CCLTrimAV.execute(latent, start, end, **given)[0]


def join(first: Latent, second: Latent, overlap: float, **given: Any) -> Latent:
    return CCLJoinAV.execute(first, second, overlap, **given)[0]


def mask(latent: Latent, which: str, start: float, end: float, **given: Any) -> Latent:
    return CCLMaskAV.execute(latent, "renew", which, start, end, 1.0, **given)[0]


PARTS = [
    # 8 frames to a latent frame, 25 a second: .32 s are 8 frames, 8 tokens of 40 ms.
    ("LTX-2", 0.0, 0.36, slice(0, 2), slice(0, 9)),
    ("LTX-2", 0.32, 0.0, slice(1, 5), slice(8, 33)),
    ("LTX-2", 0.32, 1.0, slice(1, 4), slice(8, 25)),
    # 17 frames to five latent frames, 24 a second: they begin at 0 and .708 s, token 28 of 40 a second.
    ("H3", 0.0, 0.9, slice(0, 7), slice(0, 37)),
    ("H3", 0.7, 0.0, slice(5, 12), slice(28, 65)),
    ("H3", 1.4, 0.0, slice(10, 12), slice(57, 65)),
    ("ours", 0.5, 0.0, slice(2, 5), slice(16, 34)),
]


@pytest.mark.parametrize(("model", "start", "end", "frames", "tokens"), PARTS)
def test_a_part_has_the_latent_frames_and_tokens_of_its_time(
    model: str, start: float, end: float, frames: slice, tokens: slice
) -> None:
    latent = AV_LATENTS[model]()
    made = trim(latent, start, end, fps=FPS.get(model, 0.0))
    video, audio = streams(latent)
    assert torch.equal(streams(made)[0], video[:, :, frames])
    assert torch.equal(streams(made)[1], audio[:, :, tokens])
    assert made["samples"].unbind()[1].ndim == latent["samples"].unbind()[1].ndim


@pytest.mark.parametrize(("model", "start", "end", "tokens"), [(*row[:3], row[4]) for row in PARTS])
def test_a_part_of_one_stream_is_that_of_the_pair(
    model: str, start: float, end: float, tokens: slice
) -> None:
    latent = AV_LATENTS[model]()
    pair = trim(latent, start, end, fps=FPS.get(model, 0.0))
    video = trim(alone(latent, "video"), start, end, fps=FPS.get(model, 0.0))
    assert torch.equal(video["samples"], streams(pair)[0])
    # The sound alone is cut at its own tokens, so at the time of the frames it is cut as the pair.
    begin = {"LTX-2": 0.04, "H3": 1 / 40, "ours": 1 / 32}[model] * tokens.start
    last = {"LTX-2": 0.04, "H3": 1 / 40, "ours": 1 / 32}[model] * tokens.stop
    audio = trim(alone(latent, "audio"), begin, last)
    assert torch.equal(over_time(audio["samples"]), streams(pair)[1])


def test_a_latent_of_ltx_2_asks_for_its_rate_once_and_says_it_then() -> None:
    with pytest.raises(
        ValueError, match=r"say its frame rate \(those of LTX-2 do not\): type it into the fps input"
    ):
        trim(ltx_latent(), 0.32)
    made = trim(ltx_latent(), 0.32, fps=LTX_FPS)
    assert made["fps"] == LTX_FPS
    assert streams(trim(made, 0.32))[0].shape[2] == 3
    assert trim(h3_latent(), 0.7)["fps"] == 24.0


def test_a_part_of_h3_has_a_length_of_its_model_and_loses_no_picture(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = trim(h3_latent(124), 1.0, 3.9)
    # The nearest cut to frame 24 is frame 17, and 5 k + 2 latent frames end nearest to 3.9 s.
    video, audio = streams(h3_latent(124))
    assert torch.equal(streams(made)[0], video[:, :, 5:27])
    assert torch.equal(streams(made)[1], audio[:, :, 28:150])
    assert "1.000 to 3.900 s became 0.708 to 3.750 s, the nearest whole latent frames" in caplog.text
    assert "connect video_vae" not in caplog.text


def test_the_first_picture_of_a_part_of_ltx_2_is_made_anew_by_its_vae(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vae, latent = ltx_video_vae(), ltx_latent()
    video = streams(latent)[0]
    made = trim(latent, 0.64, fps=LTX_FPS, video_vae=vae)
    picture = vae.decode(video[:, :, :3])[0, -1:]
    torch.testing.assert_close(streams(made)[0][:, :, :1], vae.encode(picture))
    assert torch.equal(streams(made)[0][:, :, 1:], video[:, :, 3:]) and "video_vae" not in caplog.text
    trim(latent, 0.64, fps=LTX_FPS)
    assert "the first latent frame of the part holds eight pictures" in caplog.text


# ---- join


@pytest.mark.parametrize("model", AV_LATENTS)
@pytest.mark.parametrize("overlap", [0.0, 0.4, 0.71, 1.2])
def test_a_part_joined_with_its_clip_is_the_clip_to_the_bit(model: str, overlap: float) -> None:
    fps = FPS.get(model, 0.0)
    latent = AV_LATENTS[model]()
    seconds = {"LTX-2": 33 / 25, "H3": 39 / 24, "ours": 17 / 16}[model]
    end = trim(latent, max(0.0, seconds - overlap), fps=fps) if overlap else None
    if end is None:
        # The shortest clip that begins where the first one ends.
        end = trim(latent, {"LTX-2": 1.28, "H3": 1.417, "ours": 1.0}[model], fps=fps)
    whole = join(latent, end, overlap, fps=fps)
    for found, wanted in zip(streams(whole), streams(latent), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("model", "overlap", "frames", "tokens", "faded"),
    [
        # 40 ms and 8 frames: the cut is latent frame 3, frame 24, token 24, both of which stay the first's.
        ("LTX-2", 0.36, 5 + 5 - 2, 33 + 33 - 9, (1, 8)),
        ("LTX-2", 0.0, 5 + 5 - 1, 33 + 33 - 1, (0, 0)),
        # Two latent frames of five frames, the least that H3's clips can share: tokens 57 to 64.
        ("H3", 0.0, 12 + 12 - 2, 65 + 65 - 8, (2, 8)),
        ("H3", 0.9, 12 + 12 - 7, 65 + 65 - 37, (7, 37)),
    ],
)
def test_clips_are_faded_over_what_they_share(
    model: str, overlap: float, frames: int, tokens: int, faded: tuple[int, int]
) -> None:
    one, two = (constant(AV_LATENTS[model](), value) for value in (1.0, 2.0))
    made = streams(join(one, two, overlap, fps=FPS.get(model, 0.0)))
    assert [stream.shape[2] for stream in made] == [frames, tokens]
    for stream, places in zip(made, faded, strict=True):
        values = stream.flatten(3)[0, 0, :, 0] if stream.ndim > 3 else stream[0, 0]
        assert int(((values > 1) & (values < 2)).sum()) == places
        assert (values.diff() >= 0).all() and stream.std(dim=2).std() < 1e-6


def constant(latent: Latent, value: float) -> Latent:
    return {
        **latent,
        "samples": NestedTensor([torch.full_like(x, value) for x in latent["samples"].unbind()]),
    }


@pytest.mark.parametrize("model", AV_LATENTS)
@pytest.mark.parametrize("stream", ["video", "audio"])
def test_one_stream_alone_is_joined_too(model: str, stream: str) -> None:
    latent = alone(AV_LATENTS[model](), stream)
    fps = FPS.get(model, 0.0) if stream == "video" else 0.0
    made = join(latent, latent, 0.0, fps=fps)["samples"]
    # What the shortest overlap shares: the last picture, H3's two latent frames, LTX-2's short first token.
    shared = {"video": {"H3": 2}, "audio": {"H3": 0, "ours": 0}}[stream].get(model, 1)
    axis = 3 if made.shape[1] == 32 else 2
    assert made.shape[axis] == 2 * latent["samples"].shape[axis] - shared


def test_clips_of_two_models_or_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="the video latents have the shapes"):
        join(ltx_latent(), own_latent(), 0.0, fps=LTX_FPS)
    with pytest.raises(ValueError, match="the second latent has no video part, the other one has"):
        join(own_latent(), alone(own_latent(), "audio"), 0.0)
    sound = alone(own_latent(), "audio")
    with pytest.raises(ValueError, match="have 32 and 50 audio tokens a second"):
        join(sound, {**sound, "audio_rate": 50.0}, 0.0)


# ---- a sound alone


def test_a_sound_alone_says_its_rate_or_is_asked_for_it() -> None:
    sound = {"samples": torch.randn(1, 64, 43)}
    with pytest.raises(ValueError, match=r"\(1, 64, 43\) alone that does not say .* the audio_rate input"):
        trim(sound, 0.5)
    made = trim(sound, 0.5, audio_rate=21.5)
    assert made["samples"].shape[2] == 43 - 11 and made["audio_rate"] == 21.5
    # Ovi's channels, which no other family has.
    assert trim({"samples": torch.randn(1, 20, 157)}, 2.0)["samples"].shape[2] == 157 - 63
    with pytest.raises(ValueError, match=r"audio_rate is 50, and the latent has 21\.5 audio tokens a second"):
        trim(made, 0.5, audio_rate=50.0)


def test_a_typed_rate_that_the_model_or_the_video_contradicts_is_refused() -> None:
    with pytest.raises(ValueError, match="audio_rate is 50, and the latent has 25 audio tokens a second"):
        trim(ltx_latent(), 0.4, fps=LTX_FPS, audio_rate=50.0)
    unstated = {name: value for name, value in own_latent().items() if name != "audio_rate"}
    with pytest.raises(ValueError, match="cut or joined one of the two alone"):
        trim(unstated, 0.4, audio_rate=64.0)


def test_the_rate_of_a_sound_holds_for_the_one_that_does_not_say_it() -> None:
    stated, unstated = ({"samples": torch.randn(1, 64, 43)} | rate for rate in ({"audio_rate": 21.5}, {}))
    for pair in ((stated, unstated), (unstated, stated)):
        assert join(*pair, 0.0)["audio_rate"] == 21.5


def test_a_picture_is_no_latent_of_sound() -> None:
    with pytest.raises(ValueError, match=r"tensors of shape \[\(1, 4, 64, 64\)\]; wanted a video latent"):
        trim({"samples": torch.zeros(1, 4, 64, 64)}, 0.5)


# ---- masks


@pytest.mark.parametrize(
    ("model", "start", "end", "frames", "tokens"),
    [
        # Latent frames of LTX-2 begin at 0, .04, .36, .68, 1.0 s; its tokens at 0, .01, .05 ... .37, .69 s.
        ("LTX-2", 0.36, 0.68, slice(2, 3), slice(10, 18)),
        # H3's at frames 0, 1, 5, 9, 13, 17, 18, 22: 5 to 17 are .208 to .708 s, tokens 8 to 28.
        ("H3", 0.2, 0.7, slice(2, 5), slice(8, 28)),
        ("ours", 0.3, 0.6, slice(2, 3), slice(10, 18)),
    ],
)
def test_a_mask_by_seconds_is_on_the_steps_of_its_model(
    model: str, start: float, end: float, frames: slice, tokens: slice
) -> None:
    made = mask(AV_LATENTS[model](), "both", start, end, fps=FPS.get(model, 0.0))
    masks = made["noise_mask"].unbind()
    for found, stream, part in zip(masks, made["samples"].unbind(), (frames, tokens), strict=True):
        assert found.shape == (1, 1, *stream.shape[2:])
        wanted = torch.zeros_like(over_time(stream)[:, :1])
        wanted[:, :, part] = 1
        # One channel of H3's sound has no mark of its model.
        assert torch.equal(found.movedim(3, 2) if stream.shape[1] == 32 else found, wanted)


@pytest.mark.parametrize("model", AV_LATENTS)
def test_a_mask_of_a_sound_alone_is_one_tensor(model: str) -> None:
    sound = alone(AV_LATENTS[model](), "audio")
    made = mask(sound, "both", 0.0, 0.5)
    assert made["noise_mask"].shape == (1, 1, *sound["samples"].shape[2:]) and made["noise_mask"].any()
    with pytest.raises(ValueError, match="streams is video, and the latent has no video part: choose audio"):
        mask(sound, "video", 0.0, 0.5)
    with pytest.raises(ValueError, match="mask is a part of the picture, and the latent is a sound alone"):
        mask(sound, "both", 0.0, 0.5, mask=torch.ones(1, 8, 8))


def test_a_mask_of_the_picture_has_a_row_for_each_frame_of_its_model() -> None:
    picture = torch.zeros(39, 64, 64)
    picture[20] = 1
    made = mask(h3_latent(), "video", 0.0, 1.625, mask=picture)["noise_mask"].unbind()[0]
    # Frame 20 is in the latent frame of frames 18 to 21.
    assert made.flatten(3).amax(-1)[0, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="or one for each of the 33 frames"):
        mask(ltx_latent(), "video", 0.0, 1.0, fps=LTX_FPS, mask=picture)


def test_masks_are_cut_and_joined_with_their_streams() -> None:
    latent = mask(h3_latent(), "both", 0.0, 0.7)
    made = trim(latent, 0.7)
    assert not any(part.any() for part in made["noise_mask"].unbind())
    whole = join(latent, made, 0.92)["noise_mask"].unbind()
    assert [part.shape for part in whole] == [part.shape for part in latent["noise_mask"].unbind()]
    assert all(torch.equal(a, b) for a, b in zip(whole, latent["noise_mask"].unbind(), strict=True))


# ---- tasks, and what the models make of them


def test_a_continuation_keeps_the_end_of_a_clip_of_each_model() -> None:
    task = {"task": "continuation", "kept_seconds": 0.7, "new_seconds": 1.0}
    made = {
        model: CCLSetTask.execute(AV_LATENTS[model](), task, fps=FPS.get(model, 0.0))[0]
        for model in FPS | {"H3": 0}
    }
    # .7 s are 17 frames and 25 more of LTX-2, in 7 latent frames, and 42 tokens for its 41 frames and more.
    video, audio = streams(made["LTX-2"])
    assert video.shape[2] == 7 and audio.shape[2] == 49
    assert torch.equal(video[:, :, :3], streams(ltx_latent())[0][:, :, 2:])
    # 22 frames of H3 and 24 more, to 56 of its lengths.
    video, audio = streams(made["H3"])
    assert video.shape[2] == 17 and audio.shape[2] == 93
    assert torch.equal(video[:, :, :7], streams(h3_latent())[0][:, :, 5:])


@pytest.mark.parametrize("model", ["LTX-2", "H3"])
def test_a_task_that_leaves_a_stream_out_is_refused_for_models_without_it(model: str) -> None:
    with pytest.raises(
        ValueError, match=f"the task t2v leaves a stream out, and the latent is one of .*{model}"
    ):
        CCLSetTask.execute(AV_LATENTS[model](), {"task": "t2v"})


@pytest.mark.parametrize(("model", "load"), [("LTX-2", other_model), ("H3", packed_model)])
def test_the_model_keeps_what_the_mask_keeps(model: str, load: Any) -> None:
    latent = mask(AV_LATENTS[model](), "audio", 0.0, 0.5, fps=FPS.get(model, 0.0))
    texts = [conditioning(seed, 5) for seed in (1, 2)]
    if model == "LTX-2":
        # The text of the video beside that of the sound.
        texts = [[[torch.cat([text, text], dim=-1), options]] for ((text, options),) in texts]
    made = common_ksampler(load(), 1, 2, 1.0, "euler", "normal", *texts, latent)[0]
    for after, before, kept in zip(
        made["samples"].unbind(), latent["samples"].unbind(), latent["noise_mask"].unbind(), strict=True
    ):
        renewed = kept.expand_as(before) == 1
        torch.testing.assert_close(after[~renewed], before[~renewed])
        assert not renewed.any() or not torch.equal(after[renewed], before[renewed])
