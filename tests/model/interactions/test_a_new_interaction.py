"""A coupling that this test alone knows, registered by two rows and served by the whole product.

A video frame reads the sound up to its end, an audio token the whole video; a closed route adds nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core import memory
from ccl_pack.ccl_core.alignment.plan import Plan, whole_clip
from ccl_pack.ccl_core.alignment.timeline import Timeline
from ccl_pack.ccl_core.attention_maps import Recorder
from ccl_pack.ccl_core.config import OPTIONS, CCLConfig, InteractionConfig
from ccl_pack.ccl_core.counts import meeting
from ccl_pack.ccl_core.host.files.build import load_model
from ccl_pack.ccl_core.host.run import KEEP_GIVEN
from ccl_pack.ccl_core.metadata import read_config, write_config
from ccl_pack.ccl_core.model.attention import TAPS, attend
from ccl_pack.ccl_core.model.interactions import INTERACTIONS, KV, Interaction, Link
from ccl_pack.ccl_core.model.interactions.base import Way
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.rotary import rotate
from ccl_pack.ccl_core.model.spans import add_to_span
from ccl_pack.ccl_core.training.flow import Draw, initialise, losses
from support import tiny
from support.tiny_runs import random_batch


@dataclass(frozen=True)
class PastOptions:
    """frames: latent frames whose sound a video frame reads, its own the last of them."""

    frames: int = 1

    def layer_parameters(self, video: int, audio: int) -> int:
        return meeting(video, audio) - 2 * (video + audio)


class PastAttention(torch.nn.Module):
    """One direction: queries from a stream x, keys and values from a stream y."""

    def __init__(self, dim: int, source_dim: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.q = operations.Linear(dim, dim, **factory)
        self.k = operations.Linear(source_dim, dim, **factory)
        self.v = operations.Linear(source_dim, dim, **factory)
        self.o = operations.Linear(dim, dim, **factory)

    def source(self, y: Tensor, table: Tensor) -> KV:
        return KV(rotate(self.k(y), table, self.heads), self.v(y))

    def attend(self, x: Tensor, kv: KV, way: Way, options: dict[str, Any]) -> Tensor:
        q = rotate(self.q(x), way.tables.queries, self.heads)
        if way.ranges is None:
            return self.o(attend(q, *kv, self.heads, options, way.place()))
        rows = []
        spatial = q.shape[1] // len(way.ranges)
        for frame, (start, stop) in enumerate(way.ranges):
            queries = slice(frame * spatial, (frame + 1) * spatial)
            place = way.place()._replace(queries=queries, keys=slice(start, stop))
            rows.append(
                attend(q[:, queries], kv.k[:, start:stop], kv.v[:, start:stop], self.heads, options, place)
            )
        return self.o(torch.cat(rows, dim=1))


class Past(Interaction):
    place = "before_block"
    routed = True

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        self.a2v = PastAttention(video.dim, audio.dim, video.num_heads, operations, **factory)
        self.v2a = PastAttention(audio.dim, video.dim, audio.num_heads, operations, **factory)

    @staticmethod
    def plan(config: CCLConfig, timeline: Timeline) -> Plan:
        spans, count = timeline.tokens_of_frames, config.interaction.options.frames
        windows = tuple((spans[max(0, i + 1 - count)][0], span[1]) for i, span in enumerate(spans))
        return replace(whole_clip(timeline), a2v=windows)

    def forward(
        self, v: Tensor | None, a: Tensor | None, link: Link, kept: KV | None = None
    ) -> tuple[Any, Any]:
        to_v = to_a = None
        if v is not None:
            to_v = self._added(self.a2v, link.way("a2v"), v, a, kept, link.options)
        elif link.keep:
            to_v = self.a2v.source(a[:, link.audio.spans.seen], link.a2v.keys)
        if a is not None:
            to_a = self._added(self.v2a, link.way("v2a"), a, v, kept, link.options)
        elif link.keep:
            to_a = self.v2a.source(v[:, link.video.spans.seen], link.v2a.keys)
        return to_v, to_a

    @staticmethod
    def _added(
        modules: PastAttention,
        way: Way,
        x: Tensor,
        y: Tensor | None,
        kept: KV | None,
        options: dict[str, Any],
    ) -> Tensor:
        if way.route is False or (y is None and kept is None):
            return x
        kv = modules.source(y[:, way.seen], way.tables.keys) if kept is None else kept
        delta = modules.attend(x[:, way.updated], kv, way, options)
        opened = torch.tensor(way.route).reshape(-1, 1, 1)  # one for all samples, or one each
        return add_to_span(x, way.updated, delta * opened)


FRAMES, TOKENS, SPATIAL = 3, 18, 6  # of tiny.latents


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INTERACTIONS, "past", Past)
    monkeypatch.setitem(OPTIONS, "past", PastOptions)


def coupling(frames: int = 1) -> InteractionConfig:
    return InteractionConfig("past", (0, 1), PastOptions(frames))


def load(tmp_path: Path) -> ModelPatcher:
    path = tiny.write(tmp_path / "past.safetensors", interaction=coupling())
    return load_model(str(path), {"dtype": torch.float32})


def sample(model: ModelPatcher, latent: dict[str, Any], cfg: float = 3.0) -> list[Tensor]:
    """On the sampler of the host."""
    texts = tiny.conditioning(1), tiny.conditioning(2)
    return host_nodes.common_ksampler(model, 1, 3, cfg, "euler", "simple", *texts, latent)[0][
        "samples"
    ].unbind()


def equal(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


@torch.no_grad()
def forward(model: JointModel, **options: Any) -> list[Tensor]:
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(7))
    return model(list(tiny.latents()), torch.tensor([600.0]), text, transformer_options=options)


def test_its_configuration_is_written_and_read_with_its_options() -> None:
    config = tiny.config(interaction=coupling(2))
    written = json.loads(write_config(config))
    assert written["schema"] == 2
    assert written["interaction"] == {"kind": "past", "layers": [0, 1], "options": {"frames": 2}}
    assert read_config(write_config(config)) == config
    written["interaction"]["options"]["seconds"] = 2
    with pytest.raises(ValueError, match=r"interaction.options has the unknown entries \['seconds'\]"):
        read_config(json.dumps(written))


def test_a_file_of_it_loads_and_samples_on_the_host(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.model.ccl_config == tiny.config(interaction=coupling())
    made = sample(loaded, tiny.av_latent())
    assert equal(made, sample(tiny.patcher(interaction=coupling()), tiny.av_latent()))
    alone = loaded.clone()
    alone.model_options["transformer_options"] |= {"a2v_cross_attn": False, "v2a_cross_attn": False}
    apart = sample(alone, tiny.av_latent())
    assert all((x - y).abs().max() > 1e-3 for x, y in zip(made, apart, strict=True))


def test_a_pack_without_it_says_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.write(tmp_path / "past.safetensors", interaction=coupling())
    monkeypatch.delitem(OPTIONS, "past")
    with pytest.raises(
        ValueError, match=r"past\.safetensors: .*'past', known are cca, fusion, bridge, asymmetric"
    ):
        load_model(str(path))


def test_its_plan_says_what_a_frame_reads() -> None:
    """A change of the last frame's sound reaches no frame before it."""
    model = tiny.patcher(interaction=coupling()).model.diffusion_model
    windows = model.kind.plan(model.ccl_config, model.timeline(FRAMES, TOKENS)).a2v
    assert windows[-1][1] == TOKENS and windows[-1][0] > windows[-2][0]
    inputs = []
    hook = model.interaction["0"].register_forward_hook(lambda _, __, made: inputs.append(made[0]))
    video, audio = tiny.latents()
    changed = audio.clone()
    changed[..., windows[-1][0] :] += 1
    text = torch.zeros(1, 5, 24)
    for sound in (audio, changed):
        model([video, sound], torch.tensor([600.0]), text, transformer_options={})
    hook.remove()
    first, second = (tokens.unflatten(1, (FRAMES, SPATIAL)) for tokens in inputs)
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert (first[:, -1] - second[:, -1]).abs().max() > 1e-4


@pytest.fixture
def in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's rotary kernel has no backward."""
    monkeypatch.setattr(comfy.model_management, "in_training", True)


def loss_of(model: JointModel, tasks: tuple[str, ...]) -> Tensor:
    batch = random_batch(count=len(tasks))
    video, audio = tiny.latents(9, batch=len(tasks))
    times = torch.linspace(0.3, 0.9, len(tasks))
    return sum(losses(model, batch, tasks, Draw(video, audio, times, times)).values())


@pytest.mark.usefixtures("in_training")
def test_a_step_of_training_moves_all_of_it_and_lowers_the_loss() -> None:
    model = tiny.patcher(interaction=coupling()).model.diffusion_model.requires_grad_(True)
    tasks = ("joint", "a2v", "v2a")  # both routes, sample by sample
    before = loss_of(model, tasks)
    before.backward()
    gradients = {name: weight.grad.abs().max() for name, weight in model.interaction.named_parameters()}
    assert min(gradients.values()) > 1e-7, gradients
    torch.optim.SGD(model.parameters(), 1e-3).step()
    assert loss_of(model, tasks) < before


@pytest.mark.usefixtures("in_training")
def test_a_fresh_one_is_its_two_streams() -> None:
    model = tiny.patcher(interaction=coupling()).model.diffusion_model
    initialise(model)
    torch.nn.init.normal_(model.head.head.weight)
    torch.nn.init.normal_(model.audio.head.head.weight)
    apart = forward(model, a2v_cross_attn=False, v2a_cross_attn=False)
    assert equal(forward(model), apart) and apart[0].std() > 0.1


def test_an_observer_sees_its_rows() -> None:
    model = tiny.patcher(interaction=coupling()).model.diffusion_model
    recorder = Recorder(model)
    made = forward(model, **{TAPS: recorder.taps})
    assert equal(made, forward(model))
    assert [(found.layer, found.direction) for found in recorder.maps] == [
        (0, "a2v"), (0, "v2a"), (1, "a2v"), (1, "v2a"),
    ]  # fmt: skip
    windows = model.kind.plan(model.ccl_config, model.timeline(FRAMES, TOKENS)).a2v
    for found in recorder.maps:
        assert found.context_tokens == 0
        torch.testing.assert_close(found.rows.sum(-1), torch.ones(found.rows.shape[:-1]))
        read = torch.ones(found.rows.shape[2:], dtype=torch.bool)
        if found.direction == "a2v":
            for frame, (start, stop) in enumerate(windows):
                rows = read[frame * SPATIAL : (frame + 1) * SPATIAL]
                rows[:, :start], rows[:, stop:] = False, False
        assert torch.equal(found.rows[0, 0] > 0, read)


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_what_it_reads_of_a_given_stream_is_kept(stream: str) -> None:
    model = tiny.patcher(interaction=coupling())
    latent = tiny.av_latent(masks=tiny.given(stream))
    model.model_options["transformer_options"][KEEP_GIVEN] = False
    wanted = sample(model, latent)
    model.model_options["transformer_options"][KEEP_GIVEN] = True
    calls = tiny.count_blocks(model.model.diffusion_model)
    assert equal(sample(model, latent), wanted)
    assert calls[stream] == len(tiny.CONFIG.interaction.layers)


def test_its_size_is_counted() -> None:
    config = tiny.config(interaction=coupling())
    model = tiny.patcher(interaction=coupling()).model.diffusion_model
    counted = memory.parameters(config)["interaction"]
    assert counted == sum(weight.numel() for weight in model.interaction.parameters())
    clip, kernels = memory.Clip((3, 4, 6), 18), memory.Kernels(2, True, True)
    assert memory.step_bytes(config, clip, kernels) == memory.step_bytes(tiny.CONFIG, clip, kernels)
