"""One joint layer: a video block, an audio block and their interaction, nested, so each is entered once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from .blocks import StreamBlock
from .interactions import KV, Interaction, Link
from .streams import StreamPass


class Layer(NamedTuple):
    """The modules of a layer. None: the stream has ended or does not run; nothing is coupled here."""

    video: StreamBlock | None
    audio: StreamBlock | None
    interaction: Interaction | None

    @property
    def modules(self) -> list[Any]:
        return [module for module in self if module is not None]


def run_layer(
    layer: Layer, v: Tensor | None, a: Tensor | None, link: Link, kept: KV | None = None
) -> tuple[Any, ...]:
    """New tokens of both streams.

    v: (b, v, d_v), a: (b, a, d_a), None for a stream that does not run. kept: keys and values that stand for
    such a stream. With `link.keep` its place in the result holds the keys and values that it would read. With
    `link.hear` a third value has those that the audio read, None where nothing is coupled.
    """
    video, audio, interaction = layer
    if interaction is None:
        v = v if video is None else video(v, **link.video.arguments())
        a = a if audio is None else audio(a, **link.audio.arguments())
        return (v, a, None) if link.hear else (v, a)

    # The audio block runs inside the video block, the interaction inside both, at its place in the audio
    # block. A block gives its own tokens first and those of the other stream second, hence the swaps.
    # What the audio read rides along with the other stream's tokens.
    def inside_audio(a: Tensor, v: Tensor | None) -> tuple[Any, Any]:
        v, a, *heard = interaction(v, a, link, kept)
        return a, (v, *heard)

    def inside_video(v: Tensor, a: Tensor | None) -> tuple[Any, Any]:
        if audio is None:
            v, *beside = interaction(v, a, link, kept)
            return v, tuple(beside)
        a, (v, *heard) = audio(a, other=v, **{interaction.place: inside_audio}, **link.audio.arguments())
        return v, (a, *heard)

    if video is not None:
        v, beside = video(v, other=a, **{interaction.place: inside_video}, **link.video.arguments())
        return v, *beside
    a, (v, *heard) = audio(a, other=v, **{interaction.place: inside_audio}, **link.audio.arguments())
    return v, a, *heard


def run_or_replaced(
    i: int, layer: Layer, v: Tensor | None, a: Tensor | None, link: Link, kept: KV | None = None
) -> tuple[Any, ...]:
    """What `run_layer` gives of layer i, or what somebody put into its place."""
    replacement = link.options.get("patches_replace", {}).get("dit", {}).get(("double_block", i))
    if replacement is not None and link.video is not None:
        return _replaced(replacement, layer, v, a, link)
    return run_layer(layer, v, a, link, kept)


def _replaced(patch: Any, layer: Layer, v: Tensor, a: Tensor | None, link: Link) -> tuple[Any, ...]:
    """The host's `patches_replace["dit"]`: the patch sees video tokens, the audio runs inside the block."""
    video = link.video
    # A patch may never call the block: the audio then stays as it came in, and heard nothing.
    others = [a, None] if link.hear else [a]

    def original_block(args: dict[str, Any]) -> dict[str, Any]:
        given = video._replace(context=args["txt"], e=args["vec"], freqs=args["pe"])
        made, *others[:] = run_layer(layer, args["img"], a, replace(link, video=given))
        return {"img": made}

    args = {
        "img": v,
        "txt": video.context,
        "vec": video.e,
        "pe": video.freqs,
        "transformer_options": video.options,
    }
    return patch(args, {"original_block": original_block})["img"], *others


def patched_after(options: dict[str, Any], video: StreamPass, v: Tensor, i: int) -> Tensor:
    """The host's patches behind a block, which see the video tokens."""
    for patch in options.get("patches", {}).get("double_block", ()):
        args = {"img": v, "x": video.latent, "vec": video.time, "block_index": i}
        args |= {"img_offset": video.spans.seen.start, "transformer_options": options}
        v = patch(args)["img"]
    return v
