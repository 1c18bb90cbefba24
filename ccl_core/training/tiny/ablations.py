"""What benchmarks/method.py compares with CCL (arXiv 2603.18600): CCL less one of its parts, and two rivals.

The public text does not say how the paper takes its modules away; the ways here are this project's own. None
of these kinds is shipped: `register` makes them known to the model for a training run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ...alignment.plan import Plan
from ...alignment.timeline import Timeline, tokens_per_latent_frame
from ...config import OPTIONS, CCAOptions, CCLConfig, FusionOptions, StreamConfig
from ...model.interactions import CCA, INTERACTIONS, KV, Link
from ...model.interactions.base import Routes
from ...model.interactions.cca import ContextAttention
from ...model.joint import JointModel

# Of the number of parameters: a variant that is larger by more could win by its size.
TOLERANCE = 0.03


class Unpartitioned(CCA):
    """Without TARP's partition: every query sees the context tokens and the whole of the other stream."""

    @staticmethod
    def plan(config: CCLConfig, timeline: Timeline) -> Plan:
        return whole(CCA.plan(config, timeline))


class Unrouted(CCA):
    """Without DCR: both routes are open in every task, and training never shows the context tokens alone.

    What guidance switches off is off all the same.
    """

    def forward(
        self, v: Tensor | None, a: Tensor | None, link: Link, kept: KV | None = None
    ) -> tuple[Any, Any]:
        a2v = link.options.get("a2v_cross_attn", True)
        v2a = link.options.get("v2a_cross_attn", True)
        # The host's flags, which the guider sets false in a branch without coupling.
        return super().forward(v, a, replace(link, a2v_open=a2v, v2a_open=v2a), kept)


class Unanchored(CCA):
    """Without LCT: no context tokens (its configuration has 0), and a closed route adds nothing."""

    def forward(
        self, v: Tensor | None, a: Tensor | None, link: Link, kept: KV | None = None
    ) -> tuple[Any, Any]:
        if v is None or a is None:
            return v, a
        new_v, new_a = super().forward(v, a, replace(link, a2v_open=True, v2a_open=True), kept)
        return where_open(link.a2v_open, new_v, v), where_open(link.v2a_open, new_a, a)


class GatedAttention(ContextAttention):
    """One direction of the gated baseline: tanh of a scalar that starts at zero scales what is added."""

    def __init__(
        self, dim: int, source_dim: int, heads: int, context_tokens: int, operations: Any, **factory: Any
    ) -> None:
        super().__init__(dim, source_dim, heads, context_tokens, operations, **factory)
        # Training starts every `o` at zero, and a zero gate before a zero projection would have no gradient.
        self.out = self._modules.pop("o")
        self.gate = torch.nn.Parameter(torch.empty(1, **factory))

    def o(self, x: Tensor) -> Tensor:
        return torch.tanh(comfy.ops.cast_to_input(self.gate, x)) * self.out(x)  # (b, x, d)


class Gated(Unanchored):
    """The paper's baseline: cross-attention over the whole other stream behind a tanh gate.

    It knows neither partition nor context tokens nor routes; it keeps the aligned RoPE.
    """

    routed = False

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__(config, operations, **factory)
        video = config.video
        audio = config.audio
        self.a2v = GatedAttention(video.dim, audio.dim, video.num_heads, 0, operations, **factory)
        self.v2a = GatedAttention(audio.dim, video.dim, audio.num_heads, 0, operations, **factory)

    @staticmethod
    def plan(config: CCLConfig, timeline: Timeline) -> Plan:
        return whole(CCA.plan(config, timeline))


def whole(plan: Plan) -> Plan:
    """The plan with one window over the whole clip in both directions."""
    ranges = ((0, len(plan.audio_positions)),)
    return replace(plan, a2v=ranges, v2a=ranges)


def where_open(route: Routes, after: Tensor, before: Tensor) -> Tensor:
    return torch.where(torch.as_tensor(route, device=after.device).view(-1, 1, 1), after, before)  # (b, n, d)


ABLATIONS = {
    "cca_unpartitioned": Unpartitioned,
    "cca_unrouted": Unrouted,
    "cca_unanchored": Unanchored,
    "gated": Gated,
}


def register() -> None:
    """Make the ablations known to the configuration and to JointModel."""
    OPTIONS.update(dict.fromkeys(ABLATIONS, CCAOptions))
    INTERACTIONS.update(ABLATIONS)


def streams_alone(config: CCLConfig) -> CCLConfig:
    """The two streams without a coupling: what a comparison begins from."""
    return couple(config, "cca", layers=(), options=CCAOptions(0))


def couple(config: CCLConfig, kind: str, **changes: Any) -> CCLConfig:
    return replace(config, interaction=replace(config.interaction, kind=kind, **changes))


def index_positions(config: CCLConfig) -> CCLConfig:
    """Audio token j at position j, in self-attention and coupling; the partition stays as in CCL."""
    return replace(config, clock="linear", clock_scale=1.0)


def linear_fusion(config: CCLConfig) -> CCLConfig:
    """Fusion with Ovi's linear clock; the feed-forwards get the parameters that CCA has beyond it."""
    video = config.video
    audio = config.audio
    wide = replace(
        config,
        video=_widened(config, video, audio),
        audio=_widened(config, audio, video),
        clock="linear",
        clock_scale=float(1 / tokens_per_latent_frame(config.fps, config.audio_latent.rate)),
    )
    return couple(wide, "fusion", options=FusionOptions())


def _widened(config: CCLConfig, stream: StreamConfig, source: StreamConfig) -> StreamConfig:
    d = stream.dim
    coupling = config.interaction
    # q, o, the norms of x and q, and the context tokens.
    missing = len(coupling.layers) * (2 * (d * d + d) + 3 * d + coupling.options.context_tokens * source.dim)
    # One more hidden unit costs d weights in, d weights out and a bias.
    return replace(stream, ffn_dim=stream.ffn_dim + round(missing / stream.num_layers / (2 * d + 1)))


@dataclass(frozen=True)
class Variant:
    """A model of the comparison: what it is called, and how its configuration follows from CCL's."""

    title: str
    change: Callable[[CCLConfig], CCLConfig]


VARIANTS = {
    "ccl": Variant("CCL", lambda config: config),
    "no_partition": Variant("without TARP's partition", lambda config: couple(config, "cca_unpartitioned")),
    "no_rope": Variant("without TARP's RoPE", index_positions),
    "no_lct": Variant("without LCT", lambda config: couple(config, "cca_unanchored", options=CCAOptions(0))),
    "no_dcr": Variant("without DCR", lambda config: couple(config, "cca_unrouted")),
    "gated": Variant(
        "tanh-gated cross-attention", lambda config: couple(config, "gated", options=CCAOptions(0))
    ),
    "fusion": Variant("fusion (Ovi-style)", linear_fusion),
}


def configuration(name: str, base: CCLConfig) -> CCLConfig:
    """The variant's configuration. ValueError: its parameters differ by over 3 % from those of `base`."""
    register()
    config = VARIANTS[name].change(base)
    wanted = parameters(base)
    found = parameters(config)
    if abs(found - wanted) > TOLERANCE * wanted:
        raise ValueError(
            f"{name} has {found} parameters, CCL {wanted}: more than {TOLERANCE:.0%} apart, so that "
            "a comparison would be one of sizes; change the width of a feed-forward"
        )
    return config


def parameters(config: CCLConfig) -> int:
    model = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init)
    return sum(value.numel() for value in model.parameters())
