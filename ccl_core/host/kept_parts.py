"""How a model is shown what a mask keeps of a stream.

Clean, at the time of a clean latent, by a stream that was trained with a time for each token, and by every
stream that is kept as a whole: it has one time then. A part of a stream that was trained with one time for
all its tokens gets the noise of the step, as the host does it for Wan 2.1, and has the time of the rest. So
does a stream with values between 0 and 1 where a node makes another mask of them in each step (Differential
Diffusion), since the times are those of the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence

import comfy.utils
import torch
from torch import Tensor

from ..families import FAMILIES

STREAMS = ("video", "audio")
# A transformer option: what is shown clean where a part of it is kept, by name.
KEPT_PARTS = "ccl_kept_parts"
CHOICES = {"clean": frozenset(STREAMS), "noisy": frozenset()}


def noisy_parts(
    family: str, masks: Sequence[Tensor | None], by_step: bool = False, choice: str | None = None
) -> Tensor | None:
    """Where kept parts get the noise of the step: of the size of the packed latent, None where nowhere.

    by_step: a node changes the mask in each step. choice: one of CHOICES, None: as the family learned.
    """
    learned = FAMILIES[family].token_times if choice is None else CHOICES[choice]
    streams = zip(STREAMS, masks, strict=False)
    parts = [_noisy(mask, stream in learned, by_step) for stream, mask in streams if mask is not None]
    if not any(bool(part.any()) for part in parts):
        return None
    return comfy.utils.pack_latents(parts)[0] if len(parts) > 1 else parts[0]


def _noisy(mask: Tensor, learned: bool, by_step: bool) -> Tensor:
    """For all of a clip (b, ...) or nothing of it."""
    flat = mask.flatten(1)
    partly = flat.amin(dim=1) != flat.amax(dim=1)
    graded = ((flat > 0) & (flat < 1)).any(dim=1)
    clips = (partly & (not learned)) | (graded & by_step)
    return clips.reshape(-1, *[1] * (mask.ndim - 1)).expand(mask.shape)


def mask_for_timesteps(mask: Tensor) -> Tensor:
    """The mask in one channel, and in one value where it is the same all over, or for each such frame."""
    # A time per token makes the modulation as large as the tokens, one per frame costs for each frame.
    mask = mask.amax(dim=1, keepdim=True)
    if torch.equal(mask.flatten(1).amin(dim=1), mask.flatten(1).amax(dim=1)):
        return mask[:, :, :1] if mask.ndim == 3 else mask[:, :, :1, :1, :1]
    if mask.ndim == 5 and torch.equal(mask.amin(dim=(3, 4)), mask.amax(dim=(3, 4))):
        return mask[..., :1, :1]  # (b, 1, t, 1, 1)
    return mask
