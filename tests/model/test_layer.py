"""A joint layer enters each module once: the audio block inside the video block, the interaction inside
both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.model.interactions import KV, Link
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.layer import Layer, run_layer
from support.tiny import latents, patcher

KINDS = pytest.mark.parametrize("kind", ["cca", "fusion", "bridge", "asymmetric"])
TIME = torch.tensor([400.0, 700.0])


def model_of(kind: str) -> JointModel:
    return patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]())).model.diffusion_model


def link_of(model: JointModel, streams: str = "both", **changes: Any) -> tuple[Tensor, Tensor, Link]:
    """The tokens of both streams and what a pass knows; streams: "both", or the one that runs."""
    text = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7))
    options = {"block_index": 0}
    latent_video, latent_audio = latents(batch=2)
    v, video = model.embed_video(latent_video, TIME, text, options)
    timeline = model.timeline(latent_video.shape[2], latent_audio.shape[2])
    a, audio = model.audio.embed_audio(latent_audio, TIME, text, timeline.audio_positions, dict(options))
    video, audio = video if streams != "audio" else None, audio if streams != "video" else None
    plan = model.kind.plan(model.ccl_config, timeline)
    tables = model.kind.tables(model.ccl_config, model, model.audio, video, audio, plan, v.device)
    return v, a, replace(Link(video, audio, plan, *tables, True, True, options), **changes)


def layer_of(model: JointModel, i: int = 0) -> Layer:
    return Layer(model.blocks[i], model.audio.blocks[i], model.interaction[str(i)])


@KINDS
def test_each_module_is_entered_once_and_nests(kind: str) -> None:
    model, events = model_of(kind), []
    layer = layer_of(model)
    for name, module in layer._asdict().items():
        module.register_forward_pre_hook(lambda *_, name=name: events.append(f"into {name}"))
        module.register_forward_hook(lambda *_, name=name: events.append(f"out of {name}"))
    v, a, link = link_of(model)
    run_layer(layer, v, a, link)
    names = ("video", "audio", "interaction")
    assert events == [*(f"into {name}" for name in names), *(f"out of {name}" for name in reversed(names))]


@KINDS
def test_closed_both_ways_it_is_two_blocks_side_by_side(kind: str) -> None:
    """CCA has its context tokens on a closed route: those are taken out."""
    model = model_of(kind)
    v, a, link = link_of(model, a2v_open=False, v2a_open=False)
    layer = layer_of(model)
    if kind == "cca":
        for direction in (layer.interaction.a2v, layer.interaction.v2a):
            direction.o.weight.zero_()
            direction.o.bias.zero_()
    new_v, new_a = run_layer(layer, v, a, link)
    assert torch.equal(new_v, layer.video(v, **link.video.arguments()))
    assert torch.equal(new_a, layer.audio(a, **link.audio.arguments()))


@KINDS
def test_both_directions_read_the_other_stream_as_it_was(kind: str) -> None:
    """Each direction alone gives what both together give."""
    model = model_of(kind)
    v, a, link = link_of(model)
    both = run_layer(layer_of(model), v, a, link)
    to_video = run_layer(layer_of(model), v, a, replace(link, v2a_open=False))
    to_audio = run_layer(layer_of(model), v, a, replace(link, a2v_open=False))
    assert torch.equal(both[0], to_video[0]) and torch.equal(both[1], to_audio[1])
    assert not torch.equal(both[1], to_video[1]) and not torch.equal(both[0], to_audio[0])


def test_without_an_interaction_the_blocks_run_alone() -> None:
    model = model_of("cca")
    v, a, link = link_of(model)
    new_v, new_a = run_layer(Layer(model.blocks[2], None, None), v, a, link)
    assert torch.equal(new_v, model.blocks[2](v, **link.video.arguments())) and new_a is a
    new_v, new_a = run_layer(Layer(None, model.audio.blocks[1], None), v, a, link)
    assert torch.equal(new_a, model.audio.blocks[1](a, **link.audio.arguments())) and new_v is v
    assert Layer(model.blocks[2], None, None).modules == [model.blocks[2]]


@KINDS
@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_stream_that_does_not_run_stays_absent(kind: str, stream: str) -> None:
    model = model_of(kind)
    v, a, link = link_of(model, stream)
    layer, tokens = layer_of(model), {"video": (v, None), "audio": (None, a)}[stream]
    running = Layer(layer.video, None, layer.interaction) if stream == "video" else layer._replace(video=None)
    made = run_layer(running, *tokens, link)
    alone = getattr(layer, stream)(v if stream == "video" else a, **getattr(link, stream).arguments())
    new, absent = made if stream == "video" else made[::-1]
    assert absent is None and new.shape == alone.shape
    assert torch.equal(new, alone) is (kind != "cca"), "CCA reads its context tokens, the others nothing"


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_kept_layer_hands_out_keys_and_values_that_stand_for_the_stream(stream: str) -> None:
    model = model_of("cca")
    layer = layer_of(model)
    routes = {"video": {"a2v_open": False}, "audio": {"v2a_open": False}}[stream]
    v, a, link = link_of(model, **routes)
    wanted = run_layer(layer, v, a, link)
    _, _, alone = link_of(model, stream, keep=True, **routes)
    _, _, other = link_of(model, {"video": "audio", "audio": "video"}[stream], **routes)
    if stream == "video":
        new_v, kept = run_layer(Layer(layer.video, None, layer.interaction), v, None, alone)
        nothing, new_a = run_layer(Layer(None, layer.audio, layer.interaction), None, a, other, kept)
    else:
        kept, new_a = run_layer(Layer(None, layer.audio, layer.interaction), None, a, alone)
        new_v, nothing = run_layer(Layer(layer.video, None, layer.interaction), v, None, other, kept)
    assert type(kept) is KV and nothing is None
    assert torch.equal(new_v, wanted[0]) and torch.equal(new_a, wanted[1])
