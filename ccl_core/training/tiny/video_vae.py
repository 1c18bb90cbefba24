"""Training of the tiny models' video VAE: the host's Wan 2.1 autoencoder at a small width, on both worlds."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from comfy.latent_formats import Wan21
from comfy.ldm.wan.vae import Resample, WanVAE
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..muon import Muon
from .progress import Progress
from .windows import FilmPool, films

log = logging.getLogger(__name__)
LATENT_CHANNELS = 16


@dataclass(frozen=True)
class VideoVAERecipe:
    """Everything that decides the result besides the worlds themselves."""

    width: int = 16
    steps: int = 100_000
    minutes: float = 50.0
    seed: int = 0
    # (clips, frames, crop) of a step. First single pictures, as Wan's own VAE was made: colours and edges are
    # learnt cheaply. At the end whole and long clips: borders, the attention over a frame and the memory of
    # the causal convolutions must meet what they will see in use.
    first_windows: tuple[tuple[int, int, int], ...] = ((32, 1, 32),)
    windows: tuple[tuple[int, int, int], ...] = ((4, 9, 32), (2, 17, 32))
    last_windows: tuple[tuple[int, int, int], ...] = ((1, 17, 64), (2, 17, 32), (1, 33, 40))
    first_share: float = 0.25
    last_share: float = 0.25
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    kl: float = 3e-4
    latent_noise: float = 0.1
    pool: int = 400
    # Clips, half of each world, that the latent is normalised over; the dB of the log are of a third.
    measured: int = 24
    save_seconds: float = 120.0
    threads: int = 1
    # The latent stays as the file at the start has it, and with it what was trained on it.
    decoder_alone: bool = False


# What a recipe of the decoder alone has besides: whole clips from the first step, at gentler rates.
DECODER = {"decoder_alone": True, "first_share": 0.0, "last_share": 1.0, "muon_rate": 0.01, "adam_rate": 1e-3}


def build_vae(width: int) -> WanVAE:
    """The host's class with the numbers the host's own loader derives from a Wan 2.1 file of this width."""
    vae = WanVAE(
        dim=width,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        image_channels=3,
        conv_out_channels=3,
        dropout=0.0,
    )
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            # The host leaves weights unset. The second convolutions of residual blocks start small: a deep
            # network then begins as a shallow one.
            gain = 0.2 if name.endswith(("residual.6", "proj")) else 1.0
            fan_in = module.weight[0].numel() / (module.weight.shape[2] if module.weight.ndim == 5 else 1)
            nn.init.normal_(module.weight, std=gain / math.sqrt(fan_in))
            nn.init.zeros_(module.bias)
            if name.endswith("time_conv"):
                start_time_convolution(module)
            elif isinstance(module, nn.Conv3d):
                # Blind to the past at first: a network that has learnt pictures is then one of films too.
                nn.init.zeros_(module.weight[:, :, :-1])
    return vae


@torch.no_grad()
def start_time_convolution(conv: nn.Conv3d) -> None:
    """Hand the newest frame on, with a random share of the others for a start."""
    outputs, inputs = conv.weight.shape[:2]
    nn.init.normal_(conv.weight, std=0.4 / math.sqrt(inputs))
    conv.weight[:, :, -1, 0, 0] += torch.eye(inputs).repeat(outputs // inputs, 1)


def resample(layer: Resample, x: Tensor) -> Tensor:
    """What the host's chunked Resample does, over all frames at once: in time the first frame stays alone."""
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        b, c, _, h, w = x.shape
        pairs = layer.time_conv(x[:, :, 1:]).reshape(b, 2, c, -1, h, w)
        doubled = torch.stack((pairs[:, 0], pairs[:, 1]), 3).reshape(b, c, -1, h, w)
        x = torch.cat([x[:, :, :1], doubled], 2)
    b, c, t, h, w = x.shape
    flat = layer.resample(x.transpose(1, 2).reshape(b * t, c, h, w))
    x = flat.reshape(b, t, *flat.shape[1:]).transpose(1, 2)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], 2)
    return x  # (b, c, t, h, w)


def run(layers: nn.Module, x: Tensor) -> Tensor:
    for layer in layers:
        x = resample(layer, x) if isinstance(layer, Resample) else layer(x)
    return x


def encode_moments(vae: WanVAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the latent of whole clips, equal to the host's chunked encode but one pass."""
    x = vae.encoder.conv1(pixels)
    for part in (vae.encoder.downsamples, vae.encoder.middle, vae.encoder.head):
        x = run(part, x)
    mean, log_var = vae.conv1(x).chunk(2, dim=1)
    return mean, log_var.clamp(-12, 6)  # (b, 16, t, h/8, w/8)


def decode(vae: WanVAE, latent: Tensor) -> Tensor:
    """Frames of whole latents, equal to the host's chunked decode but one pass."""
    x = vae.decoder.conv1(vae.conv2(latent))
    for part in (vae.decoder.middle, vae.decoder.upsamples, vae.decoder.head):
        x = run(part, x)
    return x  # (b, 3, f, h, w)


def pixels_of(frames: np.ndarray) -> Tensor:
    """(b, f, h, w, 3) uint8 to the -1..1 range and axes of the autoencoder."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (b, 3, f, h, w)


class Clips(NamedTuple):
    """Pixels of both worlds in turn: to normalise the latent over, and to measure on."""

    typical: Tensor
    held_out: Tensor


def whole_clips(seed: int, count: int) -> Tensor:
    """Clips of both worlds in turn, of their own seed, to measure on."""
    return pixels_of(np.stack([film.frames for film in islice(films(seed, 17), count)]))


def reconstruction_loss(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Error of pixels and of their differences in space and time. weight: (b, 1, f, h, w)."""
    error = made - wanted
    loss = (weight * error.abs()).mean() + (weight * error**2).mean()
    for axis in [axis for axis in (2, 3, 4) if error.shape[axis] > 1]:
        loss = (
            loss + 0.25 * (weight.narrow(axis, 1, weight.shape[axis] - 1) * error.diff(dim=axis).abs()).mean()
        )
    return loss


def training_loss(vae: WanVAE, pixels: Tensor, weight: Tensor, recipe: VideoVAERecipe) -> Tensor:
    """Reconstruction through a noisy latent: noise and a small KL make the latent smooth, for diffusion."""
    learnt = not recipe.decoder_alone
    # While the encoder learns its latent has deviation 1, else that of Wan's.
    spread = 1.0 if learnt else Wan21().latents_std
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(learnt):
            mean, log_var = encode_moments(vae, pixels)
        mean = mean.float()
        log_var = log_var.float()
        noise = torch.randn_like(mean) * (log_var.exp() + (recipe.latent_noise * spread) ** 2).sqrt()
        made = decode(vae, mean + noise)
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean()
    return reconstruction_loss(made.float(), pixels, weight) + recipe.kl * kl


@torch.no_grad()
def fold_normalisation(vae: WanVAE, pixels: Tensor, floor: float = 0.3, unit: bool = False) -> Tensor:
    """Rescale the latent in conv1 and conv2 to what the host's Wan21 format expects; decode(encode(x)) stays.

    unit: mean 0 and deviation 1 instead, the scale at which the KL of the training holds a latent. floor:
    channels weaker than this share of the median channel stay weak, since a full scale would blow up their
    noise. Returns the share of each channel's variance that is signal.
    """
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_var = encode_moments(vae, pixels)
    mean = mean.float()
    log_var = log_var.float()
    axes = (0, 2, 3, 4)
    centre = mean.mean(axes)
    spread = mean.std(axes)
    signal = spread**2 / (spread**2 + log_var.exp().mean(axes))
    wan = Wan21()
    target = torch.ones_like(spread) if unit else wan.latents_std.flatten()
    scale = target / spread.clamp_min(floor * spread.median())
    shift = -scale * centre if unit else wan.latents_mean.flatten() - scale * centre
    column = scale.view(-1, 1, 1, 1, 1)
    vae.conv1.weight[:LATENT_CHANNELS] *= column
    vae.conv1.bias[:LATENT_CHANNELS] = vae.conv1.bias[:LATENT_CHANNELS] * scale + shift
    # The second half of the channels is the log-variance, and a variance grows by the square.
    vae.conv1.bias[LATENT_CHANNELS:] += 2 * scale.log()
    # The inverse: conv2(x) becomes W / scale x' - (W / scale) shift, with x' = scale x + shift.
    vae.conv2.weight /= column.transpose(0, 1)
    vae.conv2.bias -= vae.conv2.weight.flatten(1) @ shift
    return signal  # (16,)


def export_video_vae(vae: WanVAE, path: Path, pixels: Tensor) -> Tensor:
    """Write a copy, normalised over some clips, under the host's key names.

    Returns the signal share of each channel.
    """
    copy = build_vae(vae.dim)
    copy.load_state_dict(vae.state_dict())
    signal = fold_normalisation(copy, pixels)
    write(copy, path)
    return signal


def write(vae: WanVAE, path: Path) -> None:
    """The file, whole or not at all."""
    part = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in vae.state_dict().items()}, part)
    part.replace(path)


@torch.no_grad()
def psnr(vae: WanVAE, pixels: Tensor) -> float:
    """Mean over whole clips, in dB of the 0..1 range."""
    with torch.autocast("cpu", torch.bfloat16):
        made = decode(vae, encode_moments(vae, pixels)[0]).float().clamp(-1, 1)
    error = ((made - pixels) / 2).square().mean((1, 2, 3, 4))
    return float((-10 * error.log10()).mean())


def is_kernel(value: Tensor) -> bool:
    """Whether a parameter is a matrix for Muon: a kernel, and no scale per channel in the shape of one."""
    return value.ndim >= 4 and value.flatten(1).shape[1] > 1


def optimisers_of(vae: WanVAE, recipe: VideoVAERecipe) -> tuple[list[torch.optim.Optimizer], list[float]]:
    trained = [vae.conv2, vae.decoder] if recipe.decoder_alone else [vae]
    parameters = [value for part in trained for value in part.parameters()]
    kernels = [value for value in parameters if is_kernel(value)]
    rest = [value for value in parameters if not is_kernel(value)]
    adam = torch.optim.Adam(rest, lr=recipe.adam_rate, betas=(0.9, 0.99))
    return [Muon(kernels, recipe.muon_rate), adam], [recipe.muon_rate, recipe.adam_rate]


def plan_step(recipe: VideoVAERecipe, done: float) -> tuple[tuple[tuple[int, int, int], ...], float]:
    """Windows and factor of the rates after a share of the time: pictures, crops of clips, whole clips."""
    if done < recipe.first_share:
        return recipe.first_windows, 1 - 0.6 * done / recipe.first_share
    left = (1 - done) / (1 - recipe.first_share)
    return (recipe.last_windows if 1 - done < recipe.last_share else recipe.windows), 0.7 * left + 0.01


def train_video_vae(out: Path, recipe: VideoVAERecipe | None = None, start: Path | None = None) -> Path:
    """Train for the recipe's minutes or steps, over all runs with this `out`, a usable file all along.

    start: an earlier file, where there is no state of such a training yet. ValueError: a decoder alone has
    none.
    """
    recipe = recipe or VideoVAERecipe()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    held_out = whole_clips(9000 + recipe.seed, recipe.measured // 3)
    clips = Clips(whole_clips(recipe.seed + 77, recipe.measured), held_out)
    vae = build_vae(recipe.width)
    use_channels_last(vae)
    optimisers, rates = optimisers_of(vae, recipe)
    parts = {"vae": vae, "kernels": optimisers[0], "rest": optimisers[1]}
    progress = Progress(out, parts, rng, recipe.steps, recipe.minutes)
    if not progress.resume():
        begin(vae, recipe, start, clips)
    # Other films in every run, as those of the last one were drawn.
    pool = FilmPool(rng, 1000 * recipe.seed + progress.step + 1, recipe.pool, frames=33)
    progress.begin()
    while progress.share < 1:
        windows, speed = plan_step(recipe, progress.share)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            # The first 20 steps warm up.
            optimiser.param_groups[0]["lr"] = rate * speed * min(1, (progress.step + 1) / 20)
        frames, weight = pool.draw(*windows[progress.step % len(windows)])
        pixels = pixels_of(frames).contiguous(memory_format=torch.channels_last_3d)
        loss = training_loss(vae, pixels, torch.from_numpy(weight)[:, None].float(), recipe)
        vae.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        progress.advance(loss.item())
        if progress.due(recipe.save_seconds):
            progress.save()
            report(vae, recipe, out, clips)
    progress.save()
    report(vae, recipe, out, clips)
    return out


def begin(vae: WanVAE, recipe: VideoVAERecipe, start: Path | None, clips: Clips) -> None:
    """First weights: those of a file, where there is one."""
    if start is not None:
        vae.load_state_dict({key: value.float() for key, value in load_file(start).items()})
        if not recipe.decoder_alone:
            fold_normalisation(vae, clips.typical, unit=True)
    elif recipe.decoder_alone:
        raise ValueError("a decoder is trained alone for the latent of a file, got none: name it as start")


def report(vae: WanVAE, recipe: VideoVAERecipe, out: Path, clips: Clips) -> None:
    if recipe.decoder_alone:
        write(vae, out)
    else:
        signal = export_video_vae(vae, out, clips.typical)
        log.info("signal share of the channels %s", " ".join(f"{share:.2f}" for share in signal.tolist()))
    shapes, faces = (psnr(vae, part) for part in (clips.held_out[::2], clips.held_out[1::2]))
    log.info("saved %s, held-out psnr %.2f dB of shapes, %.2f dB of faces", out.name, shapes, faces)


def use_channels_last(vae: WanVAE) -> None:
    """The layout in which the CPU's bf16 convolutions are fast."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
