"""Makes one safetensors file of MMAudio's published pickles, the audio VAE of Ovi, for CCLAudioVAELoader.

    python scripts/convert_mmaudio.py v1-16.pth best_netG.pt mmaudio_16k.safetensors

Folds the weight norms, adds the mel filter bank and gives every tensor the name ComfyUI's own loader reads.
Takes the pickles or safetensors copies of them. Nothing in a pickle is run: torch loads tensors only
(weights_only). The weights are licensed CC-BY-NC-4.0 (https://huggingface.co/hkchengrex/MMAudio), the result
too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.convert_mmaudio import convert
from ccl_tools.environment import load_pack, reexec


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("autoencoder", type=Path, help="v1-16.pth")
    parser.add_argument("vocoder", type=Path, help="best_netG.pt")
    parser.add_argument("out", type=Path, help="the safetensors file to write, for models/vae")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    load_pack()
    convert(options.autoencoder, options.vocoder, options.out)
    say(f"Put {options.out} into ComfyUI/models/vae and load it with CCLAudioVAELoader; no commercial use.")


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
