"""An AV latent made larger for a second pass over its picture, its sound kept."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import torch
from comfy.sd import VAE
from comfy.utils import common_upscale

from ...notices import told
from ...tasks import CHOICES
from ..vae.sockets import require_video_vae
from .latents import AVLatent
from .states import is_absent, require_content, set_states, settled


def upscaled(av: AVLatent, factor: Fraction, method: str, vae: VAE | None = None) -> AVLatent:
    """The latent with a video so many times as high and wide, all to be renewed, and the sound given.

    vae: of the video; the pictures are enlarged instead of their latents. ValueError for an empty stream.
    """
    require_content(av.video, "the picture of the latent", "an upscale")
    size = _size(av.video, factor, av.grid.patch)
    if vae is None:
        video = common_upscale(av.video, size[1], size[0], method, "disabled")
    else:
        require_video_vae(vae, av.video.shape[1], av.grid)
        video = torch.cat([_through_pictures(clip, size, method, vae) for clip in av.video])
    larger = replace(av, video=video.to(av.video), video_mask=None)
    silent = larger.audio is None or is_absent(larger, "audio")
    task = "t2v" if silent else "a2v"
    made = set_states(larger, CHOICES[task], task)
    return settled(replace(made, rest={**made.rest, "task": task}))


def _size(video: torch.Tensor, factor: Fraction, patch: int) -> tuple[int, int]:
    """Height and width in latent cells, whole patches nearest to the wanted ones."""
    sides = [patch * max(1, round(factor * side / patch)) for side in video.shape[-2:]]
    exact = [factor * side for side in video.shape[-2:]]
    if sides != exact:
        (height, width), before = sides, video.shape[-2:]
        told(
            f"{before[1]} x {before[0]} latent cells became {width} x {height}, the nearest size of whole "
            f"patches to {float(factor):g} times"
        )
    return sides[0], sides[1]


def _through_pictures(clip: torch.Tensor, size: tuple[int, int], method: str, vae: VAE) -> torch.Tensor:
    """A clip (c, t, h, w) decoded, enlarged and encoded again: (1, c, t, *size)."""
    frames = vae.decode(clip[None])[0][..., :3]  # (f, h, w, c)
    stride = frames.shape[1] // clip.shape[-2], frames.shape[2] // clip.shape[-1]
    height, width = (cells * step for cells, step in zip(size, stride, strict=True))
    larger = common_upscale(frames.movedim(-1, 1), width, height, method, "disabled")
    return vae.encode(larger.movedim(1, -1).clamp(0, 1))
