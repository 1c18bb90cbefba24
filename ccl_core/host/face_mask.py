"""The face mask of a coupling (UniAVGen): made stronger or replaced in a MODEL, and looked at in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..alignment.timeline import frames_of, latent_frames_of, pixel_frames
from ..config import CCLConfig
from ..model.interactions.asymmetric import FACE_MASK
from ..model.sparse import GRID
from ..notices import notice
from .guider import AVGuider
from .media.encode import fit_images
from .media.latents import model_grid, split

# Of the picture where the mask is 0, so that the rest can be recognised.
DARK = 0.25


def has_face_mask(config: CCLConfig) -> bool:
    """Whether the coupling of a model has a face mask."""
    return bool(getattr(config.interaction.options, "face_mask", False))


def on_tokens(mask: Tensor, height: int, width: int) -> Tensor:
    """Frames (f, h, w) on the tokens of latent frames, the mean of what each covers: (t, height, width)."""
    spans = map(pixel_frames, range(latent_frames_of(len(mask))))
    frames = torch.stack([mask[span.start : span.stop].mean(dim=0) for span in spans])
    return torch.nn.functional.adaptive_avg_pool2d(frames[:, None], (height, width))[:, 0]


def on_pixels(tokens: Tensor, cell: int, size: tuple[int, int]) -> Tensor:
    """Tokens (b, t, h, w) as frames (b * f, height, width) of this size; cell: pixels of a token's side."""
    counts = torch.tensor([len(pixel_frames(i)) for i in range(tokens.shape[1])])
    frames = tokens.repeat_interleave(counts, dim=1).flatten(0, 1)
    whole = frames.repeat_interleave(cell, dim=1).repeat_interleave(cell, dim=2)
    return whole[:, : size[0], : size[1]]


def frames_in(options: dict[str, Any]) -> Sequence[int]:
    """The latent frames of the clip that a pass sees: all, or those of a context window."""
    window = options.get("context_window")
    if window is None:
        return range(options[GRID].size[0])
    anchor = getattr(window, "causal_anchor_index", None)
    return [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]


class FaceModulation:
    """The change of a face mask (b, v, 1): times `strength`, at most 1.

    mask: frames (f, h, w) that take the place of the predicted one, None: it stays.
    """

    def __init__(self, strength: float, mask: Tensor | None) -> None:
        self.strength = strength
        self.mask = mask
        # On tokens, by their rows and columns and the device.
        self.tokens: dict[tuple[int, int, torch.device], Tensor] = {}

    def __call__(self, mask: Tensor, options: dict[str, Any]) -> Tensor:
        own = mask if self.mask is None else self._given(options, mask.device).to(mask.dtype)
        return (own.expand_as(mask) * self.strength).clamp(max=1)

    # (1, v, 1); one frame stands for all, the last one for those behind it.
    def _given(self, options: dict[str, Any], device: torch.device) -> Tensor:
        _, height, width = options[GRID].size
        frames = frames_in(options)
        key = height, width, device
        if key not in self.tokens:
            self.tokens[key] = on_tokens(self.mask, height, width).to(device)
            self._tell_of_length(options, len(frames))
        of_clip = self.tokens[key]
        chosen = [min(frame, len(of_clip) - 1) for frame in frames]
        return of_clip[chosen].reshape(1, -1, 1)

    def _tell_of_length(self, options: dict[str, Any], frames: int) -> None:
        window = options.get("context_window")
        wanted = frames_of(frames if window is None else window.total_frames)
        if len(self.mask) not in (1, wanted):
            much = len(self.mask) > wanted
            left = "those behind its end are left out" if much else "the last one fills the rest"
            notice(f"the face mask has {len(self.mask)} frames, the video {wanted}: {left}")


def with_face_modulation(model: ModelPatcher, strength: float, mask: Tensor | None) -> ModelPatcher:
    """A clone whose face mask is changed; of several changes the last one counts.

    mask: (f, h, w) in 0..1. ValueError for one of other axes, or with numbers that are not finite.
    """
    if mask is not None and (mask.ndim != 3 or 0 in mask.shape or not torch.isfinite(mask).all()):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} or numbers that are not finite, wanted (frames, height, "
            "width) of 0 to 1: check the node that made it"
        )
    clone = model.clone()
    given = None if mask is None else mask.float().clamp(0, 1).cpu()
    # The clone has option dicts of its own.
    clone.model_options["transformer_options"][FACE_MASK] = FaceModulation(strength, given)
    return clone


class Look:
    """Hands a face mask on as it is, or changed, and adds it up by latent frame: (clips, t, h, w)."""

    def __init__(self, clips: int, frames: int, change: Callable[..., Tensor] | None) -> None:
        self.clips = clips
        self.frames = frames
        self.change = change
        self.total: Tensor | None = None
        self.count = torch.zeros(frames)

    def __call__(self, mask: Tensor, options: dict[str, Any]) -> Tensor:
        frames, size = list(frames_in(options)), options[GRID].size
        # The rows of a pass are the clips, once for each text.
        seen = mask.float().cpu().unflatten(0, (-1, self.clips)).mean(dim=0).view(self.clips, *size)
        if self.total is None:
            self.total = torch.zeros(self.clips, self.frames, *size[1:])
        self.total[:, frames] += seen
        self.count[frames] += 1
        return mask if self.change is None else self.change(mask, options)

    @property
    def mean(self) -> Tensor:
        """Over layers and windows."""
        return self.total / self.count[:, None, None]


def look_at_mask(model: ModelPatcher, positive: list, latent: dict[str, Any], sigma: float) -> Tensor:
    """The face mask (b * f, height, width) that one pass at this noise level predicts, mean over its layers.

    ValueError for a latent whose video is absent.
    """
    video = split(latent).video
    grid = model_grid(model)
    size = video.shape[-2] * grid.spatial_stride, video.shape[-1] * grid.spatial_stride
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    look = Look(video.shape[0], video.shape[2], options.get(FACE_MASK))
    options[FACE_MASK] = look
    _pass(clone, positive, latent, sigma)
    if look.total is None:
        raise ValueError("latent has no video, so no face mask: give a latent whose video is made or kept")
    return on_pixels(look.mean, grid.cell, size)


def _pass(model: ModelPatcher, positive: list, latent: dict[str, Any], sigma: float) -> None:
    """One pass of the model over a latent with noise of this level."""
    guider = AVGuider(model)
    guider.set_conds(positive, positive)
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, 0)
    sampler = comfy.samplers.KSAMPLER(_once)
    sigmas = torch.tensor([sigma, 0.0])
    mask = latent.get("noise_mask")
    guider.sample(noise, samples, sampler, sigmas, denoise_mask=mask, disable_pbar=True, seed=0)


def _once(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None, **_: Any
) -> Tensor:
    """A sampler of the host that asks the model once and changes nothing."""
    model(x, sigmas[:1].expand(x.shape[0]), **(extra_args or {}))
    return x


def overlay(mask: Tensor, images: Tensor | None) -> Tensor:
    """A mask (f, h, w) over pictures (n, ., ., 3), of which the last one goes on; in grey without any."""
    light = mask[..., None]
    if images is None:
        return light.expand(-1, -1, -1, 3)
    chosen = [min(i, len(images) - 1) for i in range(len(mask))]
    pictures = fit_images(images, mask.shape[2], mask.shape[1], "stretch")[chosen]
    return pictures * (DARK + (1 - DARK) * light.to(pictures))
