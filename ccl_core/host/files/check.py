"""Whether the tensors are those of the configuration: each key in its shape, and two experts of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import comfy.ops
from torch import Tensor

from ...config import CCLConfig
from ...model.joint import JointModel
from .assemble import Assembly
from .configure import like
from .identify import section
from .quantised import FORMAT, SCALES, check_layers
from .values import fault_of_type


def check(assembly: Assembly, config: CCLConfig) -> None:
    """ValueError unless every tensor of the files has its place in the model and every place its tensor."""
    if assembly.low_noise:
        check_experts(assembly, config)
    wanted = wanted_tensors(config)
    for expert in assembly.experts():
        name = expert.sources["video"]
        # ComfyUI-GGUF keeps the scales of a layer inside its weight, so there are none to look for.
        if not assembly.gguf:
            check_layers(expert.sd, name, expert.sources)
            check_types(expert.sd, name, expert.sources)
        check_keys(expert.sd, wanted, name, expert.sources)


def wanted_tensors(config: CCLConfig) -> dict[str, Tensor]:
    """The tensors of a model, without memory for any of them."""
    return JointModel(config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()


def check_keys(
    sd: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    name: str,
    sources: Mapping[str, str] | None = None,
) -> None:
    """Every key the model wants is there in its shape, and nothing else; ValueError names the first fault.

    name: of the file, for messages; sources: the file of each section where there are several.
    """
    sources = sources or {}
    for key, value in wanted.items():
        file = sources.get(section(key), name)
        if key not in sd:
            raise ValueError(
                f"{file} lacks {key} {tuple(value.shape)}: the file is incomplete or of another model, "
                "get it again or choose another one"
            )
        found = sd[key].shape
        quantised = f"{key.removesuffix('.weight')}.comfy_quant" in sd
        # A format may pack its numbers (nvfp4: two a byte); the number of rows stays that of the model.
        same = found[:1] == value.shape[:1] if quantised else found == value.shape
        if not same:
            raise ValueError(
                f"{file}: {key} has shape {tuple(found)}, wanted {tuple(value.shape)}: "
                "the file is damaged, or of another model than the configuration or the other files"
            )
    extra = [key for key in sd if key not in wanted and not _belongs(key, wanted)]
    if extra:
        raise ValueError(
            f"{sources.get(section(extra[0]), name)} holds {len(extra)} unknown keys, "
            f"the first is {extra[0]}: the file is of another model or of a newer version of this pack, "
            "choose another file or update the pack"
        )


def check_types(sd: Mapping[str, Tensor], name: str, sources: Mapping[str, str] | None = None) -> None:
    """ValueError for a weight that is no real number and that no format describes."""
    for key, value in sd.items():
        layer = key.rpartition(".")[0]
        fault = None if f"{layer}{FORMAT}" in sd or key.endswith(SCALES) else fault_of_type(key, value)
        if fault is not None:
            raise ValueError(f"{(sources or {}).get(section(key), name)}: {fault}")


def _belongs(key: str, wanted: Mapping[str, Tensor]) -> bool:
    """Whether a key stands beside a quantised weight of the model."""
    suffix = next((suffix for suffix in (FORMAT, *SCALES) if key.endswith(suffix)), None)
    return suffix is not None and f"{key.removesuffix(suffix)}.weight" in wanted


def check_experts(assembly: Assembly, config: CCLConfig) -> None:
    """The low-noise expert is of the sizes of the other; else ValueError names the field."""
    sources = assembly.sources
    found = like(config.video, assembly.low_noise, "video", sources["low_noise"])
    for field in fields(found):
        low = getattr(found, field.name)
        high = getattr(config.video, field.name)
        if low != high:
            raise ValueError(
                f"{sources['low_noise']} has the {field.name} {low}, {sources['video']} {high}: "
                "wanted the two experts of one model, choose both files from one release"
            )
