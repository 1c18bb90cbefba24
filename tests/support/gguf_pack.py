"""A custom node pack with the interface of ComfyUI-GGUF as far as ours uses it: a real reader of GGUF, real
Q8_0.

Written for the tests from the description of the format (gguf.md of ggml). It stands in for that pack, which
the
test environment does not install: same names in the same places, tensors that stay quantised inside the
model, and linear layers that dequantise at each call.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
STRING = 8
PLAIN = {F32: torch.float32, F16: torch.float16}
BLOCK, BLOCK_BYTES = 32, 34  # Q8_0: a float16 scale and 32 int8
ALIGNMENT = 32


class GGUFReader:
    """Header and tensors of a version 3 file: strings among its fields, tensors as (name, shape, type,
    bytes).
    """

    def __init__(self, path: str) -> None:
        self.fields: dict[str, str] = {}
        self.tensors: list[tuple[str, tuple[int, ...], int, bytes]] = []
        with Path(path).open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("GGUF magic invalid")
            version, tensors, fields = struct.unpack("<IQQ", file.read(20))
            if version != 3:
                raise ValueError(f"GGUF version {version}")
            for _ in range(fields):
                name = _string(file)
                if struct.unpack("<I", file.read(4))[0] == STRING:
                    self.fields[name] = _string(file)
            infos = [self._info(file) for _ in range(tensors)]
            start = -(-file.tell() // ALIGNMENT) * ALIGNMENT
            for name, shape, kind, offset in infos:
                file.seek(start + offset)
                data = file.read(data_bytes(shape, kind))
                if len(data) != data_bytes(shape, kind):
                    raise ValueError(f"{name} is cut off")
                self.tensors.append((name, shape, kind, data))

    @staticmethod
    def _info(file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
        name = _string(file)
        dims = struct.unpack("<I", file.read(4))[0]
        *sizes, kind, offset = struct.unpack(f"<{dims}QIQ", file.read(8 * dims + 12))
        return name, tuple(reversed(sizes)), kind, offset


def _string(file: BinaryIO) -> str:
    return file.read(struct.unpack("<Q", file.read(8))[0]).decode()


def data_bytes(shape: tuple[int, ...], kind: int) -> int:
    count = torch.Size(shape).numel()
    return count // BLOCK * BLOCK_BYTES if kind == Q8_0 else count * {F32: 4, F16: 2, BF16: 2}[kind]


gguf = SimpleNamespace(GGUFReader=GGUFReader)


def get_field(reader: GGUFReader, name: str, kind: type) -> Any:
    return reader.fields.get(name) if kind is str else None


class GGMLTensor(torch.Tensor):
    """The bytes of a quantised tensor under the shape that it stands for."""

    def __new__(cls, data: Tensor, tensor_type: int, tensor_shape: torch.Size) -> GGMLTensor:
        tensor = torch.Tensor._make_subclass(cls, data)
        tensor.tensor_type, tensor.tensor_shape = tensor_type, tensor_shape
        return tensor

    def to(self, *args: Any, **kwargs: Any) -> GGMLTensor:
        return GGMLTensor(
            super().to(*args, **kwargs).as_subclass(Tensor), self.tensor_type, self.tensor_shape
        )

    def clone(self, *_: Any, **__: Any) -> GGMLTensor:
        return self

    def detach(self) -> GGMLTensor:
        return self

    @property
    def shape(self) -> torch.Size:
        return getattr(self, "tensor_shape", None) or self.size()


def is_quantized(tensor: Tensor) -> bool:
    return isinstance(tensor, GGMLTensor)


def dequantize_tensor(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not is_quantized(tensor):
        return tensor.to(dtype)
    data = tensor.as_subclass(Tensor)
    if tensor.tensor_type == BF16:
        return data.view(torch.bfloat16).to(dtype).reshape(tensor.tensor_shape)
    blocks = data.view(-1, BLOCK_BYTES)
    scales = blocks[:, :2].contiguous().view(torch.float16)  # (blocks, 1)
    return (
        (scales.float() * blocks[:, 2:].contiguous().view(torch.int8)).to(dtype).reshape(tensor.tensor_shape)
    )


def gguf_sd_loader(path: str) -> dict[str, Tensor]:
    reader = GGUFReader(path)
    architecture = get_field(reader, "general.architecture", str)
    if architecture != "wan":
        raise ValueError(f"Unexpected architecture type in GGUF file: {architecture!r}")
    sd = {}
    for name, shape, kind, data in reader.tensors:
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        plain = kind in PLAIN
        sd[name] = raw.view(PLAIN[kind]).view(shape) if plain else GGMLTensor(raw, kind, torch.Size(shape))
    return sd


class GGMLOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(
            self,
            in_features: int,
            out_features: int,
            bias: bool = True,  # noqa: ARG002
            device: Any = None,  # noqa: ARG002
            dtype: Any = None,  # noqa: ARG002
        ) -> None:
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
            for name in ("weight", "bias"):
                if f"{prefix}{name}" in state_dict:
                    setattr(
                        self, name, torch.nn.Parameter(state_dict[f"{prefix}{name}"], requires_grad=False)
                    )

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:
            weight = dequantize_tensor(self.weight, input.dtype).to(input.device)
            bias = None if self.bias is None else dequantize_tensor(self.bias, input.dtype).to(input.device)
            return torch.nn.functional.linear(input, weight, bias)


class GGUFModelPatcher(comfy.model_patcher.ModelPatcher):
    """Of its own class, so that a model can be told to be this pack's."""


class UnetLoaderGGUF:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_unet"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}


NODE_CLASS_MAPPINGS = {"UnetLoaderGGUF": UnetLoaderGGUF}
