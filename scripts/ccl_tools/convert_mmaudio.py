"""MMAudio's published pickles as one file of the names that ComfyUI's own loader reads."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_tools.console import ScriptError, Ticker

if TYPE_CHECKING:
    from torch import Tensor

DOWNLOAD = "download it again from https://huggingface.co/hkchengrex/MMAudio, folder ext_weights"
METADATA = {"source": "MMAudio v1-16.pth, best_netG.pt", "license": "CC-BY-NC-4.0"}


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle or a safetensors file; a `generator` inside (best_netG.pt) is taken out."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: no code of the pickle runs.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ScriptError(f"{path} is not there", DOWNLOAD) from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ScriptError(
            f"{path} cannot be read as tensors: {first}", f"it is damaged or of another kind, {DOWNLOAD}"
        ) from error
    if isinstance(content, dict):
        content = content.get("generator", content)
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise ScriptError(
            f"{path} holds a {type(content).__name__}, not named tensors",
            "give v1-16.pth first and best_netG.pt second",
        )
    return content


def convert(autoencoder: Path, vocoder: Path, out: Path) -> None:
    """Write the merged file; ScriptError says what is wrong with one that went in."""
    from ccl_pack.ccl_core.host.vae.mmaudio import to_host

    if out.suffix != ".safetensors":
        raise ScriptError(
            f"{out} does not end in .safetensors", "ComfyUI chooses the format by this ending: add it"
        )
    ticker = Ticker(f"reading {autoencoder.name} and {vocoder.name}")
    first, second = read(autoencoder), read(vocoder)
    twice = sorted(set(first) & set(second))
    if twice:
        raise ScriptError(f"both files hold {twice[0]}", "give v1-16.pth first and best_netG.pt second")
    ticker.done(f"{len(first)} and {len(second)} tensors")
    ticker = Ticker("folding the weight norms")
    try:
        host = to_host({**first, **second})
    except ValueError as error:
        raise ScriptError(
            str(error), "give the files v1-16.pth and best_netG.pt of MMAudio's 16 kHz model"
        ) from error
    ticker.done(f"{len(host)} tensors")
    ticker = Ticker(f"writing {out.name}")
    write(host, out)
    ticker.done(f"{out.stat().st_size / 1e9:.2f} GB")


def write(sd: dict[str, Tensor], out: Path) -> None:
    """Save under another name first, so that a file of the final name is a whole one."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = out.with_name(out.name + ".part")
    try:
        save_file({key: value.contiguous() for key, value in sd.items()}, part, metadata=METADATA)
        part.replace(out)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise ScriptError(
            f"{out} cannot be written: {error}", "choose a folder with 1.2 GB of room that you may write to"
        ) from error
