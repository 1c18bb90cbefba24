"""The samples of an AV latent, which tell a node that is made for one tensor how to go on."""

from __future__ import annotations

from typing import Any

from comfy.nested_tensor import NestedTensor

WAY_ROUND = (
    "take the latent apart with LTXVSeparateAVLatent, put this node behind its video_latent (or its "
    "audio_latent), and join both again with LTXVConcatAVLatent"
)


class Pair(NestedTensor):
    """The host's NestedTensor of a video and an audio tensor.

    It does what the host's own class does. Nodes that ask for more would stop at a word of torch, and those
    that cut along other axes than the batch would cut other times out of video and sound.
    """

    def _copy(self) -> Pair:
        # The host's methods make their results by it.
        return Pair(self.tensors)

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there."""
        # Copies and pickles ask for names of this form, and know what to do without.
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"this latent is a pair of video and audio and has no {name}: {WAY_ROUND}")

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        """Called by functions of torch for the classes of their arguments."""
        name = getattr(function, "__name__", "this function")
        raise TypeError(f"this latent is a pair of video and audio, not a tensor for {name}: {WAY_ROUND}")

    def __getitem__(self, place: Any) -> Pair:
        beyond = place[1:] if isinstance(place, tuple) else ()
        if any(part not in (Ellipsis, slice(None)) for part in beyond):
            raise IndexError(
                f"this latent is a pair of video and audio, which have sizes of their own: {WAY_ROUND}"
            )
        return super().__getitem__(place)

    def __setitem__(self, place: Any, value: Any) -> None:
        raise TypeError(f"this latent is a pair of video and audio, of which no part can be set: {WAY_ROUND}")

    def __len__(self) -> int:
        raise TypeError(f"this latent is a pair of video and audio and has no length: {WAY_ROUND}")

    def __bool__(self) -> bool:
        # Else Python would ask for the length.
        return True
