"""Whether tensors are those of a configuration."""

from __future__ import annotations

from dataclasses import replace

from ccl_tools import published as p
from support.model_files import file, mova, refused


def test_experts_of_two_shapes() -> None:
    files = mova()
    files["low_noise"] = file(p.wan(replace(p.TINY_MOVA_VIDEO, ffn=192)), "low.safetensors")
    refused(files, r"low\.safetensors has the ffn_dim 192, high\.safetensors 160: wanted the two experts")
    files["low_noise"] = file(p.wan(replace(p.TINY_MOVA_VIDEO, channels_in=16)), "low.safetensors")
    refused(files, r"low\.safetensors has the in_dim 16, high\.safetensors 36")
    files["low_noise"] = file(p.wan(replace(p.TINY_MOVA_VIDEO, dim=384)), "low.safetensors")
    refused(files, r"low\.safetensors has the dim 384, high\.safetensors 256")
