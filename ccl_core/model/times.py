"""Diffusion times of the tokens of a stream: a table of the distinct ones, and which one each token has."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Times(NamedTuple):
    """values: (b, k). rows: (n,) index of each token's time in the table, None: there is one time for all."""

    values: Tensor
    rows: Tensor | None


def times_of(timestep: Tensor, tokens: int, before: int = 0, after: int = 0) -> Times:
    """The times of a stream whose latent has so many tokens, with others before and after it (references).

    timestep: (b,), or (b, k) with one time per latent frame or per token. Tokens beside the latent have its
    largest time: they are as Wan sees them, which has one time for all.
    """
    if timestep.ndim == 1 or timestep.shape[1] == 1:
        return Times(timestep.reshape(len(timestep), 1), None)
    values, rows = _latent_rows(timestep, tokens)
    # One more row of the table, for the tokens beside the latent.
    if before or after:
        largest = values.shape[1]
        values = torch.cat([values, values.amax(dim=1, keepdim=True)], dim=1)  # (b, k + 1)
        rows = torch.nn.functional.pad(rows, (before, after), value=largest)
    return Times(values, rows)


def _latent_rows(timestep: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    if timestep.shape[1] == tokens:
        # A mask within the frames has few distinct values: a row of modulation for each of them, not for each
        # token, where all rows would take 1 GB (Ovi at 960 x 960, 27,900 tokens, bf16).
        return torch.unique(timestep, dim=1, return_inverse=True)
    spatial = -(-tokens // timestep.shape[1])  # tokens of a latent frame
    return timestep, torch.arange(tokens, device=timestep.device) // spatial


def kept_tokens(times: Times) -> Tensor | None:
    """(b, n), true where a token has time 0: its latent is kept. None: there is one time for all tokens."""
    return None if times.rows is None else (times.values == 0).index_select(1, times.rows)


def of_tokens(table: Tensor, rows: Tensor | None) -> Tensor:
    """A table (b, k, d) spread over the tokens: (b, n, d), or (b, 1, d) where its one row is for all."""
    return table if rows is None else table.index_select(1, rows)
