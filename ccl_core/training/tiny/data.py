"""Training data of ccl-tiny: world clips as latents and text embeddings, made once and kept in one file."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import comfy.latent_formats
import comfy.sd
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..flow import Batch
from ..world import scene
from ..world.captions import held_out, paraphrase
from ..world.clip import Attributes, Clip
from ..world.shares import EASY, World
from .video_vae import encode_moments, pixels_of, use_channels_last

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
        video = self.video.float()
        # The median over time is the empty room: shapes seldom stand at one place for half a clip.
        still = video.median(dim=2, keepdim=True).values
        change = (video - still).square().mean(dim=1, keepdim=True).sqrt()
        self.motion = change.clamp(max=1).half()  # (n, 1, t, h, w): where the shape is
        self.loudness = (self.audio.float() - self.audio.float().amin(dim=2, keepdim=True)).mean(
            dim=1, keepdim=True
        )
        self.loudness = (self.loudness / self.loudness.std()).clamp(max=2).half()  # (n, 1, a)

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


def trained_clips(seed: int, frames: int, objects: int | None = None, world: World = EASY) -> Iterator[Clip]:
    """World clips without the held-out combinations, alone or beside another object."""
    drawn = scene.clips(seed, frames=frames, objects=objects, world=world)
    return (clip for clip in drawn if not any(map(held_out, clip.objects)))


def caption_of(rng: random.Random, clip: Clip) -> str:
    """The world's own caption, or a paraphrase of what it says, in either order of the objects."""
    if rng.random() < 0.5:
        return clip.caption
    stated = [
        Attributes(colour=thing.colour, shape=thing.shape, motion=thing.motion, sound=thing.sound)
        for thing in clip.objects
    ]
    return paraphrase(rng, *rng.sample(stated, len(stated)), ambience=clip.ambience)


class Mixture:
    """The data files of a folder, whose clips may differ in length from file to file.

    Each batch comes from one file, as often as it has clips.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.datasets: dict[Path, Dataset] = {}
        self.refresh()
        if not self.datasets:
            raise ValueError(f"{folder} holds no data-*.safetensors: run the data stage first")

    def refresh(self) -> None:
        """Read files that have come since; encoding may go on while the training runs."""
        for path in sorted(self.folder.glob("data-*.safetensors")):
            if path not in self.datasets:
                self.datasets[path] = Dataset(load_file(path))
                log.info("%s: %d clips", path.name, len(self.datasets[path]))
        self.sizes = torch.tensor([len(dataset) for dataset in self.datasets.values()], dtype=torch.float32)

    def draw(self, generator: torch.Generator, batch: int, text_drop: float) -> Batch:
        chosen = int(torch.multinomial(self.sizes, 1, generator=generator))
        return list(self.datasets.values())[chosen].draw(generator, batch, text_drop)
