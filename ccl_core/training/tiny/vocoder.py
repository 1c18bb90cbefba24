"""Training of ccl-tiny's audio VAE: a Vocos vocoder on the sounds of the procedural world."""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from safetensors.torch import save_file
from torch import Tensor, nn

from ...host.vae.audio import load_audio_vae_file
from ...metrics.matching import NARROW, match_events
from ...model.audio.vocos import Vocos, VocosConfig
from ..world import scene
from ..world.judge import hear, judge_sounds

log = logging.getLogger(__name__)

# 32 tokens per second. A window of two tokens keeps energy local and still tells where within a token a sound
# begins.
TINY = VocosConfig(
    sample_rate=scene.SAMPLE_RATE,
    hop=500,
    mels=32,
    mel_n_fft=1000,
    n_fft=1000,
    dim=128,
    intermediate_dim=384,
    layers=4,
    padding="same",
)
# The windows and the filter bank, which the model computes from its configuration.
COMPUTED = ("feature_extractor.", "head.istft.")
# Samples around an onset, 4 ms and 30 ms at 16 kHz.
BEFORE = 64
AFTER = 480


@dataclass(frozen=True)
class VocoderRecipe:
    """Everything that decides the result besides the world itself."""

    steps: int = 3000
    minutes: float = 60.0
    seed: int = 0
    clips: int = 1024
    frames: int = 45
    batch: int = 8
    piece_tokens: int = 32
    learning_rate: float = 1.5e-3
    # Silence must not be a far outlier of the latent: a generated one is never exactly silent.
    floor: float = math.log(0.03)
    # The joint model's latents carry errors of this order, in units of the normalised latent.
    latent_noise: float = 0.12
    resolutions: tuple[int, ...] = (128, 512, 1024)
    # Small: a mel does not tell the phase of a high tone, and L1 against an unknown phase teaches silence.
    onset_weight: float = 0.5
    threads: int = 1


@dataclass(frozen=True)
class Pool:
    """Sounds of the world to draw from: (clips, n), and the sample of every onset."""

    waveforms: Tensor
    onsets: list[list[int]]

    @classmethod
    def draw(cls, seed: int, count: int, frames: int) -> Pool:
        drawn = [clip for clip, _ in zip(scene.clips(seed, frames=frames), range(count), strict=False)]
        waveforms = torch.from_numpy(np.stack([clip.waveform for clip in drawn]))
        return cls(waveforms, [samples_of(clip) for clip in drawn])


def samples_of(clip: scene.Clip) -> list[int]:
    """The samples at which a clip's sounds begin."""
    return [round(contact * scene.SAMPLE_RATE) for contact in clip.contacts]


def measure_latent(vocos: Vocos, waveforms: Tensor, floor: float) -> None:
    """Set the floor, and mean and standard deviation of every band over the world.

    Bands that seldom sound get the average deviation: divided by their own, their onsets would tower over all
    others.
    """
    vocos.latent_floor.fill_(floor)
    mel = torch.cat([vocos.mel(part) for part in waveforms.split(64)])
    vocos.latent_mean.copy_(mel.mean(dim=(0, 2)))
    deviation = mel.std(dim=(0, 2))
    vocos.latent_std.copy_(deviation.clamp(min=float(deviation.mean())))


def magnitudes(waveform: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size)
    spectrum = torch.stft(waveform, size, size // 4, window=window, return_complex=True)
    # The square root has no gradient at 0, and silence is most of the world.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt() / window.sum()


class SpectralLoss:
    """Multi-resolution STFT loss (arXiv 1910.11480): log magnitude, convergence, mel bands at a fine hop."""

    def __init__(self, resolutions: tuple[int, ...], sample_rate: int) -> None:
        self.resolutions = resolutions
        self.fb = torchaudio.functional.melscale_fbanks(257, 0.0, sample_rate / 2, 40, sample_rate)

    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        total = made.new_zeros(())
        for size in self.resolutions:
            a = magnitudes(made, size)
            b = magnitudes(real, size)
            convergence = (a - b).norm() / b.norm().clamp(min=1e-3)
            # The offsets keep the logarithm of silence finite, far below what is heard.
            total = total + F.l1_loss((a + 3e-4).log(), (b + 3e-4).log()) + convergence
            # The bank has 257 bins, those of a window of 512.
            if size == 512:
                total = total + F.l1_loss((self.fb.T @ a + 1e-3).log(), (self.fb.T @ b + 1e-3).log())
        return total


def onset_loss(made: Tensor, real: Tensor, onsets: list[list[int]]) -> Tensor:
    """L1 of the samples from 4 ms before to 30 ms after every onset, where ear and metric look."""
    weight = torch.zeros_like(real)
    for row, samples in zip(weight, onsets, strict=True):
        for sample in samples:
            row[max(0, sample - BEFORE) : sample + AFTER] = 1
    return ((made - real).abs() * weight).sum() / weight.sum().clamp(min=1)


def draw_pieces(
    pool: Pool, rng: np.random.Generator, recipe: VocoderRecipe
) -> tuple[Tensor, list[list[int]]]:
    """Pieces that begin at any sample, so that onsets fall anywhere in a token; each has an onset."""
    pieces = []
    onsets = []
    length = recipe.piece_tokens * TINY.hop
    for index in rng.integers(0, len(pool.onsets), recipe.batch):
        onset = int(rng.choice(pool.onsets[index]))
        begin = int(
            rng.integers(max(0, onset - length + AFTER), min(onset, pool.waveforms.shape[1] - length) + 1)
        )
        pieces.append(pool.waveforms[index, begin : begin + length])
        onsets.append([other - begin for other in pool.onsets[index] if begin <= other < begin + length])
    return torch.stack(pieces), onsets


def batch_loss(
    vocos: Vocos, spectral: SpectralLoss, real: Tensor, onsets: list[list[int]], recipe: VocoderRecipe
) -> Tensor:
    with torch.no_grad():
        latent = vocos.encode(real[:, None])
        latent = latent + recipe.latent_noise * torch.rand(len(latent), 1, 1) * torch.randn_like(latent)
    made = vocos.decode(latent)[:, 0]
    return spectral(made, real) + recipe.onset_weight * onset_loss(made, real, onsets)


def train_vocoder(out: Path, recipe: VocoderRecipe | None = None) -> Path:
    """Train for the recipe's minutes (or steps) and save the audio VAE to `out`."""
    recipe = recipe or VocoderRecipe()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    pool = Pool.draw(recipe.seed, recipe.clips, recipe.frames)
    vocos = Vocos(TINY, operations=nn)
    with torch.no_grad():
        measure_latent(vocos, pool.waveforms, recipe.floor)
    spectral = SpectralLoss(recipe.resolutions, TINY.sample_rate)
    optimiser = torch.optim.AdamW(
        vocos.parameters(), lr=recipe.learning_rate, betas=(0.8, 0.99), weight_decay=1e-3
    )
    begin = time.monotonic()
    average = 0.0
    for step in range(recipe.steps):
        done = max((time.monotonic() - begin) / (60 * recipe.minutes), step / recipe.steps)
        if done >= 1:
            break
        # A cosine from 1 to .02, after a warm-up of 100 steps.
        falling = 0.02 + 0.49 * (1 + math.cos(math.pi * done))
        rate = recipe.learning_rate * min(1, (step + 1) / 100) * falling
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = batch_loss(vocos, spectral, *draw_pieces(pool, rng, recipe), recipe)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vocos.parameters(), 1.0)
        optimiser.step()
        average += (loss.item() - average) * max(0.02, 1 / (step + 1))
        if step % 100 == 0 or step == recipe.steps - 1:
            log.info("step %d, %.0f s, loss %.4f", step, time.monotonic() - begin, average)
    return export_vocoder(vocos, out)


def export_vocoder(vocos: Vocos, out: Path) -> Path:
    """Save what cannot be computed; the windows and the filter bank can, exactly."""
    kept = {
        key: value.contiguous() for key, value in vocos.state_dict().items() if not key.startswith(COMPUTED)
    }
    config = vocos.config
    sizes = {
        "sample_rate": config.sample_rate,
        "hop_length": config.hop,
        "padding": config.padding,
        "mel_n_fft": config.mel_n_fft,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, out, metadata={"vocos_config": json.dumps(sizes)})
    return out


def evaluate(path: Path, seed: int, clips: int = 64, latent_noise: float = 0.0) -> dict[str, float]:
    """What unseen clips keep in a round trip through the file: onsets within 62.5 ms, kinds of sound."""
    vae = load_audio_vae_file(str(path))
    generator = torch.Generator().manual_seed(seed)
    errors: list[float] = []
    contacts = onsets = objects = right = 0
    for clip, _ in zip(scene.clips(seed), range(clips), strict=False):
        latent = vae.encode(torch.from_numpy(clip.waveform)[None, :, None])
        made = vae.decode(latent + latent_noise * torch.randn(latent.shape, generator=generator))[0, :, 0]
        heard = hear(made, scene.SAMPLE_RATE)
        contacts += len(clip.contacts)
        onsets += len(heard)
        pairs = match_events(clip.contacts, [onset.time for onset in heard], NARROW).pairs
        errors += [1000 * abs(contact - onset) for contact, onset in pairs]
        asked = [thing.sound for thing in clip.objects]
        sounds = judge_sounds(heard, [thing.contacts for thing in clip.objects], asked)
        objects += len(asked)
        right += sum(sound == wanted for sound, wanted in zip(sounds, asked, strict=True))
    return {
        "recall": len(errors) / contacts,
        "precision": len(errors) / max(1, onsets),
        "within_30ms": sum(error <= 30 for error in errors) / contacts,
        "error_ms_median": statistics.median(errors) if errors else math.inf,
        "error_ms_max": max(errors, default=math.inf),
        "sound_right": right / objects,
    }
