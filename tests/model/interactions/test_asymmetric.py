"""The asymmetric interaction against the printed formulas as plain loops, in float64."""

from __future__ import annotations

from itertools import chain, starmap
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.attention_maps import Recorder
from ccl_pack.ccl_core.config import AsymmetricOptions, InteractionConfig
from ccl_pack.ccl_core.host.run import KEEP_GIVEN
from ccl_pack.ccl_core.model.attention import TAPS
from ccl_pack.ccl_core.model.interactions.asymmetric import FACE_MASK
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.rotary import rotate, time_table
from ccl_pack.ccl_core.training.flow import initialise
from support import tiny


@pytest.fixture(autouse=True)
def plain_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's rotary kernel knows no float64."""
    monkeypatch.setattr(comfy.model_management, "in_training", True)


def equal(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


T, A, S = 3, 18, 6  # latent frames, audio tokens, spatial tokens of tiny.latents


def coupling(**fields: Any) -> InteractionConfig:
    how = AsymmetricOptions(**{"window": 1, "window_unit": "latents"} | fields)
    return InteractionConfig("asymmetric", (0, 1), how)


def model_of(**fields: Any) -> JointModel:
    return tiny.patcher(interaction=coupling(**fields)).model.diffusion_model


@torch.no_grad()
def forward(model: JointModel, streams: tuple[Tensor, Tensor] | None = None, **options: Any) -> list[Tensor]:
    routes = options.pop("routes", (True, True))
    streams = tiny.latents() if streams is None else streams
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(7)).expand(len(streams[0]), -1, -1)
    time = torch.full((len(text),), 600.0)
    return model(list(streams), time, text, transformer_options=options, routes=routes)


def meetings(model: JointModel, **options: Any) -> list[tuple[Any, ...]]:
    """Of each coupled layer: v and a as they come in, the link, v and a that it makes of them in float64."""
    found = []
    hooks = [
        layer.register_forward_hook(lambda _, given, __: found.append(given[:3]))
        for layer in model.interaction.values()
    ]
    forward(model, **options)
    for hook in hooks:
        hook.remove()
    model.interaction.double()
    whole = []
    for layer, (v, a, link) in zip(model.interaction.values(), found, strict=True):
        v, a = v.double(), a.double()
        with torch.no_grad():
            whole.append((v, a, link, *layer(v, a, link)))
    return whole


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-6)


def rms_norm(x: Tensor, norm: Any) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Of one query (d,) on k, v (n, d)."""
    made = []
    for q1, k1, v1 in zip(*(x.tensor_split(heads, dim=-1) for x in (q, k, v)), strict=True):
        made.append((k1 @ q1 * len(q1) ** -0.5).softmax(0) @ v1)
    return torch.cat(made)


def spans_of(model: JointModel) -> list[list[int]]:
    windows = model.kind.plan(model.ccl_config, model.timeline(T, A)).windows
    return [list(chain(*starmap(range, window))) for window in windows]


def seen_by(token: int, blends: tuple[Any, ...], frames: Tensor) -> Tensor:
    """What an audio token reads of frames (t, s, d): two of them blended, or all."""
    if not blends:
        return frames.flatten(0, 1)
    i, alpha = blends[token]
    return (1 - float(alpha)) * frames[i] + float(alpha) * frames[min(i + 1, T - 1)]


def plain(model: JointModel, layer: int, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The interaction of one sample without a clock inside, (v, d_v) and (a, d_a), token by token."""
    a2v, v2a = model.interaction[layer].a2v, model.interaction[layer].v2a
    blends = model.kind.plan(model.ccl_config, model.timeline(T, A)).blends
    mask = torch.sigmoid(a2v.face.project(layer_norm(v, a2v.face.norm)))  # (v, 1)
    h, source = layer_norm(v, a2v.norm_x), layer_norm(a, a2v.norm_y)
    new_v = []
    for i, tokens in enumerate(spans_of(model)):
        window = source[tokens]
        for token in range(i * S, (i + 1) * S):
            q = rms_norm(a2v.q(h[token]), a2v.norm_q)
            read = attention(q, rms_norm(a2v.k(window), a2v.norm_k), a2v.v(window), a2v.heads)
            new_v.append(v[token] + mask[token] * a2v.o(h[token] + read))
    h, frames = layer_norm(a, v2a.norm_x), (mask * layer_norm(v, v2a.norm_y)).unflatten(0, (T, S))
    keys, values = rms_norm(v2a.k(frames), v2a.norm_k), v2a.v(frames)
    new_a = []
    for token in range(A):
        k, value = (seen_by(token, blends, x) for x in (keys, values))
        read = attention(rms_norm(v2a.q(h[token]), v2a.norm_q), k, value, v2a.heads)
        new_a.append(a[token] + v2a.o(h[token] + read))
    return torch.stack(new_v), torch.stack(new_a)


@pytest.mark.parametrize("interpolation", ["centres", "latents", "frames", "own", "all"])
@pytest.mark.parametrize(
    "window, unit", [(0, "latents"), (1, "latents"), (4, "latents"), (6, "frames"), (None, "frames")]
)
def test_it_is_the_printed_formula(window: int | None, unit: str, interpolation: str) -> None:
    how = {"window": window, "window_unit": unit, "interpolation": interpolation, "clock_inside": False}
    model = model_of(**how)
    for layer, (v, a, _, new_v, new_a) in enumerate(meetings(model)):
        with torch.no_grad():
            wanted = plain(model, layer, v[0], a[0])
        torch.testing.assert_close(new_v[0], wanted[0], rtol=0, atol=1e-11)
        torch.testing.assert_close(new_a[0], wanted[1], rtol=0, atol=1e-11)


def dense(model: JointModel, layer: int, link: Any, v: Tensor, a: Tensor) -> Tensor:
    """A2V as one attention with a clock, each key counted as often as a window has it."""
    a2v = model.interaction[layer].a2v
    h, source = layer_norm(v, a2v.norm_x), layer_norm(a, a2v.norm_y)
    q = rotate(rms_norm(a2v.q(h), a2v.norm_q)[None], link.a2v.queries.double(), a2v.heads)
    k = rotate(rms_norm(a2v.k(source), a2v.norm_k)[None], link.a2v.keys.double(), a2v.heads)
    q, k, value = (x.view(-1, a2v.heads, x.shape[-1] // a2v.heads) for x in (q[0], k[0], a2v.v(source)))
    counts = torch.stack([torch.bincount(torch.tensor(tokens), minlength=A) for tokens in spans_of(model)])
    times = counts.repeat_interleave(S, dim=0).double().log()
    scores = torch.einsum("nhd,mhd->hnm", q, k) * q.shape[-1] ** -0.5 + times
    read = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), value).flatten(1)
    mask = torch.sigmoid(a2v.face.project(layer_norm(v, a2v.face.norm)))
    return v + mask * a2v.o(h + read)


@pytest.mark.parametrize("window", [1, 2, 7])
def test_a_window_over_the_clip_reads_all_and_its_edges_as_often_as_they_are_replicated(window: int) -> None:
    model = model_of(window=window)
    counts = [len(tokens) - A for tokens in spans_of(model)]
    # The middle one of three frames with a window of one: global attention, no edge beyond the clip.
    assert (counts[1] == 0) is (window == 1)
    for layer, (v, a, link, new_v, _) in enumerate(meetings(model)):
        with torch.no_grad():
            torch.testing.assert_close(new_v[0], dense(model, layer, link, v[0], a[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["centres", "latents"])
def test_the_clock_of_v2a_is_that_of_keys_at_the_time_they_stand_for(interpolation: str) -> None:
    """Queries at (token, 0, 0), keys at (i + alpha, row, column), each rotated by itself."""
    model = model_of(interpolation=interpolation)
    v, a, link, _, new_a = meetings(model)[0]
    v2a, face = model.interaction[0].v2a, model.interaction[0].a2v.face
    ids = torch.tensor([[0.0, row, column] for row in range(2) for column in range(3)])
    with torch.no_grad():
        mask = torch.sigmoid(face.project(layer_norm(v[0], face.norm)))
        frames = (mask * layer_norm(v[0], v2a.norm_y)).unflatten(0, (T, S))
        keys, values = rms_norm(v2a.k(frames), v2a.norm_k), v2a.v(frames)
        h = layer_norm(a[0], v2a.norm_x)
        for token, (i, alpha) in enumerate(link.plan.blends):
            j, share = min(i + 1, T - 1), float(alpha)
            k, value = ((1 - share) * x[i] + share * x[j] for x in (keys, values))
            ids[:, 0] = i + share
            k = rotate(k[None], model.audio.rope_embedder(ids[None]).movedim(1, 2).double(), v2a.heads)[0]
            at = time_table(model.audio, [link.plan.audio_positions[token]], v.device).double()
            q = rotate(rms_norm(v2a.q(h[token]), v2a.norm_q)[None, None], at, v2a.heads)[0, 0]
            wanted = a[0, token] + v2a.o(h[token] + attention(q, k, value, v2a.heads))
            torch.testing.assert_close(new_a[0, token], wanted, rtol=0, atol=1e-6)


def test_the_clock_of_global_attention_is_that_of_both_streams() -> None:
    """Queries at (token, 0, 0), keys at (frame, row, column), each rotated by itself."""
    model = model_of(window=None, interpolation="all")
    v, a, link, new_v, new_a = meetings(model)[0]
    v2a, face = model.interaction[0].v2a, model.interaction[0].a2v.face
    ids = torch.cartesian_prod(torch.arange(T), torch.arange(2), torch.arange(3)).float()
    turns = model.audio.rope_embedder(ids[None]).movedim(1, 2).double()
    with torch.no_grad():
        torch.testing.assert_close(new_v[0], dense(model, 0, link, v[0], a[0]), rtol=0, atol=1e-6)
        source = torch.sigmoid(face.project(layer_norm(v[0], face.norm))) * layer_norm(v[0], v2a.norm_y)
        k = rotate(rms_norm(v2a.k(source), v2a.norm_k)[None], turns, v2a.heads)[0]
        h = layer_norm(a[0], v2a.norm_x)
        for token, place in enumerate(link.plan.audio_positions):
            at = time_table(model.audio, [place], v.device).double()
            q = rotate(rms_norm(v2a.q(h[token]), v2a.norm_q)[None, None], at, v2a.heads)[0, 0]
            wanted = a[0, token] + v2a.o(h[token] + attention(q, k, v2a.v(source), v2a.heads))
            torch.testing.assert_close(new_a[0, token], wanted, rtol=0, atol=1e-6)


def masked(value: float) -> dict[str, Any]:
    return {FACE_MASK: lambda mask, _: torch.full_like(mask, value)}


def test_a_mask_of_one_is_no_modulation() -> None:
    with_mask, without = model_of(), model_of(face_mask=False)
    weights = {key: value for key, value in with_mask.state_dict().items() if ".face." not in key}
    without.load_state_dict(weights)
    assert equal(forward(with_mask, **masked(1.0)), forward(without))
    assert not equal(forward(with_mask), forward(without))


def test_with_a_mask_of_zero_the_streams_do_not_meet() -> None:
    model = model_of()
    video, audio = tiny.latents()
    made = forward(model, **masked(0.0))
    assert torch.equal(made[0], forward(model, (video, audio + 1), **masked(0.0))[0])
    assert torch.equal(made[1], forward(model, (video + 1, audio), **masked(0.0))[1])
    assert not torch.equal(made[0], forward(model, (video, audio + 1))[0])
    assert not torch.equal(made[1], forward(model, (video + 1, audio))[1])


def test_a_mask_within_the_picture_lets_no_sound_beside_it() -> None:
    """The interaction changes the tokens of the mask alone."""
    model = model_of()
    half = torch.tensor([1.0, 1, 1, 0, 0, 0]).repeat(T)[None, :, None]
    v, _, _, new_v, _ = meetings(model, **{FACE_MASK: lambda mask, _: half.to(mask)})[0]
    changed = (new_v - v).abs().amax(-1)[0] > 0
    assert torch.equal(changed, half[0, :, 0] > 0)


@pytest.mark.parametrize("switch, stream", [("a2v_cross_attn", 0), ("v2a_cross_attn", 1)])
def test_a_closed_direction_adds_nothing(switch: str, stream: int) -> None:
    model = model_of()
    off = forward(model, a2v_cross_attn=False, v2a_cross_attn=False)
    one = forward(model, **{switch: False})
    assert torch.equal(one[stream], off[stream]) and not torch.equal(one[1 - stream], off[1 - stream])
    routes = [True, True]
    routes[stream] = False
    assert equal(forward(model, routes=tuple(routes)), one)


def test_routes_of_samples() -> None:
    model = model_of()
    streams = tiny.latents(batch=2)
    mixed = forward(model, streams, routes=((True, False), (False, True)))
    first = forward(model, streams, routes=(True, False))
    second = forward(model, streams, routes=(False, True))
    for made, one, two in zip(mixed, first, second, strict=True):
        torch.testing.assert_close(made[:1], one[:1], rtol=0, atol=1e-6)
        torch.testing.assert_close(made[1:], two[1:], rtol=0, atol=1e-6)


def test_what_a_mask_keeps_is_read_and_not_changed() -> None:
    """A prefix of both streams: conditions come back unchanged to the bit, and the rest reads them."""
    model = model_of()
    video_time = torch.tensor([[0.0, 600, 600]])
    audio_time = torch.cat([torch.zeros(1, 6), torch.full((1, 12), 600.0)], dim=1)
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(7))
    found = []
    hook = model.interaction[0].register_forward_hook(
        lambda _, given, made: found.append((*given[:2], *made))
    )
    video, audio = tiny.latents()
    changed = video.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        for picture in (video, changed):
            model([picture, audio], (video_time, audio_time), text, transformer_options={})
    hook.remove()
    for v, a, new_v, new_a in found:
        assert torch.equal(new_v[:, :S], v[:, :S]) and torch.equal(new_a[:, :6], a[:, :6])
        assert not torch.equal(new_v[:, S:], v[:, S:]) and not torch.equal(new_a[:, 6:], a[:, 6:])
    # Token 6 reads between the kept first latent frame and the next one.
    plan = model.kind.plan(model.ccl_config, model.timeline(T, A))
    readers = [token for token in range(6, A) if plan.blends[token][0] == 0]
    if readers:
        assert not torch.equal(found[0][3][:, readers], found[1][3][:, readers])


def test_a_fresh_one_is_its_two_streams() -> None:
    model = model_of()
    initialise(model)
    torch.nn.init.normal_(model.head.head.weight)
    torch.nn.init.normal_(model.audio.head.head.weight)
    apart = forward(model, a2v_cross_attn=False, v2a_cross_attn=False)
    assert equal(forward(model), apart) and apart[0].std() > 0.1


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_what_it_reads_of_a_given_stream_is_kept(stream: str) -> None:
    model = tiny.patcher(interaction=coupling())
    latent = tiny.av_latent(masks=tiny.given(stream))
    model.model_options["transformer_options"][KEEP_GIVEN] = False
    wanted = tiny_sample(model, latent)
    model.model_options["transformer_options"][KEEP_GIVEN] = True
    calls = tiny.count_blocks(model.model.diffusion_model)
    assert equal(tiny_sample(model, latent), wanted)
    assert calls[stream] == len(model.model.ccl_config.interaction.layers)


def tiny_sample(model: Any, latent: dict[str, Any]) -> list[Tensor]:
    texts = tiny.conditioning(1), tiny.conditioning(2)
    return host_nodes.common_ksampler(model, 1, 3, 3.0, "euler", "simple", *texts, latent)[0][
        "samples"
    ].unbind()


def test_an_observer_of_global_attention_sees_all_of_it() -> None:
    model = model_of(window=None, interpolation="all")
    recorder = Recorder(model)
    assert equal(forward(model, **{TAPS: recorder.taps}), forward(model))
    for found in recorder.maps:
        torch.testing.assert_close(found.rows.sum(-1), torch.ones(found.rows.shape[:-1]))
        assert (found.rows > 0).all()
        assert found.rows.shape[2:] == ((T * S, A) if found.direction == "a2v" else (A, T * S))


def test_an_observer_sees_its_rows_and_its_masks() -> None:
    model = model_of()
    recorder, masks = Recorder(model), []
    taps = recorder.taps | {"face_mask": lambda layer, mask: masks.append((layer, mask))}
    assert equal(forward(model, **{TAPS: taps}), forward(model))
    assert [(found.layer, found.direction) for found in recorder.maps] == [
        (0, "a2v"), (0, "v2a"), (1, "a2v"), (1, "v2a"),
    ]  # fmt: skip
    plan = model.kind.plan(model.ccl_config, model.timeline(T, A))
    for found in recorder.maps:
        torch.testing.assert_close(found.rows.sum(-1), torch.ones(found.rows.shape[:-1]))
        read = torch.zeros(found.rows.shape[2:], dtype=torch.bool)
        for i, tokens in enumerate(spans_of(model)):
            if found.direction == "a2v":
                read[i * S : (i + 1) * S, tokens] = True
        for token, (i, _) in enumerate(plan.blends):
            if found.direction == "v2a":
                read[token, i * S : (i + 1) * S] = True
        assert torch.equal(found.rows[0, 0] > 0, read)
    assert [layer for layer, _ in masks] == [0, 1]
    assert all(mask.shape == (1, T * S, 1) and mask.min() > 0 and mask.max() < 1 for _, mask in masks)
