"""The host's attention, and what an observer of the coupling is told of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from comfy.ldm.wan import model as wan
from torch import Tensor

# The transformer option that holds {"attention": observer, ...}: what an observer asked to be handed.
TAPS = "ccl_taps"


class Place(NamedTuple):
    """Where the queries and keys of one call of attention stand.

    direction: "a2v" or "v2a". queries, keys: tokens of the stream that asks and of the one that is read,
    counted within their spans; keys: several ranges where some are read again, None where only the context
    tokens are read. context: leading keys that are context tokens. size: tokens in both spans. partial: only
    some samples of the batch.
    """

    direction: str
    queries: slice
    keys: slice | tuple[slice, ...] | None
    context: int
    size: tuple[int, int]
    partial: bool = False


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, options: dict[str, Any], place: Place | None = None
) -> Tensor:
    """Attention of q (b, n, d) on k, v (b, m, d). An observer sees what asks, and where."""
    if place is not None:
        tap(options, "attention", q, k, heads, place)
    # Looked up in Wan's module at each call: attention packs (SageAttention nodes) replace that name.
    return wan.optimized_attention(q, k, v, heads=heads, transformer_options=options)


def tap(options: dict[str, Any], name: str, *values: Any) -> None:
    """Hand values of this name to the observer that asked for them, with the number of the layer."""
    observer = options.get(TAPS, {}).get(name)
    if observer is not None:
        observer(options["block_index"], *values)
