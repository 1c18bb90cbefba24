"""Files of joint models in small, as the loaders see them: told what they are, and put together by their
roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.config import CCLConfig, StreamConfig
from ccl_pack.ccl_core.host.files.assemble import Assembly, assemble
from ccl_pack.ccl_core.host.files.build import put_together
from ccl_pack.ccl_core.host.files.configure import configure
from ccl_pack.ccl_core.host.files.identify import ModelFile, identify
from ccl_pack.ccl_core.host.files.read import RawFile
from ccl_pack.ccl_core.metadata import write_config
from ccl_tools import published as p
from support.tiny import config, state_dict

WAN_STREAM = StreamConfig(16, 16, 256, 160, 2, 3, 24, freq_dim=32)


def file(
    shapes: Mapping[str, Any],
    name: str = "file.safetensors",
    metadata: dict[str, str] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> ModelFile:
    """The file of these tensors, or of tensors without data in these shapes, as the loaders tell what it
    is.
    """
    tensors = shapes if isinstance(next(iter(shapes.values())), torch.Tensor) else p.meta(shapes, dtype)
    return identify(RawFile(name, tensors, metadata or {}, {}, False))


def configured(*files: ModelFile) -> tuple[Assembly, CCLConfig]:
    """The assembly of files in the roles video, audio, interaction, low_noise, and its configuration."""
    roles = dict(zip(("video", "audio", "interaction", "low_noise"), files, strict=False))
    assembly = assemble(roles)
    return assembly, configure(roles, assembly)


def ccl(chosen: CCLConfig, section: str) -> ModelFile:
    """One part of the tiny CCL model; the interaction's states the configuration."""
    shapes = {key: tuple(value.shape) for key, value in state_dict(chosen).items() if key.startswith(section)}
    metadata = {"ccl_config": write_config(chosen)} if section == "interaction" else None
    return file(shapes, f"{section}.safetensors", metadata)


def on_wan(video: p.Sizes = p.TINY_WAN, **changes: Any) -> dict[str, ModelFile]:
    """The parts of a CCL model on a Wan file, by their roles."""
    chosen = config(video=WAN_STREAM, **changes)
    return {
        "video": file(p.wan(video), "wan.safetensors"),
        "audio": ccl(chosen, "audio"),
        "interaction": ccl(chosen, "interaction"),
    }


def mova() -> dict[str, ModelFile]:
    """The parts of a MOVA model, by their roles."""
    return {
        "video": file(p.wan(p.TINY_MOVA_VIDEO), "high.safetensors"),
        "audio": file(p.audio_tower(p.TINY_MOVA_AUDIO), "audio.safetensors"),
        "interaction": file(p.bridge(*p.TINY_MOVA), "bridge.safetensors"),
        "low_noise": file(p.wan(p.TINY_MOVA_VIDEO), "low.safetensors"),
    }


def refused(files: Any, words: str) -> None:
    """Whether putting these files together is refused in these words."""
    with pytest.raises(ValueError, match=words):
        put_together(files)
