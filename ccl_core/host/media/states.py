"""What a task keeps of an AV latent and what it has made: the masks say it, and samplers read it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from ...alignment.time_grid import WAN
from ...notices import notice
from ...tasks import CHOICES, State, Task
from ..run import state_of
from .latents import AVLatent, ones_mask, split
from .masks import Clip, Part, part_of
from .source import KEY, source_of


@dataclass(frozen=True)
class Wish:
    """What a person wants of one stream: one of WISHES, and for those of a part, which part."""

    what: str
    part: Part


# What the stream is then. One of which a part is kept or renewed is generated.
WISHES = {
    "make": State.GENERATED,
    "keep": State.GIVEN,
    "keep a part": State.GENERATED,
    "renew a part": State.GENERATED,
    "leave out": State.ABSENT,
}


def set_states(av: AVLatent, task: Task, name: str) -> AVLatent:
    """Both streams as the task has them, whole. Masks that were there are replaced.

    ValueError where the latent has no such stream, or a given one holds nothing.
    """
    av = _without_originals(av, task)
    if State.ABSENT in (task.video, task.audio):
        _require_absence(av, name)
    if av.audio is None and task.audio is State.ABSENT:
        return replace(av, video_mask=None)
    if av.audio is None:
        raise ValueError(
            f"the task {name} needs a sound, and the latent has no audio part: connect an audio_vae to "
            "Encode Audio-Video (CCL) in front, or start with Empty Audio-Video Latent (CCL)"
        )
    video, video_mask = _in_state(av.video, task.video, "video", name)
    audio, audio_mask = _in_state(av.audio, task.audio, "audio", name)
    return replace(av, video=video, audio=audio, video_mask=video_mask, audio_mask=audio_mask)


def _require_absence(av: AVLatent, name: str) -> None:
    """ValueError for a latent of a model that samples kept zeros as a stream that is there."""
    if av.audio is not None and av.grid is not WAN:
        raise ValueError(
            f"the task {name} leaves a stream out, and the latent is one of {av.grid.name}, which has no "
            "such task: take both streams apart with LTXVSeparateAVLatent, or another task"
        )


def _without_originals(av: AVLatent, task: Task) -> AVLatent:
    """Decode puts originals back where a mask keeps a whole stream, and an absent one is kept zeros."""
    source = av.rest.get(KEY)
    if source is None:
        return av
    left = {
        "picture": None if task.video is State.ABSENT else source.picture,
        "sound": None if task.audio is State.ABSENT else source.sound,
    }
    return replace(av, rest={**av.rest, KEY: replace(source, **left)})


def settled(av: AVLatent) -> AVLatent:
    """The latent without the originals of what is not kept whole, which a sampler changes."""
    return replace(av, rest={**av.rest, KEY: source_of(av)}) if KEY in av.rest else av


def is_absent(av: AVLatent, stream: str) -> bool:
    """Whether a task left this stream out of the latent, which has it."""
    latent = getattr(av, stream)
    return latent is not None and state_of(getattr(av, f"{stream}_mask"), latent) is State.ABSENT


def _in_state(
    latent: torch.Tensor, state: State, stream: str, task: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The latent and its mask."""
    mask = ones_mask(latent)
    if state is State.GENERATED:
        return latent, mask
    if state is State.GIVEN:
        require_content(latent, f"the {stream} latent", f"the task {task}")
        return latent, torch.zeros_like(mask)
    if latent.any():
        notice(f"the task {task} has no {stream}: what the latent holds of it is left out")
    # Kept zeros are how samplers are told of an absent stream (docs/decisions.md).
    return torch.zeros_like(latent), torch.zeros_like(mask)


def require_content(latent: torch.Tensor, what: str, why: str) -> None:
    """ValueError for a part of a latent that is to be kept and that nothing was written into."""
    empty = (latent.flatten(1) == 0).all(dim=1)
    if empty.any():
        clips = "" if len(empty) == 1 else f" of clip {int(empty.nonzero()[0]) + 1}"
        raise ValueError(
            f"{why} keeps {what}, and{clips} that is empty: write material into it with Encode Audio-Video "
            "(CCL), or take the latent that a sampler made"
        )


def keep_images(av: AVLatent, first: int, last: int, task: str) -> AVLatent:
    """Keep so many pixel frames at the start and at the end of the video."""
    steps, latent_frames = av.grid.video, av.video.shape[2]
    frames = steps.before(latent_frames)
    # A latent frame is kept as a whole: none that a given image does not fill, at the end the nearest more.
    at_start = steps.filled(first) if first > 0 else 0
    at_end = latent_frames - steps.filled(max(0, frames - last)) if last > 0 else 0
    if first < 0 or last < 0 or not 0 < at_start + at_end < latent_frames:
        raise ValueError(
            f"the task {task} has first_frames {first} and last_frames {last} of {frames} frames: keep at "
            "least one frame, and leave some to generate"
        )
    kept = steps.before(at_start), frames - steps.before(latent_frames - at_end)
    if kept != (first, last):
        notice(
            f"first_frames {first} and last_frames {last} became {kept[0]} and {kept[1]}, as a latent frame "
            "is kept as a whole"
        )
    mask = ones_mask(av.video)
    parts = [slice(0, at_start), slice(latent_frames - at_end, None)]
    for part in parts:
        if av.video[:, :, part].shape[2]:
            require_content(av.video[:, :, part], "frames of the video latent", f"the task {task}")
            mask[:, :, part] = 0
    return replace(av, video_mask=mask)


def set_custom(av: AVLatent, fps: Fraction, wishes: Mapping[str, Wish], strength: float) -> AVLatent:
    """Each stream as wished; what is made anew gets the strength as its mask, 1 for all of it.

    ValueError where nothing is left to generate.
    """
    states = {stream: WISHES[wish.what] for stream, wish in wishes.items()}
    if State.GENERATED not in states.values():
        raise ValueError(
            f"the task custom has video: {wishes['video'].what}, audio: {wishes['audio'].what}, so nothing "
            "is left to generate: choose make or a part for one of them"
        )
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}: give more than 0 and at most 1")
    made = set_states(av, Task("custom", **states), "custom")
    for stream, wish in wishes.items():
        if states[stream] is State.GENERATED:
            made = replace(made, **{f"{stream}_mask": _wished(made, stream, wish, fps, strength)})
    return made


def _wished(av: AVLatent, stream: str, wish: Wish, fps: Fraction, strength: float) -> torch.Tensor:
    """The mask of a stream that is generated, as a whole or in part."""
    latent = getattr(av, stream)
    if strength < 1:
        require_content(latent, f"something of the {stream} latent", f"strength {strength:g}")
    mask = torch.full_like(ones_mask(latent), strength)
    if wish.what == "make":
        return mask
    part = part_of(Clip.of(av, fps), stream, wish.part)
    require_content(latent, f"a part of the {stream} latent", wish.what)
    if wish.what == "keep a part":
        mask[:, :, part] = 0
        return mask
    renewed = torch.zeros_like(mask)
    renewed[:, :, part] = strength
    return renewed


def require_task(latent: dict[str, Any]) -> None:
    """ValueError where a latent was given a task, and its masks say another since."""
    task = CHOICES.get(latent.get("task"))
    if task is None:
        return
    av = split(latent)
    audio = State.ABSENT if av.audio is None else state_of(av.audio_mask, av.audio)
    found = state_of(av.video_mask, av.video), audio
    if found != (task.video, task.audio):
        raise ValueError(
            f"the latent was given the task {latent['task']} ({_in_words(task.video, task.audio)}), and its "
            f"masks now say {_in_words(*found)}: put Set Task (CCL) behind the nodes that write or mask it"
        )


def _in_words(video: State, audio: State) -> str:
    return f"video {video.value}, audio {audio.value}"
