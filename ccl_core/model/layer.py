"""One joint layer: a video block, an audio block and their interaction, nested, so each is entered once."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .blocks import StreamBlock
from .interactions import KV, Interaction, Link


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
) -> tuple[Any, Any]:
    """New tokens of both streams.

    v: (b, v, d_v), a: (b, a, d_a), None for a stream that does not run. kept: keys and values that stand for
    such a stream. With `link.keep` its place in the result holds the keys and values that it would read.
    """
    video, audio, interaction = layer
    if interaction is None:
        v = v if video is None else video(v, **link.video.arguments())
        return v, a if audio is None else audio(a, **link.audio.arguments())

    # The audio block runs inside the video block, the interaction inside both, at its place in the audio
    # block. A block gives its own tokens first and those of the other stream second, hence the swaps.
    def inside_audio(a: Tensor, v: Tensor | None) -> tuple[Any, Any]:
        v, a = interaction(v, a, link, kept)
        return a, v

    def inside_video(v: Tensor, a: Tensor | None) -> tuple[Any, Any]:
        if audio is None:
            return interaction(v, a, link, kept)
        a, v = audio(a, other=v, **{interaction.place: inside_audio}, **link.audio.arguments())
        return v, a

    if video is not None:
        return video(v, other=a, **{interaction.place: inside_video}, **link.video.arguments())
    a, v = audio(a, other=v, **{interaction.place: inside_audio}, **link.audio.arguments())
    return v, a
