"""Prompts written from what /object_info says of a node: with the inputs it requires, or with all of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ccl_pack.ccl_core.host.media.latent_file import ENDING, save
from ccl_tools.environment import ROOT
from ccl_tools.server import ComfyServer, Prompt, PromptRejected

TINY = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
NAME = "by_hand.safetensors"
CHOICE = "COMFY_DYNAMICCOMBO_V3"
# What an input gets where its default is no file, takes long, or does not go with the others.
VALUES: dict[str, Any] = {
    "ckpt_name": TINY.name,
    "unet_name": NAME,
    "video_model": NAME,
    "vae_name": NAME,
    "lora_name": NAME,
    "latent_name": f"by_hand{ENDING}",
    "steps": 1,
}
# Nodes that give what sockets want; 1 is the checkpoint.
SOURCES: Prompt = {
    "1": {"class_type": "CCLCheckpointLoader", "inputs": {"ckpt_name": TINY.name}},
    "2": {
        "class_type": "CCLEmptyAVLatent",
        "inputs": {"model": ["1", 0], "size": "from model", "length": "frames", "length.frames": 5}
        | {"batch_size": 1},
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red ball falls, click"}},
    "4": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 5, "color": 255}},
    "6": {"class_type": "LTXVSeparateAVLatent", "inputs": {"av_latent": ["2", 0]}},
    "7": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}},
    "8": {
        "class_type": "CCLEncodeAV",
        "inputs": {"latent": ["2", 0], "image_fit": "crop", "length_fit": "pad", "images": ["4", 0]}
        | {"audio": ["5", 0], "video_vae": ["1", 2], "audio_vae": ["1", 3]},
    },
    "5": {"class_type": "EmptyAudio", "inputs": {"duration": 0.5, "sample_rate": 16000, "channels": 1}},
}
LINKS = {
    "MODEL": ["1", 0],
    "CLIP": ["1", 1],
    "VAE": ["1", 2],
    "LATENT": ["2", 0],
    "CONDITIONING": ["3", 0],
    "IMAGE": ["4", 0],
    "AUDIO": ["5", 0],
    "MASK": ["7", 0],
}
# A latent without sound is what Decode can do without an optional input; a task keeps what there is, and a
# film that is kept has a reference image.
LINKS_BY_NAME = {
    "audio_vae": ["1", 3],
    "CCLDecodeAV.latent": ["6", 0],
    "CCLLoopSampler.latent_image": ["6", 0],
    "CCLSetTask.latent": ["8", 0],
    "CCLReferences.latent": ["8", 0],
    "CCLUpscaleAV.latent": ["8", 0],
}
NODE, SHOWN = "10", "11"


class Answer(NamedTuple):
    """What became of a prompt. how: success, rejected, or the type of the exception."""

    how: str
    said: str = ""


class Input(NamedTuple):
    """An input of a node, as /object_info states it."""

    name: str
    kind: str
    options: dict[str, Any]
    required: bool

    @property
    def is_socket(self) -> bool:
        return self.kind in LINKS

    @property
    def value(self) -> Any:
        """A link, or what the page would show first."""
        if self.is_socket:
            return LINKS_BY_NAME.get(self.name, LINKS[self.kind])
        short = self.name.split(".")[-1]
        first = (self.options.get("options") or [None])[0]
        first = first["key"] if isinstance(first, dict) else first
        return VALUES.get(short, self.options.get("default", first))


def write_files(models: Path) -> None:
    """Parts of ccl-tiny as files of their own, a LoRA of it, and a latent."""
    save(str(models.parent / "input" / f"by_hand{ENDING}"), {"samples": torch.zeros(1, 16, 2, 8, 8)}, {})
    with safe_open(TINY, "pt") as whole:
        metadata = whole.metadata()
        tensors = {key: whole.get_tensor(key) for key in whole.keys()}  # noqa: SIM118 - not a dict
    sound = {
        key.removeprefix("audio_vae."): value
        for key, value in tensors.items()
        if key.startswith("audio_vae.")
    }
    other = ("audio_vae.", "vae.", "text_encoders.")
    model = {key: value for key, value in tensors.items() if not key.startswith(other)}
    weight = "blocks.0.self_attn.q"
    rows, columns = model[f"{weight}.weight"].shape
    lora = {
        f"diffusion_model.{weight}.lora_A.weight": torch.full((1, columns), 0.01),
        f"diffusion_model.{weight}.lora_B.weight": torch.full((rows, 1), 0.01),
    }
    for folder, content in (("diffusion_models", model), ("vae", sound), ("loras", lora)):
        (models / folder).mkdir(exist_ok=True)
        save_file(content, models / folder / NAME, metadata)


def inputs_of(node: dict[str, Any]) -> list[Input]:
    """The inputs that stand in every prompt; those of a dynamic choice's options: `children`."""
    return _listed(node["input"], "")


def children(choice: Input, option: str) -> list[Input]:
    """What the option of a dynamic choice asks for."""
    chosen = next(entry for entry in choice.options["options"] if entry["key"] == option)
    return _listed(chosen["inputs"], f"{choice.name}.")


def _listed(sections: dict[str, Any], prefix: str) -> list[Input]:
    found = []
    for section in ("required", "optional"):
        for name, (kind, *rest) in sections.get(section, {}).items():
            # An old form of a combo: its options in the place of the kind.
            options = rest[0] if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            found.append(Input(prefix + name, kind, options, section == "required"))
    return found


def prompt_of(node_id: str, info: dict[str, Any], optional: bool = False, **changes: Any) -> Prompt:
    """The node with its required inputs, or with all of them, and something that shows its output."""
    values = {}
    for entry in inputs_of(info):
        if entry.required or optional:
            usual = LINKS_BY_NAME.get(f"{node_id}.{entry.name}", entry.value)
            values[entry.name] = changes.get(entry.name, usual)
            known = [option["key"] for option in entry.options["options"]] if entry.kind == CHOICE else []
            if values[entry.name] in known:
                more = children(entry, values[entry.name])
                values |= {child.name: child.value for child in more if child.required or optional}
    prompt = copy.deepcopy(SOURCES)
    prompt[NODE] = {"class_type": node_id, "inputs": values | changes}
    if not info["output_node"]:
        prompt[SHOWN] = {"class_type": "PreviewAny", "inputs": {"source": [NODE, 0]}}
    return prompt


def ask(server: ComfyServer, prompt: Prompt) -> Answer:
    """Run a prompt to its end."""
    try:
        run = server.run(prompt)
    except PromptRejected as rejection:
        return Answer("rejected", rejection.summary)
    if run.status == "success":
        return Answer("success")
    return Answer(run.error["exception_type"], run.error["exception_message"])
