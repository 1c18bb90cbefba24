"""Whether the quantised layers of a state dict are whole.

The host takes a weight that lost its format for an unscaled one, and stops at a weight that lost its scale
with an error that names no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from comfy.quant_ops import QUANT_ALGOS
from torch import Tensor

from .identify import section

# The host's entry for a quantised layer: JSON such as {"format": "nvfp4"}, as the bytes of a uint8 tensor.
FORMAT = ".comfy_quant"
# Written beside a quantised weight; which of them a layer has depends on the format.
SCALES = (
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".pre_quant_scale",
    ".scale_weight",
    ".scale_input",
)
# nvfp4 has a scale for each 16 numbers and one for the whole weight.
NEEDED = {"nvfp4": (".weight_scale", ".weight_scale_2")}
NEEDED_BY_OTHERS = (".weight_scale",)
# The host's kernels read one number as their scale: of a scale per row, that of Triton takes the first, and
# that of CUDA stops in the middle of a run.
ONE_SCALE = ("float8_e4m3fn", "float8_e5m2")


def check_layers(sd: Mapping[str, Tensor], name: str, sources: Mapping[str, str] | None = None) -> None:
    """ValueError unless each layer with a format has its scales, each scale a format, and the host knows it.

    sd: under our names, scaled fp8 of the old kind already converted. name: of the file, for messages.
    sources: the file of each section where there are several.
    """
    for key, value in sd.items():
        file = (sources or {}).get(section(key), name)
        if key.endswith(FORMAT):
            _check_format(sd, key.removesuffix(FORMAT), value, file)
            continue
        suffix = next((suffix for suffix in SCALES if key.endswith(suffix)), None)
        if suffix is not None and key.removesuffix(suffix) + FORMAT not in sd:
            raise ValueError(
                f"{file} holds {key}, and nothing says in which format that layer is (a comfy_quant or "
                "scaled_fp8 tensor, or _quantization_metadata): the file was saved without its metadata, "
                "download it again"
            )


def _check_format(sd: Mapping[str, Tensor], layer: str, stated: Tensor, file: str) -> None:
    try:
        form = json.loads(bytes(stated.tolist()))["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: {layer}{FORMAT} is not the JSON of a format ({error}): the file is damaged, "
            "download it again"
        ) from error
    if form not in QUANT_ALGOS:
        raise ValueError(
            f"{file} holds {layer}.weight in the format {form!r}, this ComfyUI knows "
            f"{', '.join(QUANT_ALGOS)}: update ComfyUI, or use another file"
        )
    for suffix in NEEDED.get(form, NEEDED_BY_OTHERS):
        if layer + suffix not in sd:
            raise ValueError(
                f"{file} lacks {layer}{suffix}, a scale of a layer in {form}: the file is incomplete, "
                "download it again"
            )
    scale = sd[f"{layer}.weight_scale"]
    if form in ONE_SCALE and scale.numel() != 1:
        raise ValueError(
            f"{file}: {layer}.weight_scale has the shape {tuple(scale.shape)}, wanted one number: ComfyUI's "
            f"{form} has one scale for a whole weight. Use a file with such scales, or one in int8"
        )
