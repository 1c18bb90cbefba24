"""Video VAEs: the host's own, of which every weight is checked before the host makes one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import comfy.sd
import torch

from .base import StateDict, check_state_dict

WHAT = "video VAE"


def load_video_vae(sd: StateDict, metadata: Mapping[str, str] | None = None) -> comfy.sd.VAE:
    """The host's VAE of these tensors; ValueError where one is missing, unknown or of another shape.

    The host leaves what is missing as random numbers, and says of a wrong shape neither file nor key.
    """
    check_state_dict(sd, _wanted(sd, metadata), WHAT)
    return comfy.sd.VAE(sd=sd, metadata=metadata)


def _wanted(sd: StateDict, metadata: Mapping[str, str] | None) -> StateDict:
    """The tensors of the network that the host makes for these keys, without memory for any of them."""
    try:
        # On meta a shape that no memory holds costs nothing, such as one that a damaged header states.
        with torch.device("meta"), _quiet():
            meta = {key: value.to("meta") for key, value in sd.items()}
            network = comfy.sd.VAE(sd=meta, device=torch.device("cpu"), metadata=metadata).first_stage_model
    # The host reads the sizes from keys that it expects, and raises whatever their absence does.
    except Exception as error:
        raise ValueError(
            f"the {WHAT} is none that ComfyUI can build ({_first_fault(error)}): it is incomplete or "
            "damaged, get the file again"
        ) from error
    if network is None:
        first = ", ".join(sorted(sd)[:3])
        raise ValueError(
            f"the {WHAT} is none that ComfyUI knows (its first keys are {first}): get the file again, or "
            "load a video VAE with Load VAE"
        )
    return network.state_dict()


def _first_fault(error: Exception) -> str:
    """The line of torch's message that names a key, or what was raised and of what."""
    lines = [line.strip() for line in str(error).splitlines()]
    shapes = [line for line in lines if line.startswith("size mismatch")]
    return shapes[0].rstrip(".") if shapes else f"{type(error).__name__}: {lines[0] if lines else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the host's lines of a VAE that nobody uses."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
