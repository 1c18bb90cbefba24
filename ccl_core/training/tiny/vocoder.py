"""Training of the tiny models' audio VAE: a Vocos vocoder on the sounds of both worlds, shapes and speech."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ...host.vae.vocos import stated_sizes
from ...model.audio.vocos import Vocos, VocosConfig
from ..muon import Muon
from ..world import face, scene, speech
from ..world.clip import Clip
from ..world.shares import HARD
from ..world.sounds import SAMPLE_RATE
from .progress import Progress

log = logging.getLogger(__name__)

# 32 tokens a second, each of two frames: one frame a token loses a voice's pitch in a quarter of the clips.
TINY = VocosConfig(
    sample_rate=SAMPLE_RATE,
    hop=250,
    mels=64,
    # 16 Hz a bin: the lowest of 64 bands are 27 Hz apart, the harmonics of a low voice 90.
    mel_n_fft=1024,
    n_fft=1024,
    dim=160,
    intermediate_dim=416,
    layers=5,
    padding="same",
    frames_per_token=2,
    phase_rounds=16,
)
# The windows and the filter bank, which the model computes from its configuration.
COMPUTED = ("feature_extractor.", "head.istft.")
# Added to magnitudes, so that the logarithm of silence is finite: of a tone 71 dB below full scale.
SOFTEST = 0.07
# Samples that a piece holds after an onset, 30 ms at 16 kHz.
AFTER = 480


@dataclass(frozen=True)
class VocoderRecipe:
    """Everything that decides the result besides the worlds themselves."""

    steps: int = 100_000
    minutes: float = 35.0
    seed: int = 0
    # Of each world.
    clips: int = 512
    frames: int = 45
    batch: int = 12
    piece_tokens: int = 32
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    # Silence must not be a far outlier of the latent: a generated one is never exactly silent.
    floor: float = math.log(0.02)
    # The joint model's latents carry errors of this order, in units of the normalised latent.
    latent_noise: float = 0.12
    # Shares of the pieces that are softer, down to that level in dB, that get a bed, and that are silent.
    soft_share: float = 0.75
    softest: float = -50.0
    bed_share: float = 0.35
    silent_share: float = 0.04
    level_weight: float = 1.0
    save_seconds: float = 120.0
    threads: int = 1


@dataclass(frozen=True)
class Pool:
    """Sounds of both worlds to draw from: (clips, n), and the samples of the shapes' onsets."""

    waveforms: Tensor
    onsets: list[list[int]]

    @classmethod
    def draw(cls, seed: int, count: int, frames: int) -> Pool:
        """So many clips of each world."""
        shapes = list(islice(scene.clips(seed, frames=frames, world=HARD), count))
        samples = shapes[0].waveform.shape[0]
        voices = [utterance(rng, samples) for rng in np.random.default_rng(seed).spawn(count)]
        waveforms = np.stack([*(clip.waveform for clip in shapes), *voices])
        return cls(torch.from_numpy(waveforms), [samples_of(clip) for clip in shapes] + [[]] * count)


def utterance(rng: np.random.Generator, samples: int) -> np.ndarray:
    """What a drawn person says in that time, (n,)."""
    seconds = samples / SAMPLE_RATE
    voice = face.sample_identity(rng).voice
    syllables = speech.sample_syllables(rng, speech.sample_transcript(rng, seconds), seconds)
    return speech.speak(rng, syllables, voice, samples)


def samples_of(clip: Clip) -> list[int]:
    """The samples at which a clip's sounds begin."""
    return [round(onset * SAMPLE_RATE) for onset in clip.onsets]


@dataclass(frozen=True)
class Pieces:
    """A batch: sounds (b, n), and the levels (b, 1) that the loss divides by."""

    real: Tensor
    level: Tensor


def measure_latent(vocos: Vocos, waveforms: Tensor, floor: float) -> None:
    """Set the floor, and mean and standard deviation of every band over the worlds.

    Bands that seldom sound get the average deviation: divided by their own, their onsets would tower over all
    others.
    """
    vocos.latent_floor.fill_(floor)
    mel = torch.cat([vocos.mel(part) for part in waveforms.split(64)])
    vocos.latent_mean.copy_(mel.mean(dim=(0, 2)))
    deviation = mel.std(dim=(0, 2))
    vocos.latent_std.copy_(deviation.clamp(min=float(deviation.mean())))


def start_head(vocos: Vocos, waveforms: Tensor) -> None:
    """Let the head begin at the mean log magnitude of every frequency."""
    logs = (vocos.head.analysis(waveforms).abs() + SOFTEST).log().mean(dim=(0, 2))
    vocos.head.out.bias[: len(logs)] = logs


def magnitude_loss(made: Tensor, real: Tensor) -> Tensor:
    """L1 of the logarithms, and spectral convergence (arXiv 1808.06719), of magnitudes (b, k, f)."""
    convergence = (made - real).norm() / real.norm().clamp(min=1e-3)
    return F.l1_loss(*[(part + SOFTEST).log() for part in (made, real)]) + convergence


def level_loss(made: Tensor, real: Tensor, bank: Tensor) -> Tensor:
    """L1 of the log levels of bands, the columns of bank (k, m).

    L1 of log magnitudes alone makes noise softer than it is, and harmonics too that are between two bands:
    most frequencies are valleys there.
    """
    levels = [(bank.T @ part.square() + SOFTEST**2).log() / 2 for part in (made, real)]
    return F.l1_loss(*levels)


def draw_pieces(pool: Pool, rng: np.random.Generator, recipe: VocoderRecipe) -> Pieces:
    """Pieces that begin at any sample, so that onsets fall anywhere in a token; each of shapes has one."""
    pieces = []
    length = recipe.piece_tokens * TINY.token_hop
    for index in rng.integers(0, len(pool.onsets), recipe.batch):
        begin = begin_of(rng, pool.onsets[index], length, pool.waveforms.shape[1])
        pieces.append(pool.waveforms[index, begin : begin + length])
    real = torch.stack(pieces)
    gain = torch.from_numpy(gains(rng, recipe)).float()
    # Full weight for soft pieces, down to 30 dB: below, rounding and floor are most of what is left.
    return Pieces(gain * real + beds(rng, recipe, length), gain.clamp(min=0.03))


def begin_of(rng: np.random.Generator, onsets: list[int], length: int, samples: int) -> int:
    """Where a piece begins: anywhere, or so that one of the onsets lies in it."""
    if not onsets:
        return int(rng.integers(0, samples - length + 1))
    onset = int(rng.choice(onsets))
    return int(rng.integers(max(0, onset - length + AFTER), min(onset, samples - length) + 1))


def gains(rng: np.random.Generator, recipe: VocoderRecipe) -> np.ndarray:
    """Factors (b, 1): full level, softer, or silence."""
    soft = rng.uniform(recipe.softest, 0, recipe.batch) * (rng.random(recipe.batch) < recipe.soft_share)
    heard = rng.random(recipe.batch) >= recipe.silent_share
    return (heard * 10 ** (soft / 20))[:, None]


def beds(rng: np.random.Generator, recipe: VocoderRecipe, samples: int) -> Tensor:
    """Noise (b, n) under some of the pieces, from white to pink, of -75 to -35 dB."""
    noise = np.fft.rfft(rng.standard_normal((recipe.batch, samples)))
    hertz = np.maximum(1, np.arange(noise.shape[1]) * TINY.sample_rate / samples)
    noise = np.fft.irfft(noise * hertz ** -rng.uniform(0, 0.5, (recipe.batch, 1)), samples)
    level = 10 ** (rng.uniform(-75, -35, (recipe.batch, 1)) / 20)
    level = level * (rng.random((recipe.batch, 1)) < recipe.bed_share)
    return torch.from_numpy(level * noise / noise.std(axis=1, keepdims=True)).float()


def batch_loss(vocos: Vocos, pieces: Pieces, recipe: VocoderRecipe) -> Tensor:
    """The loss of the magnitudes of every piece at the level of a loud one; the phases follow from them."""
    with torch.no_grad():
        latent = vocos.encode(pieces.real[:, None])
        latent = latent + recipe.latent_noise * torch.rand(len(latent), 1, 1) * torch.randn_like(latent)
        real = vocos.head.analysis(pieces.real).abs() / pieces.level[..., None]
    made = vocos.spectrum(vocos.mel_of(latent)).abs() / pieces.level[..., None]
    bank = vocos.feature_extractor.mel_spec["mel_scale"].fb
    levels = level_loss(made, real, bank) + level_loss(made, real, torch.ones_like(bank[:, :1]))
    return magnitude_loss(made, real) + recipe.level_weight * levels


def train_vocoder(out: Path, recipe: VocoderRecipe | None = None) -> Path:
    """Train for the recipe's minutes (or steps), over all runs with this `out`, the file of the audio VAE."""
    recipe = recipe or VocoderRecipe()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    pool = Pool.draw(recipe.seed, recipe.clips, recipe.frames)
    vocos = Vocos(TINY, operations=nn)
    with torch.no_grad():
        measure_latent(vocos, pool.waveforms, recipe.floor)
        start_head(vocos, pool.waveforms[::8])
    optimisers, rates = optimisers_of(vocos, recipe)
    parts = {"vocos": vocos, "matrices": optimisers[0], "rest": optimisers[1]}
    progress = Progress(out, parts, np.random.default_rng(recipe.seed), recipe.steps, recipe.minutes)
    progress.resume()
    progress.begin()
    while progress.share < 1:
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * speed(progress)
        loss = batch_loss(vocos, draw_pieces(pool, progress.rng, recipe), recipe)
        vocos.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        progress.advance(loss.item())
        if progress.due(recipe.save_seconds):
            progress.save()
            export_vocoder(vocos, out)
    progress.save()
    return export_vocoder(vocos, out)


def optimisers_of(vocos: Vocos, recipe: VocoderRecipe) -> tuple[list[torch.optim.Optimizer], list[float]]:
    """Muon for the matrices of embedding and blocks, Adam for the rest, the head too; and their rates."""
    body = vocos.backbone.parameters()
    matrices = [value for value in body if value.ndim > 1 and value.shape[1] > 1]
    chosen = set(map(id, matrices))
    rest = [value for value in vocos.parameters() if id(value) not in chosen]
    adam = torch.optim.Adam(rest, lr=recipe.adam_rate, betas=(0.9, 0.99))
    return [Muon(matrices, recipe.muon_rate), adam], [recipe.muon_rate, recipe.adam_rate]


def speed(progress: Progress) -> float:
    """A cosine from 1 to .02, after a warm-up of 100 steps."""
    return min(1, (progress.step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress.share)))


def export_vocoder(vocos: Vocos, out: Path) -> Path:
    """Save what cannot be computed; the windows and the filter bank can, exactly."""
    kept = {
        key: value.contiguous() for key, value in vocos.state_dict().items() if not key.startswith(COMPUTED)
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    save_file(kept, part, metadata={"vocos_config": stated_sizes(vocos.config)})
    return part.replace(out)
