"""Writes a fresh CCA interaction for a Wan video model and an audio stream: the file to begin training from.

Every output projection is zero, so the model that CCLModelAssembler makes of the three files gives exactly what the
video model gives alone, until it is trained. Reads the headers of the two files, never their tensors.

    python scripts/new_interaction.py --video wan2.1_t2v_1.3B.safetensors --audio audio_stream.safetensors \\
        --output interaction.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import ScriptError, Ticker, exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec
from ccl_tools.tensor_file import Entry, Source, Writer

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("bfloat16", "float16", "float32")
FPS = {16: Fraction(16), 48: Fraction(24)}  # of the published models by their latent channels: Wan 2.1 and 2.2 14B, 5B
WANTED = {"video": "a Wan video model alone", "audio": "an audio stream alone"}


@dataclass(frozen=True)
class StreamFile:
    """A file that holds one stream: its tensors without data under our names, and the configuration it states."""

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

    stated, mova = audio.config, FAMILIES["mova"]
    known = mova.streams["audio"] if audio.mova else {}
    if stated is not None:
        known = {name: getattr(stated.audio, name) for name in ("num_heads", "patch_size", "text_len", "rope")}
    video_stream = stream_config(video.tensors, "video", video.name, heads(options.video_heads))
    audio_stream = stream_config(audio.tensors, "audio", audio.name, known | heads(options.audio_heads))
    latent = stated.audio_latent if stated is not None else mova.published["audio_latent"] if audio.mova else None
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
            "give --vae, --rate (tokens per second) and --sample-rate: --vae vocos --rate 32 --sample-rate 16000",
        )
    return AudioLatentConfig(channels=channels, **given)


def layers(text: str | None, depth: int) -> tuple[int, ...]:
    """`0-7,12` as numbers; all layers that both streams have where there is no text."""
    if text is None:
        return tuple(range(depth))
    try:
        bounds = [[int(number) for number in part.split("-")] for part in text.split(",")]
        chosen = sorted({i for first, *last in bounds for i in range(first, (last[0] if last else first) + 1)})
    except ValueError as error:
        raise ScriptError(f"--layers {text} is no list of layers", "write it like 0-7,12,16") from error
    if not chosen or chosen[-1] >= depth:
        raise ScriptError(f"--layers {text} is not within the {depth} layers of both streams", f"use 0-{depth - 1}")
    return tuple(chosen)


def layer_tensors(config: Any, i: int, dtype: Any, *, meta: bool = False) -> dict[str, Tensor]:
    """The tensors of layer i as training starts with them; on the meta device without numbers."""
    import comfy.ops
    import torch

    from ccl_pack.ccl_core.model.interactions import INTERACTIONS
    from ccl_pack.ccl_core.training.flow import initialise

    device = "meta" if meta else "cpu"
    layer = INTERACTIONS[config.interaction.kind](config, comfy.ops.disable_weight_init, dtype=dtype, device=device)
    named = torch.nn.ModuleDict({"interaction": torch.nn.ModuleDict({str(i): layer})})
    if not meta:
        initialise(named)
    return named.state_dict()


def write(config: Any, output: Path, dtype: str, seed: int) -> None:
    """One layer in memory at a time."""
    import torch

    from ccl_pack.ccl_core.metadata import write_config

    chosen, numbers = config.interaction.layers, getattr(torch, dtype)
    entries = {
        key: Entry.of(value) for i in chosen for key, value in layer_tensors(config, i, numbers, meta=True).items()
    }
    torch.manual_seed(seed)
    ticker = Ticker(f"writing {output.name}")
    with Writer(output, entries, {"ccl_config": write_config(config), "format": "pt"}) as writer, torch.no_grad():
        for count, i in enumerate(chosen):
            for key, value in layer_tensors(config, i, numbers).items():
                writer.write(key, value)
            ticker.tick(f"{count + 1} of {len(chosen)} layers")
    ticker.done(f"{len(chosen)} layers, {writer.total / 1e6:.1f} MB")


def main(options: argparse.Namespace) -> None:
    load_pack()
    video, audio = read_stream(options.video, "video"), read_stream(options.audio, "audio")
    try:
        config = configure(video, audio, options)
    except ValueError as error:
        raise ScriptError(str(error), "give --video-heads or --audio-heads, or name other files") from error
    write(config, options.output, options.dtype, options.seed)
    say(f"Put {options.output} into ComfyUI/models/diffusion_models and choose it in CCLModelAssembler.")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True, help="Wan 2.1 or 2.2 diffusion model (or its first shard)")
    parser.add_argument("--audio", type=Path, required=True, help="audio stream (or its first shard)")
    parser.add_argument("--output", type=Path, required=True, help="the file to write; must not exist")
    parser.add_argument("--context-tokens", type=int, default=16, help="learnable context tokens (default: 16)")
    parser.add_argument("--layers", help="layers that are coupled, like 0-7,12 (default: all that both streams have)")
    parser.add_argument("--clock", choices=("causal", "uniform"), default="causal", help="TARP clock (default: causal)")
    parser.add_argument("--fps", type=Fraction, help="frames per second (default: 16, and 24 for Wan 2.2 5B)")
    parser.add_argument("--shift", type=float, default=8.0, help="time shift of the sampling schedule (default: 8)")
    parser.add_argument("--vae", choices=("vocos", "mmaudio", "dac"), help="audio VAE, if the file does not say it")
    parser.add_argument("--rate", type=Fraction, help="audio tokens per second, such as 32 or 125/4")
    parser.add_argument("--sample-rate", type=int, help="sample rate of the audio VAE")
    parser.add_argument("--video-heads", type=int, help="heads of the video stream (default: one per 128 channels)")
    parser.add_argument("--audio-heads", type=int, help="heads of the audio stream (default: one per 128 channels)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="number format (default: bfloat16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial numbers (default: 0)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
