"""A generated clip as a player finds it, and what is seen and heard in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ccl_tools.console import ScriptError


def read_clip(path: Path) -> dict[str, Any]:
    """Frames, sound and lengths of the file as a player would find them."""
    import av
    import numpy
    import torch

    with av.open(str(path)) as container:
        if not (container.streams.video and container.streams.audio):
            raise ScriptError(f"{path} lacks a video or an audio stream", "look at what the workflow saves")
        video, audio = container.streams.video[0], container.streams.audio[0]
        lengths = [float(stream.duration * stream.time_base) for stream in (video, audio)]
        fps = video.average_rate
        rate = audio.rate
        frames = numpy.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video)])
        container.seek(0)
        sound = numpy.concatenate([frame.to_ndarray() for frame in container.decode(audio)], axis=-1)
    # AAC decodes whole frames: what lies behind the stated length is padding.
    samples = round(lengths[1] * rate)
    return {
        "frames": torch.from_numpy(frames).float() / 255,  # (f, h, w, 3)
        "waveform": torch.from_numpy(sound).float().mean(0)[:samples],  # (n,)
        "fps": float(fps),
        "sample_rate": rate,
        "video_seconds": lengths[0],
        "audio_seconds": lengths[1],
    }


def asked_objects(prompt: str) -> list[Any]:
    """What the prompt states of each object, if it is a whole caption of ccl-tiny's world."""
    from ccl_pack.ccl_core.training.world.wording import read_caption

    asked = list(read_caption(prompt))
    complete = all(None not in thing.values()[1:] for thing in asked)
    return asked if complete and len({thing.colour for thing in asked}) == len(asked) else []


def measure(clip: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Visible contacts, audible onsets and how far they are apart, also for each object of the prompt."""
    from ccl_pack.ccl_core.training.world.judge import judge_clip

    asked = asked_objects(prompt)
    judged = judge_clip(clip["frames"], clip["fps"], clip["waveform"], clip["sample_rate"], asked)
    sync = judged.sync
    seen_of_each = zip(asked, judged.seen, judged.sounds, strict=False)
    objects = [object_report(*row) for row in seen_of_each]
    return {
        **({"objects": objects} if objects else {}),
        "contacts_s": [round(contact, 4) for contact in judged.contacts],
        "onsets_s": [round(onset, 4) for onset in judged.onsets],
        "sounds_heard": [onset.sound for onset in judged.heard],
        "matched_125ms": sync.matched_125ms,
        "sync_error_ms_median": None if sync.median_error_ms is None else round(sync.median_error_ms, 2),
    }


def object_report(asked: Any, seen: Any, sound: str) -> dict[str, Any]:
    """What was asked of one object, and what is seen and heard of it."""
    return {
        "asked": f"{asked.colour} {asked.shape} {asked.motion}, {asked.sound}",
        "colour": seen.colour,
        "motion": seen.motion,
        "sound": sound,
        "contacts_s": [round(contact, 4) for contact in seen.contacts],
    }
