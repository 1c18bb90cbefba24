"""The plan of a loaded model: bytes of its parts, what the host estimates, and the words about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor

from ccl_bench.published_sizes import ccl_14b
from ccl_pack.ccl_core.config import OPTIONS, CCAOptions, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, TermScale
from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.ccl_core.host.files.build import build_model
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.memory import Plan, clip_of, host_bytes, kernels_of, machine_of, weights_of
from ccl_pack.ccl_core.host.memory_report import _kept_lines, report
from ccl_pack.ccl_core.memory import (
    HOST_MARGIN,
    Clip,
    Machine,
    kept_bytes,
    kept_in_vram,
    parameters,
    step_bytes,
)
from ccl_pack.ccl_core.model.kept import size_of
from support import tiny

model = cache(tiny.patcher)


@pytest.fixture(scope="module", autouse=True)
def model_of_this_file() -> Iterator[None]:
    yield
    model.cache_clear()


SECTIONS = ("audio", "interaction")


def bytes_of(sd: dict) -> dict[str, int]:
    parts = {"video": 0, "audio": 0, "interaction": 0}
    for key, value in sd.items():
        section = key.split(".")[0]
        parts[section if section in SECTIONS else "video"] += value.nbytes
    return parts


def is_matrix(key: str, value: torch.Tensor) -> bool:
    return value.ndim == 2 and key.endswith(".weight") and "blocks." in key


def fp8(sd: dict) -> tuple[dict, dict[str, str]]:
    """The state dict as the host writes one in scaled fp8, and its metadata."""
    out, layers = {}, {}
    for key, value in sd.items():
        if is_matrix(key, value):
            scale = value.abs().amax().float() / 448
            out[key] = (value / scale).to(torch.float8_e4m3fn)
            out[key.removesuffix("weight") + "weight_scale"] = scale
            layers[key.removesuffix(".weight")] = {"format": "float8_e4m3fn"}
        else:
            out[key] = value  # a CPU computes in float32, and the host loads them so
    return out, {"_quantization_metadata": json.dumps({"layers": layers})}


def two_experts() -> ModelPatcher:
    weights = tiny.state_dict(tiny.CONFIG)
    high, low = tiny.patcher(weights=weights), tiny.patcher(weights=weights)
    attach_low_noise(high, low, 0.9)
    return high


def gpu(
    free: float, model: ModelPatcher = model, latent: dict | None = None, mode: str = "cfg", **machine: Any
) -> tuple[Machine, Plan]:
    """A GPU with so many bytes beyond what one step takes, and the plan on it."""
    latent = latent or tiny.av_latent()
    roomy = Machine("test GPU", ram_free=2**40, ram_total=2**40, vram_free=2**40, vram_total=2**40)
    step = Plan(model(), latent, mode, roomy).demand(clip_of(model(), latent)).step
    small = replace(roomy, vram_free=int(step + free), **machine)
    return small, Plan(model(), latent, mode, small)


@pytest.mark.parametrize("dtype, width", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_of_the_parts_are_those_of_the_file(dtype: torch.dtype, width: int) -> None:
    sd = {key: value.to(dtype) for key, value in tiny.state_dict(tiny.CONFIG).items()}
    found = weights_of(tiny.patcher(weights=sd, model_options={"dtype": dtype}))
    counts = parameters(tiny.CONFIG)
    # Wan's patch embedding stays float32 in the host whatever the file holds
    kept = {"video": 48 * (16 * 4 + 1) * (4 - width), "audio": 32 * (8 + 1) * (4 - width), "interaction": 0}
    assert found.parts == {part: counts[part] * width + kept[part] for part in counts}
    assert found.idle == 0
    assert found.active == sum(found.parts.values())


def test_quantised_layers_count_as_they_are_stored() -> None:
    sd, metadata = fp8(tiny.state_dict(tiny.CONFIG))
    quantised = build_model(dict(sd), tiny.CONFIG, "tiny", metadata, {}, False)
    found, stored = weights_of(quantised), bytes_of(sd)
    layers = sum(key.endswith("weight_scale") for key in sd)
    assert layers > 40
    assert (
        sum(stored.values()) <= found.active <= sum(stored.values()) + 64 * layers
    )  # the host's mark of each
    assert found.active < 0.6 * weights_of(model()).active
    name, held = found.largest
    weight = sd[f"{name}.weight"]
    assert held > weight.numel() * kernels_of(quantised).itemsize  # a copy to compute with


def test_the_largest_layer_and_the_joint_layer() -> None:
    found, counts = weights_of(model()), parameters(tiny.CONFIG)
    assert found.largest == ("time_projection.1", 4 * (48 * 6 * 48 + 6 * 48))
    video, audio = (4 * (8 * (d * d + d) + 13 * d + 2 * d * f + f) for d, f in ((48, 64), (32, 48)))
    assert found.layer == video + audio + 4 * counts["interaction"] // 2


def test_the_second_expert_waits_with_its_video_alone() -> None:
    found, roomy = (
        weights_of(two_experts()),
        Machine("gpu", ram_free=1, ram_total=1, vram_free=2**40, vram_total=2**40),
    )
    assert found.idle == found.parts["video"]
    assert found.parts == weights_of(model()).parts
    text = report(two_experts(), tiny.av_latent(), "cfg", roomy)
    assert "low-noise video expert" in text
    assert f"{found.idle / 2**10:.1f} KiB of weights stay there" in text
    text = report(model(), tiny.av_latent(), "cfg", roomy)
    assert "low-noise" not in text
    assert "0.0 KiB of weights stay there" in text


@pytest.mark.parametrize("latent", [tiny.av_latent(batch=2), {"samples": tiny.latents(batch=2)[0]}])
def test_the_hosts_estimate_is_the_one_it_samples_by(
    latent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    patcher = tiny.patcher()
    asked, original = [], patcher.model.memory_required

    def listening(*args: Any, **kwargs: Any) -> Any:
        asked.append(original(*args, **kwargs))
        return asked[-1]

    monkeypatch.setattr(patcher.model, "memory_required", listening)
    clip = clip_of(patcher, latent)
    guider = AVGuider(patcher)
    guider.set_conds(tiny.conditioning(), tiny.conditioning(3))
    euler = comfy.samplers.sampler_object("euler")
    guider.sample(
        latent["samples"], latent["samples"], euler, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=0
    )
    sampled, asked = set(map(int, asked)), []
    assert host_bytes(patcher, clip) in sampled
    assert host_bytes(patcher, replace(clip, passes=2)) in sampled


def test_the_clip_is_what_the_sampler_sees() -> None:
    av = tiny.av_latent(batch=2)
    assert clip_of(model(), av) == Clip(video=(3, 4, 6), audio=18, batch=2)
    assert clip_of(model(), {"samples": tiny.latents()[0]}) == Clip(video=(3, 4, 6))
    first = torch.ones(1, 1, 3, 4, 6)
    first[:, :, 0] = 0
    corner = torch.ones(1, 1, 3, 4, 6)
    corner[..., :2] = 0
    audio = torch.ones(1, 1, 18)
    audio[..., :4] = 0
    for mask, times in ((first, 3), (corner, 2)):
        masked = clip_of(model(), tiny.av_latent(masks=(mask, audio)))
        assert masked == Clip(video=(3, 4, 6), audio=18, video_times=times, audio_times=2)
        alone = clip_of(model(), {"samples": tiny.latents()[0], "noise_mask": mask})
        assert alone == Clip(video=(3, 4, 6), video_times=times)


def test_an_empty_latent_of_another_model_is_taken_as_the_sampler_takes_it() -> None:
    assert clip_of(model(), {"samples": torch.zeros(1, 4, 3, 4, 6)}).video == (3, 4, 6)


def test_kernels_follow_the_precision_of_computing() -> None:
    patcher = tiny.patcher()
    assert kernels_of(patcher).itemsize == 4
    patcher.set_model_compute_dtype(torch.bfloat16)
    assert kernels_of(patcher).itemsize == 2
    assert not kernels_of(patcher).fused_norm
    assert not kernels_of(patcher).fused_rope


def test_a_machine_without_a_gpu_has_ram_only() -> None:
    machine = machine_of(model())
    assert machine.vram_free is None
    assert 0 < machine.ram_free <= machine.ram_total
    assert machine.ram_total == comfy.model_management.get_total_memory(torch.device("cpu"))


def test_enough_vram_fits_whole() -> None:
    weights = weights_of(model()).active
    machine, plan = gpu(free=weights)
    assert plan.verdict.fit == "whole"
    text = report(model(), tiny.av_latent(), "cfg", machine)
    assert "Verdict: fits whole in VRAM" in text
    assert "What helps" not in text
    assert f"{weights / 2**10:.1f} KiB, {sum(parameters(tiny.CONFIG).values()):,} parameters" in text
    assert "18 video tokens and 18 of audio" in text


@pytest.mark.parametrize("mode, runs", [("cfg", 2), ("dual", 3), ("ucg_cross", 2)])
def test_less_vram_streams_what_is_missing(mode: str, runs: int) -> None:
    """No passes are batched here: the host's estimate of two exceeds what is left."""
    weights = weights_of(model())
    machine, plan = gpu(free=weights.active / 2, mode=mode)
    moved = plan.demand(plan.clip).buffer
    assert plan.clip.passes == 1
    assert plan.verdict.fit == "offload"
    assert plan.verdict.streamed == pytest.approx(weights.active**2 / 2 / (weights.active - moved), abs=2)
    text = report(model(), tiny.av_latent(), mode, machine)
    streamed = re.search(
        r"offloading, ([\d.]+) KiB of weights are streamed in each call of the model, (.*) per step", text
    )
    assert float(streamed[1]) == pytest.approx(plan.verdict.streamed / 2**10, abs=0.06)
    size, unit = streamed[2].split()
    assert float(size) * {"KiB": 2**10, "MiB": 2**20}[unit] == pytest.approx(
        runs * plan.verdict.streamed, rel=0.01
    )
    assert ("guidance ucg_joint" in text) is (runs > 2)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_what_is_streamed_is_what_the_host_leaves_out(share: float) -> None:
    """Its own partial loading, given as much memory for weights as the plan has."""
    patcher = tiny.patcher()
    weights = weights_of(patcher).active
    _, plan = gpu(free=share * weights)
    patcher.partially_load(patcher.load_device, extra_memory=share * weights)
    left_out = patcher.model_size() - patcher.loaded_size()
    assert plan.verdict.streamed / weights == pytest.approx(left_out / weights, abs=0.06)


def test_streaming_more_than_ram_holds_is_told() -> None:
    half = weights_of(model()).active / 2
    scarce, _ = gpu(free=half, ram_total=1000)
    plenty, _ = gpu(free=half)
    assert "read from disk" in report(model(), tiny.av_latent(), "cfg", scarce)
    assert "read from disk" not in report(model(), tiny.av_latent(), "cfg", plenty)


def long_latent(frames: int = 9, height: int = 32, width: int = 48) -> dict:
    return {
        "samples": NestedTensor([torch.zeros(1, 16, frames, height, width), torch.zeros(1, 8, 4 * frames)])
    }


def test_too_little_vram_does_not_fit_and_the_advice_does() -> None:
    small, plan = gpu(free=-40_000, latent=long_latent())
    assert plan.verdict.fit == "none"
    text = report(model(), long_latent(), "cfg", small)
    assert "Verdict: does not fit, VRAM is" in text
    frames = int(re.search(r"a length of (\d+) frames instead of 33 fits", text)[1])
    width, height = map(
        int, re.search(r"a size of (\d+) x (\d+) instead of 384 x 256 pixels fits", text).groups()
    )
    for better, worse in (
        (long_latent(frames=frames // 4 + 1), long_latent(frames=frames // 4 + 2)),
        (
            long_latent(height=height // 8, width=width // 8),
            long_latent(height=height // 8 + 2, width=width // 8 + 4),
        ),
    ):
        assert Plan(model(), better, "cfg", small).verdict.fit != "none"
        assert Plan(model(), worse, "cfg", small).verdict.fit == "none"


def test_a_batch_that_is_too_large_is_told_to_be() -> None:
    one = {"samples": long_latent()["samples"].unbind()[0]}
    four = {"samples": one["samples"].repeat(4, 1, 1, 1, 1)}
    roomy, _ = gpu(free=weights_of(model()).active * 2, latent=one)
    text = report(model(), four, "cfg", roomy)
    assert "one clip at a time instead of 4" in text


def test_wide_weights_are_told_of_fp8() -> None:
    machine, _ = gpu(free=weights_of(model()).active / 2)
    text = report(model(), tiny.av_latent(), "cfg", machine)
    count = sum(parameters(tiny.CONFIG).values())
    assert f"the model in fp8 takes {count / 2**10:.1f} KiB" in text


def test_ram_alone_is_judged_too() -> None:
    plan = Plan(model(), tiny.av_latent(), "cfg", Machine("cpu", ram_free=2**40, ram_total=2**40))
    assert plan.clip.passes == 2
    step = step_bytes(tiny.CONFIG, plan.clip, plan.kernels)
    assert plan.demand(plan.clip).step == step
    short = Machine("cpu", ram_free=1000, ram_total=2**40)
    text = report(model(), tiny.av_latent(), "cfg", short)
    assert "does not fit, RAM is" in text
    assert "no VRAM of its own" in text


def test_a_coupling_in_fewer_layers_has_fewer_bytes() -> None:
    half = weights_of(tiny.patcher(interaction=InteractionConfig("cca", (0,), CCAOptions(3)))).parts[
        "interaction"
    ]
    assert half * 2 == weights_of(model()).parts["interaction"]


def test_a_model_without_audio_stream_is_refused() -> None:
    class Plain(torch.nn.Module):
        pass

    plain = comfy.model_patcher.ModelPatcher(Plain(), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="Plain, which has no audio stream"):
        report(plain, tiny.av_latent(), "cfg")


# ---- what is kept of a given stream


@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize("mode", ["cfg", "ucg_joint", "ucg"])
def test_what_a_run_keeps_is_what_the_plan_counts(stream: str, mode: str) -> None:
    patcher, held = tiny.patcher(), []
    latent = tiny.av_latent(batch=2, masks=tiny.given(stream, batch=2))
    guider = AVGuider(patcher)
    guider.set_conds(tiny.conditioning(), tiny.conditioning(3))
    guider.set_guidance(mode, {name: TermScale(3.0, 2.0) for name in MODES[mode].terms})

    def note(*_: Any) -> None:
        for kept in patcher.model.run.kept.values():
            held.extend(size_of(source) for source in kept.sources or () if source)

    guider.sample(
        latent["samples"],
        latent["samples"],
        comfy.samplers.sampler_object("euler"),
        torch.tensor([1.0, 0.0]),
        denoise_mask=latent["noise_mask"],
        callback=note,
        disable_pbar=True,
        seed=0,
    )
    plan = Plan(patcher, latent, mode)
    assert plan.clip.given == stream
    assert sum(plan.kept(plan.clip)) == sum(held) > 0


def test_nothing_is_kept_where_both_are_made_or_the_coupling_has_no_anchor() -> None:
    both = Plan(model(), tiny.av_latent(), "cfg")
    assert both.clip.given == "" and both.kept(both.clip) == []
    fusion = tiny.patcher(interaction=InteractionConfig("fusion", (0, 1), OPTIONS["fusion"]()))
    given = Plan(fusion, tiny.av_latent(masks=tiny.given("video")), "cfg")
    assert given.clip.given == "video" and given.kept(given.clip) == []


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (1e12, "kept in VRAM"),
        (1.5, "1 of 2 layers in VRAM, the rest in pinned RAM"),
        (0, "kept in pinned RAM, from which each call copies it layer by layer"),
    ],
)
def test_the_report_says_where_it_is_kept(room: float, said: str) -> None:
    latent = tiny.av_latent(masks=tiny.given("video"))
    roomy = Machine("test GPU", ram_free=2**40, ram_total=2**40, vram_free=2**40, vram_total=2**40)
    plan = Plan(model(), latent, "cfg", roomy)
    layer = plan.kept(plan.clip)[0]
    needed = int(HOST_MARGIN * host_bytes(model(), plan.clip))
    machine = replace(roomy, vram_free=int(needed + room * layer))
    # With so little VRAM the host would not batch two texts, and the plan would count one at a time.
    plan.machine = machine
    (line,) = _kept_lines(plan)
    assert said in line and line.startswith("The given video is computed once, and ")


def test_in_ram_it_counts_to_the_step() -> None:
    machine = Machine("cpu", ram_free=2**40, ram_total=2**40)
    given = Plan(model(), tiny.av_latent(masks=tiny.given("video")), "cfg", machine)
    step = step_bytes(given.config, given.clip, given.kernels)
    assert given.demand(given.clip).step == step + sum(given.kept(given.clip))
    assert "kept in RAM" in _kept_lines(given)[0]


def test_kept_layers_fill_the_room() -> None:
    assert [kept_in_vram([10, 10, 10], room) for room in (-1, 0, 10, 29, 30)] == [0, 0, 1, 2, 3]
    clip = Clip((21, 44, 80), 168, given="video")
    # 14B at 352 x 640, 81 frames: 3.17 GiB for each text.
    assert sum(kept_bytes(ccl_14b(), clip, 1, 2)) / 2**30 == pytest.approx(3.17, abs=0.01)
