"""Writes a fresh CCA interaction for a Wan video model and an audio stream: the file to begin training from.

Every output projection is zero, so the model that CCLModelAssembler makes of the three files gives exactly
what the video model gives alone, until it is trained. Reads the headers of the two files, never their
tensors.

    python scripts/new_interaction.py --video wan2.1_t2v_1.3B.safetensors --audio audio_stream.safetensors \\
        --output interaction.safetensors
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec
from ccl_tools.new_interaction import DTYPES, configure, read_stream, write


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--video", type=Path, required=True, help="Wan 2.1 or 2.2 diffusion model (or its first shard)"
    )
    parser.add_argument("--audio", type=Path, required=True, help="audio stream (or its first shard)")
    parser.add_argument("--output", type=Path, required=True, help="the file to write; must not exist")
    parser.add_argument(
        "--context-tokens", type=int, default=16, help="learnable context tokens (default: 16)"
    )
    parser.add_argument(
        "--layers", help="layers that are coupled, like 0-7,12 (default: all that both streams have)"
    )
    parser.add_argument(
        "--clock", choices=("causal", "uniform"), default="causal", help="TARP clock (default: causal)"
    )
    parser.add_argument("--fps", type=Fraction, help="frames per second (default: 16, and 24 for Wan 2.2 5B)")
    parser.add_argument(
        "--shift", type=float, default=8.0, help="time shift of the sampling schedule (default: 8)"
    )
    parser.add_argument(
        "--vae", choices=("vocos", "mmaudio", "dac"), help="audio VAE, if the file does not say it"
    )
    parser.add_argument("--rate", type=Fraction, help="audio tokens per second, such as 32 or 125/4")
    parser.add_argument("--sample-rate", type=int, help="sample rate of the audio VAE")
    parser.add_argument(
        "--video-heads", type=int, help="heads of the video stream (default: one per 128 channels)"
    )
    parser.add_argument(
        "--audio-heads", type=int, help="heads of the audio stream (default: one per 128 channels)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="number format (default: bfloat16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial numbers (default: 0)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
