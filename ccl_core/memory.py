"""What a model and one step of sampling take in memory, from sizes alone, and whether that fits.

The peak of a step is counted in copies of a stream's tokens (b, n, d). Attention is taken not to keep its
scores (flash and the like). Measured against these numbers by `benchmarks/memory.py`.

Axes: b batch, n tokens of a stream, d its width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .config import CCAOptions, CCLConfig, StreamConfig
from .counts import attention, linear, speech_text
from .guidance import TC, Branch, mode_named

CLIP_WIDTH = 1280  # of the CLIP vision states that Wan 2.1 i2v reads
STEM_WINDOW = 7  # tokens under each convolution of Ovi's audio stem
# float32 copies of the latent that the host's sampler holds around the model: of each clip, and for each of
# its passes (benchmarks/memory.py).
LATENT_COPIES = 12
LATENT_COPIES_PER_PASS = 3
# The host batches passes where it finds 1.5 times what it takes them to need (calc_cond_batch). What is kept
# of a given stream must leave that: less would part texts that were kept together.
HOST_MARGIN = 1.5
TEXT_TOKENS = 512  # of UMT5-XXL, to which Wan, Ovi and MOVA pad or cut a text


def stream_parameters(stream: StreamConfig) -> int:
    """Parameters of one stream without the coupling."""
    d = stream.dim
    patch = math.prod(stream.patch_size)
    embedding = linear(stream.in_dim * patch, d)
    if stream.stem_dim:
        # A convolution with bias, then the three of the gated MLP, without.
        embedding = linear(stream.in_dim * STEM_WINDOW, d) + 3 * STEM_WINDOW * d * stream.stem_dim
    text = linear(stream.text_dim, d) + linear(d, d)
    if stream.speech_blocks:
        text += speech_text(stream.text_dim, stream.speech_blocks)
    time = linear(stream.freq_dim, d) + linear(d, d) + linear(d, 6 * d)
    # Self-attention and text attention, norm3, the feed-forward, and 6 rows of modulation.
    block = 2 * attention(d, d) + 2 * d + linear(d, stream.ffn_dim) + linear(stream.ffn_dim, d) + 6 * d
    head = linear(d, stream.out_dim * patch) + 2 * d
    image = 0
    # CLIP vision states: k, v and the norm of k in each block; before them an MLP between two layer norms.
    if stream.model_type == "i2v":
        block += 2 * linear(d, d) + d
        image = 2 * CLIP_WIDTH + linear(CLIP_WIDTH, CLIP_WIDTH) + linear(CLIP_WIDTH, d) + 2 * d
        image += (stream.flf_pos_embed_token_number or 0) * CLIP_WIDTH
    if stream.in_dim_ref_conv:
        image += linear(stream.in_dim_ref_conv * math.prod(stream.patch_size[1:]), d)
    return embedding + text + time + stream.num_layers * block + head + image


def parameters(config: CCLConfig) -> dict[str, int]:
    """Parameters of the three parts of a model: video, audio, interaction."""
    coupling = config.interaction
    one = coupling.options.layer_parameters(config.video.dim, config.audio.dim)
    return {
        "video": stream_parameters(config.video),
        "audio": stream_parameters(config.audio),
        "interaction": len(coupling.layers) * one,
    }


@dataclass(frozen=True)
class Clip:
    """What one call of the model works on.

    video: t, h, w of the latent. audio: its tokens, 0 where it is absent.
    batch: clips. passes: branches of guidance that run as one batch, each with all clips.
    video_times, audio_times: distinct diffusion times of a stream, 1 where no mask sets any.
    given: "video" or "audio", a stream that is given while the other one is made.
    """

    video: tuple[int, int, int]
    audio: int = 0
    batch: int = 1
    passes: int = 1
    video_times: int = 1
    audio_times: int = 1
    given: str = ""

    def video_tokens(self, config: CCLConfig) -> int:
        steps = zip(self.video, config.video.patch_size, strict=True)
        return math.prod(-(-cells // step) for cells, step in steps)

    def sampler_bytes(self, config: CCLConfig) -> int:
        """What the sampler holds of latents and predictions."""
        numbers = config.video.out_dim * math.prod(self.video) + config.audio_latent.channels * self.audio
        return 4 * self.batch * numbers * (LATENT_COPIES + LATENT_COPIES_PER_PASS * self.passes)


@dataclass(frozen=True)
class Kernels:
    """How the machine computes: bytes per number, and whether RMS norm and RoPE run as one kernel each.

    held_activation: the feed-forward holds what its activation read while it projects down.
    """

    itemsize: int
    fused_norm: bool
    fused_rope: bool
    held_activation: bool = False

    def temporaries(self) -> float:
        """Copies of the tokens that the norm or the RoPE holds beside its input, whichever holds more."""
        # The plain versions compute in float32: the input widened, its square or rotation, and the result.
        widened = 4 / self.itemsize
        norm = 1.0 if self.fused_norm else (2 if self.itemsize == 4 else 3) * widened
        rope = 1.0 if self.fused_rope or self.itemsize == 4 else 1 + 2 * widened
        return max(norm, rope)


def step_bytes(config: CCLConfig, clip: Clip, kernels: Kernels) -> int:
    """Peak of one step beside the weights. The two streams take turns at working."""
    n = clip.video_tokens(config)
    streams = [(config.video, n, clip.video_times)]
    if clip.audio:
        streams.append((config.audio, clip.audio, clip.audio_times))
    # Each stream has a rotary table of its own tokens, and one of the other's where it reads them.
    tables = len(streams)
    sizes = [_stream_bytes(*stream, clip.batch * clip.passes, tables, kernels) for stream in streams]
    resting = sum(size.resting for size in sizes)
    working = max(size.working for size in sizes)
    return resting + working + clip.sampler_bytes(config)


def kept_bytes(config: CCLConfig, clip: Clip, texts: int, itemsize: int) -> list[int]:
    """Keys and values of a given stream that a run keeps, for each layer; none where each pass makes them.

    texts: sets, one for each text that an open branch reads. itemsize: bytes per number.
    """
    if not clip.given or not isinstance(config.interaction.options, CCAOptions):
        return []
    video = clip.video_tokens(config), config.audio.dim, config.video.num_layers
    audio = clip.audio, config.video.dim, config.audio.num_layers
    # They have the width of the stream that reads.
    tokens, width, depth = video if clip.given == "video" else audio
    layer = 2 * clip.batch * texts * tokens * width * itemsize
    return [layer for i in config.interaction.layers if i < depth]


def kept_in_vram(layers: Sequence[int], room: int) -> int:
    """How many layers of so many bytes stay in VRAM; the others go to pinned RAM."""
    taken = 0
    for count, layer in enumerate(layers):
        taken += layer
        if taken > room:
            return count
    return len(layers)


class StreamBytes(NamedTuple):
    """resting: what a stream holds while the other one works. working: what its own work adds at most."""

    resting: int
    working: int


def _stream_bytes(
    stream: StreamConfig, tokens: int, times: int, batch: int, tables: int, kernels: Kernels
) -> StreamBytes:
    """Peak memory of one stream. times: distinct diffusion times of a clip.

    The coupling is not listed: like self-attention it holds one projection of the tokens and its temporaries,
    at most.
    """
    row = batch * stream.dim * kernels.itemsize  # bytes of one token of every clip
    # 2 x 2 float32 numbers rotate each pair of a head's width.
    rotary = tables * tokens * (stream.dim // stream.num_heads) * 2 * 4
    # The tokens, and those that came into the block, which its caller holds until it returns. A time has one
    # row for the head and six for the modulation of the blocks.
    resting = (2 * tokens + TEXT_TOKENS + 7 * times) * row + rotary
    # The normalised input, and beside it: q, k and the temporaries of k, or q, k, v and their result.
    attention = 1 + max(2 + kernels.temporaries(), 4)
    # The normalised input, and the hidden layer before and after its activation.
    feed_forward = (2 if kernels.held_activation else 1) + 2 * stream.ffn_dim / stream.dim
    # The modulation of this block for each time, and the dearer of the two halves of the block.
    working = (6 * times + max(attention, feed_forward) * tokens) * row
    return StreamBytes(resting, int(working))


def calls(mode: str, coupled: bool) -> tuple[int, ...]:
    """Passes of each call of the model in one step, at scales that leave none of the mode's passes out.

    Branches that differ only in text share a call, which the host may run as one batch. Without an audio
    stream there is no coupling to switch.
    """
    ends = _branches(mode)
    if not coupled:
        return (len({branch.negative for branch in ends}),)
    # In the order of Branch, as the guider runs them.
    return tuple(Counter(branch.anchor for branch in Branch if branch in ends).values())


def open_texts(mode: str) -> int:
    """Texts under which one stream reads the other one."""
    return len({branch.negative for branch in _branches(mode) if not branch.anchor})


def _branches(mode: str) -> set[Branch]:
    ends = {TC}
    for term in mode_named(mode).terms.values():
        ends |= {term.toward, term.away}
    return ends


@dataclass(frozen=True)
class Machine:
    """Bytes of memory. vram_free: with what the host can free by itself, None where the model runs in RAM."""

    name: str
    ram_free: int
    ram_total: int
    vram_free: int | None = None
    vram_total: int | None = None
    vram_reserve: int = 0  # the host leaves it to others


@dataclass(frozen=True)
class Demand:
    """Bytes that sampling wants. weights: read in every call; step: the peak beside them.

    buffer: weights under way while none stay in VRAM.
    """

    weights: int
    step: int
    buffer: int


@dataclass(frozen=True)
class Verdict:
    """fit: "whole", "offload" or "none". In bytes: streamed, weights that each call brings in; missing."""

    fit: str
    streamed: int = 0
    missing: int = 0


def judge(demand: Demand, machine: Machine) -> Verdict:
    """Whether the weights stay in VRAM, are streamed from RAM, or not even a step without them fits."""
    if machine.vram_free is None:  # the weights are in RAM already
        missing = demand.step + demand.buffer - machine.ram_free
        return Verdict("none", missing=missing) if missing > 0 else Verdict("whole")
    room = machine.vram_free - machine.vram_reserve - demand.step
    if demand.weights <= room:
        return Verdict("whole")
    if demand.buffer > room:
        return Verdict("none", missing=demand.buffer - room)
    # The less stays in VRAM, the more is under way: no buffer where all stays, all of it where nothing does.
    share = (demand.weights - room) / (demand.weights - demand.buffer)
    return Verdict("offload", streamed=math.ceil(share * demand.weights))


def shorter(clip: Clip) -> Iterator[Clip]:
    """The same clip with ever fewer latent frames, the audio cut alike."""
    frames = clip.video[0]
    for t in range(frames - 1, 0, -1):
        times = min(clip.video_times, t)
        yield replace(clip, video=(t, *clip.video[1:]), audio=-(-clip.audio * t // frames), video_times=times)


def smaller(clip: Clip, patch: int) -> Iterator[Clip]:
    """The same clip in ever smaller sizes of about the same shape, in steps of `patch` cells."""
    t, height, width = clip.video
    for h in range((height - 1) // patch * patch, 0, -patch):
        yield replace(clip, video=(t, h, max(patch, width * h // height // patch * patch)))
