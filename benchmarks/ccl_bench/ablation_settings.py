"""What runs of benchmarks/method.py must share to be compared, and when one of them is whole."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

TASKS = ("t2av", "v2a")


def parts(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    return ((task, guidance) for task in TASKS for guidance in options.guidance)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What runs must share to be compared."""
    model = ("layers", "widths")
    training = ("stream_steps", "steps", "batch", "clips", "frames")
    return {
        name: getattr(options, name) for name in (*model, *training, "evaluation_clips", "sampling_steps")
    }


def shared_settings(options: argparse.Namespace) -> dict[str, Any]:
    return {**settings_of(options), "guidance": options.guidance}


def whole(run: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether every part of its evaluation is there."""
    return all(f"{task}/{guidance}" in run for task, guidance in parts(options))
