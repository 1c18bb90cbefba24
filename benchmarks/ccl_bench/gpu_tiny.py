"""The rows of the GPU benchmark on a machine without a GPU: tiny models through the same path."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_bench.gpu import latent_of, measure, write_checkpoint
from ccl_bench.gpu_cases import CASES, PROMISES, Row, configuration
from ccl_bench.plan import planned_on
from ccl_tools.console import Ticker

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ccl_pack.ccl_core.config import CCLConfig

NOT_MEASURED = "not measured"


def rows(steps: int) -> list[Row]:
    """What shall fit, run at tiny size with its weights streamed, beside the plan at the real size."""
    made = []
    for name, weights, limit in PROMISES:
        ticker = Ticker(f"{CASES[name].title}, {weights}, tiny")
        ran = run(name, weights, steps)
        plan = planned_on(
            configuration(name), weights, lambda model, name=name: latent_of(model, CASES[name]), limit
        )
        note = f"{NOT_MEASURED}; at tiny size {ran['seconds_per_step']:g} s a step on a CPU"
        made.append(Row(name, weights, limit, error=note, **plan))
        ticker.done()
    return made


def run(name: str, weights: str, steps: int) -> dict[str, float]:
    """Figures of a tiny model of the case, written, loaded, streamed and sampled."""
    case = replace(
        CASES[name], width=64, height=64, frames=5, skip_layers="1" if CASES[name].skip_layers else ""
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        write_checkpoint(path, narrowed(configuration(name)), weights)
        return measure(path, case, steps, 0, prepare=streaming)


def narrowed(config: CCLConfig) -> CCLConfig:
    """The same model, 128 wide and two layers deep."""
    small = {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, "text_dim": 64, "text_len": None}
    stem = {"stem_dim": 64} if config.audio.stem_dim else {}
    return replace(
        config,
        video=replace(config.video, **small),
        audio=replace(config.audio, **small, **stem),
        interaction=replace(config.interaction, layers=(0, 1)),
    )


def streaming(model: ModelPatcher) -> ModelPatcher:
    """Every weight out of the device behind each load, so that every layer brings its own in."""
    from comfy.patcher_extension import CallbacksMP

    from ccl_pack.ccl_core.host import given

    def unload(patcher: ModelPatcher, *_: Any) -> None:
        patcher.partially_unload(patcher.offload_device, 1e32)

    model.add_callback(CallbacksMP.ON_LOAD, unload)
    # A card without room: what is kept of a given stream goes to RAM.
    given._memory_of = lambda *_: Full()
    return model


class Full:
    """The memory of a card that has none left."""

    def room(self) -> int:
        return 0

    def release(self, waiting: int) -> None:
        """Nothing to let go."""
