"""The one tiny model of the tests: real classes, random weights, a few thousand parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.supported_models
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from safetensors.torch import save_file

from ccl_pack.ccl_core.config import AudioLatentConfig, CCAOptions, CCLConfig, InteractionConfig, StreamConfig
from ccl_pack.ccl_core.host.files.build import build_model
from ccl_pack.ccl_core.host.texts import StreamTexts
from ccl_pack.ccl_core.metadata import write_config

CONFIG = CCLConfig(
    fps=Fraction(16),
    video=StreamConfig(
        in_dim=16, out_dim=16, dim=48, ffn_dim=64, num_heads=2, num_layers=3, text_dim=24, freq_dim=32
    ),
    audio=StreamConfig(
        in_dim=8,
        out_dim=8,
        dim=32,
        ffn_dim=48,
        num_heads=2,
        num_layers=2,
        text_dim=24,
        freq_dim=32,
        patch_size=(1, 1, 1),
    ),
    interaction=InteractionConfig(kind="cca", layers=(0, 1), options=CCAOptions(3)),
    audio_latent=AudioLatentConfig(vae="vocos", channels=8, rate=Fraction(32), sample_rate=16000),
    shift=3.0,
)


def config(**overrides: Any) -> CCLConfig:
    return replace(CONFIG, **overrides)


def state_dict(config: CCLConfig, seed: int = 0, std: float = 0.05) -> dict[str, torch.Tensor]:
    """Random weights, none neutral: norms near 1, no zero anywhere."""
    import comfy.ops

    from ccl_pack.ccl_core.model.joint import JointModel

    generator = torch.Generator().manual_seed(seed)
    shapes = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    return {
        key: (1.0 if "norm" in key and key.endswith("weight") else 0.0)
        + std * (4 if value.ndim > 1 else 1) * torch.randn(value.shape, generator=generator)
        for key, value in shapes.items()
    }


def patcher(
    seed: int = 0, model_options: dict | None = None, weights: dict | None = None, **overrides: Any
) -> ModelPatcher:
    """A loaded MODEL; keyword arguments replace fields of the configuration."""
    chosen = config(**overrides)
    sd = dict(weights) if weights is not None else state_dict(chosen, seed)
    return build_model(sd, chosen, "tiny", None, {"dtype": torch.float32} | (model_options or {}), False)


def write(path: Path, seed: int = 0, **overrides: Any) -> Path:
    """The tiny model as a file of the published layout, model part only."""
    chosen = config(**overrides)
    save_file(state_dict(chosen, seed), path, metadata={"ccl_config": write_config(chosen)})
    return path


def conditioning(seed: int = 1, tokens: int = 5, **options: Any) -> list:
    return [[torch.randn(1, tokens, 24, generator=torch.Generator().manual_seed(seed)), dict(options)]]


def dual_conditioning(video: int, audio: int, tokens: tuple[int, int] = (5, 5), **options: Any) -> list:
    """A text of its own for each stream, of the seeds `video` and `audio`."""
    streams = [conditioning(video, tokens[0]), conditioning(audio, tokens[1])]
    return [[StreamTexts.join(streams[0][0][0], streams[1][0][0]), dict(options)]]


def latents(
    seed: int = 2,
    batch: int = 1,
    frames: int = 3,
    height: int = 4,
    width: int = 6,
    tokens: int = 18,
    channels: int = 16,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A video latent (b, c, t, h, w) and an audio latent (b, 8, a)."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(batch, channels, frames, height, width, generator=generator)
    return video, torch.randn(batch, 8, tokens, generator=generator)


def av_latent(seed: int = 2, masks: tuple | None = None, **sizes: Any) -> dict:
    from comfy.nested_tensor import NestedTensor

    latent = {"samples": NestedTensor(latents(seed, **sizes)), "fps": 16.0}
    return latent if masks is None else latent | {"noise_mask": NestedTensor(masks)}


def given(
    stream: str, batch: int = 1, frames: int = 3, tokens: int = 18
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of `av_latent` that keep all of the stream "video" or "audio" and generate the other one."""
    masks = {"video": torch.ones(batch, 1, frames, 4, 6), "audio": torch.ones(batch, 1, tokens)}
    masks[stream].zero_()
    return masks["video"], masks["audio"]


def count_blocks(transformer: torch.nn.Module) -> dict[str, int]:
    """Forward calls of the blocks of each stream from now on; the dict is filled as they come."""
    calls = {"video": 0, "audio": 0}

    def counter(stream: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[stream] += 1

        return count

    for name, stream in (("video", transformer), ("audio", transformer.audio)):
        for block in stream.blocks:
            block.register_forward_hook(counter(name))
    return calls


def host_patcher(kind: type, **sizes: Any) -> ModelPatcher:
    """A tiny model of an architecture the host has itself, with random weights."""
    config = kind({**kind.unet_config, **sizes})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return CoreModelPatcher(model.requires_grad_(False), torch.device("cpu"), torch.device("cpu"))


def other_model() -> ModelPatcher:
    """LTX-2, which is of no family. Its audio latent is (b, 8, t, 16), its text has passed the connectors."""
    video = {"cross_attention_dim": 32, "attention_head_dim": 16, "num_attention_heads": 2}
    audio = {"audio_cross_attention_dim": 32, "audio_attention_head_dim": 16, "audio_num_attention_heads": 2}
    text = {"caption_channels": 24, "connector_attention_head_dim": 12, "connector_num_attention_heads": 2}
    return host_patcher(comfy.supported_models.LTXAV, **video, **audio, **text, num_layers=1)


def packed_model() -> ModelPatcher:
    """MiniMax H3, of one sequence of all tokens. Its latents are (b, 24, t, h, w) and (b, 32, 2, a)."""
    sizes = {"hidden_size": 32, "num_layers": 1, "token_refiner_num_layers": 1, "num_attention_heads": 2}
    sizes |= {"attention_head_dim": 32, "ffn_hidden_size": 48, "text_dim": 24, "timestep_input_dim": 16}
    sizes |= {"time_embed_hidden_size": 32, "time_embed_dim": 16, "rope_inv_freq_len": 4}
    model = host_patcher(comfy.supported_models.MiniMaxH3, **sizes)
    transformer = model.model.diffusion_model
    # A buffer, which nothing fills.
    transformer.rope.inv_freq.copy_(torch.logspace(0, -3, 4))
    # With weights as small as those of the others the text moves nothing.
    for parameter in transformer.parameters():
        parameter.data *= 5
    return model
