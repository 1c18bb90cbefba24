"""What a CCL checkpoint says about itself: the JSON in its `ccl_config` metadata entry."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

SCHEMA = 1
CLOCKS = ("causal", "uniform", "linear")
ROPES = ("tarp", "token")


@dataclass(frozen=True)
class StreamConfig:
    """One stream: the arguments of the host's WanModel, and what the published audio towers do otherwise.

    text_len: tokens to which the text is zero-padded before its MLP (Ovi), None: as it comes. stem_dim: hidden width of
    the gated convolution stem in the place of the patch embedding (Ovi's audio), 0: none. rope: positions of
    self-attention, "tarp" on the time axis of Wan's RoPE or "token", the index over the whole head (MOVA's audio).
    """

    in_dim: int
    out_dim: int
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_dim: int
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    model_type: str = "t2v"
    text_len: int | None = None
    stem_dim: int = 0
    rope: str = "tarp"
    flf_pos_embed_token_number: int | None = None
    in_dim_ref_conv: int | None = None

    def __post_init__(self) -> None:
        if self.rope not in ROPES:
            raise ValueError(f"a stream has the rope {self.rope!r}, known are {', '.join(ROPES)}")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"a stream of width {self.dim} cannot have {self.num_heads} heads: each head needs an even width"
            )

    def wan_arguments(self) -> dict[str, Any]:
        """The arguments of the host's WanModel."""
        sizes = asdict(self) | {"patch_size": tuple(self.patch_size)}
        return {name: value for name, value in sizes.items() if name not in ("text_len", "stem_dim", "rope")}


@dataclass(frozen=True)
class InteractionConfig:
    """The coupling: its kind, the layers that carry it, and the number n of learnable context tokens (cca only).

    Of the bridge: head_width of its attention, None: that of the stream that asks. first_frame_bias: its clock counts
    that the first latent frame is one pixel frame long (no published model does).
    """

    kind: str
    layers: tuple[int, ...]
    context_tokens: int = 16
    head_width: int | None = None
    first_frame_bias: bool = False


@dataclass(frozen=True)
class AudioLatentConfig:
    """The audio latent: which VAE makes it, channels, tokens per second, and the sample rate behind it."""

    vae: str
    channels: int
    rate: Fraction
    sample_rate: int


@dataclass(frozen=True)
class CCLConfig:
    """A whole model.

    shift: default time shift of the sampling schedule; audio_shift: the audio stream's own, None: the same.
    clock_scale: latent frames per audio token of the clock "linear". expert_boundary: the sigma below which a second,
    low-noise video expert takes over.
    """

    fps: Fraction
    video: StreamConfig
    audio: StreamConfig
    interaction: InteractionConfig
    audio_latent: AudioLatentConfig
    clock: str = "causal"
    shift: float = 8.0
    text_encoder: dict[str, Any] | None = None
    latent_rgb_factors: tuple[tuple[float, float, float], ...] | None = None
    clock_scale: float | None = None
    audio_shift: float | None = None
    expert_boundary: float | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(
                f"ccl_config has schema {self.schema}, this version of the pack reads {SCHEMA}: update the pack"
            )
        if self.clock not in CLOCKS:
            raise ValueError(f"ccl_config names the clock {self.clock!r}, known are {', '.join(CLOCKS)}")
        if (self.clock == "linear") is (self.clock_scale is None):
            raise ValueError(
                f"ccl_config has the clock {self.clock!r} and the clock_scale {self.clock_scale}: "
                "the clock 'linear' needs a scale, the others have none"
            )
        if self.audio.in_dim != self.audio_latent.channels:
            raise ValueError(
                f"the audio stream takes {self.audio.in_dim} channels, its latent has {self.audio_latent.channels}"
            )

    @classmethod
    def from_json(cls, text: str) -> CCLConfig:
        """Read the metadata entry; a missing or unknown field raises ValueError with its name."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"the ccl_config metadata is not JSON ({error}): the file was not written by this pack"
            ) from error
        if not isinstance(data, dict):
            raise ValueError(f"the ccl_config metadata is a JSON {type(data).__name__}, wanted an object")
        return _build(cls, data, "ccl_config")

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_CONVERT = {
    "fps": Fraction,
    "rate": Fraction,
    "video": lambda data: _build(StreamConfig, data, "ccl_config.video"),
    "audio": lambda data: _build(StreamConfig, data, "ccl_config.audio"),
    "interaction": lambda data: _build(InteractionConfig, data, "ccl_config.interaction"),
    "audio_latent": lambda data: _build(AudioLatentConfig, data, "ccl_config.audio_latent"),
}


def _build(kind: type, data: dict[str, Any], where: str) -> Any:
    unknown = set(data) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"{where} has the unknown entries {sorted(unknown)}: update the pack")
    try:
        return kind(**{name: _CONVERT.get(name, _tuples)(value) for name, value in data.items()})
    except TypeError as error:
        raise ValueError(f"{where} is incomplete or of the wrong type: {error}") from error
