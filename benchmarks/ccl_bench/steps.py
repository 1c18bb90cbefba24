"""FLOPs of whole runs through the guider: each pass of the model runs on the meta device, without data."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ccl_bench.counters import Flops, attention
from ccl_bench.published_sizes import ccl_14b
from ccl_bench.tiny_options import CHECKPOINT

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

    from ccl_pack.ccl_core.config import CCLConfig

STEPS = 10
TEXT_TOKENS = 512


@dataclass(frozen=True)
class Size:
    """A model and a clip: latent frames, height and width of the latent, audio tokens."""

    config: CCLConfig
    latent: tuple[int, int, int]
    tokens: int


def sizes() -> dict[str, Size]:
    """14b: Wan 14B and an audio stream of 1536 x 30. cpu: the same clip, 768 and 256 wide. tiny: ccl-tiny."""
    clip = (21, 44, 80), 168
    return {"14b": Size(ccl_14b(), *clip), "cpu": Size(narrow(), *clip), "tiny": Size(tiny(), (9, 8, 8), 66)}


def narrow() -> CCLConfig:
    """Both streams with heads of 128 as in Wan and its proportions, four layers, all coupled."""
    model = ccl_14b()
    video = replace(model.video, dim=768, ffn_dim=2048, num_heads=6, num_layers=4)
    audio = replace(model.audio, dim=256, ffn_dim=1024, num_heads=2, num_layers=4)
    return replace(
        model, video=video, audio=audio, interaction=replace(model.interaction, layers=(0, 1, 2, 3))
    )


def tiny() -> CCLConfig:
    from safetensors import safe_open

    from ccl_pack.ccl_core.metadata import read_config

    with safe_open(CHECKPOINT, "pt") as file:
        return read_config(file.metadata()["ccl_config"])


@dataclass(frozen=True)
class Count:
    """FLOPs of one run: of the pass that fills keys and values, and of each step without it."""

    fill: int
    steps: tuple[int, ...]

    @property
    def later(self) -> float:
        """The mean of the steps behind the first."""
        return sum(self.steps[1:]) / (len(self.steps) - 1)


def patcher_on_meta(config: CCLConfig, counter: Flops) -> ModelPatcher:
    """A MODEL of this configuration whose passes run on the meta device and give zeros."""
    import comfy.patcher_extension
    import torch

    from ccl_pack.ccl_core.host.base_model import CCLModelConfig
    from ccl_pack.ccl_core.host.run import sample_in_run
    from ccl_pack.ccl_core.model.joint import JointModel

    class OnMeta(JointModel):
        """What decides whether and what a pass runs is the model's own, and has numbers."""

        filled = 0

        def _fill(self, *args: Any) -> None:
            before = counter.flops
            super()._fill(*args)
            self.filled += counter.flops - before

        def _pass(
            self,
            inputs: Any,
            run_video: bool,
            run_audio: bool,
            fill: Any = None,
            read: Any = None,
            hear: Any = None,
        ) -> tuple[torch.Tensor | None, ...]:
            run = super()._pass

            def trace() -> tuple[torch.Tensor | None, ...]:
                moved = {name: to_meta(value) for name, value in vars(inputs).items() if name != "options"}
                made = run(replace(inputs, **moved), run_video, run_audio, fill, read, hear)
                return tuple(map(zeros_like, made))

            # A pass that fills is traced for what it hands out.
            if fill is not None:
                return trace()
            skipped = inputs.options.get("skip_layers", ())
            key = run_video, run_audio, read is None, hear is None, inputs.routes, skipped
            return counter.once((*key, shapes_of(vars(inputs))), trace)

    description = CCLModelConfig(config)
    description.set_inference_dtype(torch.bfloat16, None)
    patcher = resting(description.get_model({}, device="meta"), OnMeta)
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "ccl", sample_in_run)
    return patcher


def wan_on_meta(config: CCLConfig, counter: Flops) -> ModelPatcher:
    """The host's plain Wan with the sizes of the video stream."""
    import comfy.supported_models
    import torch
    from comfy.ldm.wan.model import WanModel

    class OnMeta(WanModel):
        def _forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            run = super()._forward
            return counter.once(
                shapes_of((args, kwargs)), lambda: zeros_like(run(*map(to_meta, args), **to_meta(kwargs)))
            )

    kind = comfy.supported_models.WAN21_T2V
    arguments = config.video.wan_arguments()
    description = kind({**kind.unet_config, **arguments})
    description.set_inference_dtype(torch.bfloat16, None)
    return resting(description.get_model({}, device="meta"), OnMeta)


def resting(model: Any, kind: type) -> ModelPatcher:
    """A patcher around a model without weights, which the host does not load."""
    import comfy.patcher_extension
    import torch
    from comfy.model_patcher import ModelPatcher

    model.diffusion_model.__class__ = kind
    model.requires_grad_(False)
    cpu = torch.device("cpu")
    patcher = ModelPatcher(model, cpu, cpu)

    def unloaded(executor: Any, patcher: ModelPatcher, shape: Any, conds: Any, **_: Any) -> Any:  # noqa: ARG001
        return patcher.model, conds, []

    wrapper = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING
    patcher.add_wrapper_with_key(wrapper, "steps", unloaded)
    return patcher


def shapes_of(values: Any) -> tuple[torch.Size, ...]:
    import torch
    from torch.utils._pytree import tree_leaves

    return tuple(leaf.shape for leaf in tree_leaves(values) if torch.is_tensor(leaf))


def to_meta(value: Any) -> Any:
    import torch

    if torch.is_tensor(value):
        return value.to("meta")
    if isinstance(value, dict):
        return {name: to_meta(entry) for name, entry in value.items()}
    return [to_meta(entry) for entry in value] if isinstance(value, list) else value


def zeros_like(value: torch.Tensor | None) -> torch.Tensor | None:
    import torch

    return None if value is None else torch.zeros(value.shape, dtype=value.dtype)


def count(
    patcher: ModelPatcher,
    counter: Flops,
    size: Size,
    given: str = "",
    sound: bool = True,
    mode: str = "cfg",
    scales: dict[str, tuple[float, float]] | None = None,
    substeps: int = 0,
) -> Count:
    """FLOPs of a run of STEPS steps. given: the stream that is. scales: of video and audio, by term.

    substeps: of the audio, 0 for a sampler without.
    """
    import comfy.samplers
    import torch
    from comfy.ldm.modules.attention import attention_pytorch

    from ccl_pack.ccl_core.guidance import TermScale
    from ccl_pack.ccl_core.host.guider import AVGuider
    from ccl_pack.ccl_core.host.substeps import SubstepSampler

    euler = comfy.samplers.sampler_object("euler")
    guider = AVGuider(patcher)
    texts = torch.zeros(2, 1, TEXT_TOKENS, size.config.video.text_dim)
    guider.set_conds([[texts[0], {}]], [[texts[1], {}]])
    guider.set_guidance(
        mode, {name: TermScale(*pair) for name, pair in (scales or {"text": (4.0, 3.0)}).items()}
    )
    latent, mask = latent_of(size, given, sound)
    marks: list[int] = [0]
    counter.flops = 0
    # One op, whose products torch counts.
    with counter, attention(attention_pytorch):
        guider.sample(
            latent,
            latent,
            SubstepSampler(euler, substeps) if substeps else euler,
            torch.linspace(1, 0, STEPS + 1),
            denoise_mask=mask,
            callback=lambda *_: marks.append(counter.flops),
            disable_pbar=True,
            seed=1,
        )
    fill = getattr(patcher.model.diffusion_model, "filled", 0)
    patcher.model.diffusion_model.filled = 0
    steps = [after - before for before, after in pairwise(marks)]
    return Count(fill, (steps[0] - fill, *steps[1:]))


def latent_of(size: Size, given: str, sound: bool) -> tuple[Any, Any]:
    """The latent, and a mask that keeps the given stream."""
    import torch
    from comfy.nested_tensor import NestedTensor

    # Ones: a kept stream of zeros is no stream.
    video = torch.ones(1, size.config.video.out_dim, *size.latent)
    if not sound:
        return video, None
    pair = video, torch.ones(1, size.config.audio_latent.channels, size.tokens)
    if not given:
        return NestedTensor(pair), None
    masks = torch.ones(1, 1, *size.latent), torch.ones(1, 1, size.tokens)
    masks[0 if given == "video" else 1].zero_()
    return NestedTensor(pair), NestedTensor(masks)


def tasks(size: Size) -> dict[str, Count]:
    """Runs of a model: joint, a given video, a given sound, the video alone, the sound alone guided, and with
    sub-steps of the audio.
    """
    counter = Flops()
    patcher = patcher_on_meta(size.config, counter)
    guided = {"text": (1.0, 3.0), "cross": (1.0, 2.0)}
    return {
        "joint": count(patcher, counter, size),
        "v2a": count(patcher, counter, size, given="video"),
        "a2v": count(patcher, counter, size, given="audio"),
        "t2v": count(patcher, counter, size, sound=False),
        "sound_guided": count(patcher, counter, size, mode="ucg", scales=guided),
        "substeps_2": count(patcher, counter, size, substeps=2),
        "substeps_4": count(patcher, counter, size, substeps=4),
    }


def plain(size: Size) -> Count:
    """Runs of the host's Wan with the video of the same size."""
    counter = Flops()
    return count(wan_on_meta(size.config, counter), counter, size, sound=False)


def seconds(steps: int) -> dict[str, float]:
    """Seconds of a step of ccl-tiny behind the first, the median of runs in turns."""
    import comfy.samplers
    import torch

    from ccl_pack.ccl_core.guidance import TermScale
    from ccl_pack.ccl_core.host.files.build import load_model
    from ccl_pack.ccl_core.host.guider import AVGuider

    size = sizes()["tiny"]
    guider = AVGuider(load_model(str(CHECKPOINT)))
    texts = torch.randn(2, 1, 40, size.config.video.text_dim, generator=torch.Generator().manual_seed(0))
    guider.set_conds([[texts[0], {}]], [[texts[1], {}]])
    guider.set_guidance("cfg", {"text": TermScale(4.0, 3.0)})
    taken: dict[str, list[float]] = {"joint": [], "v2a": [], "a2v": []}
    for _ in range(3):
        for task, given in (("joint", ""), ("v2a", "video"), ("a2v", "audio")):
            latent, mask = latent_of(size, given, sound=True)
            ends: list[float] = []
            guider.sample(
                latent,
                latent,
                comfy.samplers.sampler_object("euler"),
                torch.linspace(1, 0, steps + 1),
                denoise_mask=mask,
                callback=lambda *_, ends=ends: ends.append(time.perf_counter()),
                disable_pbar=True,
                seed=1,
            )
            taken[task] += [after - before for before, after in pairwise(ends)]
    return {task: statistics.median(values) for task, values in taken.items()}
