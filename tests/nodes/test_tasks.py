"""CCLSetTask and CCLMaskAV: what each task keeps, on ccl-tiny and on small Ovi, MOVA and Prism, by KSampler,
SamplerCustomAdvanced and CCLJointSampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from torch import Tensor

from ccl_pack.ccl_core.alignment.sizing import audio_tokens_of
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_model
from ccl_pack.ccl_core.host.media.latents import split
from ccl_pack.ccl_core.host.media.source import Source
from ccl_pack.ccl_core.host.run import state_of
from ccl_pack.ccl_core.tasks import CHOICES, State
from ccl_pack.nodes.decoding import CCLDecodeAV
from ccl_pack.nodes.guidance import CCLJointSampler
from ccl_pack.nodes.tasks import ABOUT, CCLMaskAV, CCLSetTask
from nodes import common_ksampler
from support import tiny_published
from support.by_hand import TINY

# Pixel and latent frames of the clips here. ccl-tiny has 16 frames and 32 tokens a second: 34 tokens.
FRAMES, LATENT_FRAMES = 17, 5


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


@cache
def ccl_tiny() -> Any:
    return load_checkpoint(str(TINY))[0]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("published")
    models = {}
    for name, (write, file) in tiny_published.MODELS.items():
        write(folder)
        models[name] = load_model(str(folder / file), {"dtype": torch.float32})
    yield models
    models.clear()
    ccl_tiny.cache_clear()


def clip(model: Any = None, batch: int = 1, seed: int = 3, **empty: bool) -> dict[str, Any]:
    """A latent in which both streams hold something, but for those named as empty."""
    config = (model or ccl_tiny()).model.ccl_config
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(batch, config.video.out_dim, LATENT_FRAMES, 4, 4, generator=generator)
    tokens = audio_tokens_of(LATENT_FRAMES, config.fps, config.audio_latent.rate)
    audio = torch.randn(batch, config.audio_latent.channels, tokens, generator=generator)
    streams = {"video": video, "audio": audio}
    for name in empty:
        streams[name] = torch.zeros_like(streams[name])
    return {"samples": NestedTensor(list(streams.values())), "fps": float(config.fps)}


def set_task(latent: dict[str, Any], task: str, **options: Any) -> dict[str, Any]:
    return CCLSetTask.execute(latent, {"task": task, **options})[0]


def masked(
    latent: dict[str, Any], action: str = "renew", streams: str = "both", **options: Any
) -> dict[str, Any]:
    usual = {"start_time": 0.0, "end_time": 0.0, "strength": 1.0}
    return CCLMaskAV.execute(latent, action, streams, **{**usual, **options})[0]


def texts(model: Any) -> tuple[list, list]:
    width = model.model.ccl_config.video.text_dim
    return tuple(
        [[torch.randn(1, 5, width, generator=torch.Generator().manual_seed(seed)), {}]] for seed in (1, 2)
    )


def by_ksampler(model: Any, latent: dict[str, Any]) -> list[Tensor]:
    made = common_ksampler(model, 7, 2, 3.0, "euler", "simple", *texts(model), latent)[0]
    return made["samples"].unbind()


def by_joint_sampler(model: Any, latent: dict[str, Any]) -> list[Tensor]:
    settings = {"seed": 7, "steps": 2, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    positive, negative = texts(model)
    made = CCLJointSampler.execute(
        model, positive, negative, latent, **settings, mode={"mode": "from model"}
    )[0]
    return made["samples"].unbind()


def by_custom_sampler(model: Any, latent: dict[str, Any]) -> list[Tensor]:
    """SamplerCustomAdvanced with the guider of the host, and a sampler that adds noise in each step."""
    positive, negative = texts(model)
    guider = CFGGuider.execute(model, positive, negative, 3.0)[0]
    sigmas = BasicScheduler.execute(model, "simple", 2, 1.0)[0]
    sampler = KSamplerSelect.execute("euler_ancestral")[0]
    noise = RandomNoise.execute(7)[0]
    made = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, dict(latent))[0]
    return made["samples"].unbind()


SAMPLERS = pytest.mark.parametrize("sampled", [by_ksampler, by_joint_sampler, by_custom_sampler])


def states(latent: dict[str, Any]) -> tuple[State, State]:
    av = split(latent)
    audio = State.ABSENT if av.audio is None else state_of(av.audio_mask, av.audio)
    return state_of(av.video_mask, av.video), audio


def kept_exactly(latent: dict[str, Any], made: list[Tensor]) -> None:
    """What the masks keep is there to the bit, what they do not is another; asserted for each stream."""
    av = split(latent)
    streams = (av.video, av.video_mask, made[0]), (av.audio, av.audio_mask, made[1])
    for before, mask, after in streams:
        kept = torch.zeros_like(before, dtype=torch.bool) if mask is None else (mask == 0).expand_as(before)
        assert torch.equal(before[kept], after[kept])
        assert (before[~kept] != after[~kept]).all() and torch.isfinite(after).all()


# ---- tasks


@pytest.mark.parametrize("name", CHOICES)
def test_the_masks_of_a_task_say_its_states(name: str) -> None:
    latent = set_task(clip(), name)
    assert states(latent) == (CHOICES[name].video, CHOICES[name].audio) and latent["task"] == name


@SAMPLERS
@pytest.mark.parametrize("name", CHOICES)
def test_what_a_task_keeps_comes_back_to_the_bit(name: str, sampled: Any) -> None:
    latent = set_task(clip(), name)
    kept_exactly(latent, sampled(ccl_tiny(), latent))


@SAMPLERS
@pytest.mark.parametrize("model", tiny_published.MODELS)
def test_tasks_of_published_models_keep_to_the_bit(
    published: dict[str, Any], model: str, sampled: Any
) -> None:
    for name in CHOICES:
        latent = set_task(clip(published[model]), name)
        kept_exactly(latent, sampled(published[model], latent))


def test_every_task_is_explained() -> None:
    (choice,) = (entry for entry in CCLSetTask.GET_SCHEMA().inputs if entry.id == "task")
    assert [option.key for option in choice.options] == list(ABOUT)


def test_frames_are_kept_at_both_ends(caplog: pytest.LogCaptureFixture) -> None:
    mask = split(set_task(clip(), "i2av", first_frames=5, last_frames=4)).video_mask
    assert mask[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1, 0] and not caplog.records
    mask = split(set_task(clip(), "i2v", first_frames=0, last_frames=1)).video_mask
    assert mask[0, 0, :, 0, 0].tolist() == [1, 1, 1, 1, 0]
    (record,) = (record for record in caplog.records if "frames" in record.message)
    assert record.message.startswith("first_frames 0 and last_frames 1 became 0 and 4")


def test_frames_of_a_plain_video_latent() -> None:
    video = clip()["samples"].unbind()[0]
    latent = set_task({"samples": video, "fps": 16.0}, "i2v")
    assert latent["noise_mask"][0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("frames", [(0, 0), (17, 0), (9, 9), (13, 1), (-1, 2)])
def test_frames_that_leave_nothing_are_refused(frames: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="the task i2av has first_frames"):
        set_task(clip(), "i2av", first_frames=frames[0], last_frames=frames[1])


@pytest.mark.parametrize(
    ("task", "empty", "message"),
    [
        ("v2a", "video", "the task v2a keeps the video latent, and that is empty"),
        ("a2v", "audio", "the task a2v keeps the audio latent, and that is empty"),
        ("i2av", "video", "the task i2av keeps frames of the video latent, and that is empty"),
        ("continuation", "audio", "the task continuation keeps the end of the audio latent"),
    ],
)
def test_a_task_that_keeps_what_is_empty_is_refused(task: str, empty: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_task(clip(**{empty: True}), task)


def test_the_clip_of_a_batch_that_is_empty_is_named() -> None:
    latent = clip(batch=2)
    latent["samples"].unbind()[0][1] = 0
    with pytest.raises(ValueError, match="of clip 2 that is empty"):
        set_task(latent, "v2a")


@pytest.mark.parametrize("task", ["t2av", "a2v", "v2a", "t2a", "continuation"])
def test_a_task_with_sound_on_a_latent_without_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match=f"the task {task} needs a sound"):
        set_task({"samples": clip()["samples"].unbind()[0], "fps": 16.0}, task)


def test_an_unknown_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'s2v' is unknown: choose one of t2av, i2av"):
        set_task(clip(), "s2v")


def test_a_task_that_leaves_out_what_is_there_says_so(caplog: pytest.LogCaptureFixture) -> None:
    latent = set_task(clip(), "t2a")
    assert not split(latent).video.any()
    assert [record.message for record in caplog.records] == [
        "the task t2a has no video: what the latent holds of it is left out"
    ]


def test_a_mask_that_contradicts_the_task_is_refused() -> None:
    latent = set_task(clip(), "v2a")
    latent["noise_mask"] = set_task(clip(), "a2v")["noise_mask"]
    with pytest.raises(
        ValueError, match=r"the task v2a \(video given, audio generated\).*video generated, audio given"
    ):
        by_joint_sampler(ccl_tiny(), latent)


@pytest.mark.parametrize(("task", "decoded"), [("t2v", "audio_vae"), ("t2a", "video_vae")])
def test_what_a_task_leaves_out_is_not_decoded(
    task: str, decoded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vaes = dict(zip(("video_vae", "audio_vae"), load_checkpoint(str(TINY))[2:], strict=True))
    with monkeypatch.context() as patched:
        patched.setattr(vaes[decoded], "decode", None)
        frames, sound, _ = CCLDecodeAV.execute(set_task(clip(), task), tiling={"tiling": "off"}, **vaes)
    assert (
        frames.shape == (FRAMES, 32, 32, 3)
        and sound["waveform"].shape[-1] == FRAMES * sound["sample_rate"] // 16
    )
    assert bool(frames.any()) is (task == "t2v") and bool(sound["waveform"].any()) is (task == "t2a")


def test_the_original_of_what_a_task_leaves_out_is_not_put_back() -> None:
    latent = given_film()
    for task, left in (("t2v", (None, None)), ("v2a", ("the picture", None)), ("a2v", (None, "the sound"))):
        source = set_task(latent, task)["source"]
        assert (source.picture, source.sound) == left
    assert latent["source"].sound == "the sound"


def given_film() -> dict[str, Any]:
    """A latent that remembers the originals of both streams, which are kept."""
    latent = set_task(clip(), "v2a")
    latent["noise_mask"].unbind()[1].zero_()
    latents = tuple(latent["samples"].unbind())
    return {**latent, "source": Source(picture="the picture", sound="the sound", latents=latents)}


def test_the_original_of_what_was_renewed_is_not_put_back_later() -> None:
    """It is renewed by a sampler; that result is what a task after it keeps."""
    renewed = masked(given_film(), "renew", "video", start_time=0.3, end_time=0.8)
    again = set_task(renewed, "v2a")["source"]
    assert again.picture is None and again.sound is None
    longer = set_task(given_film(), "continuation", kept_seconds=0.5625, new_seconds=0.5)
    assert split(longer).video.shape == split(given_film()).video.shape
    assert set_task(longer, "v2a")["source"].picture is None


# ---- continuation


def test_a_continuation_keeps_the_end_of_the_clip_and_adds_to_it() -> None:
    latent = clip()
    made = split(set_task(latent, "continuation", kept_seconds=0.5, new_seconds=0.75))
    video, audio = latent["samples"].unbind()
    # .5 s are 8 frames: the cut nearest to frame 9 is frame 8, latent frame 2. It stands at .5 s, token 16.
    assert torch.equal(made.video[:, :, :3], video[:, :, 2:]) and torch.equal(
        made.audio[..., :18], audio[..., 16:]
    )
    # 9 kept frames and 12 new ones are 6 latent frames, and 42 tokens at 32 a second.
    assert made.video.shape[2] == 6 and made.audio.shape[2] == 42
    assert made.video_mask[0, 0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert made.audio_mask[0, 0].tolist() == [0] * 18 + [1] * 24
    assert not made.video[:, :, 3:].any() and not made.audio[..., 18:].any()


def test_a_continuation_of_more_than_there_is_keeps_all() -> None:
    made = split(set_task(clip(), "continuation", kept_seconds=9.0, new_seconds=0.25))
    assert torch.equal(made.video[:, :, :LATENT_FRAMES], clip()["samples"].unbind()[0])
    assert made.video.shape[2] == LATENT_FRAMES + 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), 601.0])
def test_a_length_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="new_seconds is"):
        set_task(clip(), "continuation", kept_seconds=0.5, new_seconds=seconds)


# ---- custom


@pytest.mark.parametrize(
    ("options", "video", "audio"),
    [
        ({}, [1] * 5, [1] * 34),
        ({"audio": "keep"}, [1] * 5, [0] * 34),
        ({"video": "keep a part", "video_end_time": 0.3}, [0, 0, 1, 1, 1], [1] * 34),
        ({"video": "keep", "audio": "renew a part", "audio_start_time": 0.5}, [0] * 5, [0] * 16 + [1] * 18),
        (
            {"audio": "keep a part", "audio_start_time": 0.25, "audio_end_time": 0.5},
            [1] * 5,
            [1] * 8 + [0] * 8 + [1] * 18,
        ),
        ({"strength": 0.5, "audio": "keep"}, [0.5] * 5, [0] * 34),
    ],
)
def test_the_rows_of_a_custom_task(options: dict[str, Any], video: list, audio: list) -> None:
    av = split(set_task(clip(), "custom", **options))
    assert av.video_mask[0, 0, :, 0, 0].tolist() == video and av.audio_mask[0, 0].tolist() == audio


def test_a_custom_task_that_leaves_nothing_to_generate_is_refused() -> None:
    with pytest.raises(ValueError, match="video: keep, audio: leave out, so nothing is left to generate"):
        set_task(clip(), "custom", video="keep", audio="leave out")


def test_less_strength_stays_closer_to_what_was_there() -> None:
    latent = clip()
    before = latent["samples"].unbind()
    distances = []
    for strength in (0.2, 0.6, 1.0):
        made = by_ksampler(ccl_tiny(), set_task(latent, "custom", strength=strength))
        distances.append([float((x - y).norm()) for x, y in zip(made, before, strict=True)])
    assert distances == sorted(distances) and all(distances[0])


def test_strength_of_an_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strength 0.5 keeps something of the audio latent"):
        set_task(clip(audio=True), "custom", strength=0.5)


# ---- CCLMaskAV


@SAMPLERS
@pytest.mark.parametrize("streams", ["both", "video", "audio"])
def test_renewing_seconds_leaves_all_others_to_the_bit(streams: str, sampled: Any) -> None:
    latent = masked(clip(), "renew", streams, start_time=0.3, end_time=0.8)
    kept_exactly(latent, sampled(ccl_tiny(), latent))
    av = split(latent)
    changed = {"video": av.video_mask.any(), "audio": av.audio_mask.any()}
    assert changed == {name: streams in ("both", name) for name in changed}


@pytest.mark.parametrize("model", tiny_published.MODELS)
def test_masks_on_published_models_keep_to_the_bit(published: dict[str, Any], model: str) -> None:
    picture = torch.zeros(1, 8, 8)
    picture[:, :4] = 1
    for options in ({"start_time": 0.2, "end_time": 0.5}, {"mask": picture}):
        latent = masked(clip(published[model]), "renew", "both", **options)
        kept_exactly(latent, by_ksampler(published[model], latent))


def test_the_sound_of_both_is_cut_where_the_video_is(caplog: pytest.LogCaptureFixture) -> None:
    av = split(masked(clip(), "keep", "both", end_time=0.3))
    # Latent frames begin at 0, 1, 5, 9 frames: 5 / 16 s are token 10.
    assert av.video_mask[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1, 1]
    assert av.audio_mask[0, 0].tolist() == [0] * 10 + [1] * 24
    assert "video: 0.000 to 0.300 s became 0.000 to 0.312 s, the nearest whole latent frames" in caplog.text


def test_a_mask_on_a_mask_leaves_the_rest_of_it() -> None:
    av = split(masked(set_task(clip(), "v2a"), "keep", "audio", start_time=0.5, end_time=0.75))
    assert not av.video_mask.any() and av.audio_mask[0, 0].tolist() == [1] * 16 + [0] * 8 + [1] * 10
    assert "task" not in av.rest


def test_a_mask_within_the_picture() -> None:
    picture = torch.zeros(1, 16, 16)
    picture[:, :8, :9] = 1
    av = split(masked(clip(), "renew", "video", start_time=0.3, mask=picture, strength=0.5))
    cells = torch.zeros(4, 4)
    cells[:2, :3] = 0.5  # the third column is touched
    assert torch.equal(av.video_mask[0, 0, 2], cells) and not av.video_mask[0, 0, :2].any()
    assert not av.audio_mask.any()
    kept = split(masked(clip(), "keep", "video", mask=picture)).video_mask[0, 0, 0]
    cells = torch.ones(4, 4)
    cells[:2, :2] = 0  # the third column is not covered
    assert torch.equal(kept, cells)


def test_a_mask_for_each_frame() -> None:
    pictures = torch.zeros(FRAMES, 4, 4)
    pictures[5:9] = 1  # the third latent frame
    av = split(masked(clip(), "renew", "video", mask=pictures))
    assert av.video_mask[0, 0, :, 0, 0].tolist() == [0, 0, 1, 0, 0]
    with pytest.raises(ValueError, match=r"mask has the shape \(3, 4, 4\).*each of the 17 frames"):
        masked(clip(), "renew", "video", mask=pictures[:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"start_time": 2.0},
            r"from start_time 2 s to end_time \(the end of the clip\) holds no whole",
        ),
        ({"start_time": 0.5, "end_time": 0.4}, "start_time is 0.5 s, end_time 0.4 s: let the part end later"),
        ({"start_time": float("nan")}, "give times from 0 on"),
        (
            {"start_time": 0.32, "end_time": 0.36},
            r"the part from start_time 0.32 s to end_time \(0.36 s\) holds no whole latent frame",
        ),
        ({"strength": 0.0}, "strength is 0.0"),
    ],
)
def test_a_part_that_is_none_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masked(clip(), **options)


def test_a_mask_of_a_sound_that_is_not_there_is_refused() -> None:
    latent = {"samples": clip()["samples"].unbind()[0], "fps": 16.0}
    with pytest.raises(ValueError, match="streams is audio, and the latent has no audio part"):
        masked(latent, streams="audio")


def test_keeping_what_is_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="action keep keeps the audio latent from 0 s, and that is empty"):
        masked(clip(audio=True), "keep", end_time=0.5)
