"""What a VAE made of a finite latent is looked at too: NaN in it has a cause, and what is whole is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.sd import VAE
from torch import Tensor

from ...notices import notice
from ..files.values import all_finite, not_finite

# A normalised latent lies within a few units; in fp16 a decoder overflows long before 65504.
FAR = 100.0


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a VAE made of a latent. what: picture or sound."""

    what: str
    result: Tensor
    latent: Tensor
    vae: VAE


def usable(*parts: Decoded) -> list[Tensor]:
    """The results, with 0 (black, silence) in the place of NaN and infinity.

    A notice says what broke and the likeliest cause; ValueError where nothing of any part is whole.
    """
    broken = [part for part in parts if not all_finite(part.result)]
    if not broken:
        return [part.result for part in parts]
    told = " ".join(_fault(part) for part in broken)
    if len(broken) == len(parts) and not any(torch.isfinite(part.result).any() for part in parts):
        raise ValueError(told)
    notice(f"{told} What is whole was kept, the rest is black or silent.")
    return [torch.nan_to_num(part.result, nan=0.0, posinf=0.0, neginf=0.0) for part in parts]


def _fault(part: Decoded) -> str:
    share = 1 - torch.isfinite(part.result).float().mean().item()
    return f"The decoded {part.what} holds NaN or infinity ({share:.0%} of it): {_cause(part)}."


def _cause(part: Decoded) -> str:
    damaged = not_finite(part.vae.first_stage_model.state_dict())
    if damaged:
        return (
            f"{len(damaged)} weights of its VAE hold them, the first is {damaged[0]}. The file of the VAE is "
            "damaged, download it again"
        )
    largest = part.latent.abs().max().item()
    if largest > FAR:
        return (
            f"the latent reaches {largest:.3g}, so sampling went astray. Sample again with lower scales or "
            "more steps"
        )
    if part.vae.vae_dtype is torch.float16:
        return "the VAE computes in fp16, whose range it exceeds. Start ComfyUI with --bf16-vae or --fp32-vae"
    return (
        "latent and weights are finite. Start ComfyUI with --fp32-vae, or take the VAE that the model was "
        "published with"
    )
