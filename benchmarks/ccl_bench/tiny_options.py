"""What the benchmarks of ccl-tiny share: options, and checks of what only the loaded pack knows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_tools.console import ScriptError
from ccl_tools.environment import ROOT

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.world.clip import Attributes
    from ccl_pack.ccl_core.training.world.evaluate import Lesson

CHECKPOINT = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
# The talking face, whose encoders are those of ccl-tiny.
TALKING = ROOT / "ccl_core" / "diffusion_models" / "uniavgen-tiny.safetensors"
# As in the template.
SAMPLER = "euler_ancestral"
# What the model was published with.
GUIDANCE = "ucg_joint"


def add_shared(parser: argparse.ArgumentParser) -> None:
    """What tiny.py and guidance.py are both told."""
    parser.add_argument(
        "--objects", choices=("1", "2", "both"), default="1", help="objects per clip (default: 1)"
    )
    parser.add_argument("--frames", type=int, default=33, help="4k + 1 (default: 33, two seconds)")
    parser.add_argument(
        "--audio-shift", type=float, help="sigma shift of the audio (default: the checkpoint's)"
    )
    parser.add_argument(
        "--sampler", default=SAMPLER, help=f"a name of ComfyUI's samplers (default: {SAMPLER})"
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)


def check_shared(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.audio_shift is not None and not 0 < options.audio_shift <= 100:
        parser.error(f"--audio-shift must be above 0 and at most 100, got {options.audio_shift}")
    if not options.checkpoint.is_file():
        parser.error(f"--checkpoint {options.checkpoint} is not there")


def check_frames(frames: int) -> None:
    """ScriptError unless a clip of the world can be so long. Only the pack knows, so after parsing."""
    from ccl_pack.ccl_core.training.world.scene import check_length

    try:
        check_length(frames)
    except ValueError as error:
        raise ScriptError(str(error), "change --frames") from error


def guidance_modes(chosen: Sequence[str] | None = None) -> list[str]:
    """The modes asked for, or all. ScriptError for an unknown one. Only the pack knows, so after parsing."""
    from ccl_pack.ccl_core.guidance import MODES

    unknown = [mode for mode in chosen or () if mode not in MODES]
    if unknown:
        raise ScriptError(f"{', '.join(unknown)}: no guidance mode", f"choose of {', '.join(MODES)}")
    return list(chosen or MODES)


def lesson_of(options: argparse.Namespace) -> Lesson:
    """What the checkpoint was taught; ScriptError if it is asked for more."""
    lesson = read_lesson(options.checkpoint)
    if options.objects != "1" and lesson.objects == 1:
        raise ScriptError(f"{options.checkpoint.name} was taught clips of one object", "ask with --objects 1")
    return lesson


def read_lesson(checkpoint: Path) -> Lesson:
    """What the file says that it was taught."""
    from ccl_pack.ccl_core.training.tiny.export import metadata
    from ccl_pack.ccl_core.training.world.evaluate import Lesson

    stated = metadata(checkpoint).get("lesson")
    if stated is None:
        raise ScriptError(
            f"{checkpoint.name} does not say what it was taught (metadata entry lesson)",
            "export it with scripts/train_tiny.py",
        )
    return Lesson.from_json(stated)


def unseen_by_all(options: argparse.Namespace) -> list[Attributes]:
    """Combinations that neither the checkpoint nor any of --unseen-by was taught, in an order of their own.

    So two checkpoints, each with the other as --unseen-by, are asked the same.
    """
    unseen = list(lesson_of(options).held_out)
    for path in options.unseen_by:
        also = read_lesson(path).held_out
        unseen = [thing for thing in unseen if thing in also]
    if not unseen:
        raise ScriptError("the checkpoints have no unseen combination in common", "leave --unseen-by out")
    return sorted(unseen, key=lambda thing: thing.values()[1:])
