"""The configuration of a joint model, as its file states it (`metadata.py`) or its loader finds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Protocol

from .counts import linear, meeting

# Explained at Timeline (alignment/timeline.py) and at StreamConfig.
CLOCKS = ("causal", "uniform", "linear")
ROPES = ("tarp", "token")
# Those of the host's WanModel, and the fields of a stream that are no arguments of it.
MODEL_TYPES = ("t2v", "i2v")
OWN_FIELDS = ("text_len", "stem_dim", "rope", "references", "speech_blocks")
# Explained at AsymmetricOptions.
WINDOW_UNITS = ("latents", "frames")
INTERPOLATIONS = ("centres", "latents", "frames", "own", "all")


@dataclass(frozen=True)
class StreamConfig:
    """One stream: the arguments of the host's WanModel, and what the published audio towers do otherwise.

    text_len: tokens to which the text is zero-padded before its MLP (Ovi), None: as it comes. stem_dim:
    hidden width of the gated convolution stem in the place of the patch embedding (Ovi's audio), 0: none.
    rope: positions of self-attention, "tarp" on the time axis of Wan's RoPE or "token", the index over the
    whole head (MOVA's audio). references: a reference stands in front of the latent, in time too, clean and
    in the latent's own patches (UniAVGen). speech_blocks: its text is the bytes of a speech, of which so many
    blocks make features of width text_dim (UniAVGen's audio), 0: text embeddings.
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
    references: bool = False
    speech_blocks: int = 0

    def __post_init__(self) -> None:
        if self.rope not in ROPES:
            raise ValueError(f"a stream has the rope {self.rope!r}, known are {', '.join(ROPES)}")
        if self.model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise ValueError(f"a stream has the model_type {self.model_type!r}, known are {known}")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"a stream of width {self.dim} cannot have {self.num_heads} heads:"
                " each head needs an even width"
            )

    def wan_arguments(self) -> dict[str, Any]:
        """The arguments of the host's WanModel."""
        sizes = asdict(self) | {"patch_size": tuple(self.patch_size)}
        return {name: value for name, value in sizes.items() if name not in OWN_FIELDS}


class InteractionOptions(Protocol):
    """What the options of every kind of interaction give."""

    def layer_parameters(self, video: int, audio: int) -> int:
        """Parameters of one layer's interaction, of streams of these widths."""


@dataclass(frozen=True)
class CCAOptions:
    """Cross-modal context attention. context_tokens: learnable context tokens of each direction."""

    context_tokens: int = 16

    def layer_parameters(self, video: int, audio: int) -> int:
        """Parameters of one layer's interaction, of streams of these widths."""
        # In each direction layer norms of both streams, weight and bias, and context tokens of the source.
        return meeting(video, audio) + (4 + self.context_tokens) * (video + audio)


@dataclass(frozen=True)
class FusionOptions:
    """Fusion inside text attention has nothing to choose."""

    def layer_parameters(self, video: int, audio: int) -> int:
        """Parameters of one layer's interaction; queries and output are those of the text attention."""
        # In each direction k and v, the layer norm of the source, the RMS norm of the keys.
        return 2 * linear(audio, video) + 2 * linear(video, audio) + 3 * (video + audio)


@dataclass(frozen=True)
class BridgeOptions:
    """The bridge before the blocks.

    head_width: width of a head of its attention, None: that of the stream that asks. first_frame_bias: its
    clock counts that the first latent frame is one pixel frame long (no published model does).
    """

    head_width: int | None = None
    first_frame_bias: bool = False

    def layer_parameters(self, video: int, audio: int) -> int:
        """Parameters of one layer's interaction, of streams of these widths."""
        # In each direction the layer norm of the source; the stream that asks has none.
        return meeting(video, audio) + 2 * (video + audio)


@dataclass(frozen=True)
class AsymmetricOptions:
    """The asymmetric interaction of UniAVGen (arXiv 2511.03334), and what its text leaves open.

    window: cells to each side of a latent frame whose sound its video reads, None: all of the sound.
    window_unit: a cell is a latent frame ("latents") or a pixel frame ("frames"). short_first: the sound of
    the first latent frame is a quarter as long, as it holds one pixel frame. interpolation: what an audio
    token reads lies between latent frames as printed ("latents", which looks up to a latent frame ahead),
    between their middles ("centres"), or between pixel frames ("frames"); or it is the latent frame in whose
    sound the token lies ("own"), or all of the video ("all"). Of the two forms that the paper compares with,
    the time-aligned one has a window of 0 latents and "own", the global one None and "all". clock_inside:
    RoPE on the shared clock in the coupling. face_mask: face-aware modulation.
    """

    window: int | None = 12
    window_unit: str = "frames"
    short_first: bool = True
    interpolation: str = "centres"
    clock_inside: bool = True
    face_mask: bool = True

    def __post_init__(self) -> None:
        for name, known in (("window_unit", WINDOW_UNITS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"the asymmetric interaction has the {name} {getattr(self, name)!r}, known are "
                    + ", ".join(known)
                )

    def layer_parameters(self, video: int, audio: int) -> int:
        """Parameters of one layer's interaction, of streams of these widths."""
        # In each direction layer norms of both streams; the mask has one more of the video, and a projection.
        mask = 2 * video + linear(video, 1) if self.face_mask else 0
        return meeting(video, audio) + 4 * (video + audio) + mask


# The class of an interaction's options by its kind. A kind that is added outside the pack adds its row.
OPTIONS: dict[str, type[InteractionOptions]] = {
    "cca": CCAOptions,
    "fusion": FusionOptions,
    "bridge": BridgeOptions,
    "asymmetric": AsymmetricOptions,
}


@dataclass(frozen=True)
class InteractionConfig:
    """The coupling: its kind (a key of OPTIONS), the layers that carry it, and the options of that kind."""

    kind: str
    layers: tuple[int, ...]
    options: InteractionOptions

    def __post_init__(self) -> None:
        wanted = OPTIONS.get(self.kind)
        if wanted is None:
            raise ValueError(
                f"the interaction has the kind {self.kind!r}, known are {', '.join(OPTIONS)}: update the pack"
            )
        if not isinstance(self.options, wanted):
            raise ValueError(
                f"the interaction {self.kind!r} has options of the type {type(self.options).__name__}, "
                f"wanted {wanted.__name__}"
            )


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
    clock_scale: latent frames per audio token of the clock "linear". expert_boundary: the sigma below which a
    second, low-noise video expert takes over. family: the key in FAMILIES of what the model is by name.
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
    family: str = "ccl"

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS:
            raise ValueError(f"ccl_config names the clock {self.clock!r}, known are {', '.join(CLOCKS)}")
        if (self.clock == "linear") is (self.clock_scale is None):
            raise ValueError(
                f"ccl_config has the clock {self.clock!r} and the clock_scale {self.clock_scale}: "
                "the clock 'linear' needs a scale, the others have none"
            )
        if self.audio.in_dim != self.audio_latent.channels:
            raise ValueError(
                f"the audio stream takes {self.audio.in_dim} channels,"
                f" its latent has {self.audio_latent.channels}"
            )
        factors = self.latent_rgb_factors
        if factors is not None and len(factors) != self.video.out_dim + 1:
            raise ValueError(
                f"ccl_config has {len(factors)} latent_rgb_factors, wanted {self.video.out_dim + 1}:"
                " one of each channel of the video's latent, and one that is added to all"
            )
