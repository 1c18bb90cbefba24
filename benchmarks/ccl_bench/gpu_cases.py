"""What the GPU benchmark runs: models at their sizes, clips, and what shall fit on cards that people have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from ccl_bench.published_sizes import mova, ovi

if TYPE_CHECKING:
    from ccl_pack.ccl_core.config import CCLConfig

DTYPES = {"bf16": "bfloat16", "fp8": "float8_e4m3fn", "int8": "int8"}
# A measurement may be so far from the plan, as a part of it.
OFF = 0.15


@dataclass(frozen=True)
class Case:
    """A clip to make: its size, and the guidance of a step (two passes)."""

    title: str
    width: int
    height: int
    frames: int
    video_scale: float
    audio_scale: float
    skip_layers: str = ""
    given: str = ""  # "video": the sound of a clip is made


CASES = {
    "ovi": Case("Ovi, 960 x 960, 121 frames", 960, 960, 121, 4.0, 3.0, "11"),
    "ccl": Case("CCL on Wan 14B, 640 x 352, 81 frames", 640, 352, 81, 5.0, 5.0),
    "mova": Case("MOVA 360p, one expert, 640 x 352, 193 frames", 640, 352, 193, 5.0, 5.0),
    "prism": Case("Prism, one expert, 848 x 480, 49 frames", 848, 480, 49, 5.0, 5.0),
    "dub": Case("CCL on Wan 14B, sound for 640 x 352, 81 frames", 640, 352, 81, 5.0, 5.0, given="video"),
}
# What shall run on the cards that people have: case, weights, GB of VRAM.
PROMISES = (
    ("ovi", "fp8", 12.0),
    ("mova", "fp8", 16.0),
    ("prism", "int8", 16.0),
    ("ccl", "fp8", 16.0),
    ("dub", "fp8", 16.0),
)


@dataclass(frozen=True)
class Row:
    """One measurement; `error` says why there is none."""

    case: str
    weights: str
    limit_gb: float
    gpu: str = ""
    seconds_per_step: float | None = None
    first_step_seconds: float | None = None
    vram_gb: float | None = None
    ram_gb: float | None = None
    file_gb: float | None = None
    ram_start_gb: float = 0.0  # of the process before it loads the model
    plan_vram_gb: float | None = None
    plan_ram_gb: float | None = None
    error: str = ""

    @property
    def faults(self) -> list[str]:
        """What is further off the plan than OFF."""
        taken = None if self.ram_gb is None else self.ram_gb - self.ram_start_gb
        pairs = {"VRAM": (self.vram_gb, self.plan_vram_gb), "RAM": (taken, self.plan_ram_gb)}
        found = {name: pair for name, pair in pairs.items() if None not in pair and pair[1]}
        return [name for name, (seen, plan) in found.items() if abs(seen / plan - 1) > OFF]


def configuration(case: str) -> CCLConfig:
    """Ovi as published; Wan 2.1 14B and an audio stream as large as Wan 1.3B, coupled by CCA in 30 layers."""
    from ccl_pack.ccl_core.config import (
        AudioLatentConfig,
        CCAOptions,
        CCLConfig,
        InteractionConfig,
        StreamConfig,
    )

    if case == "ovi":
        return ovi()
    if case in ("mova", "prism"):
        # One file holds one expert; the other one waits in RAM and takes as much there.
        return replace(mova(), expert_boundary=None, family=case)
    return CCLConfig(
        fps=Fraction(16),
        video=StreamConfig(16, 16, 5120, 13824, 40, 40, 4096),
        audio=StreamConfig(80, 80, 1536, 8960, 12, 30, 4096, patch_size=(1, 1, 1)),
        interaction=InteractionConfig("cca", tuple(range(30)), CCAOptions()),
        audio_latent=AudioLatentConfig("vocos", 80, Fraction(32), 16000),
    )


def shapes(config: CCLConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, without memory for any of them."""
    import comfy.ops

    from ccl_pack.ccl_core.model.joint import JointModel

    model = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
