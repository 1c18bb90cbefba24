"""EasyCache and LazyCache on ccl-tiny: what a skipped step costs in each mode of guidance.

A mode that moves a prediction far multiplies the error of the passes too. So the error of a skipped step is
measured beside how far the mode moves that step, on the same latents and for as many skipped steps in every
mode: those of a run in `cfg`, each predicted from the cache of the step before it and in full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from torch import Tensor

from ccl_pack.ccl_core.guidance import MODES, TermScale, default_settings
from ccl_pack.ccl_core.host.files import build
from ccl_pack.ccl_core.host.guider import AVGuider
from nodes import CLIPTextEncode

CCL_TINY = Path(build.__file__).parents[2] / "checkpoints" / "ccl-tiny.safetensors"
CACHES = {"EasyCache": EasyCacheNode, "LazyCache": LazyCacheNode}
TEXTS = ("a red ball bounces, drum", "a blue square moves left, bell")
STEPS = 16


class Guided(NamedTuple):
    """A step's velocity (b, 1, n) under a mode: from the cache of the step before, and in full."""

    skipped: Tensor
    full: Tensor


class Recorder(AVGuider):
    """Notes the latents and times of the steps of its run."""

    def outer_predict_noise(self, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.steps.append((x.clone(), timestep.clone()))
        return super().outer_predict_noise(x, timestep, *args, **kwargs)


class Replay(AVGuider):
    """Predicts the steps of another run in the place of its own."""

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        holder = model_options["transformer_options"]["easycache"]

        def velocity(x: Tensor, timestep: Tensor, threshold: float) -> Tensor:
            holder.reuse_threshold = threshold
            clean = super(Replay, self).outer_predict_noise(x.clone(), timestep, model_options, seed)
            return (x - clean) / timestep[0]

        # It skips where it knows two steps. Each full step renews what it keeps.
        for x, timestep in self.steps[:2]:
            velocity(x, timestep, 0.0)
        for x, timestep in self.steps[2:]:
            skipped = holder.total_steps_skipped
            from_cache = velocity(x, timestep, math.inf)
            assert holder.total_steps_skipped == skipped + 1
            self.guided.append(Guided(from_cache, velocity(x, timestep, 0.0)))
        return x


@dataclass(frozen=True)
class Run:
    """What a run of ccl-tiny is made of."""

    model: ModelPatcher
    positive: list[Any]
    negative: list[Any]
    latent: NestedTensor

    def sample(self, guider: AVGuider, steps: int) -> list[Tensor]:
        guider.set_conds(self.positive, self.negative)
        sampling = guider.model_patcher.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
        noise = comfy.sample.prepare_noise(self.latent, 1)
        euler = comfy.samplers.sampler_object("euler")
        return guider.sample(noise, self.latent, euler, sigmas, disable_pbar=True).unbind()


@cache
def ccl_tiny() -> Run:
    model, clip, _, _ = build.load_checkpoint(str(CCL_TINY))
    texts = [CLIPTextEncode().encode(clip, text)[0][0][0] for text in (*TEXTS, "")]
    longest = max(text.shape[1] for text in texts)
    padded = [torch.nn.functional.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts]
    positive, negative = torch.cat(padded[:-1]), padded[-1].repeat(len(TEXTS), 1, 1)
    config = model.model.ccl_config
    # Nine frames of 64 x 64, and the sound as long.
    video = torch.zeros(len(TEXTS), config.video.out_dim, 3, 8, 8)
    tokens = math.ceil(9 / config.fps * config.audio_latent.rate)
    audio = torch.zeros(len(TEXTS), config.audio_latent.channels, tokens)
    return Run(model, [[positive, {}]], [[negative, {}]], NestedTensor([video, audio]))


@cache
def steps_of_cfg() -> list[tuple[Tensor, Tensor]]:
    recorder = Recorder(ccl_tiny().model)
    recorder.steps = []
    recorder.set_guidance("cfg", default_settings("cfg"))
    ccl_tiny().sample(recorder, STEPS)
    return recorder.steps


@cache
def guided(node: str, mode: str | None) -> list[Guided]:
    """The steps of the run in `cfg` under another mode, or under none."""
    model = CACHES[node].execute(ccl_tiny().model, 1.0, 0.0, 1.0, False).args[0]
    replay = Replay(model)
    replay.steps, replay.guided = steps_of_cfg(), []
    settings: Mapping[str, TermScale] = {} if mode is None else default_settings(mode)
    replay.set_guidance(mode or "cfg", settings)
    ccl_tiny().sample(replay, 1)
    return replay.guided


@dataclass
class Cost:
    """Of a skipped step in one stream: its error, how far the mode moves the step, and all of the step.

    Sums of squares.
    """

    error: float = 0.0
    moved: float = 0.0
    whole: float = 0.0


@cache
def costs(node: str, mode: str) -> dict[str, Cost]:
    video, audio = ccl_tiny().latent.unbind()
    slices = {"video": slice(0, video[0].numel()), "audio": slice(video[0].numel(), None)}
    found = {"video": Cost(), "audio": Cost()}
    for step, free in zip(guided(node, mode), guided(node, None), strict=True):
        for stream, place in slices.items():
            found[stream].error += float((step.skipped - step.full)[..., place].square().sum())
            found[stream].moved += float((step.full - free.full)[..., place].square().sum())
            found[stream].whole += float(step.full[..., place].square().sum())
    assert audio[0].numel() > 0
    return found


@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize("node", CACHES)
def test_in_cfg_a_skipped_step_costs_a_small_part_of_the_step(node: str, stream: str) -> None:
    cost = costs(node, "cfg")[stream]
    assert 0 < cost.error < 0.2 * cost.whole


@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("node", CACHES)
def test_a_mode_multiplies_the_error_of_cfg_by_no_more_than_its_guidance(
    node: str, mode: str, stream: str
) -> None:
    own, of_cfg = costs(node, mode)[stream], costs(node, "cfg")[stream]
    error, moved = math.sqrt(own.error / of_cfg.error), math.sqrt(own.moved / of_cfg.moved)
    # A mode that moves a step less than cfg still has the error of the pass itself.
    assert 0 < error <= 1.1 * max(1.0, moved)
