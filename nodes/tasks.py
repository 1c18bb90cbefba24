"""CCLSetTask and CCLMaskAV: what of a latent is kept, and what is made anew."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import io

from ..ccl_core.host.media.cut import continued
from ..ccl_core.host.media.latents import AVLatent, frame_rate, join, read, require_finite, split, timed
from ..ccl_core.host.media.masks import STREAMS, Clip, Part, mark_part, mask_of_latent, part_of, streams_of
from ..ccl_core.host.media.states import (
    WISHES,
    Wish,
    keep_images,
    require_content,
    set_custom,
    set_states,
    settled,
)
from ..ccl_core.tasks import CHOICES
from .inputs import (
    any_latent_tooltip,
    audio_rate_input,
    given,
    latent_fps_input,
    part_inputs,
    seconds_input,
)
from .node import CCLNode, known_choices

CATEGORY = "CCL/latent"
ABOUT = {
    "t2av": "video and sound from the prompt alone",
    "i2av": "video and sound that begin (or end) with given frames",
    "a2v": "a video for the given sound",
    "v2a": "a sound for the given video (dubbing, foley)",
    "continuation": "go on from the last seconds of the clip, picture and sound",
    "t2v": "a video without sound",
    "i2v": "a video without sound that begins (or ends) with given frames",
    "t2a": "a sound without video",
    "custom": "choose for each stream",
}


def _images_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "first_frames", default=1, min=0, max=1000, tooltip="Frames to keep at the start: 1, or 4k+1."
        ),
        io.Int.Input(
            "last_frames", default=0, min=0, max=1000, tooltip="Frames to keep at the end, in steps of 4."
        ),
    ]


def _continuation_inputs() -> list[io.Input]:
    return [
        seconds_input(
            "kept_seconds", 1.0, "How much of the clip's end is kept, as the start of the new one."
        ),
        seconds_input("new_seconds", 2.0, "How much is made behind it."),
    ]


def _custom_inputs() -> list[io.Input]:
    inputs: list[io.Input] = []
    for stream in STREAMS:
        inputs += [
            io.Combo.Input(
                stream,
                options=list(WISHES),
                default="make",
                tooltip=f"The {stream}: make all of it, keep it, keep or renew a part, or leave it out.",
            ),
            seconds_input(f"{stream}_start_time", 0.0, "Where the part starts, in seconds."),
            seconds_input(
                f"{stream}_end_time", 0.0, "Where the part ends, in seconds; 0: at the end of the clip."
            ),
        ]
    return [*inputs, strength_input()]


def strength_input() -> io.Float.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.01,
        max=1.0,
        step=0.01,
        tooltip="How far the new part leaves what was there: 1 makes it anew, less stays closer to it.",
    )


def _task_options() -> list[io.DynamicCombo.Option]:
    inputs = {"i2av": _images_inputs, "i2v": _images_inputs, "continuation": _continuation_inputs}
    rows = [io.DynamicCombo.Option(name, inputs[name]() if name in inputs else []) for name in CHOICES]
    return [*rows, io.DynamicCombo.Option("custom", _custom_inputs())]


class CCLSetTask(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLSetTask",
            display_name="Set Task (CCL)",
            category=CATEGORY,
            description="What the sampler makes of a latent and what it keeps: sound for a video, video for "
            "a sound, a continuation, one of the two alone, or parts by seconds.",
            search_aliases=[
                *("set task", "task", "sound only", "audio only", "text to audio", "video without sound"),
                *(
                    "sound for video",
                    "video for sound",
                    "video to audio",
                    "audio to video",
                    "foley",
                    "dubbing",
                ),
                *("extend video", "extend video with sound", "continue video", "video continuation"),
                *(
                    "keep audio",
                    "keep video",
                    "inpaint audio",
                    "first and last frame",
                    "set latent noise mask",
                ),
            ],
            inputs=[
                io.Latent.Input("latent", tooltip="An audio-video latent, or a plain Wan video latent."),
                io.DynamicCombo.Input(
                    "task",
                    options=_task_options(),
                    tooltip=". ".join(f"{name}: {about}" for name, about in ABOUT.items()) + ".",
                ),
                latent_fps_input(),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The latent with the masks of the task, for any sampler.")
            ],
        )

    @classmethod
    def validate_inputs(cls, latent: Any = None, task: Any = None) -> bool | str:
        return known_choices(cls, latent=latent, task=task)

    @classmethod
    def execute(cls, latent: dict[str, Any], task: dict[str, Any], fps: float = 0.0) -> io.NodeOutput:
        av = split(latent)
        require_finite(av, "latent")
        if fps and av.fps is None:
            av = replace(av, fps=float(frame_rate(av, fps)))
        made = _with_task(av, task, fps)
        made = replace(made, rest={**made.rest, "task": task["task"]})
        return io.NodeOutput(join(settled(made)))


def _with_task(av: AVLatent, choice: dict[str, Any], fps: float) -> AVLatent:
    name = choice["task"]
    if name == "custom":
        wishes = {stream: _wish(choice, stream) for stream in STREAMS}
        return set_custom(av, frame_rate(av, fps), wishes, given(choice, "strength", 1.0))
    if name not in CHOICES:
        raise ValueError(f"the task {name!r} is unknown: choose one of {', '.join(CHOICES)}, custom")
    av = set_states(av, CHOICES[name], name)
    if name == "continuation":
        for stream in STREAMS:
            require_content(getattr(av, stream), f"the end of the {stream} latent", f"the task {name}")
        lengths = (_seconds(choice, "kept_seconds", 1.0), _seconds(choice, "new_seconds", 2.0))
        return continued(av, frame_rate(av, fps), *lengths)
    if name in ("i2av", "i2v"):
        return keep_images(av, given(choice, "first_frames", 1), given(choice, "last_frames", 0), name)
    return av


def _wish(choice: dict[str, Any], stream: str) -> Wish:
    what = given(choice, stream, "make")
    if what not in WISHES:
        raise ValueError(f"{stream} is {what!r}: choose one of {', '.join(WISHES)}")
    ends = (given(choice, f"{stream}_{name}", 0.0) for name in ("start_time", "end_time"))
    return Wish(what, Part.typed(*ends, prefix=f"{stream}_"))


def _seconds(choice: dict[str, Any], name: str, default: float) -> Fraction:
    seconds = given(choice, name, default)
    # A NaN compares false too.
    if not 0 < seconds <= 600:
        raise ValueError(f"{name} is {seconds}: give more than 0 and at most 600 seconds")
    return Fraction(seconds).limit_denominator(1_000_000)


class CCLMaskAV(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLMaskAV",
            display_name="Mask Audio-Video (CCL)",
            category=CATEGORY,
            description="Renews or keeps a part of a latent: from a second to another, in the video, the "
            "sound or both, and within a mask of the picture.",
            search_aliases=[
                *("mask audio", "mask video latent", "set latent noise mask", "latent noise mask audio"),
                *("inpaint video", "inpaint audio", "replace part of sound", "regenerate part of video"),
                *("keep part of the sound", "mask by time", "edit seconds"),
            ],
            inputs=[
                io.Latent.Input("latent", tooltip=any_latent_tooltip()),
                io.Combo.Input(
                    "action",
                    options=["renew", "keep"],
                    default="renew",
                    tooltip="renew: make this part anew. keep: leave it as it is. A latent without masks is "
                    "otherwise kept, or made anew.",
                ),
                io.Combo.Input(
                    "streams", options=["both", *STREAMS], default="both", tooltip="Of which stream."
                ),
                *part_inputs(),
                strength_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The part within the picture: white is the part. One image, or one for each "
                    "frame. The sound has none.",
                ),
                latent_fps_input(),
                audio_rate_input(),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The latent with this mask, for any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        action: str,
        streams: str,
        start_time: float,
        end_time: float,
        strength: float,
        mask: torch.Tensor | None = None,
        fps: float = 0.0,
        audio_rate: float = 0.0,
    ) -> io.NodeOutput:
        av, rate = timed(read(latent), fps, audio_rate)
        require_finite(av, "latent")
        if not 0 < strength <= 1:
            raise ValueError(f"strength is {strength}: give more than 0 and at most 1")
        part, clip = Part.typed(start_time, end_time), Clip.of(av, rate)
        chosen = streams_of(av, streams)
        # Of both, the sound is cut where the video is.
        lead = clip.lead if streams == "both" else None
        parts = {stream: part_of(clip, stream, part, lead) for stream in chosen}
        keeps = action == "keep"
        if av.video_mask is None and av.audio_mask is None:
            av = _all(av, 1.0 if keeps else 0.0)
        if keeps:
            for stream in chosen:
                what = f"the {stream} latent from {start_time:g} s"
                require_content(getattr(av, stream)[:, :, parts[stream]], what, "action keep")
        within = None if mask is None else mask_of_latent(mask, av, least=keeps)
        rest = {name: value for name, value in av.rest.items() if name != "task"}
        made = mark_part(replace(av, rest=rest), parts, 0.0 if keeps else strength, within)
        return io.NodeOutput(join(settled(made)))


def _all(av: AVLatent, value: float) -> AVLatent:
    """A mask of this value for every stream."""
    whole = {stream: slice(None) for stream in streams_of(av, "both")}
    return mark_part(av, whole, value)
