"""Masks and areas of a conditioning (ConditioningSetMask, ConditioningSetArea) over a packed latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
import torch
from torch import Tensor

Conds = Mapping[str, list[dict[str, Any]]]


def pack_regions(conds: Conds, shapes: Sequence[Sequence[int]]) -> None:
    """Bring the masks of the conditionings into the shape of the packed latent of video and sound.

    The host resizes masks to a latent's last axes, and a packed one (b, 1, n) has a single axis. A mask
    weighs the video; the sound, which has no places, takes each of the entries in whole.
    """
    for name, entries in conds.items():
        for entry in entries:
            if ("area" in entry and not _is_whole(entry["area"])) or entry.get("set_area_to_bounds", False):
                raise ValueError(
                    f"{name} is set to an area, which this model cannot cut out of a latent with sound: use "
                    "ConditioningSetMask with set_cond_area at default, or sample the video without sound"
                )
            entry.pop("area", None)
            if "mask" in entry:
                entry["mask"] = packed_mask(entry["mask"], shapes)


def _is_whole(area: Sequence[Any]) -> bool:
    """Whether an area in parts of the latent holds all of it: sizes of 1, from 0 on."""
    if area[0] != "percentage":
        return False
    sizes, starts = area[1 : len(area) // 2 + 1], area[len(area) // 2 + 1 :]
    return min(sizes) >= 1 and max(starts) <= 0


def packed_mask(mask: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
    """(b, h, w) -> (b, n): for each number of the video its place in the mask, for those of the sound 1."""
    video, *others = shapes
    mask = mask if mask.ndim > 2 else mask[None]
    # As the host's `resolve_areas_and_cond_masks_multidim`, for each frame alike.
    small = comfy.utils.common_upscale(mask[:, None].float(), video[-1], video[-2], "bilinear", "none")[:, 0]
    cells = small[:, None, None].expand(-1, video[1], video[2], -1, -1).flatten(1)
    whole = torch.ones(mask.shape[0], sum(map(_numbers, others)), device=mask.device)
    return torch.cat([cells, whole], dim=1)


def _numbers(shape: Sequence[int]) -> int:
    return torch.Size(shape[1:]).numel()
