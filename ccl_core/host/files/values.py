"""Whether tensors hold numbers that a network can compute with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WITH_64_BITS = ("cpu", "cuda")


def fault_of_type(key: str, value: Tensor) -> str | None:
    """What is wrong with the type of a weight that no format describes; None where it is a real number."""
    if value.dtype.is_floating_point:
        return None
    kind = str(value.dtype).removeprefix("torch.")
    return (
        f"{key} is of the type {kind}, wanted a floating-point type: the file is damaged, or was quantised "
        "and saved without its format (.comfy_quant), get another one"
    )


def not_finite(sd: Mapping[str, Tensor]) -> list[str]:
    """The keys of the tensors with NaN or infinity in them."""
    return [key for key, value in sd.items() if value.is_floating_point() and not all_finite(value)]


def all_finite(value: Tensor) -> bool:
    """Whether no number is NaN or infinite; where it can, without memory for a mask of them."""
    wide = value.float() if value.dtype.itemsize == 1 else value  # torch sums no 8 bits
    # Apple's and Intel's GPUs have no 64 bits.
    if wide.device.type not in WITH_64_BITS:
        return bool(torch.isfinite(wide).all())
    # Both pass through a sum, and finite numbers of 32 bits do not overflow one of 64.
    return bool(torch.isfinite(wide.sum(dtype=torch.float64)))
