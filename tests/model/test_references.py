"""References of a stream's own kind (UniAVGen): in front, clean, outside the coupling."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.model.interactions import INTERACTIONS
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.times import clean_in_front, times_of
from support.tiny import CONFIG, av_latent, conditioning, latents, patcher

TEXT = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(7))
IMAGE = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(8))
VOICE = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(9))
FACE, SOUND = 6, 4  # tokens of the two references


def model_of(kind: str = "asymmetric", **fields: Any) -> JointModel:
    streams = {name: replace(getattr(CONFIG, name), references=True) for name in ("video", "audio")}
    interaction = InteractionConfig(kind, (0, 1), OPTIONS[kind]())
    return patcher(**{"interaction": interaction} | streams | fields).model.diffusion_model


@torch.no_grad()
def run(
    model: JointModel,
    image: Tensor | None = None,
    voice: Tensor | None = None,
    time: Any = 500.0,
    streams: Any = None,
    **options: Any,
) -> list[Tensor]:
    given = {"reference_latent": image, "audio_reference": voice}
    given = {name: value for name, value in given.items() if value is not None}
    times = torch.tensor([time]) if isinstance(time, float) else time
    return model(
        list(latents() if streams is None else streams), times, TEXT, transformer_options=options, **given
    )


def embedded(model: JointModel, image: Tensor | None, time: Tensor | None = None) -> Any:
    time = torch.tensor([500.0]) if time is None else time
    return model.embed_video(latents()[0], time, TEXT, {}, reference_latent=image)


def heard(model: JointModel, voice: Tensor | None) -> Any:
    timeline = model.timeline(3, 18)
    before = () if voice is None else timeline.positions_before(voice.shape[-1])
    positions = (*before, *timeline.audio_positions)
    return model.audio.embed_audio(latents()[1], torch.tensor([500.0]), TEXT, positions, {}, voice)


def test_the_times_of_what_stands_in_front() -> None:
    one = clean_in_front(times_of(torch.tensor([3.0, 5.0]), 4), 2, 4)
    assert one.values.tolist() == [[0, 3], [0, 5]] and one.rows.tolist() == [0, 0, 1, 1, 1, 1]
    frames = clean_in_front(times_of(torch.tensor([[3.0, 5.0]]), 4), 1, 4)
    assert frames.values.tolist() == [[0, 3, 5]] and frames.rows.tolist() == [0, 1, 1, 2, 2]
    tokens = clean_in_front(times_of(torch.tensor([[3.0, 5.0, 5.0, 3.0]]), 4), 1, 4)
    assert tokens.values.tolist() == [[0, 3, 5]] and tokens.rows.tolist() == [0, 1, 2, 2, 1]


def test_they_stand_before_the_latent_and_move_nothing() -> None:
    model = model_of()
    tokens, video = embedded(model, IMAGE)
    alone, without = embedded(model, None)
    assert torch.equal(tokens[:, FACE:], alone) and torch.equal(video.freqs[:, FACE:], without.freqs)
    assert video.spans.seen == video.spans.updated == slice(FACE, FACE + 18)
    sound, audio = heard(model, VOICE)
    alone, without = heard(model, None)
    assert torch.equal(sound[:, SOUND:], alone) and torch.equal(audio.freqs[:, SOUND:], without.freqs)
    assert audio.spans.seen == audio.spans.updated == slice(SOUND, SOUND + 18)
    # Tokens lie evenly on the clock, the reference too.
    before = model.timeline(3, 18).positions_before(SOUND)
    assert max(before) < 0 and len({later - earlier for earlier, later in pairwise(before)}) == 1


def test_they_are_clean_whatever_the_time_of_the_latent() -> None:
    model = model_of()
    for time in (torch.tensor([500.0]), torch.tensor([[0.0, 500.0, 900.0]])):
        _, video = embedded(model, IMAGE, time)
        clean = model.embed_times(times_of(torch.zeros(1), 1), torch.float32)[1]
        torch.testing.assert_close(video.e[:, video.rows][:, :FACE], clean.expand(-1, FACE, -1, -1))


def test_one_of_another_size_than_the_video_has_its_own_places() -> None:
    model = model_of()
    tokens, video = embedded(model, torch.randn(1, 16, 7, 3))
    assert tokens.shape[1] == 8 + 18 and video.freqs.shape[1] == 8 + 18
    assert [stream.shape for stream in run(model, torch.randn(1, 16, 7, 3), VOICE)] == [
        stream.shape for stream in latents()
    ]


def test_they_change_no_output_of_the_coupling() -> None:
    """Whatever stands in the tokens of the references, and they come back to the bit."""
    model, calls = model_of(), []
    layer = model.interaction[0]
    hook = layer.register_forward_hook(lambda _, given, made: calls.append((*given[:3], *made)))
    run(model, IMAGE, VOICE)
    hook.remove()
    v, a, link, new_v, new_a = calls[0]
    assert torch.equal(new_v[:, :FACE], v[:, :FACE]) and torch.equal(new_a[:, :SOUND], a[:, :SOUND])
    other_v, other_a = v.clone(), a.clone()
    other_v[:, :FACE] += 1
    other_a[:, :SOUND] -= 1
    with torch.no_grad():
        same_v, same_a = layer(other_v, other_a, link)
    assert torch.equal(same_v[:, FACE:], new_v[:, FACE:]) and torch.equal(same_a[:, SOUND:], new_a[:, SOUND:])


def test_each_acts_on_its_own_stream_through_self_attention() -> None:
    model = model_of()
    closed = {"a2v_cross_attn": False, "v2a_cross_attn": False}
    plain, faced, voiced = (
        run(model, image, voice, **closed) for image, voice in ((None, None), (IMAGE, None), (None, VOICE))
    )
    assert torch.equal(faced[1], plain[1]) and (faced[0] - plain[0]).abs().max() > 1e-3
    assert torch.equal(voiced[0], plain[0]) and (voiced[1] - plain[1]).abs().max() > 1e-3


def test_a_stream_without_references_takes_none() -> None:
    model = patcher().model.diffusion_model
    made = zip(run(model), run(model, IMAGE, VOICE), strict=True)
    assert all(torch.equal(x, y) for x, y in made)


@pytest.mark.parametrize("kind", sorted(INTERACTIONS))
def test_the_clock_of_a_coupling_is_that_without_references(kind: str) -> None:
    """Wan counts a reference image as one more latent frame in front: the sound is not that much later."""
    own = replace(CONFIG.video, in_dim_ref_conv=16)
    for model in (model_of(kind), model_of(kind, video=own)):
        tables = []
        for image in (None, IMAGE):
            _, video = embedded(model, image)
            _, audio = heard(model, None)
            plan = model.kind.plan(model.ccl_config, model.timeline(3, 18))
            device = torch.device("cpu")
            tables.append(model.kind.tables(model.ccl_config, model, model.audio, video, audio, plan, device))
        for without, beside in zip(*tables, strict=True):
            assert torch.equal(without.queries, beside.queries) and torch.equal(without.keys, beside.keys)


def sampled(model: Any, **entries: Any) -> list[Tensor]:
    texts = conditioning(1, **entries), conditioning(2, **entries)
    run = host_nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *texts, av_latent())
    return run[0]["samples"].unbind()


def test_a_text_brings_them_through_the_host_s_sampler() -> None:
    streams = {name: replace(getattr(CONFIG, name), references=True) for name in ("video", "audio")}
    interaction = InteractionConfig("asymmetric", (0, 1), OPTIONS["asymmetric"]())
    model = patcher(interaction=interaction, **streams)
    plain = sampled(model)
    for entries in ({"reference_latents": [IMAGE[:, :, None]]}, {"reference_audio": VOICE}):
        assert all((x - y).abs().max() > 1e-4 for x, y in zip(sampled(model, **entries), plain, strict=True))


def test_a_model_without_voices_says_that_it_reads_none() -> None:
    with pytest.raises(ValueError, match=r"carries a reference sound .*, and this model reads none"):
        sampled(patcher(), reference_audio=VOICE)
