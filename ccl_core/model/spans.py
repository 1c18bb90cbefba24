"""Which tokens of a stream take part in the coupling."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spans(NamedTuple):
    """Half-open ranges of a stream's tokens (b, n, d).

    seen: what the other stream may read. updated: what the coupling may write. Reference tokens are in
    neither: they do not ask the other stream either.
    """

    seen: slice
    updated: slice


def add_to_span(tokens: Tensor, span: slice, delta: Tensor) -> Tensor:
    """A residual on the tokens of a span: (b, n, d) and (b, span, d) -> (b, n, d)."""
    if delta.shape[1] == tokens.shape[1]:
        return tokens + delta
    # A new tensor: the tokens outside the span are read by others, and a block may keep its input.
    own = tokens[:, span] + delta
    return torch.cat([tokens[:, : span.start], own, tokens[:, span.stop :]], dim=1)  # (b, n, d)
