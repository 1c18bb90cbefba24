"""The attention of the coupling made visible (CCL, Figure 3), and how much of it rests on the context tokens.

    with Recorder(model, tarp) as recorder:
        model(..., transformer_options={"optimized_attention_override": recorder.attend})
    recorder.maps  # a2v and v2a of every layer and pass

`model` is anything with `interaction[layer].a2v` and `.v2a` that have `q`, `o` and `context`. Recording computes the
rows a second time beside the attention itself, whose result it hands on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .alignment.tarp import Tarp

CONTEXT_COLOUR = (1.0, 0.6, 0.1)
SOURCE_COLOUR = (0.5, 0.85, 1.0)


@dataclass(frozen=True)
class AttentionMap:
    """One direction of one layer in one pass.

    rows: (b, heads, queries, context tokens + tokens of the other stream), each row sums to 1; what the partition hides
    is 0. On a closed route there are the columns of the context tokens alone.
    """

    layer: int
    direction: str  # a2v, v2a
    context_tokens: int
    rows: Tensor

    @property
    def mean(self) -> Tensor:
        """Over batch and heads: (queries, columns)."""
        return self.rows.mean((0, 1))


class Recorder:
    """Records the maps of the chosen layers (all by default) while the context is entered.

    tarp: the alignment of the passes that are recorded, as the model's `align` gives it. A map takes batch x heads x
    queries x columns numbers in main memory: choose layers of a large model. ValueError for a layer without coupling.
    """

    def __init__(self, model: Any, tarp: Tarp, layers: Iterable[int] | None = None) -> None:
        chosen = list(map(int, model.interaction)) if layers is None else list(layers)
        missing = [i for i in chosen if str(i) not in model.interaction]
        if missing:
            known = ", ".join(model.interaction)
            raise ValueError(f"layers {missing} have no coupling to record, layers {known} have one")
        self.tarp = tarp
        self.maps: list[AttentionMap] = []
        self._directions = [
            (i, name, getattr(model.interaction[str(i)], name)) for i in chosen for name in ("a2v", "v2a")
        ]
        self._calls: list[Tensor] | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> Recorder:
        for layer, name, direction in self._directions:
            self._handles.append(direction.q.register_forward_pre_hook(self._begin))
            finish = self._finisher(layer, name, direction.context.shape[0])
            self._handles.append(direction.o.register_forward_pre_hook(finish))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls = None

    def attend(self, attention: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The host's `optimized_attention_override`: the attention unchanged, its rows recorded."""
        if self._calls is not None:
            q, k = args[:2]
            self._calls.append(rows(q, k, kwargs["heads"]).cpu())
        return attention(*args, **kwargs)

    def _begin(self, *_: object) -> None:
        self._calls = []

    def _finisher(self, layer: int, name: str, context: int) -> Callable[..., None]:
        def finish(_: Any, args: tuple[Tensor, ...]) -> None:
            calls, self._calls = self._calls, None
            if any(len(call) != len(args[0]) for call in calls):
                raise ValueError(
                    "a pass mixes samples on open and closed routes, whose maps differ in size: "
                    "record passes of one route"
                )
            assembled = self._assemble(name, calls, context)
            self.maps.append(AttentionMap(layer, name, context, assembled))

        return finish

    def _assemble(self, name: str, calls: list[Tensor], context: int) -> Tensor:
        """The rows of all partitions at their columns."""
        if len(calls) == 1 and calls[0].shape[-1] == context:
            return calls[0]
        audio_tokens, frames = len(self.tarp.audio_positions), len(self.tarp.a2v)
        if name == "a2v":
            spatial, keys = calls[0].shape[-2], audio_tokens
            places = [(slice(i * spatial, (i + 1) * spatial), window) for i, window in enumerate(self.tarp.a2v)]
            queries = frames * spatial
        else:
            spatial = calls[0].shape[-1] - context
            ranges = enumerate(self.tarp.v2a)
            places = [
                (slice(start, stop), (i * spatial, (i + 1) * spatial)) for i, (start, stop) in ranges if stop > start
            ]
            queries, keys = audio_tokens, frames * spatial
        out = torch.zeros(*calls[0].shape[:2], queries, context + keys)
        for call, (own, (start, stop)) in zip(calls, places, strict=True):
            out[:, :, own, :context] = call[..., :context]
            out[:, :, own, context + start : context + stop] = call[..., context:]
        return out


def rows(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Attention of q (b, n, d) on k (b, m, d): (b, heads, n, m) in float32."""
    q, k = (x.float().unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k))
    return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)


def image(weights: Tensor, context_tokens: int) -> Tensor:
    """A map (queries, columns) as a picture (1, queries, columns, 3) in 0..1, brightness the root of the weight.

    Context tokens, the first columns, are orange, the other stream is blue.
    """
    light = (weights / weights.amax().clamp_min(1e-12)).sqrt()
    colours = torch.tensor([CONTEXT_COLOUR] * context_tokens + [SOURCE_COLOUR] * (weights.shape[1] - context_tokens))
    return (light[..., None].cpu() * colours)[None]


def context_share(weights: Tensor, context_tokens: int, foreground: Tensor) -> tuple[float | None, float | None]:
    """Share of the attention on the context tokens: mean over background queries, then over foreground queries.

    weights: (queries, columns); foreground: (queries,) bool. None where there is no such query; ValueError where the
    mask does not fit.
    """
    if foreground.shape != weights.shape[:1]:
        raise ValueError(
            f"the foreground mask has shape {tuple(foreground.shape)}, wanted one entry for each of the "
            f"{weights.shape[0]} queries"
        )
    share = weights[:, :context_tokens].sum(1)
    groups = share[~foreground], share[foreground]
    return tuple(float(group.mean()) if len(group) else None for group in groups)
