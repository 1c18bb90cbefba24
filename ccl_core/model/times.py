"""Diffusion times of the tokens of a stream: a table of the distinct ones, and which one each token has."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Rows = Tensor | int | None


class Times(NamedTuple):
    """values: (b, k), a table of times. rows: (n,) index of each token's time in it.

    None: there is one time for all. A number: each time is that of so many tokens, one after the other.
    """

    values: Tensor
    rows: Rows


def times_of(timestep: Tensor, tokens: int, before: int = 0, after: int = 0) -> Times:
    """The times of a stream whose latent has so many tokens, with others before and after it (references).

    timestep: (b,), or (b, k) with one time per latent frame or per token. Tokens beside the latent have its
    largest time: they are as Wan sees them, which has one time for all.
    """
    if timestep.ndim == 1 or timestep.shape[1] == 1:
        return Times(timestep.reshape(len(timestep), 1), None)
    # A time per latent frame, and nothing beside the latent: the tokens of a frame follow one another.
    if not (before or after) and timestep.shape[1] < tokens and tokens % timestep.shape[1] == 0:
        return Times(timestep, tokens // timestep.shape[1])
    values, rows = _latent_rows(timestep, tokens)
    # One more row of the table, for the tokens beside the latent.
    if before or after:
        largest = values.shape[1]
        values = torch.cat([values, values.amax(dim=1, keepdim=True)], dim=1)  # (b, k + 1)
        rows = torch.nn.functional.pad(rows, (before, after), value=largest)
    return Times(values, rows)


def clean_in_front(times: Times, before: int, tokens: int) -> Times:
    """The times of a stream of so many tokens with others in front of them that are clean, at time 0."""
    values = torch.nn.functional.pad(times.values, (1, 0))  # (b, 1 + k)
    rows = times.rows
    if not torch.is_tensor(rows):
        rows = torch.arange(tokens, device=values.device) // (tokens if rows is None else rows)
    return Times(values, torch.nn.functional.pad(rows + 1, (before, 0)))


def _latent_rows(timestep: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    if timestep.shape[1] == tokens:
        # A mask within the frames has few distinct values: a row of modulation for each of them, not for each
        # token, where all rows would take 1 GB (Ovi at 960 x 960, 27,900 tokens, bf16).
        return torch.unique(timestep, dim=1, return_inverse=True)
    spatial = -(-tokens // timestep.shape[1])  # tokens of a latent frame
    return timestep, torch.arange(tokens, device=timestep.device) // spatial


def kept_tokens(times: Times) -> Tensor | None:
    """(b, n), true where a token has time 0: its latent is kept. None: there is one time for all tokens."""
    return None if times.rows is None else of_tokens(times.values == 0, times.rows)


def of_tokens(table: Tensor, rows: Rows) -> Tensor:
    """A table (b, k, ...) spread over the tokens: (b, n, ...), or (b, 1, ...) where one row is for all."""
    if rows is None:
        return table
    if isinstance(rows, int):
        return table.repeat_interleave(rows, dim=1)
    return table.index_select(1, rows)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, rows: Rows) -> Tensor:
    """(1 + scale) x + shift, with the tables shift and scale (b, k, d) of the tokens in x (b, n, d)."""
    if isinstance(rows, int):
        # The tokens seen as (b, k, rows, d): a spread table is as large as they are, and is written and read.
        frames = torch.addcmul(shift[:, :, None], x.unflatten(1, (-1, rows)), 1 + scale[:, :, None])
        return frames.flatten(1, 2)
    return torch.addcmul(of_tokens(shift, rows), x, 1 + of_tokens(scale, rows))


def gated(x: Tensor, y: Tensor, gate: Tensor, rows: Rows) -> Tensor:
    """x + gate y, with the table gate (b, k, d) of the tokens in x and y (b, n, d)."""
    if isinstance(rows, int):
        frames = (part.unflatten(1, (-1, rows)) for part in (x, y))
        return torch.addcmul(*frames, gate[:, :, None]).flatten(1, 2)
    return torch.addcmul(x, y, of_tokens(gate, rows))
