"""All nodes of the host that take a LATENT, MODEL, CONDITIONING or GUIDER, run on a joint model and a pair of
video and sound, and on plain Wan with the same video weights and the video alone.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.samplers
import comfy.supported_models
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras import nodes_custom_sampler as custom
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.host.media.latents import join, split
from support import tiny
from support.tiny_vaes import video_vae

SOCKETS = {"LATENT", "MODEL", "CONDITIONING", "GUIDER"}
TOLERANCE = 1e-5  # of the largest value of the reference
# Nodes that run for minutes, or with a VAE of the other stream, and what runs them.
ELSEWHERE = {
    "TorchCompileModel": "tests/model/test_compile.py",
    "TrainLoraNode": "trains for minutes",
    "VAEDecodeAudio": "tests/host/vae: wants an audio VAE",
    "VAEDecodeAudioTiled": "tests/host/vae: wants an audio VAE",
}
# Inputs for one stream of a pair.
STREAMS = {"video_latent": 0, "audio_latent": 1}
SHAPE = {"frames": 3, "height": 4, "width": 6, "tokens": 18}
# Defaults that run for long, or are no choice of this model.
VALUES: dict[str, Any] = {"steps": 2, "cfg": 3.0, "width": 48, "height": 32, "length": 9, "batch_size": 1}


@dataclass(frozen=True)
class Kit:
    """What the sockets of a node are given: a joint model with its pair, or plain Wan with the video."""

    model: ModelPatcher
    latent: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a node gave: the tensors of its outputs, video and sound apart; or the error."""

    video: tuple[Tensor, ...] = ()
    sound: tuple[Tensor, ...] = ()
    error: BaseException | None = None


@dataclass(frozen=True)
class Row:
    """What became of one node. verdict: a key of VERDICTS."""

    node: str
    verdict: str
    note: str = ""


# The lines of docs/host-nodes.md, in this order.
VERDICTS = {
    "same": "Works, and the video is that of plain Wan under the same node",
    "runs": "Works, and there is no video of plain Wan to compare with",
    "differs": "Works on video and sound as on one tensor, as with every audio-video model of the host: not "
    "the video of plain Wan (largest difference as a part of the largest value)",
    "says": "Refused in one sentence that says the way round",
    "host": "Made for other models: stops with plain Wan too",
    "raw": "Stops with an error of the host",
    "needs": "Not run here: wants what these models do not have, an audio VAE, or minutes",
}


def joint_kit() -> Kit:
    """A CCL model whose coupling adds nothing, so that its video is that of plain Wan."""
    weights = tiny.state_dict(tiny.config())
    for key, value in weights.items():
        if key.startswith("interaction.") and ".o." in key:
            value.zero_()
    pair = join(split(tiny.av_latent(**SHAPE)))
    return Kit(tiny.patcher(weights=weights), lambda: dict(pair))


def wan_kit(joint: Kit) -> Kit:
    """The host's own Wan with the video's weights."""
    chosen = joint.model.model.ccl_config
    settings = comfy.supported_models.WAN21_T2V({"image_model": "wan2.1", **chosen.video.wan_arguments()})
    settings.set_inference_dtype(torch.float32, None)
    settings.sampling_settings = {"shift": chosen.shift}
    model = settings.get_model({})
    own = model.diffusion_model.state_dict()
    weights = joint.model.model.diffusion_model.state_dict()
    model.diffusion_model.load_state_dict({key: weights[key] for key in own})
    video = joint.latent()["samples"].unbind()[0]
    return Kit(
        CoreModelPatcher(model, torch.device("cpu"), torch.device("cpu")),
        lambda: {"samples": video.clone(), "fps": 16.0},
    )


@cache
def all_classes() -> dict[str, type]:
    """The host's nodes by their ids, those of its extra files too."""
    asyncio.run(host_nodes.init_builtin_extra_nodes())
    return dict(host_nodes.NODE_CLASS_MAPPINGS)


def host_classes() -> dict[str, type]:
    """The host's nodes with one of the sockets."""
    found = {}
    for name, node in all_classes().items():
        kinds = {str(kind) for _, kind, _, _ in inputs_of(node)}
        if kinds & SOCKETS and not name.startswith("CCL"):
            found[name] = node
    return dict(sorted(found.items()))


def inputs_of(node: type) -> Iterator[tuple[str, Any, dict[str, Any], bool]]:
    """Name, type, options of each input, and whether it is required."""
    sections = node.INPUT_TYPES()
    for section in ("required", "optional"):
        for name, (kind, *rest) in sections.get(section, {}).items():
            yield name, kind, rest[0] if rest else {}, section == "required"


class NeedsOther(Exception):
    """A node that asks for something neither model has."""


def arguments(node: type, kit: Kit) -> dict[str, Any]:
    """A value for each input: sockets from the kit, widgets their defaults."""
    given = {}
    for name, kind, options, required in inputs_of(node):
        if str(kind) in SOCKETS or required:
            given[name] = value_of(name, kind, options, kit)
    return given


def value_of(name: str, kind: Any, options: dict[str, Any], kit: Kit) -> Any:
    if kind == "LATENT" and name in STREAMS:
        return {"samples": stream(kit, STREAMS[name])}
    if isinstance(kind, str) and kind in MAKERS:
        return MAKERS[kind](kit)
    if kind == "COMFY_DYNAMICCOMBO_V3":
        option = options["options"][0]
        inner = option["inputs"].get("required", {})
        values = {
            key: value_of(key, row[0], row[1] if len(row) > 1 else {}, kit) for key, row in inner.items()
        }
        return {name: option["key"], **values}
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices:
        return options.get("default", choices[0])
    if name in VALUES:
        return VALUES[name]
    if "default" in options:
        return options["default"]
    simple = {"INT": options.get("min", 0), "FLOAT": options.get("min", 0.0), "STRING": "", "BOOLEAN": False}
    if isinstance(kind, str) and kind in simple:
        return simple[kind]
    raise NeedsOther(f"{name}: {kind if isinstance(kind, str) else 'a file'}")


def stream(kit: Kit, number: int) -> Tensor:
    """One stream of the pair; the video where there is no sound."""
    samples = kit.latent()["samples"]
    return samples.unbind()[number] if isinstance(samples, NestedTensor) else samples


def _image() -> Tensor:
    return torch.rand(9, 32, 48, 3, generator=torch.Generator().manual_seed(5))


def _mask() -> Tensor:
    mask = torch.ones(1, 32, 48)
    mask[..., :24] = 0
    return mask


def _guider(kit: Kit) -> Any:
    guider = comfy.samplers.CFGGuider(kit.model)
    guider.set_conds(tiny.conditioning(1), tiny.conditioning(2))
    guider.set_cfg(3.0)
    return guider


MAKERS: dict[str, Callable[[Kit], Any]] = {
    "MODEL": lambda kit: kit.model.clone(),
    "LATENT": lambda kit: kit.latent(),
    "CONDITIONING": lambda _: tiny.conditioning(1),
    "GUIDER": _guider,
    "VAE": lambda _: video_vae(),
    "IMAGE": lambda _: _image(),
    "MASK": lambda _: _mask(),
    "SIGMAS": lambda _: torch.tensor([1.0, 0.6, 0.0]),
    "SAMPLER": lambda _: comfy.samplers.sampler_object("euler"),
    "NOISE": lambda _: custom.Noise_RandomNoise(1),
    "AUDIO": lambda _: {"waveform": torch.zeros(1, 1, 9000), "sample_rate": 16000},
}


def called(node: type, given: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The outputs of a node with their types."""
    if hasattr(node, "define_schema"):
        result = node.PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(**given)
        result = asyncio.run(result) if inspect.isawaitable(result) else result
        values = tuple(getattr(result, "args", result) or ())
    else:
        values = getattr(node(), node.FUNCTION)(**given)
        values = tuple(values.get("result", ())) if isinstance(values, dict) else tuple(values or ())
    return tuple(zip(node.RETURN_TYPES, values, strict=False))


def outcome(node: type, kit: Kit) -> Outcome:
    """Run a node, and the model behind what it gave."""
    given = arguments(node, kit)
    if node.__dict__.get("INPUT_IS_LIST") or getattr(node, "INPUT_IS_LIST", False):
        given = {key: [value] for key, value in given.items()}
    try:
        made = [tensors_of(kind, value, kit) for kind, value in called(node, given)]
    except Exception as error:
        return Outcome(error=error)
    video, sound = [], []
    for streams in made:
        video += streams[:1]
        sound += streams[1:2]
    return Outcome(tuple(video), tuple(sound))


def tensors_of(kind: str, value: Any, kit: Kit) -> list[Tensor]:
    """An output as video and sound; a MODEL, CONDITIONING or GUIDER as what it samples."""
    if isinstance(value, list) and kind != "CONDITIONING":
        value = value[0]
    if kind == "LATENT":
        value = value["samples"]
        return list(value.unbind()) if isinstance(value, NestedTensor) else [value]
    if kind == "MODEL":
        return sampled(value, tiny.conditioning(1), kit)
    if kind == "CONDITIONING":
        return sampled(kit.model, value, kit)
    if kind == "GUIDER":
        latent = kit.latent()["samples"]
        noise = custom.Noise_RandomNoise(1).generate_noise({"samples": latent})
        made = value.sample(noise, latent, comfy.samplers.sampler_object("euler"), MAKERS["SIGMAS"](kit))
        return list(made.unbind()) if isinstance(made, NestedTensor) else [made]
    return [value] if isinstance(value, Tensor) else []


def sampled(model: ModelPatcher, positive: list, kit: Kit) -> list[Tensor]:
    texts = positive, tiny.conditioning(2)
    made = host_nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *texts, kit.latent())[0]["samples"]
    return list(made.unbind()) if isinstance(made, NestedTensor) else [made]


def is_ours(error: BaseException) -> bool:
    """Whether a sentence of this pack ended the run, and no error that happened to be in its code."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "/ccl_core/" in last.filename and last.line.startswith("raise ")


def first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else ''}"


def swept(name: str, node: type, joint: Kit, wan: Kit) -> Row:
    """The verdict on one node."""
    if name in ELSEWHERE:
        return Row(name, "needs", ELSEWHERE[name])
    try:
        found, reference = outcome(node, joint), outcome(node, wan)
    except NeedsOther as error:
        return Row(name, "needs", str(error))
    if found.error is not None:
        if is_ours(found.error):
            return Row(name, "says", first_line(found.error))
        verdict = "host" if reference.error is not None else "raw"
        return Row(name, verdict, first_line(found.error))
    if reference.error is not None or not reference.video:
        return Row(name, "runs", "" if reference.error is None else f"Wan: {first_line(reference.error)}")
    return compared(name, found, reference)


def compared(name: str, found: Outcome, reference: Outcome) -> Row:
    furthest = 0.0
    for ours, theirs in zip(found.video, reference.video, strict=False):
        if ours.shape != theirs.shape:
            return Row(name, "differs", f"{tuple(ours.shape)} instead of {tuple(theirs.shape)}")
        largest = theirs.abs().max().clamp(min=1e-6)
        furthest = max(furthest, float((ours - theirs).abs().max() / largest))
    if len(found.video) != len(reference.video):
        return Row(name, "differs", f"{len(found.video)} outputs instead of {len(reference.video)}")
    return Row(name, "same" if furthest <= TOLERANCE else "differs", f"{furthest:.1e}" if furthest else "")


def sweep() -> list[Row]:
    """Every node of the host, in the order of the ids."""
    joint = joint_kit()
    wan = wan_kit(joint)
    rows = []
    for name, node in host_classes().items():
        torch.manual_seed(0)
        rows.append(swept(name, node, joint, wan))
    return rows


def page_lines(rows: list[Row]) -> list[str]:
    """The part of docs/host-nodes.md that the sweep writes: a list of nodes for each verdict."""
    lines = []
    for verdict, meaning in VERDICTS.items():
        found = [row for row in rows if row.verdict == verdict]
        notes = verdict in ("differs", "raw")
        named = [f"{row.node} ({row.note})" if notes else row.node for row in found]
        if found:
            text = f"**{meaning}** ({len(found)}): {', '.join(named)}."
            lines += [textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False), ""]
    return lines


def verdicts_of(page: str) -> dict[str, str]:
    """The verdict on each node that the page states."""
    found = {}
    for paragraph in page.split("\n\n"):
        line = " ".join(paragraph.split())
        for verdict, meaning in VERDICTS.items():
            if line.startswith(f"**{meaning}**"):
                named = line.split("): ", 1)[1].rstrip(".")
                # Notes stand in brackets, which may hold others.
                while "(" in named:
                    named = re.sub(r" ?\([^()]*\)", "", named)
                found |= dict.fromkeys(named.split(", "), verdict)
    return found
