"""The text of each stream in one entry of a CONDITIONING.

Nodes of the host edit a text without knowing of streams (ConditioningZeroOut, ConditioningAverage,
ConditioningConcat). `StreamTexts` is the video's text with the audio's beside it, and repeats each such edit
on the audio's. Whatever else reads it, such as a model without sound, reads the video's text.
docs/decisions.md compares this place with others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import CCLConfig

# The entries of a conditioning that hold references: latents of a list (ReferenceLatent of the host; the last
# one counts), and the latent of a sound.
REFERENCE_IMAGE = "reference_latents"
REFERENCE_AUDIO = "reference_audio"
JOINS = ("cat", "concat", "concatenate")
SUMS = ("add", "iadd", "radd", "sub", "isub", "rsub", "subtract", "lerp")
PRODUCTS = ("mul", "imul", "rmul", "multiply", "div", "truediv", "itruediv", "neg")
CONSTANTS = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "zero", "fill")
COPIES = ("copy", "clone", "detach", "contiguous", "to", "type", "cpu", "cuda")
CASTS = ("float", "double", "half", "bfloat16")
CUTS = ("getitem", "setitem", "repeat", "expand", "narrow")
# The functions that edit a text, by name without underscores: `mul` stands for torch.mul, `mul_` and `*`.
EDITS = frozenset(JOINS + SUMS + PRODUCTS + CONSTANTS + COPIES + CASTS + CUTS)
TOKENS = 1  # dimension of a text (b, tokens, width)


class StreamTexts(Tensor):
    """The text of the video (b, tokens, width). `audio` may have other tokens and another width."""

    video: Tensor
    audio: Tensor

    @classmethod
    def join(cls, video: Tensor, audio: Tensor) -> StreamTexts:
        """One text of two; of an argument that holds two itself, that of the stream is taken."""
        plain = _video(video)
        texts = plain.as_subclass(cls)
        texts.video = plain
        texts.audio = _audio(audio)
        return texts

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.strip("_")
        video = func(*_of_stream(args, _video), **_of_stream(kwargs, _video))
        if name not in EDITS:
            return video
        audio = func(*_audio_arguments(name, args), **_of_stream(kwargs, _audio))
        return cls.join(video, audio) if isinstance(video, Tensor) else video

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamTexts:
        return StreamTexts.join(self.video.clone(), self.audio.clone())

    def __reduce_ex__(self, protocol: int) -> tuple[Callable, tuple[Tensor, Tensor]]:
        return StreamTexts.join, (self.video, self.audio)


def of_streams(text: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The text of the video, and that of the audio where it has one of its own."""
    return (text.video, text.audio) if isinstance(text, StreamTexts) else (text, None)


def _video(value: Any) -> Any:
    return value.video if isinstance(value, StreamTexts) else value


def _audio(value: Any) -> Any:
    """A plain text is read by both streams."""
    return value.audio if isinstance(value, StreamTexts) else value


def _of_stream(arguments: Any, stream: Callable[[Any], Any]) -> Any:
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(_of_stream(argument, stream) for argument in arguments)
    if isinstance(arguments, Mapping):
        return {name: _of_stream(argument, stream) for name, argument in arguments.items()}
    return stream(arguments)


def _audio_arguments(name: str, args: tuple) -> tuple:
    """The arguments that repeat an edit of the video's text on the audio's."""
    audio = _of_stream(args, _audio)
    if name == "getitem":
        return audio[0], _without_tokens(audio[1])
    if name in JOINS:
        return _of_one_width(audio[0]), *audio[1:]
    if name in SUMS:
        return _of_one_length(audio)
    return audio


def _without_tokens(index: Any) -> Any:
    """ConditioningAverage cuts a text to tokens counted in the video's: the audio's keeps its own."""
    if not isinstance(index, tuple) or not all(isinstance(part, slice) for part in index):
        return index
    return tuple(slice(None) if dimension == TOKENS else part for dimension, part in enumerate(index))


def _of_one_width(texts: Sequence[Tensor]) -> list[Tensor]:
    width = texts[0].shape[-1]
    return [_widened(text, width) for text in texts]


def _widened(text: Tensor, width: int) -> Tensor:
    """A text of zeros, such as the padding of ConditioningAverage, says the same in every width."""
    if text.shape[-1] == width:
        return text
    if text.any():
        raise ValueError(
            f"the sound's texts cannot be joined: one is {width} wide, the other {text.shape[-1]}. "
            "They come from different text encoders: "
            "give both conditionings a text for the sound with CCLDualPrompt"
        )
    return text.new_zeros(*text.shape[:-1], width)


def _of_one_length(operands: tuple) -> tuple:
    """As ConditioningAverage does with the video's text: the first text tells how many tokens there are."""
    texts = [operand for operand in operands if isinstance(operand, Tensor) and operand.ndim == 3]
    _, tokens, width = texts[0].shape
    # By identity: tensors compare number by number. Other operands are scales.
    others = set(map(id, texts[1:]))
    return tuple(
        _lengthened(_widened(operand, width), tokens) if id(operand) in others else operand
        for operand in operands
    )


def _lengthened(text: Tensor, tokens: int) -> Tensor:
    missing = tokens - text.shape[TOKENS]
    if missing <= 0:
        return text[:, :tokens]
    return torch.cat([text, text.new_zeros(text.shape[0], missing, text.shape[-1])], dim=TOKENS)


def reference_sound(entry: Mapping[str, Any], config: CCLConfig) -> Tensor | None:
    """The latent (b, c, r) of a reference sound in a conditioning; ValueError where nobody reads it."""
    sound = entry.get(REFERENCE_AUDIO)
    if sound is not None and not config.audio.references:
        raise ValueError(
            f"the text carries a reference sound ({REFERENCE_AUDIO}), and this model reads none: take it "
            "away, or choose a model that was trained with reference voices"
        )
    return sound
