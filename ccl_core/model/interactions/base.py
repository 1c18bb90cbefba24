"""Where and how two streams may meet in a block, and what every kind of coupling gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...alignment.plan import Plan, Ranges, whole_clip
from ...alignment.timeline import Timeline
from ...config import CCLConfig
from ..attention import Place
from ..rotary import Tables, time_table
from ..streams import Stream, StreamPass

EPS = 1e-6  # of every norm in Wan and in the published couplings
Routes = bool | tuple[bool, ...]


class KV(NamedTuple):
    """Keys, rotated, and values of one stream for one direction: (b, m, d) twice.

    A tuple, since FSDP finds tensors in tuples and a trace cannot make a dataclass.
    """

    k: Tensor
    v: Tensor

    def of(self, samples: list[int] | slice) -> KV:
        return KV(self.k[samples], self.v[samples])


class Way(NamedTuple):
    """One direction in a pass: who may ask, what may be read, rotary tables, DCR routes, and who sees whom.

    updated, seen: spans of the tokens of the stream that asks and of the one that is read. Those of the video
    are its latent frames one after the other, each with as many tokens. ranges: as in `Plan`, None: all.
    kept: (b, asking), tokens into which nothing may flow, whatever the route; None: the route is that of all.
    """

    direction: str
    updated: slice
    seen: slice
    tables: Tables
    route: Routes
    ranges: Ranges | None
    kept: Tensor | None

    def place(self, context: int = 0) -> Place:
        """All queries on all keys, counted within the two spans. context: tokens in front of the keys."""
        queries = self.updated.stop - self.updated.start
        keys = self.seen.stop - self.seen.start
        return Place(self.direction, slice(0, queries), slice(0, keys), context, (queries, keys))


@dataclass(frozen=True)
class Link:
    """What one pass knows about the coupling; nothing in it changes from layer to layer.

    video, audio: what the blocks of the streams read, None where a stream does not run. plan: who sees whom,
    None where the pass has no audio. a2v, v2a: rotary tables of the directions, in the head width of the
    stream that asks. a2v_open, v2a_open: the DCR route of each direction, one bool or one per sample. keep: a
    stream runs alone and hands out its keys and values in the place of the other stream's tokens. hear: both
    run, and a third value has the keys and values that the audio reads of the video.
    """

    video: StreamPass | None
    audio: StreamPass | None
    plan: Plan | None
    a2v: Tables
    v2a: Tables
    a2v_open: Routes
    v2a_open: Routes
    options: dict[str, Any]
    keep: bool = False
    hear: bool = False

    def way(self, direction: str) -> Way:
        """What the link says of one direction, "a2v" or "v2a"."""
        if direction == "a2v":
            ranges = None if self.plan is None else self.plan.a2v
            return _way(direction, self.video, self.audio, self.a2v, self.a2v_open, ranges)
        ranges = None if self.plan is None else self.plan.v2a
        return _way(direction, self.audio, self.video, self.v2a, self.v2a_open, ranges)


def _way(
    direction: str,
    asks: StreamPass,
    read: StreamPass | None,
    tables: Tables,
    route: Routes,
    ranges: Ranges | None,
) -> Way:
    seen = slice(0, 0) if read is None else read.spans.seen
    kept = None if asks.kept is None else asks.kept[:, asks.spans.updated]
    return Way(direction, asks.spans.updated, seen, tables, route, ranges, kept)


class Interaction(torch.nn.Module):
    """The base of every coupling: `forward(v, a, link, kept)` takes both streams' tokens and gives new ones.

    With `link.hear` it gives a third value, the keys and values that the audio read.

    place: where in the block the streams meet. "before_block" and "after_text" give new tokens of both
    streams, "inside_text" what each text attention reads beside its text. A stream that does not run is None.
    Both directions read the tokens as they come in. kept: keys and values that stand for a stream that does
    not run in this pass.

    routed: the kind has an anchor that the task of a run may route a direction to (DCR); the others know open
    and off. rotates_halves: its RoPE pairs the two halves of a head, by a kernel of the host that has no
    gradient.
    """

    place: ClassVar[str]
    routed: ClassVar[bool] = False
    rotates_halves: ClassVar[bool] = False

    @staticmethod
    def plan(config: CCLConfig, timeline: Timeline) -> Plan:  # noqa: ARG004 - read by kinds with options
        """Who sees whom: every token the whole of the other stream, on one clock."""
        return whole_clip(timeline)

    @staticmethod
    def tables(
        config: CCLConfig,  # noqa: ARG004 - read by kinds with options
        video: Stream,
        audio: Stream,
        video_pass: StreamPass | None,
        audio_pass: StreamPass | None,  # noqa: ARG004 - read by kinds that need both
        plan: Plan | None,
        device: torch.device,
    ) -> tuple[Tables, Tables]:
        """Tables of a2v and v2a: both streams on the three axes of Wan's RoPE, sound at (its time, 0, 0)."""
        a2v_queries = a2v_keys = v2a_queries = v2a_keys = None
        # A table has the head width of the stream that asks: video tokens that the audio reads need a second
        # table, made by the audio stream, and audio tokens one by the video stream.
        if video_pass is not None:
            a2v_queries = _in_time(video, video_pass)
        if plan is not None:
            a2v_keys = time_table(video, plan.audio_positions, device)
            v2a_queries = time_table(audio, plan.audio_positions, device)
        if plan is not None and video_pass is not None:
            seen = video_pass.spans.seen
            options = _unmoved(video_pass.options)
            grid = audio.rope_encode(
                *video_pass.grid, device=device, dtype=torch.float32, transformer_options=options
            )
            v2a_keys = grid[:, : seen.stop - seen.start]
        return Tables(a2v_queries, a2v_keys), Tables(v2a_queries, v2a_keys)


def _in_time(video: Stream, of: StreamPass) -> Tensor:
    """The table of the video tokens that ask, at their true time and place.

    Whatever the host's RoPE options make of it: CCA compares rotated queries with context tokens that are not
    rotated, so a shift of the video alone, which changes nothing within it, would change what they say. And
    whatever stands in front: Wan counts a reference image as a latent frame, and the sound does not.
    """
    asking = of.spans.updated
    if asking.start == 0 and not of.options.get("rope_options"):
        return of.freqs[:, asking]
    frames, height, width = of.grid
    size = (frames, height * video.patch_size[1], width * video.patch_size[2])
    options = _unmoved(of.options)
    table = video.rope_encode(
        *size, device=of.freqs.device, dtype=of.latent.dtype, transformer_options=options
    )
    return table[:, : asking.stop - asking.start]


def _unmoved(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "rope_options"}


class CrossAttention(torch.nn.Module):
    """The modules of one direction: queries from a stream x, keys and values from a normalised stream y."""

    def __init__(self, dim: int, source_dim: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm_y = operations.LayerNorm(source_dim, EPS, **factory)
        self.q = operations.Linear(dim, dim, **factory)
        self.k = operations.Linear(source_dim, dim, **factory)
        self.v = operations.Linear(source_dim, dim, **factory)
        self.o = operations.Linear(dim, dim, **factory)
        self.norm_q = operations.RMSNorm(dim, eps=EPS, elementwise_affine=True, **factory)
        self.norm_k = operations.RMSNorm(dim, eps=EPS, elementwise_affine=True, **factory)
