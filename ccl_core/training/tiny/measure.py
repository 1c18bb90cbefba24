"""What clips of both worlds, held out, keep in a round trip through the codecs of the tiny models."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import comfy.sd
import numpy as np
import torch
from comfy.ldm.wan.vae import WanVAE
from safetensors.torch import load_file
from torch import Tensor

from ...host.vae.audio import load_audio_vae_file
from ...metrics.matching import NARROW, match_events
from ..world import face, scene
from ..world.face_judge import FaceJudgement, judge_face, summarise_faces
from ..world.face_mouth import mouth_costs, opening_of
from ..world.judge import judge_video
from ..world.listen import Onset, listen
from ..world.score import true_onsets
from ..world.shares import HARD
from ..world.sounds import SAMPLE_RATE, SOUNDS
from ..world.speech_listen import pitch_of
from .video_vae import decode, encode_moments

FPS = 16
# Of each world.
CLIPS = 32
# Levels in dB over those of the worlds, from loud to nearly inaudible.
LEVELS = (0, -16, -32, -45)
Report = dict[str, float | None]
# What comes back of frames (f, h, w, 3) in 0..1, or of waveforms (b, n).
Code = Callable[[Tensor], Tensor]


def measure_video(path: Path, seed: int, clips: int = CLIPS) -> Report:
    """Shapes and faces, so many clips of each."""
    code = partial(coded_video, comfy.sd.VAE(sd=load_file(path)).first_stage_model)
    return {**seen_shapes(code, seed, clips), **seen_faces(code, seed, clips)}


def seen_shapes(code: Code, seed: int, clips: int) -> Report:
    """dB; shares of the objects whose colour and motion, of the contacts whose time (62.5 ms) are seen."""
    decibels, colours, motions, met, contacts = [], [], [], 0, 0
    for clip in islice(scene.clips(seed, frames=33, world=HARD), clips):
        made = code(torch.from_numpy(clip.frames) / 255)
        decibels.append(psnr(made, clip.frames))
        seen = judge_video(made, FPS, [thing.colour for thing in clip.objects])
        for thing, look in zip(clip.objects, seen, strict=True):
            colours.append(look.colour == thing.colour)
            motions.append(look.motion == thing.motion)
            met += len(match_events(thing.contacts, look.contacts, NARROW).pairs)
            contacts += len(thing.contacts)
    return {
        "shapes_db": statistics.fmean(decibels),
        "colour_right": statistics.fmean(colours),
        "motion_right": statistics.fmean(motions),
        "contacts_met": met / contacts,
    }


def seen_faces(code: Code, seed: int, clips: int) -> Report:
    """dB; the mouth's opening against the true one; visemes right, and as a share of the truth's."""
    decibels, tracks, before, after = [], [], [], []
    for clip in islice(face.clips(seed, frames=33), clips):
        frames = torch.from_numpy(clip.frames) / 255
        sound = torch.from_numpy(clip.waveform)
        made = code(frames)
        decibels.append(psnr(made, clip.frames))
        tracks.append(
            likeness(opening_of(mouth_costs(made, clip.place)), torch.from_numpy(clip.mouth).float())
        )
        before.append(judge(clip, frames, sound))
        after.append(judge(clip, made, sound))
    truth = summarise_faces(before).visemes_right
    right = summarise_faces(after).visemes_right
    return {
        "faces_db": statistics.fmean(decibels),
        "mouth_track": statistics.fmean(tracks),
        "visemes_right": right,
        "visemes_of_truth": right / truth,
    }


def likeness(track: Tensor, truth: Tensor) -> float:
    """Their correlation, 0 where one of them is steady."""
    return float(torch.cosine_similarity(track - track.mean(), truth - truth.mean(), dim=0))


@torch.no_grad()
def coded_video(vae: WanVAE, frames: Tensor) -> Tensor:
    """(f, h, w, 3) in 0..1 through the code."""
    pixels = 2 * frames.movedim(-1, 0)[None] - 1
    made = decode(vae, encode_moments(vae, pixels)[0])
    return (made[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)


def psnr(made: Tensor, frames: np.ndarray) -> float:
    """dB of the 0..1 range."""
    error = made - torch.from_numpy(frames) / 255
    return float(-10 * error.square().mean().log10())


def measure_sound(path: Path, seed: int, clips: int = CLIPS) -> Report:
    """Shapes and speech, so many clips of each, at several levels, and silence."""
    code = partial(coded_sound, load_audio_vae_file(str(path)))
    sounds = {
        "shapes": [clip.waveform for clip in islice(scene.clips(seed, frames=33, world=HARD), clips)],
        "faces": [clip.waveform for clip in islice(face.clips(seed, frames=33), clips)],
    }
    report = {"silence_db": float(decibels(code(torch.zeros(1, 33000))))}
    for world, waveforms in sounds.items():
        real = torch.stack([torch.from_numpy(waveform) for waveform in waveforms])
        for level in LEVELS:
            report[f"{world}_error_db_at_{-level}"] = level_error(code, real * 10 ** (level / 20))
    return {**report, **heard_shapes(code, seed, clips), **heard_speech(code, seed, clips)}


@torch.no_grad()
def coded_sound(vae: comfy.sd.VAE, waveforms: Tensor) -> Tensor:
    """(b, n) through the code, cut to its length."""
    return vae.decode(vae.encode(waveforms[..., None]))[:, : waveforms.shape[1], 0]


def decibels(waveform: Tensor) -> Tensor:
    """Root mean square in dB of full scale, (b,)."""
    return 10 * waveform.square().mean(-1).clamp(min=1e-12).log10()


def level_error(code: Code, real: Tensor) -> float:
    """The mean of how much louder or softer clips come back, in dB, whichever way."""
    return float((decibels(code(real)) - decibels(real)).abs().mean())


def heard_shapes(code: Code, seed: int, clips: int) -> Report:
    """Notes that come back as the same sound within 62.5 ms, those that came from nowhere, their error."""
    errors: list[float] = []
    asked = found = 0
    for clip in islice(scene.clips(seed, frames=33, world=HARD), clips):
        wanted = true_onsets(clip)
        notes = listen(code(torch.from_numpy(clip.waveform)[None])[0], SAMPLE_RATE)
        asked += len(wanted)
        found += len(notes)
        for sound in SOUNDS:
            pairs = match_events(times(wanted, sound), times(notes, sound), NARROW).pairs
            errors += [1000 * abs(onset - note) for onset, note in pairs]
    return {
        "onsets_recall": len(errors) / asked,
        "onsets_precision": len(errors) / max(1, found),
        "onsets_error_ms_median": statistics.median(errors) if errors else None,
    }


def times(notes: Sequence[Onset], sound: str) -> list[float]:
    return [note.time for note in notes if note.sound == sound]


def heard_speech(code: Code, seed: int, clips: int) -> Report:
    """Shares of the vowels heard as they were said, and of the clips with the same pitch, within 8 %."""
    judged = []
    same = []
    for clip in islice(face.clips(seed, frames=33), clips):
        real = torch.from_numpy(clip.waveform)
        made = code(real[None])[0]
        judged.append(judge(clip, torch.from_numpy(clip.frames) / 255, made))
        pitch = pitch_of(real.double().numpy(), SAMPLE_RATE)
        same.append(pitch is not None and judged[-1].pitch_is_right(pitch))
    return {"vowels_right": summarise_faces(judged).vowels_right, "pitch_right": statistics.fmean(same)}


def judge(clip: face.FaceClip, frames: Tensor, waveform: Tensor) -> FaceJudgement:
    return judge_face(frames, FPS, waveform, SAMPLE_RATE, clip.transcript, clip.syllables, clip.place)
