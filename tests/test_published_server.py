"""Every published layout from its loader to an mp4 in a real server, by the templates; and files that are
broken.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from ccl_tools.server import PACK_FOLDER, ComfyServer, Prompt, PromptRejected, Run
from ccl_tools.workflow import to_prompt
from support import templates as templates_of
from support import tiny_published as files

OVI_TEXT, OVI_IMAGE = "Ovi 1.1 Text to Video with Sound", "Ovi 1.1 Image to Video with Sound"
MOVA = "MOVA Image to Video with Sound"
PRISM = "Prism Image to Video with Sound"
CHECKPOINT = Path(__file__).resolve().parents[1] / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
OTHER_PARTS = ("vae.", "audio_vae.", "text_encoders.")
SIDE, FRAMES, FPS, STEPS = 64, 9, 24, 2
IMAGE = "start.png"
LAST_LAYER = "1"  # of the tiny towers; the templates name layer 11
SEEDS = itertools.count(1)

Change = Callable[[Prompt], None]


def node_id(prompt: Prompt, class_type: str) -> str:
    return next(key for key, entry in prompt.items() if entry["class_type"] == class_type)


def node(prompt: Prompt, class_type: str) -> dict[str, Any]:
    """The inputs of the node of this class."""
    return prompt[node_id(prompt, class_type)]["inputs"]


def replace_node(prompt: Prompt, old: str, new: str, **inputs: Any) -> None:
    """Another node with the same first output in the place of one."""
    prompt[node_id(prompt, old)] = {"class_type": new, "inputs": inputs, "_meta": {"title": new}}


def model_file(name: str) -> Change:
    """The model from one file, whichever loader the template has."""

    def change(prompt: Prompt) -> None:
        old = next(
            entry["class_type"] for entry in prompt.values() if entry["class_type"].startswith("CCLModel")
        )
        replace_node(prompt, old, "CCLModelLoader", unet_name=name, weight_dtype="default")

    return change


def audio_vae(name: str, vocoder: str = "none") -> Change:
    return lambda prompt: node(prompt, "CCLAudioVAELoader").update(vae_name=name, vocoder_name=vocoder)


def parts(**chosen: str) -> Change:
    return lambda prompt: node(prompt, "CCLModelAssembler").update(chosen)


def ovi_split(prompt: Prompt) -> None:
    video, audio = files.OVI_SPLIT
    chosen = {"video_model": video, "audio_stream": audio, "interaction": "none", "low_noise_model": "none"}
    replace_node(prompt, "CCLModelLoader", "CCLModelAssembler", **chosen, weight_dtype="default")


vocos = audio_vae(files.VAE_VOCOS)
LAYOUTS: dict[str, tuple[str, list[Change]]] = {
    "Ovi scaled fp8, split names in one file, MMAudio in two": (OVI_TEXT, []),
    "Ovi scaled fp8, start image": (OVI_IMAGE, [vocos]),
    "Ovi plain fp8": (OVI_TEXT, [vocos, model_file(files.OVI_FP8)]),
    "Ovi merged bf16": (OVI_TEXT, [vocos, model_file(files.OVI_MERGED)]),
    "Ovi in two files": (OVI_TEXT, [vocos, ovi_split]),
    "MOVA in its folders": (MOVA, []),
    "MOVA in one file": (MOVA, [model_file(files.MOVA_FILE)]),
    "Prism in four int8 files": (PRISM, []),
    "Prism as published": (PRISM, [model_file(files.PRISM_FILE)]),
    "Prism in one int8 file": (PRISM, [model_file(files.PRISM_INT8)]),
}


@pytest.fixture(scope="module")
def published(server: ComfyServer) -> ComfyServer:
    """The server with all files in its folders."""
    files.write_all(server.base / "models")
    pixels = torch.randint(0, 255, (50, 70, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(server.base / "input" / IMAGE)
    return server


@pytest.fixture(scope="module")
def templates(published: ComfyServer) -> dict[str, Prompt]:
    """The templates as the browser would queue them, small and with ccl-tiny's text encoder."""
    info = published.get("/object_info")
    path = f"/api/workflow_templates/{PACK_FOLDER}"
    names = (OVI_TEXT, OVI_IMAGE, MOVA, PRISM)
    return {
        name: shrink(to_prompt(published.get(f"{path}/{urllib.parse.quote(name)}.json"), info))
        for name in names
    }


def shrink(prompt: Prompt) -> Prompt:
    encoder = node_id(prompt, "CLIPLoader")
    prompt[encoder] = {"class_type": "CCLCheckpointLoader", "inputs": {"ckpt_name": "ccl-tiny.safetensors"}}
    sizes = {"width": SIDE, "height": SIDE, "length": FRAMES, "steps": STEPS, "image": IMAGE}
    for entry in prompt.values():
        inputs = entry["inputs"]
        if inputs.get("clip") == [encoder, 0]:
            inputs["clip"] = [encoder, 1]
        if entry["class_type"] == "CCLEmptyAVLatent":
            inputs |= {"size": "custom", "size.width": SIDE, "size.height": SIDE}
            inputs |= {"length": "frames", "length.frames": FRAMES}
        if "skip_layers" in inputs:
            inputs["skip_layers"] = LAST_LAYER
        inputs |= {name: value for name, value in sizes.items() if type(inputs.get(name)) is type(value)}
    return prompt


def changed(prompt: Prompt, *changes: Change) -> Prompt:
    prompt = copy.deepcopy(prompt)
    for change in changes:
        change(prompt)
    return prompt


@dataclass(frozen=True)
class Clip:
    """A file as a player finds it."""

    seconds: dict[str, Fraction]
    frames: numpy.ndarray  # (f, h, w, 3)
    sound: numpy.ndarray  # (channels, n)


def read_clip(server: ComfyServer, run: Run) -> Clip:
    assert run.status == "success", run.error
    with av.open(io.BytesIO(server.view(run.files(".mp4")[0]))) as container:
        seconds = {stream.type: stream.duration * stream.time_base for stream in container.streams}
        frames = numpy.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        container.seek(0)
        sound = numpy.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=-1)
    return Clip(seconds, frames, sound)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_makes_a_video_with_sound(
    published: ComfyServer, templates: dict[str, Prompt], layout: str
) -> None:
    """CCLDecodeAV refuses a latent with NaN, so a file is there only if the sampler gave numbers."""
    name, changes = LAYOUTS[layout]
    clip = read_clip(published, published.run(changed(templates[name], *changes)))
    assert set(clip.seconds) == {"video", "audio"}
    assert clip.seconds["video"] == Fraction(FRAMES, FPS)
    assert abs(clip.seconds["audio"] - clip.seconds["video"]) < 0.001
    assert clip.frames.shape == (FRAMES, SIDE, SIDE, 3)
    assert clip.frames.std() > 5
    assert numpy.isfinite(clip.sound).all()
    assert clip.sound.std() > 1e-4


def save_images(prompt: Prompt) -> None:
    """Frames without loss: x264 with several threads does not give the same file on a busy machine."""
    images = [node_id(prompt, "CCLDecodeAV"), 0]
    prompt["1000"] = {"class_type": "SaveImage", "inputs": {"images": images, "filename_prefix": "mova"}}


def frames_of(server: ComfyServer, prompt: Prompt, *changes: Change) -> list[bytes]:
    run = server.run(changed(prompt, save_images, *changes))
    assert run.status == "success", run.error
    pictures = [Image.open(io.BytesIO(server.view(file))) for file in run.files(".png")]
    assert len(pictures) == FRAMES
    return [picture.tobytes() for picture in pictures]


@pytest.mark.long
def test_families_in_turns_make_the_same_pictures(
    published: ComfyServer, templates: dict[str, Prompt]
) -> None:
    """Each time from the files: the server forgets models and results in between."""
    chosen = [
        (OVI_TEXT, [vocos]),
        (MOVA, [model_file(files.MOVA_FILE)]),
        (PRISM, []),
        (OVI_TEXT, [vocos, model_file(files.OVI_FP8)]),
    ]
    rounds = []
    for order in (chosen, chosen[::-1]):
        published.post("/free", {"unload_models": True, "free_memory": True})
        rounds.append([frames_of(published, templates[name], *changes) for name, changes in order])
    assert rounds[0] == rounds[1][::-1]
    assert len(set(map(tuple, rounds[0]))) == len(chosen)


def test_both_forms_of_mova_are_the_same_model_and_use_both_experts(
    published: ComfyServer, templates: dict[str, Prompt]
) -> None:
    in_folders = frames_of(published, templates[MOVA])
    assert frames_of(published, templates[MOVA], model_file(files.MOVA_FILE)) == in_folders
    assert frames_of(published, templates[MOVA], parts(low_noise_model="none")) != in_folders


def test_a_wan_file_with_an_audio_stream_and_an_interaction_is_their_checkpoint(
    published: ComfyServer,
) -> None:
    """ccl-tiny in three files, its video stream as a plain Wan file, gives the frames of ccl-tiny in one."""
    models = published.base / "models" / "diffusion_models"
    with safe_open(CHECKPOINT, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(OTHER_PARTS)}  # noqa: SIM118
        metadata = file.metadata()
    for part in ("audio.", "interaction."):
        taken = {key: tensors.pop(key) for key in list(tensors) if key.startswith(part)}
        save_file(taken, models / f"part_{part}safetensors", metadata=metadata)
    save_file(tensors, models / "part_wan.safetensors")
    prompt = to_prompt(templates_of.read(templates_of.FIRST), published.get("/object_info"))
    node(prompt, "CCLEmptyAVLatent").update({"length": "frames", "length.frames": FRAMES})
    node(prompt, "CCLJointSampler")["steps"] = STEPS

    def assemble(prompt: Prompt) -> None:
        files = {"audio_stream": "part_audio.safetensors", "interaction": "part_interaction.safetensors"}
        inputs = files | {
            "video_model": "part_wan.safetensors",
            "low_noise_model": "none",
            "weight_dtype": "default",
        }
        prompt["2000"] = {"class_type": "CCLModelAssembler", "inputs": inputs}
        checkpoint = node_id(prompt, "CCLCheckpointLoader")
        for entry in prompt.values():
            entry["inputs"] |= {
                key: ["2000", 0] for key, value in entry["inputs"].items() if value == [checkpoint, 0]
            }

    assert frames_of(published, prompt, assemble) == frames_of(published, prompt)


@pytest.fixture(scope="module")
def broken(published: ComfyServer) -> ComfyServer:
    """Beside the whole files, what people end up with."""
    models, vae = published.base / "models" / "diffusion_models", published.base / "models" / "vae"
    cut(models / files.OVI_MERGED, models / "cut.safetensors")
    cut(vae / files.VAE_DAC, vae / "cut.safetensors")
    (models / "renamed.safetensors").write_bytes((vae / files.VAE_DAC).read_bytes())
    (vae / "renamed.safetensors").write_bytes((models / files.OVI_FP8).read_bytes())
    torch.save({"weight": torch.zeros(3)}, models / "pickle.pth")
    torch.save({"weight": torch.zeros(3)}, models / "pickle.safetensors")
    torch.save({"weight": torch.zeros(3)}, vae / "pickle.safetensors")
    whole = models / files.MOVA_FOLDER / "video_dit"
    lacking = models / "lacking"
    lacking.mkdir()
    for shard in sorted(whole.iterdir())[:-1]:
        (lacking / shard.name).write_bytes(shard.read_bytes())
    return published


def cut(whole: Path, target: Path) -> None:
    data = whole.read_bytes()
    target.write_bytes(data[: len(data) // 2])


def mova(folder: str, ending: str = "") -> str:
    return (files.MOVA_FOLDER / folder / f"diffusion_pytorch_model{ending}.safetensors").as_posix()


AUDIO, BRIDGE = mova("audio_dit"), mova("dual_tower_bridge")
FIRST_SHARD = mova("video_dit", "-00001-of-00003")
LACKING = f"lacking/{Path(FIRST_SHARD).name}"

BAD: dict[str, tuple[str, Change, str, tuple[str, ...]]] = {
    "model cut short": (
        OVI_TEXT,
        model_file("cut.safetensors"),
        "CCLModelLoader",
        ("cut.safetensors", "download"),
    ),
    "audio VAE cut short": (
        MOVA,
        audio_vae("cut.safetensors"),
        "CCLAudioVAELoader",
        ("cut.safetensors", "ownload"),
    ),
    "audio VAE as a model": (
        OVI_TEXT,
        model_file("renamed.safetensors"),
        "CCLModelLoader",
        ("renamed", "audio VAE"),
    ),
    "model as an audio VAE": (
        OVI_TEXT,
        audio_vae("renamed.safetensors"),
        "CCLAudioVAELoader",
        ("not an audio VAE",),
    ),
    "plain Wan as a joint model": (
        OVI_TEXT,
        model_file(FIRST_SHARD),
        "CCLModelLoader",
        ("Wan model without",),
    ),
    "half of Ovi": (OVI_TEXT, model_file(files.OVI_SPLIT[0]), "CCLModelLoader", ("video part of Ovi",)),
    "bridge alone": (OVI_TEXT, model_file(BRIDGE), "CCLModelLoader", ("bridge of MOVA",)),
    "audio and bridge swapped": (
        MOVA,
        parts(audio_stream=BRIDGE, interaction=AUDIO),
        "CCLModelAssembler",
        ("bridge of MOVA",),
    ),
    "Ovi's audio in MOVA": (
        MOVA,
        parts(audio_stream=files.OVI_SPLIT[1]),
        "CCLModelAssembler",
        (files.OVI_SPLIT[1],),
    ),
    "audio as the second expert": (
        MOVA,
        parts(low_noise_model=AUDIO),
        "CCLModelAssembler",
        ("audio stream",),
    ),
    "a shard is missing": (
        MOVA,
        parts(video_model=LACKING),
        "CCLModelAssembler",
        ("00003-of-00003", "missing"),
    ),
    "a pickle under another name": (
        OVI_TEXT,
        model_file("pickle.safetensors"),
        "CCLModelLoader",
        ("pickle", "onvert"),
    ),
    "a pickled audio VAE": (
        OVI_TEXT,
        audio_vae("pickle.safetensors"),
        "CCLAudioVAELoader",
        ("pickle", "Convert"),
    ),
    "a pickle": (OVI_TEXT, model_file("pickle.pth"), "CCLModelLoader", ("pickle.pth",)),
    "audio VAE of another model": (MOVA, vocos, "CCLJointSampler", ("audio latent", "128")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_a_clear_error_and_the_next_prompt_runs(
    broken: ComfyServer, templates: dict[str, Prompt], case: str
) -> None:
    name, change, where, words = BAD[case]
    try:
        run = broken.run(changed(templates[name], change))
    except PromptRejected as rejection:
        said, at = (
            json.dumps(rejection.node_errors),
            {entry["class_type"] for entry in rejection.node_errors.values()},
        )
    else:
        assert run.status == "error"
        said, at = run.error["exception_message"], {run.error["node_type"]}
        assert run.error["exception_type"] == "ValueError", said
    assert at == {where}
    assert [word for word in words if word not in said] == [], said
    assert next_prompt_runs(broken, templates)


def next_prompt_runs(server: ComfyServer, templates: dict[str, Prompt]) -> bool:
    """With a seed of its own, as the server answers a prompt it has run before from its cache."""
    prompt = changed(templates[OVI_TEXT], vocos)
    node(prompt, "CCLJointSampler").update(steps=1, seed=next(SEEDS))
    return server.alive() and server.run(prompt).status == "success"
