"""GGUF files as converters write them, for tests."""

from __future__ import annotations

import struct
from pathlib import Path

import torch

F32, Q8_0, BF16 = 0, 8, 30


def q8_0(value: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Blocks of 32 numbers: a float16 scale and 32 int8; and what they stand for."""
    blocks = value.reshape(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    numbers = (blocks / scale.float()).round().clamp(-127, 127).to(torch.int8)
    data = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], dim=1)
    return data.numpy().tobytes(), (scale.float() * numbers).reshape(value.shape)


def encoded(value: torch.Tensor, half: bool = True) -> tuple[int, bytes, torch.Tensor]:
    """As converters choose: matrices quantised, vectors float32, other tensors bfloat16 or float32."""
    if value.ndim == 2:
        return Q8_0, *q8_0(value)
    if value.ndim > 2 and half:
        half = value.bfloat16()
        return BF16, half.view(torch.uint8).numpy().tobytes(), half.float()
    return F32, value.numpy().tobytes(), value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def write(
    path: Path, sd: dict[str, torch.Tensor], fields: dict[str, str], half: bool = True
) -> dict[str, torch.Tensor]:
    """A GGUF file of version 3; returns the numbers that it holds. half: bfloat16 for several axes."""
    infos, data, held = b"", b"", {}
    for name, value in sd.items():
        kind, raw, held[name] = encoded(value, half)
        data += b"\0" * (-len(data) % 32)
        infos += text(name) + struct.pack(
            f"<I{value.ndim}QIQ", value.ndim, *reversed(value.shape), kind, len(data)
        )
        data += raw
    head = b"GGUF" + struct.pack("<IQQ", 3, len(sd), len(fields))
    head += (
        b"".join(text(name) + struct.pack("<I", 8) + text(value) for name, value in fields.items()) + infos
    )
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return held
