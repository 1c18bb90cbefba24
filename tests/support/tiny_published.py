"""Files of every published layout in small: what a template names, in the folders a loader looks in.

Towers have heads of 128 as all published ones, two or three layers, and the text width of ccl-tiny, whose
text encoder stands in for umT5-XXL. The host reads its Wan 2.2 VAE and MMAudio in one size only: the place of
the former is taken by its small 48-channel autoencoder, MMAudio is written once at its full size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from comfy.ldm.mmaudio.vae.autoencoder import AudioAutoencoder
from comfy.ldm.wan.vae import WanVAE
from comfy.taesd.taehv import TAEHV
from safetensors.torch import save_file

from ccl_pack.ccl_core.model.audio.dac import DAC, DACConfig
from ccl_pack.ccl_core.model.audio.vocos import Vocos, VocosConfig
from ccl_tools import published
from support.ccl_tiny import CCL_TINY

TEXT = CCL_TINY.video.text_dim
OVI_VIDEO, OVI_AUDIO = (replace(size, text=TEXT) for size in published.TINY_OVI[:2])
OVI = (OVI_VIDEO, OVI_AUDIO, published.TINY_OVI_STEM)
MOVA = tuple(replace(size, text=TEXT) for size in published.TINY_MOVA)

OVI_MERGED = "model_960x960.safetensors"
OVI_FP8 = "model_fp8_e4m3fn.safetensors"
OVI_SCALED = "Wan2_2-5B-Ovi_960x960_10s_fp8_e4m3fn_scaled_KJ.safetensors"
OVI_SPLIT = ("Wan_2_1_Ovi_video_model_bf16.safetensors", "Wan_2_1_Ovi_audio_model_bf16.safetensors")
MOVA_FILE = "mova_360p.safetensors"
MOVA_FOLDER = Path("MOVA-360p")
SHARDS = 3
PRISM_FILE = "prism_alpha.safetensors"
PRISM_INT8 = "Prism_Alpha_int8_convrot.safetensors"
PRISM_PARTS = {
    part: f"prism_alpha_{part}_int8_convrot.safetensors"
    for part in ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge")
}
VAE_WAN21, VAE_WAN22 = "wan_2.1_vae.safetensors", "wan2.2_vae.safetensors"
VAE_VOCOS = "vocos_20_bands.safetensors"
VAE_DAC = MOVA_FOLDER / "audio_vae" / "diffusion_pytorch_model.safetensors"
MMAUDIO = ("mmaudio_vae_16k_fp32.safetensors", "mmaudio_vocoder_bigvgan_best_netG_fp32.safetensors")

Tensors = dict[str, torch.Tensor]


def write_ovi(folder: Path) -> None:
    """Merged bf16, plain fp8, split, and scaled fp8 with the names of the split files in one."""
    merged = published.weights(published.ovi(*OVI))
    _save(folder / OVI_MERGED, merged, torch.bfloat16)
    _save(folder / OVI_FP8, merged, torch.float8_e4m3fn)
    split = published.weights(published.ovi(*OVI, modulation="modulation", split=True))
    audio = {key: value for key, value in split.items() if key.startswith("audio_model.")}
    for name, part in zip(
        OVI_SPLIT, ({k: v for k, v in split.items() if k not in audio}, audio), strict=True
    ):
        _save(folder / name, part, torch.bfloat16)
    save_file(published.fp8_scaled(split), folder / OVI_SCALED)


def write_mova(folder: Path) -> None:
    """The published folders with their shards, and our repack."""
    parts = {
        "video_dit": published.wan(MOVA[0]),
        "video_dit_2": published.wan(MOVA[0]),
        "audio_dit": published.audio_tower(MOVA[1]),
        "dual_tower_bridge": published.bridge(*MOVA),
    }
    repack: Tensors = {}
    for seed, (name, shapes) in enumerate(parts.items()):
        tensors = published.weights(shapes, seed)
        repack |= {f"{name}.{key}": value for key, value in tensors.items()}
        shards = SHARDS if name.startswith("video") else 1
        for number, part in enumerate(_shards(tensors, shards), 1):
            ending = f"-{number:05d}-of-{shards:05d}" if shards > 1 else ""
            file = f"diffusion_pytorch_model{ending}.safetensors"
            _save(folder / MOVA_FOLDER / name / file, part, torch.bfloat16)
    _save(folder / MOVA_FILE, repack, torch.bfloat16)


def write_prism(folder: Path) -> None:
    """The published file of both experts, the same in int8, and an int8 file for each part."""
    tensors = published.weights(published.mova(*MOVA), seed=9)
    official = {published.prism_key(key, MOVA[1].layers): value for key, value in tensors.items()}
    _save(folder / PRISM_FILE, official, torch.bfloat16)
    save_file(published.int8_rotated(official), folder / PRISM_INT8)
    for part, name in PRISM_PARTS.items():
        own = {
            key.removeprefix(f"{part}."): value
            for key, value in tensors.items()
            if key.startswith(f"{part}.")
        }
        save_file(published.int8_rotated(own), folder / name, {"prism.component": part})


def write_vaes(folder: Path) -> None:
    """All but MMAudio."""
    wan = WanVAE(dim=4, z_dim=16, num_res_blocks=2, temperal_downsample=[False, True, True])
    _save(folder / VAE_WAN21, _random(wan), torch.float32)
    _save(folder / VAE_WAN22, _random(TAEHV(latent_channels=48, latent_format=None)), torch.float32)
    sizes = {
        "mel_n_fft": 2048,
        "n_fft": 2048,
        "dim": 16,
        "intermediate_dim": 24,
        "layers": 2,
        "padding": "same",
    }
    vocos = Vocos(VocosConfig(sample_rate=16000, hop=512, mels=20, **sizes), operations=torch.nn)
    stated = {"vocos_config": json.dumps({"sample_rate": 16000, "hop_length": 512, "padding": "same"})}
    save_file(
        {key: value.contiguous() for key, value in vocos.state_dict().items()}, folder / VAE_VOCOS, stated
    )
    dac = DACConfig(4, (2, 3, 4, 5, 8), 128, 64, (8, 5, 4, 3, 2))
    _save(folder / VAE_DAC, _random(DAC(dac, operations=torch.nn)), torch.bfloat16)


def write_mmaudio(folder: Path) -> None:
    """Both files of the split repack at the only size there is, random rows cut from one pattern to save
    time.
    """
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in AudioAutoencoder(mode="16k").state_dict().items()}
    pattern = torch.randn(1_000_003, generator=torch.Generator().manual_seed(5))
    for part, name in zip(("vae.", "vocoder."), MMAUDIO, strict=True):
        tensors = {key: _cut(pattern, shape) for key, shape in shapes.items() if key.startswith(part)}
        _save(
            folder / name, {key.removeprefix(part): value for key, value in tensors.items()}, torch.bfloat16
        )


def _cut(pattern: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    count = shape.numel()
    flat = pattern.repeat(count // len(pattern) + 1)[:count]
    return flat.reshape(shape) / max(1, shape[1:].numel()) ** 0.5


def _random(module: torch.nn.Module, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)

    def value(name: str, shape: torch.Size) -> torch.Tensor:
        if name.endswith(("gamma", "alpha")):
            return torch.ones(shape)
        scale = max(1, shape[1:].numel()) ** -0.5 if len(shape) > 1 else 0.1
        return scale * torch.randn(shape, generator=generator)

    return {name: value(name, tensor.shape) for name, tensor in module.state_dict().items()}


def _shards(tensors: Tensors, count: int) -> list[Tensors]:
    entries = list(tensors.items())
    return [dict(entries[start::count]) for start in range(count)]


def _save(path: Path, tensors: Tensors, dtype: torch.dtype) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.to(dtype).contiguous() for key, value in tensors.items()}, path)


# By the name of the model: what writes its files, and the file of the model.
MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "Ovi": (write_ovi, OVI_MERGED),
    "MOVA": (write_mova, MOVA_FILE),
    "Prism": (write_prism, PRISM_FILE),
}
WRITERS: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("diffusion_models", write_ovi),
    ("diffusion_models", write_mova),
    ("diffusion_models", write_prism),
    ("vae", write_vaes),
    ("vae", write_mmaudio),
)


def write_all(models: Path) -> None:
    """Every file into the model folders below `models`."""
    for folder, write in WRITERS:
        (models / folder).mkdir(parents=True, exist_ok=True)
        write(models / folder)
