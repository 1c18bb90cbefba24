"""Peaks of a step: measured for random models of some sizes, traced without numbers for published ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ccl_bench.published_sizes import ccl_14b, mova, ovi

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

# Bounds of estimate / peak: too low ends a run for want of memory, too high keeps a good one from starting.
LEAST, MOST = 0.8, 1.3
HEAD = 64
LAYERS = 2
TEXT = 512


@dataclass(frozen=True)
class Case:
    """Width, feed-forward width, audio width and kind of a model, and the latent it works on."""

    kind: str
    width: int
    ffn: int
    audio_width: int
    latent: tuple[int, int, int]
    audio: int
    mask: str = "clip"
    mode: str = "cfg"


CASES = (
    Case("cca", 256, 1024, 256, (9, 32, 40), 72),
    Case("cca", 512, 1408, 256, (9, 32, 32), 72, mode="ucg_joint"),
    Case("cca", 768, 2048, 512, (5, 32, 40), 40, mask="frame"),
    Case("cca", 512, 1024, 256, (5, 24, 32), 40, mask="token"),
    Case("fusion", 1024, 4736, 1024, (5, 32, 40), 160),
    Case("fusion", 1536, 4096, 1536, (3, 32, 40), 160, mode="ucg_joint"),
    Case("bridge", 1024, 2752, 512, (5, 32, 40), 160, mode="dual"),
    Case("cca", 256, 1024, 256, (1, 8, 8), 3000, mode="ucg_joint"),
)


def configuration(case: Case) -> Any:
    """The case as a model of LAYERS layers in both streams."""
    from ccl_pack.ccl_core.config import (
        OPTIONS,
        AudioLatentConfig,
        CCLConfig,
        InteractionConfig,
        StreamConfig,
    )

    def stream(channels: int, width: int, patch: tuple[int, int, int]) -> StreamConfig:
        return StreamConfig(
            channels, channels, width, case.ffn, width // HEAD, LAYERS, TEXT, patch_size=patch, text_len=TEXT
        )

    return CCLConfig(
        fps=Fraction(24),
        video=stream(16, case.width, (1, 2, 2)),
        audio=stream(20, case.audio_width, (1, 1, 1)),
        interaction=InteractionConfig(case.kind, tuple(range(LAYERS)), OPTIONS[case.kind]()),
        audio_latent=AudioLatentConfig("mmaudio", 20, Fraction(125, 4), 16000),
    )


def random_model(config: Any, dtype: torch.dtype) -> ModelPatcher:
    """A model as the loaders make it, computing in `dtype`, all its weights where it runs."""
    import comfy.model_management
    import comfy.model_patcher
    from comfy.ldm.modules.attention import attention_pytorch

    from ccl_pack.ccl_core.host.base_model import CCLModelConfig
    from ccl_pack.ccl_core.host.run import sample_in_run

    description = CCLModelConfig(config)
    description.set_inference_dtype(dtype, None)
    device = comfy.model_management.get_torch_device()
    model = description.get_model({}, device=device)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    patcher = comfy.model_patcher.ModelPatcher(model, device, device)
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "ccl", sample_in_run)
    options = patcher.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)
    return patcher


def av_latent(case: Case, config: Any) -> dict[str, Any]:
    """The latent of the case, with a mask that keeps the first latent frame or a corner of each."""
    import torch
    from comfy.nested_tensor import NestedTensor

    video, audio = torch.zeros(1, 16, *case.latent), torch.zeros(1, config.audio_latent.channels, case.audio)
    latent = {"samples": NestedTensor([video, audio])}
    if case.mask != "clip":
        mask = torch.ones(1, 1, *case.latent)
        mask[:, :, :1, : 4 if case.mask == "token" else None] = 0
        latent["noise_mask"] = NestedTensor([mask, torch.ones(1, 1, case.audio)])
    return latent


def sampler(case: Case, patcher: ModelPatcher, latent: dict[str, Any]) -> Callable[[], None]:
    """One step of the host's euler under the mode of the case."""
    import comfy.samplers
    import torch

    from ccl_pack.ccl_core.guidance import MODES
    from ccl_pack.ccl_core.host.guider import AVGuider

    guider = AVGuider(patcher)
    guider.set_conds([[torch.randn(1, TEXT, TEXT), {}]], [[torch.randn(1, TEXT, TEXT), {}]])
    guider.set_guidance(case.mode, {name: term.default for name, term in MODES[case.mode].terms.items()})
    euler = comfy.samplers.sampler_object("euler")
    sigmas = torch.tensor([1.0, 0.0])
    samples = latent["samples"]
    mask = latent.get("noise_mask")

    def step() -> None:
        guider.sample(samples, samples, euler, sigmas, denoise_mask=mask, disable_pbar=True, seed=0)

    return step


def peak_bytes(run: Callable[[], None], device: torch.device) -> int:
    """The most memory that `run` holds beyond what was there before it."""
    import torch

    run()  # what stays from a first run is not of the step
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def compare(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Estimate and measurement of one case in bytes, and their ratio."""
    import torch

    from ccl_pack.ccl_core.host.memory import clip_of, kernels_of
    from ccl_pack.ccl_core.memory import calls, step_bytes

    torch.manual_seed(0)
    config = configuration(case)
    patcher = random_model(config, dtype)
    latent = av_latent(case, config)
    clip = replace(clip_of(patcher, latent), passes=max(calls(case.mode, coupled=True)))
    estimate = step_bytes(config, clip, kernels_of(patcher))
    with torch.inference_mode():
        measured = peak_bytes(sampler(case, patcher, latent), patcher.load_device)
    ratio = estimate / measured
    return {
        "case": vars(case),
        "dtype": str(dtype).removeprefix("torch."),
        "tokens": clip.video_tokens(config),
        "estimate": estimate,
        "measured": measured,
        "ratio": round(ratio, 3),
        "ok": LEAST <= ratio <= MOST,
    }


PUBLISHED = (
    ("Ovi 960x960, 121 frames", ovi, (31, 60, 60), 157, "clip"),
    ("Ovi 960x960, 121 frames, from an image", ovi, (31, 60, 60), 157, "frame"),
    ("MOVA 352x640, 193 frames", mova, (49, 44, 80), 403, "clip"),
    ("CCL on Wan 14B, 352x640, 81 frames", ccl_14b, (21, 44, 80), 162, "clip"),
)


def traced_peak(run: Callable[[], Any]) -> int:
    """Bytes of all storages that `run` makes and holds at once, on any device."""
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def storages(tree: Any) -> dict[int, Any]:
        found = (leaf.untyped_storage() for leaf in tree_leaves(tree) if torch.is_tensor(leaf))
        return {storage._cdata: storage for storage in found}

    class Storages(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.held: dict[int, int] = {}
            self.peak = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            given = storages((args, kwargs))
            made = storages(out)
            # Views and in-place results have storages that were there before.
            for key in made.keys() - given.keys() - self.held.keys():
                self.held[key] = made[key].nbytes()
                weakref.finalize(made[key], self.held.pop, key)
            self.peak = max(self.peak, sum(self.held.values()))
            return out

    with torch.no_grad(), Storages() as mode:
        run()
    return mode.peak


def trace(
    name: str, published: Callable[[], Any], video: tuple[int, int, int], audio: int, mask: str
) -> dict[str, Any]:
    """Estimate and trace of two passes in bfloat16, and that of a step on a GPU with fused kernels."""
    import comfy.ops
    import torch

    from ccl_pack.ccl_core.host.memory import HELD_ACTIVATION
    from ccl_pack.ccl_core.memory import Clip, Kernels, step_bytes
    from ccl_pack.ccl_core.model.joint import JointModel

    config = published()
    kind = {"dtype": torch.bfloat16, "device": "meta"}
    streams = {name: replace(getattr(config, name), num_layers=LAYERS) for name in ("video", "audio")}
    cut = replace(config, **streams, interaction=replace(config.interaction, layers=tuple(range(LAYERS))))
    model = JointModel(cut, operations=comfy.ops.disable_weight_init, **kind).requires_grad_(False)
    latents = [
        torch.empty(2, *shape, **kind)
        for shape in ((config.video.in_dim, *video), (config.audio.in_dim, audio))
    ]
    times = [
        torch.empty(2, *count, device="meta") for count in ([(), ()] if mask == "clip" else [video[:1], ()])
    ]
    options = {"optimized_attention_override": lambda _, q, *args, **kwargs: torch.empty_like(q)}  # noqa: ARG005
    text = torch.empty(2, TEXT, config.video.text_dim, **kind)
    measured = traced_peak(lambda: model(latents, tuple(times), text, transformer_options=options))

    clip = Clip(video, audio, passes=2, video_times=1 if mask == "clip" else video[0])
    # The meta device runs RMS norm in single operations, like a CPU, and RoPE as one.
    on_meta = Kernels(2, False, True, HELD_ACTIVATION)
    on_gpu = Kernels(2, True, True, HELD_ACTIVATION)
    estimate = step_bytes(config, clip, on_meta) - clip.sampler_bytes(config)
    ratio = estimate / measured
    return {
        "name": name,
        "tokens": clip.video_tokens(config),
        "estimate": estimate,
        "measured": measured,
        "ratio": round(ratio, 3),
        "one_pass_on_gpu": step_bytes(config, replace(clip, passes=1), on_gpu),
        "ok": LEAST <= ratio <= MOST,
    }


def traced_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "two passes in bfloat16                   tokens    traced  estimate  ratio  "
        "a step of one pass, fused"
    ]
    for row in rows:
        traced, estimate, one_pass = (
            row[name] / 2**30 for name in ("measured", "estimate", "one_pass_on_gpu")
        )
        lines.append(
            f"{row['name']:<39} {row['tokens']:>7} {traced:>5.2f} GiB {estimate:>5.2f} GiB "
            f"{row['ratio']:>6.2f} "
            f"{one_pass:>21.2f} GiB{'' if row['ok'] else '   MISSED'}"
        )
    return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["kind    width    ffn  tokens  audio  mask   mode       dtype      measured  estimate  ratio"]
    for row in rows:
        case = row["case"]
        lines.append(
            f"{case['kind']:<7} {case['width']:>5} {case['ffn']:>6} {row['tokens']:>7} {case['audio']:>6}  "
            f"{case['mask']:<6} {case['mode']:<10} {row['dtype']:<9} {row['measured'] / 2**20:>6.1f} MiB "
            f"{row['estimate'] / 2**20:>6.1f} MiB {row['ratio']:>5.2f}{'' if row['ok'] else '   MISSED'}"
        )
    return "\n".join(lines)
