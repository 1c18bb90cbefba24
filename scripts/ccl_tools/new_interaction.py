"""A fresh interaction for two streams, from the headers of their files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import ScriptError, Ticker
from ccl_tools.tensor_file import Entry, Source, Writer

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("bfloat16", "float16", "float32")
# Of the published models by their latent channels: Wan 2.1 and 2.2 14B, 5B.
FPS = {16: Fraction(16), 48: Fraction(24)}
WANTED = {"video": "a Wan video model alone", "audio": "an audio stream alone"}


@dataclass(frozen=True)
class StreamFile:
    """A file that holds one stream: its tensors without data under our names, and its configuration."""

    name: str
    tensors: dict[str, Tensor]
    config: Any
    mova: bool


def read_stream(path: Path, stream: str) -> StreamFile:
    """ScriptError where the file is not that one stream, "video" or "audio"."""
    from ccl_pack.ccl_core.host.files import identify, read

    try:
        source = Source.open([Path(shard) for shard in read.shards(str(path))])
        published = source.outline()
        file = identify.identify(read.RawFile(path.name, published, source.metadata, {}, False))
    except ValueError as error:
        raise ScriptError(str(error), f"name {WANTED[stream]}") from error
    if file.content.sections != {stream}:
        raise ScriptError(f"{path.name} is {file.content.description}", f"name {WANTED[stream]}")
    patch = published.get("patch_embedding.weight")
    return StreamFile(path.name, file.tensors, file.config, patch is not None and patch.ndim == 3)


def configure(video: StreamFile, audio: StreamFile, options: argparse.Namespace) -> Any:
    """The CCLConfig of the pair, from shapes, the metadata of the audio stream and the options, which win."""
    from ccl_pack.ccl_core.config import CCAOptions, CCLConfig, InteractionConfig
    from ccl_pack.ccl_core.families import FAMILIES
    from ccl_pack.ccl_core.host.files.shapes import stream_config

    stated = audio.config
    mova = FAMILIES["mova"]
    known = mova.streams["audio"] if audio.mova else {}
    if stated is not None:
        known = {
            name: getattr(stated.audio, name) for name in ("num_heads", "patch_size", "text_len", "rope")
        }
    video_stream = stream_config(video.tensors, "video", video.name, heads(options.video_heads))
    audio_stream = stream_config(audio.tensors, "audio", audio.name, known | heads(options.audio_heads))
    latent = (
        stated.audio_latent if stated is not None else mova.published["audio_latent"] if audio.mova else None
    )
    return CCLConfig(
        fps=options.fps or FPS[video_stream.out_dim],
        video=video_stream,
        audio=audio_stream,
        interaction=InteractionConfig(
            "cca",
            layers(options.layers, min(video_stream.num_layers, audio_stream.num_layers)),
            CCAOptions(options.context_tokens),
        ),
        audio_latent=audio_latent(latent, audio_stream.in_dim, options),
        clock=options.clock,
        shift=options.shift,
    )


def heads(given: int | None) -> dict[str, int]:
    return {} if given is None else {"num_heads": given}


def audio_latent(known: Any, channels: int, options: argparse.Namespace) -> Any:
    from ccl_pack.ccl_core.config import AudioLatentConfig

    given = {name: getattr(options, name) for name in ("vae", "rate", "sample_rate")}
    given = {name: value for name, value in given.items() if value is not None}
    if known is not None:
        return replace(known, **given)
    if len(given) < 3:
        raise ScriptError(
            "the audio file does not say which VAE its latent is of",
            "give --vae, --rate (tokens per second) and --sample-rate: "
            "--vae vocos --rate 32 --sample-rate 16000",
        )
    return AudioLatentConfig(channels=channels, **given)


def layers(text: str | None, depth: int) -> tuple[int, ...]:
    """`0-7,12` as numbers; all layers that both streams have where there is no text."""
    if text is None:
        return tuple(range(depth))
    try:
        bounds = [list(map(int, part.split("-"))) for part in text.split(",")]
        chosen = sorted(
            {i for first, *last in bounds for i in range(first, (last[0] if last else first) + 1)}
        )
    except ValueError as error:
        raise ScriptError(f"--layers {text} is no list of layers", "write it like 0-7,12,16") from error
    if not chosen or chosen[-1] >= depth:
        raise ScriptError(
            f"--layers {text} is not within the {depth} layers of both streams", f"use 0-{depth - 1}"
        )
    return tuple(chosen)


def layer_tensors(config: Any, i: int, dtype: Any, *, meta: bool = False) -> dict[str, Tensor]:
    """The tensors of layer i as training starts with them; on the meta device without numbers."""
    import comfy.ops
    import torch

    from ccl_pack.ccl_core.model.interactions import INTERACTIONS
    from ccl_pack.ccl_core.training.flow import initialise

    device = "meta" if meta else "cpu"
    layer = INTERACTIONS[config.interaction.kind](
        config, comfy.ops.disable_weight_init, dtype=dtype, device=device
    )
    named = torch.nn.ModuleDict({"interaction": torch.nn.ModuleDict({str(i): layer})})
    if not meta:
        initialise(named)
    return named.state_dict()


def write(config: Any, output: Path, dtype: str, seed: int) -> None:
    """One layer in memory at a time."""
    import torch

    from ccl_pack.ccl_core.metadata import write_config

    chosen = config.interaction.layers
    numbers = getattr(torch, dtype)
    entries = {
        key: Entry.of(value)
        for i in chosen
        for key, value in layer_tensors(config, i, numbers, meta=True).items()
    }
    torch.manual_seed(seed)
    ticker = Ticker(f"writing {output.name}")
    with (
        Writer(output, entries, {"ccl_config": write_config(config), "format": "pt"}) as writer,
        torch.no_grad(),
    ):
        for count, i in enumerate(chosen):
            for key, value in layer_tensors(config, i, numbers).items():
                writer.write(key, value)
            ticker.tick(f"{count + 1} of {len(chosen)} layers")
    ticker.done(f"{len(chosen)} layers, {writer.total / 1e6:.1f} MB")
