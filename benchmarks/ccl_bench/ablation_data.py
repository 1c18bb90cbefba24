"""Training data of benchmarks/method.py: world clips as latents and text embeddings, kept in files."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.latent_formats
import comfy.sd
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ccl_pack.ccl_core.training.flow import Batch, level, loudness, motion
from ccl_pack.ccl_core.training.tiny.clips import caption_of, trained_clips
from ccl_pack.ccl_core.training.tiny.video_vae import encode_moments, pixels_of, use_channels_last

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.world.clip import Clip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorldEncoders:
    """The frozen autoencoders and the text encoder, as the host loads them."""

    video: comfy.sd.VAE
    audio: comfy.sd.VAE
    text: comfy.sd.CLIP

    def encode_clips(self, clips: list[Clip], rng: random.Random) -> dict[str, Tensor]:
        pixels = pixels_of(np.stack([clip.frames for clip in clips])).contiguous(
            memory_format=torch.channels_last_3d
        )
        waveforms = torch.from_numpy(np.stack([clip.waveform for clip in clips]))[:, None]
        # bf16 halves the time where the processor has it, and its error is far below the noise of the latent.
        # Other processors emulate bf16, which is slower than fp32.
        with torch.autocast(
            "cpu", torch.bfloat16, enabled="AVX512" in torch.backends.cpu.get_cpu_capability()
        ):
            latent, _ = encode_moments(self.video.first_stage_model, pixels)
        return {
            "video": self.normalise(latent.float()).half(),
            "audio": self.audio.first_stage_model.encode(waveforms).half(),
            "text": torch.cat([self.encode_caption(rng, clip) for clip in clips]).half(),
        }

    @staticmethod
    def normalise(latent: Tensor) -> Tensor:
        return comfy.latent_formats.Wan21().process_in(latent)

    def encode_caption(self, rng: random.Random, clip: Clip) -> Tensor:
        """A caption of the clip that fits the shortest context, so that all have the same length."""
        caption = caption_of(rng, clip)
        return self.encode_text(caption if self.fits(caption) else clip.caption)

    def fits(self, caption: str) -> bool:
        """Whether it needs no more tokens than the shortest context has."""
        return self.encode_text(caption).shape[1] == self.no_text.shape[1]

    @cached_property
    def no_text(self) -> Tensor:
        return self.encode_text("")

    def encode_text(self, caption: str) -> Tensor:  # (1, n, d)
        return self.text.encode_from_tokens_scheduled(self.text.tokenize(caption))[0][0]


class Dataset:
    """Encoded clips of one length in memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.video = tensors["video"]
        self.audio = tensors["audio"]
        self.text = tensors["text"]
        self.no_text = tensors["no_text"]  # (1, n, d)
        self.motion = motion(self.video.float()).half()  # (n, 1, t, h, w): where the shape is
        deviation = float(level(self.audio.float()).std())
        self.loudness = loudness(self.audio.float(), deviation).half()  # (n, 1, a)

    def __len__(self) -> int:
        return len(self.video)

    def draw(self, generator: torch.Generator, batch: int, text_drop: float) -> Batch:
        rows = torch.randint(len(self), (batch,), generator=generator)
        dropped = torch.rand(batch, 1, 1, generator=generator) < text_drop
        return Batch(
            video=self.video[rows].float(),
            audio=self.audio[rows].float(),
            text=torch.where(dropped, self.no_text.float(), self.text[rows].float()),
            # Most of a clip is dark and silent: losses weigh more where a shape moves and where sound is.
            video_weight=1 + 3 * self.motion[rows].float(),
            audio_weight=1 + self.loudness[rows].float(),
        )


@torch.no_grad()
def make(
    encoders: WorldEncoders,
    path: Path,
    clips: int,
    seed: int,
    frames: int,
    objects: int | None = None,
    chunk: int = 8,
) -> Path:
    """Encode `clips` world clips of `frames` pixel frames, whose captions fit the text encoder, into `path`.

    objects: in each clip; None: one or two, as the world draws them.
    """
    use_channels_last(encoders.video.first_stage_model)
    source = (clip for clip in trained_clips(seed, frames, objects) if encoders.fits(clip.caption))
    rng = random.Random(seed)
    parts = []
    for done in range(0, clips, chunk):
        drawn = [next(source) for _ in range(min(chunk, clips - done))]
        parts.append(encoders.encode_clips(drawn, rng))
        if done % (10 * chunk) == 0:
            log.info("encoded %d of %d clips", done + len(drawn), clips)
    save_file(joined(parts) | {"no_text": encoders.no_text.half()}, path.with_suffix(".part"))
    return path.with_suffix(".part").replace(path)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Encoded clips of several parts as one."""
    tensors = {}
    for key in parts[0]:
        tensors[key] = torch.cat([part[key] for part in parts]).contiguous()
    return tensors


class Mixture:
    """The data files of a folder, whose clips may differ in length from file to file.

    Each batch comes from one file, as often as it has clips.
    """

    def __init__(self, folder: Path) -> None:
        self.datasets = [Dataset(load_file(path)) for path in sorted(folder.glob("data-*.safetensors"))]
        if not self.datasets:
            raise ValueError(f"{folder} holds no data-*.safetensors: start the script anew, which makes them")
        self.sizes = torch.tensor([len(dataset) for dataset in self.datasets], dtype=torch.float32)

    def draw(self, generator: torch.Generator, batch: int, text_drop: float) -> Batch:
        chosen = int(torch.multinomial(self.sizes, 1, generator=generator))
        return self.datasets[chosen].draw(generator, batch, text_drop)
