"""The templates by name, and what a person gives to those that want a film, a sound or an image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ccl_pack.ccl_core.training.world.scene import SAMPLE_RATE, sample_clip
from ccl_tools.environment import ROOT
from support.media_files import write_media
from support.own_films import write_clip

FIRST = "Text to Video with Sound (tiny)"
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json"))
TINY = [name for name in NAMES if name.endswith("(tiny)")]
# Of the first run of each.
SEED = 7
# What the loaders of the templates name before a person has chosen.
VIDEO, SOUND, IMAGE = "choose your video.mp4", "choose your sound.mp3", "example.png"
FRAMES, FPS = 33, 16


def read(name: str, folder: str = "workflows") -> dict[str, Any]:
    return json.loads((ROOT / folder / f"{name}.json").read_text(encoding="utf-8"))


def nodes_of(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of the graph and those inside its subgraphs."""
    yield from workflow["nodes"]
    for graph in workflow["definitions"]["subgraphs"]:
        yield from graph["nodes"]


def give(folder: Path) -> None:
    """A clip of the procedural world, its sound and its first frame, under the names of the templates."""
    clip = sample_clip(np.random.default_rng(700), frames=FRAMES, fps=float(FPS), objects=1)
    write_clip(folder / VIDEO, clip, FPS)
    write_media(folder / SOUND, torch.from_numpy(clip.waveform)[None], SAMPLE_RATE, codec="mp3")
    Image.fromarray(clip.frames[0]).save(folder / IMAGE)
