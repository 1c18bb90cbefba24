"""AV latents to frames and sound, with progress and cancel inside the VAE, and both streams equally long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.sd import VAE

from ...alignment.time_grid import WAN, TimeGrid
from ...alignment.timeline import samples_of
from ...notices import notice
from ..out_of_memory import advising, is_out_of_memory, require_ram
from ..vae.sockets import output_sample_rate, require_audio_vae, require_video_vae

# Of the silence of a latent without sound, in Hz: what players expect, since no VAE says one.
SILENCE_RATE = 44100
# A sound lowered by less than 1 dB is not told of, since it is not heard.
AUDIBLE = 10 ** (1 / 20)
# Pixels and frames of the tiles for a video that finds no memory as a whole.
SMALL_TILES = {"size": 256, "overlap": 64, "frames": 16, "frames_overlap": 4}


@dataclass(frozen=True)
class Tiling:
    """Tiles of a decode in latent cells and latent frames."""

    size: int
    overlap: int
    frames: int
    frames_overlap: int

    @classmethod
    def from_pixels(cls, vae: VAE, size: int, overlap: int, frames: int, frames_overlap: int) -> Tiling:
        """The same in pixels and frames; overlaps that leave no room to advance are shortened."""
        side = vae.spacial_compression_decode()
        size = max(2, size // side)
        stride = vae.temporal_compression_decode()
        frames = max(2, frames // stride)
        # As the host's VAEDecodeTiled: a tile must be larger than its overlap to get on.
        frames_overlap = max(1, min(frames // 2, frames_overlap // stride))
        return cls(size, min(overlap // side, size // 4), frames, frames_overlap)

    def cells(self, shape: tuple[int, ...]) -> int:
        """Latent cells in all tiles of the host's tiled decode of (b, c, t, h, w), overlaps counted twice."""
        batch, _, frames, height, width = shape
        times = _covered(frames, self.frames, self.frames_overlap)
        rows = _covered(height, self.size, self.overlap)
        columns = _covered(width, self.size, self.overlap)
        return batch * times * rows * columns


def decode_video(
    vae: VAE, video: torch.Tensor, tiling: Tiling | None = None, grid: TimeGrid = WAN
) -> torch.Tensor:
    """(b, c, t, h, w) -> (b, f, h, w, 3). Where the whole finds no memory, in small tiles."""
    require_video_vae(vae, video.shape[1], grid)
    batch, _, latent_frames, height, width = video.shape
    side, frames = vae.spacial_compression_decode(), grid.video.before(latent_frames)
    require_ram(
        4 * 3 * batch * frames * height * width * side**2,  # bytes of float32
        f"{batch} x {frames} frames of {width * side} x {height * side} pixels",
        "decode fewer or smaller clips, a part of the latent after the other (LatentCut behind "
        "LTXVSeparateAVLatent)",
    )
    if tiling is None:
        try:
            return _decode_video(vae, video, None)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        tiling = Tiling.from_pixels(vae, **SMALL_TILES)
        size, frames = SMALL_TILES["size"], SMALL_TILES["frames"]
        notice(
            f"out of memory while decoding {tuple(video.shape)} at once: decoded again in tiles of {size} "
            f"pixels and {frames} frames, whose seams may be seen. Choose tiling on for tiles of your own"
        )
    with advising(f"decoding a video latent {tuple(video.shape)} in tiles", lambda: _smaller(vae, tiling)):
        return _decode_video(vae, video, tiling)


def _smaller(vae: VAE, tiling: Tiling) -> str:
    """What helps where tiles found no memory."""
    side = vae.spacial_compression_decode()
    pixels, frames = tiling.size * side, tiling.frames * vae.temporal_compression_decode()
    return (
        f"A tile had {pixels} pixels a side and {frames} frames. In Decode Audio-Video (CCL) choose tiling "
        "on, with a smaller tile_size and temporal_size. The sampled latent is not lost: save it with "
        "CCLSaveAVLatent"
    )


def _decode_video(vae: VAE, video: torch.Tensor, tiling: Tiling | None) -> torch.Tensor:
    cells = video[:, 0].numel() if tiling is None else tiling.cells(tuple(video.shape))
    with progress(vae.first_stage_model, cells):
        if tiling is None:
            return vae.decode(video)
        return vae.decode_tiled(
            video,
            tile_x=tiling.size,
            tile_y=tiling.size,
            overlap=tiling.overlap,
            tile_t=tiling.frames,
            overlap_t=tiling.frames_overlap,
        )


def decode_audio(vae: VAE, latent: torch.Tensor, seconds: Fraction, grid: TimeGrid = WAN) -> dict[str, Any]:
    """(b, c, a), or the axes of the model, -> an AUDIO of exactly this duration, as loud as the VAE made it
    unless it would clip.
    """
    require_audio_vae(vae, latent.shape[1], grid)
    rate = output_sample_rate(vae)
    with advising(
        f"decoding {float(seconds):g} s of sound, {latent.shape[0]} at once",
        lambda: (
            "Decode fewer clips at once or a shorter sound, or take VAEDecodeAudioTiled behind "
            "LTXVSeparateAVLatent"
        ),
    ):
        waveform = vae.decode(latent).movedim(-1, 1).float()  # (b, ch, n)
    comfy.model_management.throw_exception_if_processing_interrupted()
    return {"waveform": fit_samples(limit_peak(waveform), samples_of(seconds, rate)), "sample_rate": rate}


def silence(batch: int, seconds: Fraction, rate: int = SILENCE_RATE) -> dict[str, Any]:
    """The AUDIO of a video without sound."""
    device = comfy.model_management.intermediate_device()
    return {"waveform": torch.zeros(batch, 1, samples_of(seconds, rate), device=device), "sample_rate": rate}


def limit_peak(waveform: torch.Tensor) -> torch.Tensor:
    """Scale each sound (b, ch, n) that leaves -1..1 back into it; the others stay as they are."""
    # A sample that is NaN or infinite says nothing of the loudness of the others.
    # The host's `vae_decode_audio` divides by five standard deviations instead, which changes the loudness.
    peak = waveform.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=(1, 2), keepdim=True)
    most = peak.max().item()
    if most > AUDIBLE:
        lowered = f"it is lowered by {20 * math.log10(most):.1f} dB as a whole"
        remedy = "If it is distorted take another seed, or a lower audio_cfg in the sampler"
        notice(f"the decoded sound reaches {most:.2f} of full scale: {lowered}. {remedy}")
    return waveform / peak.clamp(min=1)


def fit_samples(waveform: torch.Tensor, samples: int) -> torch.Tensor:
    """Trim, or pad with silence."""
    return torch.nn.functional.pad(waveform[..., :samples], (0, max(0, samples - waveform.shape[-1])))


@contextmanager
def progress(first_stage: torch.nn.Module, cells: int) -> Iterator[None]:
    """Progress bar and cancel while a VAE decodes."""
    bar = comfy.utils.ProgressBar(cells)

    # Wan's VAE calls its decoder once for each chunk of latent frames, and the host once for each tile.
    def next_chunk(_decoder: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(inputs[0][:, 0].numel())

    decoder = getattr(first_stage, "decoder", None)
    handle = decoder.register_forward_pre_hook(next_chunk) if isinstance(decoder, torch.nn.Module) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
    bar.update_absolute(cells)


def _covered(length: int, tile: int, overlap: int) -> int:
    """Cells of an axis in all its tiles together, placed as the host's `tiled_scale_multidim` places them."""
    if length <= tile:
        return length
    return sum(min(tile, length - start) for start in range(0, length - overlap, tile - overlap))
