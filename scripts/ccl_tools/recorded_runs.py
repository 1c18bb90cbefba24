"""The runs that record_runs.py records: a model, what it is given, and the tensors that come out.

Nothing here names a node of the pack or a file of it: see recorded_pack.py and recorded_models.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from torch import Tensor

from ccl_tools.recorded_models import (
    CCL,
    MOVA,
    OVI,
    Kind,
    Size,
    Tensors,
    clip_vision,
    context_latents,
    drawn,
    fresh_tiny_module,
    keep_audio,
    keep_corner,
    keep_first_frame,
    keep_in_second,
    keep_video,
    noise,
    reference,
    saved,
    shipped,
    start_image,
    time_concat,
    tiny,
    with_audio_text,
)
from ccl_tools.recorded_pack import (
    AUDIO_SHIFT,
    MODES,
    SEPARATE,
    AVGuider,
    Batch,
    Draw,
    JointModel,
    Recorder,
    Strengths,
    TermScale,
    apply_lora,
    decode_audio,
    decode_video,
    losses,
)

Step = Callable[..., None]  # called when a step of the sampler, or a direct call, has ended
Run = Callable[[Step], Tensors]


@dataclass(frozen=True)
class Sampling:
    """A run of AVGuider (mode None: of the host's own CFG) in the host's sampler."""

    kind: Kind
    mode: str | None = "ucg_joint"
    steps: int = 4
    sampler: str = "euler"
    size: Size | None = None
    batch: int = 1
    audio: bool = True
    keep: Callable[[Tensor, Tensor], None] | None = None
    change: Callable[[ModelPatcher], ModelPatcher] | None = None
    conds: Callable[[], dict[str, Any]] = dict  # more entries of both texts
    text: Callable[[Tensor], Tensor] = torch.Tensor.clone  # what becomes of each text
    skip_layers: tuple[int, ...] = ()

    def __call__(self, step: Step) -> Tensors:
        guider = self.guider()
        latent = self.latent()
        schedule = guider.model_patcher.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(schedule, "simple", self.steps)
        sampler = comfy.samplers.sampler_object(self.sampler)
        start = comfy.sample.prepare_noise(latent, 5)
        options = {"denoise_mask": self.mask(latent), "callback": step, "disable_pbar": True, "seed": 5}
        out = guider.sample(start, latent, sampler, sigmas, **options)
        streams = out.unbind() if out.is_nested else [out]
        return dict(zip(("video", "audio"), streams, strict=False))

    def guider(self) -> comfy.samplers.CFGGuider:
        model = self.kind.load()
        model = model if self.change is None else self.change(model)
        guider = comfy.samplers.CFGGuider(model) if self.mode is None else AVGuider(model)
        guider.set_conds(*([[self.text(text), self.conds()]] for text in self.kind.texts()))
        if self.mode is None:
            guider.set_cfg(3.0)
        else:
            guider.set_guidance(self.mode, scales(self.mode), skip_layers=self.skip_layers)
        return guider

    def latent(self) -> Any:
        streams = [x.repeat_interleave(self.batch, 0) for x in self.kind.clip(self.size or self.kind.size)]
        return NestedTensor(streams) if self.audio else streams[0]

    def mask(self, latent: Any) -> Any:
        if self.keep is None:
            return None
        masks = [torch.ones_like(stream[:, :1]) for stream in latent.unbind()]
        self.keep(*masks)
        return NestedTensor(masks)


def scales(mode: str) -> dict[str, TermScale]:
    """Scales of our own, other ones for each stream, so that a changed default changes no run."""
    if mode == "ucg_joint":
        return {"joint": TermScale(3.0, 3.0)}
    return {name: TermScale(4.0 - i, 3.0 - 0.5 * i) for i, name in enumerate(MODES[mode].terms)}


def windows(model: ModelPatcher) -> ModelPatcher:
    """Of 17 frames, 8 of them shared."""
    arguments = (17, 8, "standard_static", 1, False, "pyramid", False)
    return WanContextWindowsManualNode.execute(model, *arguments)[0]


def easy_cache(model: ModelPatcher) -> ModelPatcher:
    return EasyCacheNode.execute(
        model, reuse_threshold=0.5, start_percent=0.0, end_percent=1.0, verbose=False
    )[0]


def own_shift(model: ModelPatcher) -> ModelPatcher:
    shifted = ModelSamplingSD3().patch(model, 4.0)[0]
    shifted.add_object_patch(AUDIO_SHIFT, 2.0)
    return shifted


def attention_patches(model: ModelPatcher) -> ModelPatcher:
    patched = model.clone()
    patched.set_model_attn1_patch(lambda args: args["x"] * 1.1)
    patched.set_model_attn2_patch(lambda args: args["x"] * 0.9)
    patched.set_model_patch(lambda args: {"img": args["img"] * 1.05}, "double_block")
    return patched


def replaced_block(model: ModelPatcher) -> ModelPatcher:
    patched = model.clone()
    patched.set_model_patch_replace(_halved_gain, "dit", "double_block", 1)
    return patched


def _halved_gain(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    before = args["img"]
    return {"img": before + 0.5 * (extra["original_block"](args)["img"] - before)}


def with_lora(targets: dict[str, tuple[int, int]], model: ModelPatcher) -> ModelPatcher:
    """targets: name of a weight in files -> its rows and columns."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in targets.items():
        shapes |= {f"{name}.lora_A.weight": (2, columns), f"{name}.lora_B.weight": (rows, 2)}
    return apply_lora(model, saved("lora", drawn(shapes)), Strengths(video=0.9, audio=0.7, coupling=1.2))


CCL_LORA = {f"diffusion_model.blocks.{i}.self_attn.q": (160, 160) for i in range(6)}
CCL_LORA |= {f"diffusion_model.audio.blocks.{i}.ffn.0": (288, 96) for i in range(6)}
CCL_LORA |= {f"diffusion_model.interaction.{i}.a2v.k": (160, 96) for i in range(6)}
OVI_LORA = {
    f"{tower}_model.blocks.0.self_attn.{x}": (128, 128) for tower in ("video", "audio") for x in "qkvo"
}
OVI_LORA |= {f"{tower}_model.blocks.1.cross_attn.k_fusion": (128, 128) for tower in ("video", "audio")}
MOVA_LORA = {f"{tower}.blocks.0.self_attn.q": (256, 256) for tower in ("video_dit", "video_dit_2")}
MOVA_LORA |= {"audio_dit.blocks.1.ffn.0": (96, 128)}
MOVA_LORA |= {"dual_tower_bridge.audio_to_video_conditioners.0.inner.k": (256, 128)}
MOVA_LORA |= {"dual_tower_bridge.video_to_audio_conditioners.1.inner.q": (128, 128)}


@dataclass(frozen=True)
class Forward:
    """Three calls of the model's own forward on a batch of two."""

    coupling: str = "cca"
    options: Callable[[], dict[str, Any]] = dict
    arguments: Callable[[], dict[str, Any]] = dict

    def __call__(self, step: Step) -> Tensors:
        module, streams, text = tiny_batch(self.coupling)
        times = torch.tensor([400.0, 700.0]), torch.tensor([300.0, 700.0])
        for _ in range(3):
            out = module(list(streams), times, text, transformer_options=self.options(), **self.arguments())
            step()
        return dict(zip(("video", "audio"), out, strict=True))


def tiny_batch(coupling: str, samples: int = 2) -> tuple[JointModel, tuple[Tensor, Tensor], Tensor]:
    """The module of a tiny model, latents of two clips and their texts."""
    streams = noise(21, samples, 16, 3, 4, 6), noise(22, samples, 8, 18)
    return tiny(coupling).load().model.diffusion_model, streams, noise(23, samples, 5, 24)


def refused(run: Run, step: Step) -> Tensors:
    """What comes out, or under the name of its exception, an empty tensor."""
    try:
        return run(step)
    except Exception as error:
        return {f"raises {type(error).__name__}": torch.zeros(0)}


def decoded(step: Step) -> Tensors:
    """Frames and waveform of a run of two steps."""
    _, _, video_vae, audio_vae = shipped()
    made = Sampling(CCL, steps=2)(step)
    sound = decode_audio(audio_vae, made["audio"], Fraction(17, 16))
    return {"frames": decode_video(video_vae, made["video"]), "waveform": sound["waveform"]}


def attention_maps(step: Step) -> Tensors:
    module, streams, text = tiny_batch("cca")
    for _ in range(3):
        recorder = Recorder(module)
        options = {"ccl_taps": recorder.taps}
        module(list(streams), torch.tensor([400.0, 700.0]), text, transformer_options=options)
        step()
    return {f"{found.direction} {found.layer}": found.rows for found in recorder.maps}


GRADIENTS = ("blocks.0.self_attn.q.weight", "blocks.2.ffn.0.weight", "audio.blocks.1.cross_attn.v.weight")
GRADIENTS += ("audio.blocks.0.modulation", "interaction.0.a2v.k.weight", "interaction.1.v2a.v.weight")


@contextmanager
def differentiable_rope() -> Iterator[None]:
    """As the host's trainer, which tells its kernels that they need a gradient."""
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = False


def training(coupling: str, tasks: tuple[str, ...], step: Step) -> Tensors:
    """Losses and some gradients of one pass, each sample with a task of its own."""
    with torch.inference_mode(False), torch.enable_grad(), differentiable_rope():
        module = fresh_tiny_module(coupling).requires_grad_(True)
        count = len(tasks)
        _, clean, text = tiny_batch(coupling, count)
        batch = Batch(*clean, text, torch.ones(count, 1, 3, 4, 6), torch.ones(count, 1, 18))
        times = torch.linspace(0.2, 0.9, count), torch.linspace(0.3, 0.8, count)
        found = losses(
            module, batch, tasks, Draw(noise(31, count, 16, 3, 4, 6), noise(32, count, 8, 18), *times)
        )
        sum(found.values()).backward()
        step()
        gradients = {name: module.get_parameter(name).grad for name in GRADIENTS}
        return {name: value.detach() for name, value in (found | gradients).items()}


REFERENCES = {"reference": reference, "context": context_latents, "time-concat": time_concat}
MASKS = {"": None, "-first-frame": keep_first_frame}


def beside_the_latent() -> dict[str, Run]:
    """References of each way: without a mask, with a time per frame, with one per token (0.2.0 cannot)."""
    runs: dict[str, Run] = {}
    for name, conds in REFERENCES.items():
        kind = tiny(reference=name == "reference")
        for ending, keep in MASKS.items():
            runs[f"tiny-{name}{ending}"] = Sampling(kind, mode="cfg", steps=3, conds=conds, keep=keep)
        corner = Sampling(kind, mode="cfg", steps=3, conds=conds, keep=keep_corner)
        runs[f"tiny-{name}-corner"] = partial(refused, corner)
    return runs


def couplings() -> dict[str, Run]:
    """The same for each coupling on the tiny model."""
    runs: dict[str, Run] = {}
    for name in ("cca", "fusion", "bridge"):
        runs[f"{name}-batch"] = Sampling(tiny(name), batch=2, keep=keep_in_second)
        runs[f"{name}-odd-size"] = Sampling(tiny(name), size=(3, 5, 7))
        runs[f"{name}-context"] = Sampling(tiny(name), mode="dual", steps=3, conds=context_latents)
        runs[f"{name}-clip-vision"] = Sampling(tiny(name, image=True), mode="cfg", steps=3, conds=clip_vision)
    return runs


def switched(**options: Any) -> Forward:
    return Forward(options=partial(dict, options))


RUNS: dict[str, Run] = {
    "ccl-t2av": Sampling(CCL),
    **{f"ccl-mode-{mode}": Sampling(CCL, mode=mode, steps=3) for mode in MODES},
    "ccl-host-cfg": Sampling(CCL, mode=None, sampler="euler_ancestral"),
    "ccl-v2a": Sampling(CCL, keep=keep_video),
    "ccl-a2v": Sampling(CCL, keep=keep_audio),
    "ccl-first-frame": Sampling(CCL, keep=keep_first_frame),
    "ccl-corner": Sampling(CCL, keep=keep_corner),
    "ccl-batch": Sampling(CCL, batch=2, keep=keep_in_second),
    "ccl-video-alone": Sampling(CCL, audio=False),
    "ccl-windows": Sampling(CCL, change=windows, size=(10, 8, 8)),
    "ccl-windows-first-frame": Sampling(CCL, change=windows, size=(10, 8, 8), keep=keep_first_frame),
    "ccl-audio-shift": Sampling(CCL, change=own_shift, sampler="euler_ancestral"),
    "ccl-easy-cache": Sampling(CCL, change=easy_cache, steps=12),
    "ccl-lora": Sampling(CCL, change=partial(with_lora, CCL_LORA)),
    "ccl-decode": decoded,
    **beside_the_latent(),
    **couplings(),
    "tiny-audio-shift": Sampling(tiny(audio_shift=2.0), sampler="dpmpp_2m"),
    "tiny-audio-text": Sampling(tiny(), mode="cfg", text=with_audio_text),
    "tiny-skip-layers": Sampling(tiny(), mode="dual", skip_layers=(1,)),
    "tiny-replaced-block": Sampling(tiny(), change=replaced_block),
    "tiny-attention-patches": Sampling(tiny(), change=attention_patches),
    "tiny-mixed-routes": Forward(arguments=lambda: {"routes": ((True, False), (False, True))}),
    "tiny-closed-routes": Forward(arguments=lambda: {"routes": (False, False)}),
    "tiny-no-video": switched(run_vx=False),
    "tiny-no-audio": switched(run_ax=False),
    "tiny-no-a2v": switched(a2v_cross_attn=False),
    "tiny-no-v2a": switched(v2a_cross_attn=False),
    "fusion-no-a2v": Forward("fusion", options=lambda: {"a2v_cross_attn": False}),
    "bridge-scales": Forward("bridge", options=lambda: {"a2v_scale": 0.5, "v2a_scale": 1.5}),
    "tiny-attention-maps": attention_maps,
    "tiny-training": partial(training, "cca", ("joint", "a2v", "v2a", SEPARATE)),
    "fusion-training": partial(training, "fusion", ("joint", "a2v", "v2a")),
    "ovi-t2av": Sampling(OVI),
    "ovi-first-frame": Sampling(OVI, mode="dual", keep=keep_first_frame),
    "ovi-skip-layers": Sampling(OVI, mode="dual", skip_layers=(1,)),
    "ovi-lora": Sampling(OVI, change=partial(with_lora, OVI_LORA)),
    "mova-t2av": Sampling(MOVA, mode="cfg", steps=6),
    "mova-start-image": Sampling(MOVA, mode="dual", steps=6, conds=start_image),
    "mova-lora": Sampling(MOVA, mode="cfg", steps=6, change=partial(with_lora, MOVA_LORA)),
}
