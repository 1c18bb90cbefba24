"""The attention of the coupling made visible, as in Figure 3 of CCL (arXiv 2603.18600).

    recorder = Recorder(model)
    model(..., transformer_options={"ccl_taps": recorder.taps})
    recorder.maps  # a2v and v2a of every layer and pass

Recording computes the rows a second time beside the attention itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# RGB in 0..1: orange and blue, which colour-blind people can tell apart.
CONTEXT_COLOUR = (1.0, 0.6, 0.1)
SOURCE_COLOUR = (0.5, 0.85, 1.0)


@dataclass(frozen=True)
class AttentionMap:
    """One direction of one layer in one pass.

    rows: (b, heads, queries, context tokens + tokens of the other stream), each row sums to 1; what the
    partition hides is 0. On a closed route there are the columns of the context tokens alone.
    """

    layer: int
    direction: str  # a2v, v2a
    context_tokens: int
    rows: Tensor

    @property
    def mean(self) -> Tensor:
        """Over batch and heads: (queries, columns)."""
        return self.rows.mean((0, 1))


@dataclass
class Open:
    """A map that is being put together, and the queries that it has rows of."""

    found: AttentionMap
    filled: set[int] = field(default_factory=set)


class Recorder:
    """Records the maps of the chosen layers (all by default) of a joint model.

    A map takes batch x heads x queries x columns numbers in main memory: choose layers of a large model.
    ValueError for a layer without coupling.
    """

    def __init__(self, model: Any, layers: Iterable[int] | None = None) -> None:
        self.layers = set(map(int, model.interaction)) if layers is None else set(layers)
        missing = sorted(i for i in self.layers if str(i) not in model.interaction)
        if missing:
            known = ", ".join(model.interaction)
            raise ValueError(f"layers {missing} have no coupling to record, layers {known} have one")
        self.maps: list[AttentionMap] = []
        self._open: dict[tuple[int, str], Open] = {}

    @property
    def taps(self) -> dict[str, Callable[..., None]]:
        """The value of the transformer option `ccl_taps`."""
        return {"attention": self._record}

    def _record(self, layer: int, q: Tensor, k: Tensor, heads: int, place: Any) -> None:
        """One call of attention: queries (b, n, d) and keys (b, m, d), and where they stand."""
        if layer not in self.layers:
            return
        if place.partial:
            raise ValueError(
                "a pass mixes samples on open and closed routes, whose maps differ in size: "
                "record passes of one route"
            )
        weights = rows(q, k, heads).cpu()
        context = place.context
        into = self._map_of(layer, weights, place)
        # A call of CCA has the queries of one latent frame, and as keys the context tokens, then its window.
        into[:, :, place.queries, :context] = weights[..., :context]
        spans = place.keys if isinstance(place.keys, tuple) else (place.keys,)
        at = context
        for span in filter(None, spans):
            stop = at + span.stop - span.start
            # Tokens that are read twice have the sum of both weights.
            into[:, :, place.queries, context:][..., span] += weights[..., at:stop]
            at = stop

    def _map_of(self, layer: int, weights: Tensor, place: Any) -> Tensor:
        """The rows of the map that this call belongs to."""
        key = (layer, place.direction)
        first = place.queries.start
        # Nothing says where a pass ends: queries that have their rows already belong to the next one.
        if key not in self._open or first in self._open[key].filled:
            queries, keys = place.size
            columns = place.context + (0 if place.keys is None else keys)
            whole = torch.zeros(*weights.shape[:2], queries, columns)
            self._open[key] = Open(AttentionMap(layer, place.direction, place.context, whole))
            self.maps.append(self._open[key].found)
        self._open[key].filled.add(first)
        return self._open[key].found.rows


def rows(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Attention of q (b, n, d) on k (b, m, d): (b, heads, n, m) in float32."""
    # softmax(q k^T / sqrt(dh)): the host's kernels keep no weights, so they are computed once more.
    q, k = (x.float().unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k))
    return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)


def image(weights: Tensor, context_tokens: int) -> Tensor:
    """A map (queries, columns) as a picture (1, queries, columns, 3) in 0..1.

    Context tokens, the first columns, are orange, the other stream is blue.
    """
    # The root of a weight: a row of 100 columns would be black beside its one bright column otherwise.
    light = (weights / weights.amax().clamp_min(1e-12)).sqrt()
    source_tokens = weights.shape[1] - context_tokens
    colours = torch.tensor([CONTEXT_COLOUR] * context_tokens + [SOURCE_COLOUR] * source_tokens)
    return (light[..., None].cpu() * colours)[None]


def context_share(
    weights: Tensor, context_tokens: int, foreground: Tensor
) -> tuple[float | None, float | None]:
    """Mean share of the attention on the context tokens, of background and of foreground queries.

    weights: (queries, columns); foreground: (queries,) bool. None where there is no such query; ValueError
    where the mask does not fit.
    """
    if foreground.shape != weights.shape[:1]:
        raise ValueError(
            f"the foreground mask has shape {tuple(foreground.shape)}, wanted one entry for each of the "
            f"{weights.shape[0]} queries"
        )
    share = weights[:, :context_tokens].sum(1)
    groups = share[~foreground], share[foreground]
    return tuple(float(group.mean()) if len(group) else None for group in groups)
