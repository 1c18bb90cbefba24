"""The jobs of the templates: what stands inside the one node that a person meets, for any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ccl_tools.graphs import From, Node, Outer
from ccl_tools.releases import Release

WHITE = 0xFFFFFF


@dataclass(frozen=True)
class Texts:
    """The prompt that a template opens with. sound: what is heard."""

    prompt: str
    sound: str = ""


@dataclass(frozen=True)
class Inside:
    """The nodes of a job without the loaders; inputs: in the order in which they are shown."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: Mapping[str, From]


Job = Callable[[Release, Texts], Inside]


def prompt_node(release: Release, texts: Texts) -> Node:
    sound = {"sound": Outer("sound", texts.sound)} if release.sound else {}
    inputs = {
        "model": release.sources["model"],
        "clip": release.sources["clip"],
        "prompt": Outer("prompt", texts.prompt),
        "variant": release.variant,
        **sound,
    }
    return Node("prompt", "CCLPrompt", inputs)


def text_inputs(release: Release) -> tuple[str, ...]:
    return ("prompt", "sound") if release.sound else ("prompt",)


def own_size(release: Release) -> dict[str, Any]:
    if release.size is None:
        return {"size": "from model"}
    width, height = release.size
    return {"size": "custom", "size.width": Outer("width", width), "size.height": Outer("height", height)}


def own_length(release: Release) -> dict[str, Any]:
    return {"length": "seconds", "length.seconds": Outer("seconds", release.seconds)}


def size_inputs(release: Release) -> tuple[str, ...]:
    return () if release.size is None else ("width", "height")


FROM_MATERIAL = {"size": "from material", "length": "from material"}


def empty_node(release: Release, given: Mapping[str, Any]) -> Node:
    return Node("empty", "CCLEmptyAVLatent", {"model": release.sources["model"], **given})


def encode_node(release: Release, **given: Any) -> Node:
    inputs = {
        "latent": From("empty", "latent"),
        "video_vae": release.sources["video_vae"],
        "audio_vae": release.sources["audio_vae"],
        **given,
    }
    return Node("encode", "CCLEncodeAV", inputs)


def sampler_node(release: Release, latent: From, texts: str = "prompt") -> Node:
    inputs = {
        "model": release.sources["model"],
        "positive": From(texts, "positive"),
        "negative": From(texts, "negative"),
        "latent_image": latent,
        "seed": Outer("seed", 7),
        "mode": "from model",
        **release.sampling,
    }
    return Node("sampler", "CCLJointSampler", inputs)


def decode_node(release: Release, latent: From) -> Node:
    inputs = {
        "latent": latent,
        "video_vae": release.sources["video_vae"],
        "audio_vae": release.sources["audio_vae"],
        "tiling": release.tiling,
    }
    return Node("decode", "CCLDecodeAV", inputs)


VIDEO = {"video": From("decode", "video")}
SAMPLED = From("sampler", "latent")


def text_to_video(release: Release, texts: Texts) -> Inside:
    nodes = (
        prompt_node(release, texts),
        empty_node(release, own_size(release) | own_length(release)),
        sampler_node(release, From("empty", "latent")),
        decode_node(release, SAMPLED),
    )
    return Inside(nodes, (*text_inputs(release), *size_inputs(release), "seconds", "seed"), VIDEO)


def image_to_video(release: Release, texts: Texts) -> Inside:
    """The size in the proportions of the image, where the model has more than one."""
    size = (
        {"size": "from model"}
        if release.size is None
        else {"size": "from material", "images": Outer("image")}
    )
    nodes = (
        prompt_node(release, texts),
        empty_node(release, size | own_length(release)),
        encode_node(release, start_image=Outer("image"), length_fit="generate"),
        sampler_node(release, From("encode", "latent")),
        decode_node(release, SAMPLED),
    )
    return Inside(nodes, ("image", *text_inputs(release), "seconds", "seed"), VIDEO)


def _first_frame(release: Release, texts: Texts, image: Any) -> tuple[Node, ...]:
    """For a model that reads its first frame beside the text, as Wan's image to video does."""
    width, height = release.size
    given = {
        "positive": From("prompt", "positive"),
        "negative": From("prompt", "negative"),
        "vae": release.sources["video_vae"],
        "width": Outer("width", width),
        "height": Outer("height", height),
        "length": Outer("frames", release.frames),
        "batch_size": 1,
        "start_image": image,
    }
    sound = {"latent": From("first", "latent"), "fps": release.fps, "video_vae": None}
    return (
        prompt_node(release, texts),
        Node("first", "WanImageToVideo", given),
        encode_node(release, **sound),
        sampler_node(release, From("encode", "latent"), "first"),
        decode_node(release, SAMPLED),
    )


def first_image_to_video(release: Release, texts: Texts) -> Inside:
    nodes = _first_frame(release, texts, Outer("image"))
    shown = ("image", *text_inputs(release), "width", "height", "frames", "seed")
    return Inside(nodes, shown, VIDEO)


def white_image_to_video(release: Release, texts: Texts) -> Inside:
    """From text, as MOVA does it: its first frame is white."""
    width, height = release.size
    white = Node(
        "white",
        "EmptyImage",
        {"width": width, "height": height, "batch_size": 1, "color": WHITE},
        "White image",
    )
    nodes = (white, *_first_frame(release, texts, From("white", "IMAGE")))
    return Inside(nodes, (*text_inputs(release), "width", "height", "frames", "seed"), VIDEO)


def _own(release: Release, texts: Texts, empty: Mapping[str, Any], **given: Any) -> tuple[Node, ...]:
    return (
        prompt_node(release, texts),
        empty_node(release, empty),
        encode_node(release, **given),
        sampler_node(release, From("encode", "latent")),
        decode_node(release, SAMPLED),
    )


def sound_for_video(release: Release, texts: Texts) -> Inside:
    video = {"video": Outer("video")}
    nodes = _own(release, texts, FROM_MATERIAL | video, keep="picture", **video)
    return Inside(nodes, ("video", *text_inputs(release), "seed"), VIDEO)


def video_for_sound(release: Release, texts: Texts) -> Inside:
    audio = {"audio": Outer("audio")}
    nodes = _own(release, texts, {**own_size(release), "length": "from material", **audio}, **audio)
    return Inside(nodes, ("audio", *text_inputs(release), *size_inputs(release), "seed"), VIDEO)


def extend_video(release: Release, texts: Texts) -> Inside:
    """The end of a film is kept as the start of what comes next, and both are joined."""
    video, kept = {"video": Outer("video")}, Outer("kept_seconds", release.kept_seconds)
    task = {
        "latent": From("encode", "latent"),
        "task": "continuation",
        "task.kept_seconds": kept,
        "task.new_seconds": Outer("new_seconds", release.new_seconds),
    }
    joined = {"first": From("encode", "latent"), "second": SAMPLED, "overlap": kept}
    nodes = (
        prompt_node(release, texts),
        empty_node(release, FROM_MATERIAL | video),
        encode_node(release, keep="picture and sound", **video),
        Node("task", "CCLSetTask", task),
        sampler_node(release, From("task", "latent")),
        Node("join", "CCLJoinAV", joined),
        decode_node(release, From("join", "latent")),
    )
    shown = ("video", *text_inputs(release), "kept_seconds", "new_seconds", "seed")
    return Inside(nodes, shown, VIDEO)


def text_to_sound(release: Release, texts: Texts) -> Inside:
    nodes = (
        prompt_node(release, texts),
        empty_node(release, {"size": "from model"} | own_length(release)),
        Node("task", "CCLSetTask", {"latent": From("empty", "latent"), "task": "t2a"}),
        sampler_node(release, From("task", "latent")),
        decode_node(release, SAMPLED),
    )
    shown = (*text_inputs(release), "seconds", "seed")
    return Inside(nodes, shown, {"audio": From("decode", "audio")})
