"""Partitioned attention beside the same attention under a dense mask, timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from ccl_tools.console import Ticker

if TYPE_CHECKING:
    from torch import Tensor

# 81 frames of Wan, 5 seconds at 16 fps.
LATENT_FRAMES = 21
# Tokens of a latent frame.
SPATIAL_TOKENS = 880
AUDIO_TOKENS = 168
CONTEXT_TOKENS = 16
HEAD_DIM = 128
HEADS = (40, 12)
WANTED = {"v2a": 5.0, "a2v": 1.8}
TOLERANCE = 1e-5


def dense_mask(
    direction: str,
    ranges: Sequence[tuple[int, int]],
    spatial_tokens: int,
    context_tokens: int,
    audio_tokens: int,
) -> Tensor:
    """What each query may see: the context tokens, and the keys of its window (a2v) or frame (v2a)."""
    import torch

    seen = torch.zeros(len(ranges), audio_tokens, dtype=torch.bool)  # (t, a)
    for frame, (start, stop) in enumerate(ranges):
        seen[frame, start:stop] = True
    seen = seen.repeat_interleave(spatial_tokens, dim=0)  # (v, a)
    seen = seen if direction == "a2v" else seen.T  # (q, k)
    return torch.cat([seen.new_ones(seen.shape[0], context_tokens), seen], dim=1)  # (q, c+k)


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, anchor: tuple[Tensor, Tensor], mask: Tensor, heads: int
) -> Tensor:
    """Every query against every key, and a mask that undoes most of it."""
    import torch

    keys, values = (
        torch.cat([c.expand(len(x), -1, -1), x], dim=1) for c, x in zip(anchor, (k, v), strict=True)
    )  # (b, c+k, d)
    # Heads apart, each (b, h, n, d/h).
    q, keys, values = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, keys, values))
    out = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)  # (b, q, d)


def tensors(direction: str, heads: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Random q, k, v and context tokens of one direction."""
    import torch

    generator = torch.Generator().manual_seed(heads)
    video = LATENT_FRAMES * SPATIAL_TOKENS
    audio = AUDIO_TOKENS
    dim = heads * HEAD_DIM
    queries, keys = (video, audio) if direction == "a2v" else (audio, video)
    counts = (queries, keys, keys, CONTEXT_TOKENS, CONTEXT_TOKENS)
    q, k, v, *anchor = (torch.randn(1, n, dim, generator=generator) for n in counts)
    return q, k, v, tuple(anchor)


def compare(direction: str, heads: int, repeats: int, ticker: Ticker) -> dict[str, object]:
    """Median times of both, their ratio and their largest difference."""
    from ccl_pack.ccl_core.alignment.tarp import plan
    from ccl_pack.ccl_core.alignment.timeline import Timeline
    from ccl_pack.ccl_core.model.attention import Place
    from ccl_pack.ccl_core.model.interactions import KV
    from ccl_pack.ccl_core.model.interactions.cca import frames_to_windows, tokens_to_frames

    made = plan(Timeline(LATENT_FRAMES, AUDIO_TOKENS, Fraction(16), Fraction(32), "uniform"))
    partition, ranges = {"a2v": (frames_to_windows, made.a2v), "v2a": (tokens_to_frames, made.v2a)}[direction]
    q, k, v, anchor = tensors(direction, heads)
    size = (q.shape[1], k.shape[1])
    place = Place(direction, slice(0, size[0]), slice(0, size[1]), CONTEXT_TOKENS, size)
    mask = dense_mask(direction, ranges, SPATIAL_TOKENS, CONTEXT_TOKENS, AUDIO_TOKENS)
    runs = {
        "partitioned": lambda: partition(q, KV(k, v), KV(*anchor), ranges, heads, {}, place),
        "dense": lambda: dense_attention(q, k, v, anchor, mask, heads),
    }
    difference = (runs["partitioned"]() - runs["dense"]()).abs().max().item()
    seconds = measure(runs, repeats, lambda: ticker.tick(f"{direction}, {heads} heads"))
    speedup = seconds["dense"] / seconds["partitioned"]
    return {
        "direction": direction,
        "heads": heads,
        "seconds_partitioned": round(seconds["partitioned"], 5),
        "seconds_dense": round(seconds["dense"], 5),
        "speedup": round(speedup, 2),
        "wanted_speedup": WANTED[direction],
        "max_difference": difference,
        "ok": speedup >= WANTED[direction] and difference <= TOLERANCE,
    }


def measure(
    runs: dict[str, Callable[[], Tensor]], repeats: int, tick: Callable[[], None]
) -> dict[str, float]:
    """Median seconds of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
            tick()
    return {name: statistics.median(values) for name, values in times.items()}
