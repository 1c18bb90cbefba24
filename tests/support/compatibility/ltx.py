"""Nodes for LTX-2's two streams: what they do to LTX-2 they do to a pair.

A row runs a node on LTX-2 and on a joint model whose coupling acts, and once more by other means: what the
node says that it does. Its numbers: how far the node moves each of them, and how far that is from the other
means, as parts of the largest value and the larger one of both streams.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.sample
import comfy.samplers
import comfy_extras.nodes_lt as lt
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ccl_pack.ccl_core.host.branches import ANCHOR, with_switches
from support.compatibility.checkouts import LTXVIDEO, module
from support.compatibility.table import COUPLINGS, distance
from support.tiny import av_latent, conditioning, other_model
from support.uncoupled import model_of

LTX = "LTX-2"
COLUMNS = (LTX, *COUPLINGS)
# Of a run in three steps, of its second half, and of one step, which is the prediction itself.
WHOLE, LATER, ONE = (1.0, 0.7, 0.4, 0.0), (0.5, 0.25, 0.0), (1.0, 0.0)
Streams = Sequence[Tensor]


@dataclass(frozen=True)
class Subject:
    """A model of video and sound, a latent for it and its texts."""

    model: ModelPatcher
    latent: dict[str, Any]
    positive: list[Any]
    negative: list[Any]

    def run(
        self,
        model: ModelPatcher | None = None,
        latent: dict[str, Any] | None = None,
        cfg: float = 3.0,
        sigmas: Sequence[float] | Tensor = WHOLE,
        positive: list[Any] | None = None,
    ) -> Streams:
        guider = comfy.samplers.CFGGuider(model or self.model)
        guider.set_conds(positive or self.positive, self.negative)
        guider.set_cfg(cfg)
        return self.guided(guider, latent, sigmas)

    def guided(
        self, guider: Any, latent: dict[str, Any] | None = None, sigmas: Sequence[float] | Tensor = WHOLE
    ) -> Streams:
        latent = latent or self.latent
        samples = latent["samples"]
        noise, mask = comfy.sample.prepare_noise(samples, 4), latent.get("noise_mask")
        euler = comfy.samplers.sampler_object("euler")
        made = guider.sample(noise, samples, euler, torch.as_tensor(sigmas), mask, disable_pbar=True)
        return made.unbind()

    def video(self) -> dict[str, Any]:
        return {"samples": self.latent["samples"].unbind()[0]}

    def sound(self) -> dict[str, Any]:
        return {"samples": self.latent["samples"].unbind()[1]}


Result = Callable[[Subject], Streams]


@dataclass(frozen=True)
class Row:
    """A node. without: the same run without it. otherwise: what it says it does, by other means."""

    node: str
    result: Result
    without: Result
    otherwise: Result
    # It says something that a joint model does not read.
    moves_pairs: bool = True
    bound: float = 2e-6


@cache
def subject(column: str) -> Subject:
    if column != LTX:
        return Subject(model_of(column, fresh=False), av_latent(), conditioning(1), conditioning(2))
    generator = torch.Generator().manual_seed(3)
    shapes = (1, 128, 2, 4, 4), (1, 8, 6, 16)
    latent = {"samples": NestedTensor([torch.randn(shape, generator=generator) for shape in shapes])}
    # The text of the video beside that of the sound.
    positive, negative = (
        [[torch.cat([conditioning(seed)[0][0], conditioning(seed + 9)[0][0]], dim=-1), {}]] for seed in (1, 2)
    )
    return Subject(other_model(), latent, positive, negative)


def two_stages(on: Subject, between: Callable[[dict[str, Any]], dict[str, Any]]) -> Streams:
    first = {"samples": NestedTensor(on.run())}
    return on.run(latent=between(first), sigmas=LATER)


def with_kept_sound(on: Subject) -> dict[str, Any]:
    sound = on.sound()
    kept = sound | {"noise_mask": torch.zeros_like(sound["samples"])}
    return lt.LTXVConcatAVLatent.execute(on.video(), kept).args[0]


def with_kept_sound_by_hand(on: Subject) -> dict[str, Any]:
    video, sound = on.latent["samples"].unbind()
    masks = NestedTensor([torch.ones_like(video), torch.zeros_like(sound)])
    return on.latent | {"noise_mask": masks}


def scheduled(on: Subject, latent: dict[str, Any] | None) -> Streams:
    # Shifts that the few tokens here do not hide.
    return on.run(sigmas=lt.LTXVScheduler.execute(3, 6.0, 4.0, True, 0.1, latent).args[0])


def at_own_sigmas(on: Subject, model: ModelPatcher) -> Streams:
    sampling = model.get_model_object("model_sampling")
    return on.run(model, sigmas=comfy.samplers.calculate_sigmas(sampling, "simple", 3))


def shifted(on: Subject, latent: dict[str, Any]) -> Streams:
    return at_own_sigmas(on, lt.ModelSamplingLTXV.execute(on.model, 4.0, 2.0, latent).args[0])


def at_rate(on: Subject) -> Streams:
    return on.run(positive=lt.LTXVConditioning.execute(on.positive, on.negative, 8.0).args[0])


def at_rate_by_hand(on: Subject) -> Streams:
    return on.run(positive=[[text, extra | {"frame_rate": 8.0}] for text, extra in on.positive])


ROWS = [
    Row(
        "LTXVConcatAVLatent",
        lambda on: on.run(latent=with_kept_sound(on)),
        Subject.run,
        lambda on: on.run(latent=with_kept_sound_by_hand(on)),
    ),
    Row(
        "LTXVSeparateAVLatent",
        lambda on: two_stages(on, lambda x: lt.LTXVConcatAVLatent.execute(*apart(x)).args[0]),
        Subject.run,
        lambda on: two_stages(on, lambda first: first),
    ),
    Row(
        "LTXVScheduler",
        lambda on: scheduled(on, on.latent),
        lambda on: scheduled(on, None),
        lambda on: scheduled(on, on.video()),
    ),
    Row(
        "ModelSamplingLTXV",
        lambda on: shifted(on, on.latent),
        lambda on: at_own_sigmas(on, on.model),
        lambda on: shifted(on, on.video()),
    ),
    Row("LTXVConditioning", at_rate, Subject.run, at_rate_by_hand, moves_pairs=False),
]


def apart(latent: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return lt.LTXVSeparateAVLatent.execute(latent).args


def sound_alone(on: Subject, latent: dict[str, Any] | None = None) -> Streams:
    node = module(LTXVIDEO, "audio_only").LTXVAudioOnlyModel()
    return on.run(node.patch(on.model)[0], latent)[1:]


def beside_another_video(on: Subject) -> dict[str, Any]:
    """The noise is the same; the video that it is added to is large."""
    video, sound = on.latent["samples"].unbind()
    mask = NestedTensor([torch.zeros_like(video), torch.ones_like(sound)])
    return {"samples": NestedTensor([5.0 * video.flip(2) + 3.0, sound]), "noise_mask": mask}


OF_LTXVIDEO = [
    Row(
        "LTXVAudioOnlyModel",
        sound_alone,
        lambda on: on.run()[1:],
        lambda on: sound_alone(on, beside_another_video(on)),
    )
]


def dual_cfg(on: Subject) -> Streams:
    guider = lt.LTXVDualCFGGuider.execute(on.model, on.positive, on.negative, 2.0, 6.0).args[0]
    return on.guided(guider, sigmas=ONE)


def dual_cfg_by_hand(on: Subject) -> Streams:
    return [on.run(cfg=2.0, sigmas=ONE)[0], on.run(cfg=6.0, sigmas=ONE)[1]]


def modality(on: Subject) -> Streams:
    return on.run(lt.LTXVModalityGuidance.execute(on.model, 3.0, 0.0, 1.0).args[0], sigmas=ONE)


def modality_by_hand(on: Subject) -> Streams:
    uncoupled = on.model.clone()
    uncoupled.model_options = with_switches(uncoupled.model_options, ANCHOR)
    guided, open_, anchor = on.run(sigmas=ONE), on.run(cfg=1.0, sigmas=ONE), on.run(uncoupled, None, 1.0, ONE)
    return [cfg + 2.0 * (own - other) for cfg, own, other in zip(guided, open_, anchor, strict=True)]


# Of ComfyUI 0.33.
OF_NEWER_HOST = [
    Row(
        "LTXVDualCFGGuider",
        dual_cfg,
        lambda on: on.run(cfg=1.0, sigmas=ONE),
        dual_cfg_by_hand,
    ),
    Row("LTXVModalityGuidance", modality, lambda on: on.run(sigmas=ONE), modality_by_hand),
]


def at_hand() -> list[Row]:
    """The rows of nodes that are there."""
    newer = OF_NEWER_HOST if hasattr(lt, "LTXVDualCFGGuider") else []
    return ROWS + newer + (OF_LTXVIDEO if os.environ.get(LTXVIDEO) else [])


@dataclass(frozen=True)
class Measured:
    """moved: by the node. apart: from what it says it does."""

    moved: float
    apart: float


def measured(row: Row, column: str) -> Measured:
    on = subject(column)
    result = row.result(on)
    return Measured(between(result, row.without(on)), between(result, row.otherwise(on)))


def between(ones: Streams, others: Streams) -> float:
    return max(distance(one, other) for one, other in zip(ones, others, strict=True))
