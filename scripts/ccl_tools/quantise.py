"""The formats of converted matrices, in the host's own kinds, and the tensors that one becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ccl_tools.tensor_file import Entry

if TYPE_CHECKING:
    from torch import Tensor

# Of the host's rotation, the largest that divides the columns.
GROUPS = (256, 64, 16)


@dataclass(frozen=True)
class Format:
    """How the matrices are written. algorithm: the host's name, None: as the other tensors, in bf16."""

    title: str
    algorithm: str | None = None
    storage: str = "bfloat16"
    # Whether each row has a scale, and groups of columns are rotated where their number allows it.
    rows: bool = False

    def state(self, columns: int) -> dict[str, Any]:
        """What the file says of a layer."""
        group = next((size for size in GROUPS if columns % size == 0), None)
        rotation = {"convrot": True, "convrot_groupsize": group} if self.rows and group else {}
        return {"format": self.algorithm} | rotation

    def mark(self, columns: int) -> bytes:
        return json.dumps(self.state(columns)).encode()

    def entries(self, name: str, shape: tuple[int, ...]) -> dict[str, Entry]:
        """The tensors that a matrix becomes."""
        if self.algorithm is None:
            return {name: Entry(self.storage, shape)}
        layer = name.removesuffix(".weight")
        return {
            name: Entry(self.storage, shape),
            f"{layer}.weight_scale": Entry("float32", (shape[0], 1) if self.rows else ()),
            f"{layer}.comfy_quant": Entry("uint8", (len(self.mark(shape[1])),)),
        }

    def tensors(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """The same with their numbers, as the host's quantiser makes them."""
        import torch

        if self.algorithm is None:
            return {name: weight.to(getattr(torch, self.storage))}
        from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

        # The quantiser works in the precision of what it is given: in bf16 it would round twice.
        quantised = QuantizedTensor.from_float(
            weight.float(), QUANT_ALGOS[self.algorithm]["comfy_tensor_layout"], **self._options(weight)
        )
        mark = torch.tensor(list(self.mark(weight.shape[1])), dtype=torch.uint8)
        return quantised.state_dict(name) | {f"{name.removesuffix('.weight')}.comfy_quant": mark}

    def _options(self, weight: Tensor) -> dict[str, Any]:
        if self.rows:
            rotation = {key: value for key, value in self.state(weight.shape[1]).items() if key != "format"}
            return {"per_channel": True} | rotation
        # The scale of a matrix of zeros would be 0, and each number 0 / 0.
        return {"scale": "recalculate" if weight.any() else 1.0}


FORMATS = {
    "bf16": Format("as published"),
    "fp8": Format("float8 with a scale for each matrix", "float8_e4m3fn", "float8_e4m3fn"),
    "int8": Format("int8 with a scale for each row, rotated", "int8_tensorwise", "int8", rows=True),
}
