"""The published folder of MOVA as one file, copied tensor by tensor, its matrices quantised where asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import ScriptError, Ticker
from ccl_tools.tensor_file import Entry, Source, Writer

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge")
LOW_NOISE = "video_dit_2"
FP8 = "float8_e4m3fn"
MATRICES = ("blocks.", "audio_to_video_conditioners.", "video_to_audio_conditioners.")
QUANT = json.dumps({"format": FP8}).encode()


@dataclass(frozen=True)
class Part:
    """One folder of the published model: its tensors and its config.json."""

    name: str
    source: Source
    config: dict[str, Any]


def read_part(folder: Path, name: str) -> Part:
    """Headers only. ScriptError where a shard of the index is missing."""
    here = folder / name
    files = sorted(here.glob("*.safetensors"))
    if not files:
        raise ScriptError(
            f"{here} holds no safetensors file",
            "name the folder of MOVA-360p or MOVA-720p as it was published, with the folders "
            + ", ".join(PARTS),
        )
    index = next(here.glob("*.safetensors.index.json"), None)
    if index is not None:
        weight_map = _json(index).get("weight_map", {})
        files = sorted({here / file for file in weight_map.values()})
        lacking = [file.name for file in files if not file.is_file()]
        if lacking:
            raise ScriptError(
                f"{here} lacks {lacking[0]}, which {index.name} names", "download the rest of the model"
            )
    source = Source.open(files)
    if index is not None and (gone := set(weight_map) - set(source.entries)):
        raise ScriptError(f"{here} lacks {min(gone)}, which {index.name} names", "download its shard again")
    config = here / "config.json"
    return Part(name, source, _json(config) if config.is_file() else {})


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ScriptError(f"{path} is no JSON file ({error})", "download it again") from error


def is_matrix(key: str, entry: Entry) -> bool:
    """Weights of linear layers in blocks and bridge; embeddings, heads, norms, modulations stay."""
    return len(entry.shape) == 2 and key.endswith(".weight") and key.startswith(MATRICES)


def planned(parts: list[Part], quantise: bool) -> dict[str, Entry]:
    """The tensors of the output."""
    entries = {}
    for part in parts:
        for key, entry in part.source.entries.items():
            name = f"{part.name}.{key}"
            entries[name] = entry
            if quantise and is_matrix(key, entry):
                layer = name.removesuffix(".weight")
                entries[name] = Entry(FP8, entry.shape)
                entries[f"{layer}.weight_scale"] = Entry("float32", ())
                entries[f"{layer}.comfy_quant"] = Entry("uint8", (len(QUANT),))
    return entries


def quantised(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A matrix as the host's quantiser writes it, with the entry by which the host knows the format."""
    import torch
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    tensor = QuantizedTensor.from_float(weight, QUANT_ALGOS[FP8]["comfy_tensor_layout"], scale="recalculate")
    quant = torch.tensor(list(QUANT), dtype=torch.uint8)
    return tensor.state_dict(name) | {f"{name.removesuffix('.weight')}.comfy_quant": quant}


def config_of(parts: list[Part]) -> str:
    """The ccl_config of these towers; config.json, where the folder has one, gives what no shape tells."""
    from ccl_pack.ccl_core.host.files.configure import published_config
    from ccl_pack.ccl_core.host.files.identify import identify
    from ccl_pack.ccl_core.host.files.read import RawFile
    from ccl_pack.ccl_core.metadata import write_config

    configs = {part.name: part.config for part in parts}
    bridge = configs["dual_tower_bridge"]
    coupling = {
        field: bridge[key]
        for field, key in (("head_width", "head_dim"), ("first_frame_bias", "apply_first_frame_bias_in_rope"))
        if key in bridge
    }
    heads = {
        stream: {"num_heads": configs[part]["num_heads"]} if "num_heads" in configs[part] else {}
        for stream, part in (("video", "video_dit"), ("audio", "audio_dit"))
    }
    sd = {f"{part.name}.{key}": value for part in parts for key, value in part.source.outline().items()}
    try:
        file = identify(RawFile("this folder", sd, {}, {}, False))
        if file.family != "mova" or not file.content.whole:
            raise ValueError(f"it is {file.content.description}")
        return write_config(published_config("mova", file.tensors, "this folder", options=coupling, **heads))
    except ValueError as error:
        raise ScriptError(
            f"this is not MOVA as it was published: {error}", "name the folder of MOVA-360p or MOVA-720p"
        ) from error


def convert(folder: Path, output: Path, *, only_high: bool = False, quantise: bool = False) -> None:
    """Write the file; it appears under its name when it is complete."""
    if not folder.is_dir():
        raise ScriptError(f"{folder} is no folder", "name the folder of MOVA-360p or MOVA-720p")
    if output.suffix not in (".safetensors", ".sft"):
        raise ScriptError(
            f"{output.name} does not end in .safetensors", "name the output something.safetensors"
        )
    parts = [read_part(folder, name) for name in PARTS if not (only_high and name == LOW_NOISE)]
    metadata = {"ccl_config": config_of(parts), "format": "pt"}
    entries = planned(parts, quantise)
    with Writer(output, entries, metadata) as writer:
        ticker = Ticker(f"writing {output.name}")
        count = 0
        for part in parts:
            for key, entry in part.source.entries.items():
                name = f"{part.name}.{key}"
                tensor = part.source.read(key)
                matrix = quantise and is_matrix(key, entry)
                for made, value in (quantised(name, tensor) if matrix else {name: tensor}).items():
                    writer.write(made, value)
                    count += 1
                ticker.tick(f"{count} of {len(entries)} tensors, {part.name}")
    ticker.done(f"{writer.total / 1e9:.2f} GB, {len(entries)} tensors")
