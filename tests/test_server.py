"""The pack in a real server, over real HTTP and websocket: what is listed, the template, bad input,
cancel.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import test_pack
import torch
from safetensors.torch import save_file

from ccl_tools.environment import ROOT
from ccl_tools.server import PACK_FOLDER, ComfyServer, Event, Prompt, PromptRejected, Run
from ccl_tools.workflow import to_prompt
from support import templates
from support.media_files import write_media

IDS = sorted(test_pack.IDS)
TEMPLATE = templates.FIRST
STEPS = 2
SECONDS = 0.8
SEEDS = itertools.count(1000)

Change = Callable[[Prompt], None]


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture(scope="module")
def template(server: ComfyServer, object_info: dict[str, Any]) -> Prompt:
    """The template as the browser would queue it, short."""
    path = f"/api/workflow_templates/{PACK_FOLDER}/{urllib.parse.quote(TEMPLATE)}.json"
    prompt = to_prompt(server.get(path), object_info)
    node(prompt, "CCLJointSampler")["steps"] = STEPS
    node(prompt, "CCLEmptyAVLatent").update({"length": "seconds", "length.seconds": SECONDS})
    return prompt


@pytest.fixture(scope="module")
def clip(server: ComfyServer, template: Prompt) -> Run:
    return server.run(template)


def node_id(prompt: Prompt, class_type: str) -> str:
    return next(key for key, entry in prompt.items() if entry["class_type"] == class_type)


def node(prompt: Prompt, class_type: str) -> dict[str, Any]:
    """The inputs of the node of this class."""
    return prompt[node_id(prompt, class_type)]["inputs"]


def add(prompt: Prompt, class_type: str, **inputs: Any) -> list[Any]:
    """A new node; returns the link to its first output."""
    key = str(1000 + len(prompt))
    prompt[key] = {"class_type": class_type, "inputs": inputs}
    return [key, 0]


def streams(data: bytes) -> dict[str, float]:
    """Length in seconds of each stream of the file."""
    with av.open(io.BytesIO(data)) as container:
        return {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}


def test_the_pack_loads_without_a_complaint(server: ComfyServer) -> None:
    log = server.log.read_text()
    assert not [word for word in ("IMPORT FAILED", "Cannot import", "Error while calling") if word in log]


def test_every_node_is_listed(object_info: dict[str, Any]) -> None:
    assert sorted(name for name in object_info if name.startswith("CCL")) == IDS
    assert {object_info[name]["python_module"] for name in IDS} == {f"custom_nodes.{PACK_FOLDER}"}


@pytest.mark.parametrize("name", IDS)
def test_help_page_is_served(server: ComfyServer, name: str) -> None:
    page = server.get_bytes(f"/extensions/{PACK_FOLDER}/docs/{name}.md").decode()
    assert page.startswith("#")


def test_template_is_listed(server: ComfyServer) -> None:
    assert TEMPLATE in server.get("/api/workflow_templates")[PACK_FOLDER]


def test_embedded_checkpoint_is_offered(object_info: dict[str, Any]) -> None:
    options = json.dumps(object_info["CCLCheckpointLoader"]["input"])
    assert "ccl-tiny.safetensors" in options


def test_template_makes_a_video_with_sound(server: ComfyServer, clip: Run) -> None:
    assert clip.status == "success", clip.error
    lengths = streams(server.view(clip.files(".mp4")[0]))
    assert set(lengths) == {"video", "audio"}
    assert abs(lengths["video"] - lengths["audio"]) < 0.02
    assert SECONDS <= lengths["video"] < SECONDS + 4 / 16 + 0.01


@pytest.mark.parametrize("name", templates.TINY)
def test_every_template_of_ccl_tiny_runs_as_it_is(
    server: ComfyServer, object_info: dict[str, Any], name: str
) -> None:
    """With the file of a person where it wants one."""
    templates.give(server.base / "input")
    prompt = to_prompt(templates.read(name), object_info)
    for entry in prompt.values():
        if entry["class_type"] == "CCLJointSampler":
            entry["inputs"]["steps"] = STEPS
    run = server.run(prompt)
    assert run.status == "success", run.error
    made = [*run.files(".mp4"), *run.files(".flac")]
    lengths = streams(server.view(made[0]))
    assert set(lengths) == ({"audio"} if made[0]["filename"].endswith(".flac") else {"video", "audio"})
    assert min(lengths.values()) > 1.9 and max(lengths.values()) - min(lengths.values()) < 1 / 16
    assert [event.data["text"] for event in run.events if event.kind == "ccl_notice"] == []


def test_progress_and_previews_arrive_while_sampling(clip: Run, template: Prompt) -> None:
    sampler = node_id(template, "CCLJointSampler")
    progress = [
        event.data for event in clip.events if event.kind == "progress" and event.data["node"] == sampler
    ]
    assert [entry["value"] for entry in progress if entry["max"] == STEPS][-1] == STEPS
    assert clip.previews >= STEPS


def test_what_the_save_nodes_of_the_host_write_makes_the_same_clip(
    server: ComfyServer, template: Prompt
) -> None:
    prompt = copy.deepcopy(template)
    decode = node_id(prompt, "CCLDecodeAV")
    add(prompt, "SaveImage", images=[decode, 0], filename_prefix="saved")
    add(prompt, "SaveAudio", audio=[decode, 1], filename_prefix="saved")
    saving = copy.deepcopy(prompt)
    model, clip, picture, sound = ([node_id(prompt, "CCLCheckpointLoader"), slot] for slot in range(4))
    add(
        saving, "CheckpointSave", model=model, clip=clip, vae=picture, filename_prefix="checkpoints/saved_all"
    )
    add(saving, "ModelSave", model=model, filename_prefix="diffusion_models/saved_model")
    add(saving, "VAESave", vae=picture, filename_prefix="vae/saved_picture")
    add(saving, "VAESave", vae=sound, filename_prefix="vae/saved_sound")
    wanted = _media(server, server.run(saving))
    whole = copy.deepcopy(prompt)
    node(whole, "CCLCheckpointLoader")["ckpt_name"] = "saved_all_00001_.safetensors"
    assert _media(server, server.run(whole)) == wanted
    parts = copy.deepcopy(prompt)
    links = {
        0: add(
            parts,
            "CCLModelLoader",
            unet_name="saved_model_00001_.safetensors",
            weight_dtype="default",
        ),
        2: add(parts, "VAELoader", vae_name="saved_picture_00001_.safetensors"),
        3: add(parts, "CCLAudioVAELoader", vae_name="saved_sound_00001_.safetensors"),
    }
    for entry in parts.values():
        entry["inputs"] |= {
            name: links[value[1]]
            for name, value in entry["inputs"].items()
            if isinstance(value, list) and value[0] == model[0] and value[1] in links
        }
    assert _media(server, server.run(parts)) == wanted


def _media(server: ComfyServer, run: Run) -> list[bytes]:
    """The numbers of the pictures and of the sound: a file also holds its prompt."""
    assert run.status == "success", run.error
    pictures = [_pixels(server.view(file)).numpy().tobytes() for file in run.files(".png")]
    (sound,) = run.files(".flac")
    with av.open(io.BytesIO(server.view(sound))) as container:
        return [*pictures, *(frame.to_ndarray().tobytes() for frame in container.decode(audio=0))]


def test_same_seed_gives_the_same_frames(server: ComfyServer, template: Prompt) -> None:
    again = copy.deepcopy(template)
    # As pictures: the encoder of the video file is not the same to the bit on a busy machine.
    add(again, "SaveImage", images=[node_id(again, "CCLDecodeAV"), 0], filename_prefix="same")
    sampler = node(again, "CCLJointSampler")
    pictures = []
    for change in (0, 1, -1):
        sampler["seed"] += change
        files = server.run(again).files(".png")
        pictures.append([_pixels(server.view(file)) for file in files])
    first, other, same = pictures
    assert len(first) > 1
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))


def test_a_prompt_may_leave_optional_inputs_out(
    server: ComfyServer, template: Prompt, object_info: dict
) -> None:
    """As prompts written by hand do. The widgets of a dynamic choice are optional in its own list."""
    prompt = copy.deepcopy(template)
    sampler = node(prompt, "CCLJointSampler")
    sampler |= {"mode": "cfg", "mode.video_cfg": 3.0, "mode.audio_cfg": 3.0}
    for entry in prompt.values():
        known = object_info[entry["class_type"]]["input"].get("optional", {})
        widgets = [name for name in entry["inputs"] if name in known or name.endswith("_percent")]
        for name in widgets:
            if not isinstance(entry["inputs"][name], list):
                del entry["inputs"][name]
    assert not [name for name in sampler if name.endswith("_percent")]
    run = server.run(prompt)
    assert run.status == "success", run.error


def _pixels(data: bytes) -> torch.Tensor:
    with av.open(io.BytesIO(data)) as container:
        return torch.from_numpy(next(container.decode(video=0)).to_ndarray(format="rgb24"))


def test_guider_and_host_sampler_take_the_place_of_ours(server: ComfyServer, template: Prompt) -> None:
    prompt = copy.deepcopy(template)
    ours = prompt.pop(node_id(prompt, "CCLJointSampler"))["inputs"]
    guidance = {key: value for key, value in ours.items() if key.split(".")[0] in ("mode", "skip_layers")}
    conds = {name: ours[name] for name in ("model", "positive", "negative")}
    sampled = add(
        prompt,
        "SamplerCustomAdvanced",
        noise=add(prompt, "RandomNoise", noise_seed=3),
        guider=add(prompt, "CCLGuider", **conds, **guidance),
        sampler=add(prompt, "KSamplerSelect", sampler_name="euler"),
        sigmas=add(
            prompt, "BasicScheduler", model=ours["model"], scheduler="simple", steps=STEPS, denoise=1.0
        ),
        latent_image=ours["latent_image"],
    )
    node(prompt, "CCLDecodeAV")["latent"] = sampled
    run = server.run(prompt)
    assert run.status == "success", run.error
    assert streams(server.view(run.files(".mp4")[0])).keys() == {"video", "audio"}


def test_sound_and_start_image_of_any_kind_are_taken(server: ComfyServer, template: Prompt) -> None:
    prompt = copy.deepcopy(template)
    loader = node_id(prompt, "CCLCheckpointLoader")
    sampler = node(prompt, "CCLJointSampler")
    sampler["latent_image"] = add(
        prompt,
        "CCLEncodeAV",
        latent=sampler["latent_image"],
        video_vae=[loader, 2],
        audio_vae=[loader, 3],
        start_image=add(prompt, "EmptyImage", width=97, height=51, batch_size=1, color=255),
        audio=add(prompt, "EmptyAudio", duration=0.33, sample_rate=44100, channels=2),
        image_fit="crop",
        length_fit="generate",
        fps=0.0,
    )
    run = server.run(prompt)
    assert run.status == "success", run.error


def encode(prompt: Prompt, **inputs: Any) -> None:
    """Put CCLEncodeAV between the empty latent and the sampler."""
    loader = node_id(prompt, "CCLCheckpointLoader")
    sampler = node(prompt, "CCLJointSampler")
    fixed = {
        "video_vae": [loader, 2],
        "audio_vae": [loader, 3],
        "image_fit": "crop",
        "length_fit": "refuse",
        "fps": 0.0,
    }
    sampler["latent_image"] = add(
        prompt, "CCLEncodeAV", latent=sampler["latent_image"], **{**fixed, **inputs}
    )


def latent_from_file(prompt: Prompt, name: str) -> None:
    node(prompt, "CCLJointSampler")["latent_image"] = add(prompt, "LoadLatent", latent=f"{name}.latent")


def checkpoint(name: str) -> Change:
    def change(prompt: Prompt) -> None:
        inputs = node(prompt, "CCLCheckpointLoader")
        inputs[next(iter(inputs))] = name

    return change


def model_file(name: str) -> Change:
    def change(prompt: Prompt) -> None:
        link = add(prompt, "CCLModelLoader", unet_name=name, weight_dtype="default")
        node(prompt, "CCLJointSampler")["model"] = link

    return change


def audio_vae_file(name: str) -> Change:
    return lambda prompt: node(prompt, "CCLDecodeAV").update(
        audio_vae=add(prompt, "CCLAudioVAELoader", vae_name=name)
    )


def length(kind: str, value: float) -> Change:
    def change(prompt: Prompt) -> None:
        inputs = node(prompt, "CCLEmptyAVLatent")
        for key in [key for key in inputs if key.startswith("length")]:
            del inputs[key]
        inputs.update({"length": kind, f"length.{kind}": value})

    return change


def plain_latent_without_fps(prompt: Prompt) -> None:
    empty = add(prompt, "EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
    node(prompt, "CCLDecodeAV").update(latent=empty, fps=0.0)


def other_size_of_images(prompt: Prompt) -> None:
    encode(prompt, images=add(prompt, "EmptyImage", width=80, height=50, batch_size=3, color=0))


def short_sound(prompt: Prompt) -> None:
    encode(prompt, audio=add(prompt, "EmptyAudio", duration=0.1, sample_rate=44100, channels=2))


def sound_without_vae(prompt: Prompt) -> None:
    encode(prompt, audio=add(prompt, "EmptyAudio", duration=0.9, sample_rate=16000, channels=1))
    del node(prompt, "CCLEncodeAV")["audio_vae"]


def sound_of_a_silent_film(prompt: Prompt) -> None:
    video = add(prompt, "LoadVideo", file="silent film.mp4")
    parts = add(prompt, "GetVideoComponents", video=video)
    encode(prompt, audio=[parts[0], 1])


def vaes_swapped(prompt: Prompt) -> None:
    inputs = node(prompt, "CCLDecodeAV")
    inputs["video_vae"], inputs["audio_vae"] = inputs["audio_vae"], inputs["video_vae"]


@pytest.fixture(scope="module")
def bad_files(server: ComfyServer) -> ComfyServer:
    """Files that are broken in the ways people meet, in every folder a loader reads."""
    models = server.base / "models"
    for folder in ("checkpoints", "diffusion_models", "vae"):
        (models / folder / "garbage.safetensors").write_bytes(b"this is not a model" * 100)
        (models / folder / "empty.safetensors").write_bytes(b"")
        save_file({"some.other.weight": torch.zeros(3, 5)}, models / folder / "other.safetensors")
    whole = (ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors").read_bytes()
    (models / "checkpoints" / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    write_media(server.base / "input" / "silent film.mp4", None, picture_seconds=1)
    _save_latent(server.base, "nan", torch.full((1, 16, 3, 8, 8), float("nan")))
    _save_latent(server.base, "channels", torch.ones(1, 5, 3, 8, 8))
    return server


def _save_latent(base: Path, name: str, samples: torch.Tensor) -> None:
    tensors = {"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}
    save_file(tensors, base / "input" / f"{name}.latent")


BAD: list[tuple[str, Change, str, str]] = [
    ("checkpoint missing", checkpoint("nowhere.safetensors"), "CCLCheckpointLoader", "nowhere"),
    ("checkpoint garbage", checkpoint("garbage.safetensors"), "CCLCheckpointLoader", "garbage"),
    ("checkpoint empty", checkpoint("empty.safetensors"), "CCLCheckpointLoader", "empty"),
    ("checkpoint cut short", checkpoint("cut.safetensors"), "CCLCheckpointLoader", "cut"),
    ("checkpoint of another kind", checkpoint("other.safetensors"), "CCLCheckpointLoader", "other"),
    ("model garbage", model_file("garbage.safetensors"), "CCLModelLoader", "garbage"),
    ("model of another kind", model_file("other.safetensors"), "CCLModelLoader", "other"),
    ("audio VAE garbage", audio_vae_file("garbage.safetensors"), "CCLAudioVAELoader", "garbage"),
    (
        "audio VAE of another kind",
        audio_vae_file("other.safetensors"),
        "CCLAudioVAELoader",
        "some.other.weight",
    ),
    ("length negative", length("frames", -5), "CCLEmptyAVLatent", "frames"),
    ("length absurd", length("seconds", 1e9), "CCLEmptyAVLatent", "seconds"),
    ("length zero", length("seconds", 0), "CCLEmptyAVLatent", "seconds"),
    ("fps unknown", plain_latent_without_fps, "CCLDecodeAV", "fps"),
    ("NaN in the latent", lambda prompt: latent_from_file(prompt, "nan"), "CCLJointSampler", "latent"),
    (
        "latent of another model",
        lambda prompt: latent_from_file(prompt, "channels"),
        "CCLJointSampler",
        "channels",
    ),
    ("images of another count", other_size_of_images, "CCLEncodeAV", "images"),
    ("sound too short", short_sound, "CCLEncodeAV", "audio"),
    ("sound without a VAE", sound_without_vae, "CCLEncodeAV", "audio_vae"),
    ("sound of a silent film", sound_of_a_silent_film, "CCLEncodeAV", "gives no sound"),
    ("VAEs swapped", vaes_swapped, "CCLDecodeAV", "vae"),
]


def next_prompt_runs(server: ComfyServer, template: Prompt) -> bool:
    """With a seed of its own, as the server answers a prompt it has run before from its cache."""
    prompt = copy.deepcopy(template)
    node(prompt, "CCLJointSampler").update(steps=1, seed=next(SEEDS))
    return server.alive() and server.run(prompt).status == "success"


@pytest.mark.parametrize(("change", "where", "word"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_a_clear_error_and_the_next_prompt_runs(
    bad_files: ComfyServer, template: Prompt, change: Change, where: str, word: str
) -> None:
    prompt = copy.deepcopy(template)
    change(prompt)
    try:
        run = bad_files.run(prompt)
    except PromptRejected as rejection:
        said, at = (
            json.dumps(rejection.node_errors),
            {entry["class_type"] for entry in rejection.node_errors.values()},
        )
    else:
        assert run.status == "error"
        said, at = run.error["exception_message"], {run.error["node_type"]}
        assert run.error["exception_type"] in {"ValueError", "FileNotFoundError"}, run.error[
            "exception_message"
        ]
    assert at == {where}
    assert word in said
    assert next_prompt_runs(bad_files, template)


def test_cancel_stops_the_run_and_the_next_prompt_runs(server: ComfyServer, template: Prompt) -> None:
    prompt = copy.deepcopy(template)
    node(prompt, "CCLJointSampler").update(steps=1000, seed=99)
    sent: list[float] = []

    def cancel(event: Event) -> None:
        if event.kind == "progress" and not sent:
            sent.append(event.seconds)
            server.post("/interrupt", {})

    run = server.run(prompt, cancel)
    assert run.status == "interrupted"
    assert run.events[-1].seconds - sent[0] < 10
    assert next_prompt_runs(server, template)
