"""Training data of ccl-tiny: world clips as latents and text embeddings, made once and kept in one file."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import comfy.sd
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import world
from .captions import Attributes, paraphrase
from .video_vae import encode_moments, pixels_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Clean latents of some clips: video (b, c, t, h, w), audio (b, m, a), text (b, n, d), and weights of their losses."""

    video: Tensor
    audio: Tensor
    text: Tensor
    video_weight: Tensor  # (b, 1, t, h, w)
    audio_weight: Tensor  # (b, 1, a)


@dataclass(frozen=True)
class Encoders:
    """The frozen autoencoders and the text encoder, as the host loads them."""

    video: comfy.sd.VAE
    audio: comfy.sd.VAE
    text: comfy.sd.CLIP

    def encode_clips(self, clips: list[world.Clip], captions: list[str]) -> dict[str, Tensor]:
        pixels = pixels_of(np.stack([clip.frames for clip in clips]))
        waveforms = torch.from_numpy(np.stack([clip.waveform for clip in clips]))[:, None]
        latent, _ = encode_moments(self.video.first_stage_model, pixels)
        return {
            "video": self.normalise(latent).half(),
            "audio": self.audio.first_stage_model.encode(waveforms).half(),
            "text": torch.cat([self.encode_text(caption) for caption in captions]).half(),
        }

    @staticmethod
    def normalise(latent: Tensor) -> Tensor:
        return comfy.latent_formats.Wan21().process_in(latent)

    def encode_text(self, caption: str) -> Tensor:
        """(1, n, d); captions of the world fit the shortest context, so all have the same n."""
        return self.text.encode_from_tokens_scheduled(self.text.tokenize(caption))[0][0]


class Dataset:
    """Encoded clips in memory. Shorter clips are the first latents of longer ones: the video encoder is causal."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.video, self.audio, self.text = tensors["video"], tensors["audio"], tensors["text"]
        self.no_text = tensors["no_text"]  # (1, n, d)
        video = self.video.float()
        still = video.median(dim=2, keepdim=True).values
        change = (video - still).square().mean(dim=1, keepdim=True).sqrt()
        self.motion = change.clamp(max=1).half()  # (n, 1, t, h, w): where the shape is
        self.loudness = (self.audio.float() - self.audio.float().amin(dim=2, keepdim=True)).mean(dim=1, keepdim=True)
        self.loudness = (self.loudness / self.loudness.std()).clamp(max=2).half()  # (n, 1, a)

    def __len__(self) -> int:
        return len(self.video)

    def draw(self, generator: torch.Generator, batch: int, lengths: tuple[int, ...], text_drop: float) -> Batch:
        rows = torch.randint(len(self), (batch,), generator=generator)
        frames = lengths[int(torch.randint(len(lengths), (1,), generator=generator))]
        tokens = round(self.audio.shape[-1] * (4 * frames - 3) / (4 * self.video.shape[2] - 3))
        dropped = torch.rand(batch, 1, 1, generator=generator) < text_drop
        return Batch(
            video=self.video[rows, :, :frames].float(),
            audio=self.audio[rows, :, :tokens].float(),
            text=torch.where(dropped, self.no_text.float(), self.text[rows].float()),
            video_weight=1 + 3 * self.motion[rows, :, :frames].float(),
            audio_weight=1 + self.loudness[rows, :, :tokens].float(),
        )


def make(encoders: Encoders, path: Path, clips: int, seed: int, frames: int = 45, chunk: int = 16) -> Path:
    """Encode `clips` world clips of `frames` pixel frames into `path`."""
    source = world.clips(seed, frames=frames)
    rng = random.Random(seed)
    parts = []
    for done in range(0, clips, chunk):
        drawn = [next(source) for _ in range(min(chunk, clips - done))]
        parts.append(encoders.encode_clips(drawn, [caption_of(rng, clip) for clip in drawn]))
        log.info("encoded %d of %d clips", done + len(drawn), clips)
    tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    save_file(tensors | {"no_text": encoders.encode_text("").half()}, path)
    return path


def caption_of(rng: random.Random, clip: world.Clip) -> str:
    """The world's own caption, or a paraphrase of what it says."""
    if rng.random() < 0.5:
        return clip.caption
    said = Attributes(size=None, colour=clip.colour, shape=clip.shape, motion=clip.motion, sound=clip.sound)
    return paraphrase(rng, said)


def load(path: Path) -> Dataset:
    return Dataset(load_file(path))
