"""benchmarks/steps.py at tiny size: what it counts is what a run computes, and a missed bar is told."""

from __future__ import annotations

from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ccl_bench import ovi_traffic, steps
from ccl_bench.counters import Flops, Traffic, attention, nbytes
from ccl_bench.steps_report import BARS, figures, missed, table, table_of_bars
from ccl_pack.ccl_core.guidance import TermScale
from ccl_pack.ccl_core.host.guider import AVGuider
from support.tiny import config, count_blocks, patcher

SIZE = steps.Size(config(), (3, 4, 6), 18)
RATIOS = {name for name in BARS if not name.startswith("ovi")}


@pytest.fixture(scope="module")
def found() -> dict[str, steps.Count]:
    with torch.inference_mode():
        return steps.tasks(SIZE)


@pytest.mark.parametrize("given", ["", "video", "audio"])
def test_what_is_counted_without_data_is_what_torch_counts_in_a_run_with_weights(given: str) -> None:
    guider = AVGuider(patcher())
    text = torch.zeros(1, steps.TEXT_TOKENS, 24)
    guider.set_conds([[text, {}]], [[text, {}]])
    guider.set_guidance("cfg", {"text": TermScale(4.0, 3.0)})
    latent, mask = steps.latent_of(SIZE, given, sound=True)
    euler, sigmas = comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, steps.STEPS + 1)
    # As products: torch has no count for the CPU's kernel of attention.
    products = sdpa_kernel(SDPBackend.MATH)
    torch_s_own = FlopCounterMode(display=False)
    with torch.inference_mode(), attention(attention_pytorch), products, torch_s_own as counter:
        guider.sample(latent, latent, euler, sigmas, denoise_mask=mask, disable_pbar=True, seed=1)
    own = Flops()
    with torch.inference_mode():
        made = steps.count(steps.patcher_on_meta(SIZE.config, own), own, SIZE, given)
    assert made.fill + sum(made.steps) == counter.get_total_flops()


def test_steps_behind_the_first_are_alike_and_the_filling_pass_is_apart(
    found: dict[str, steps.Count],
) -> None:
    for task, run in found.items():
        # What the callback marks ends before the audio's sub-steps of its step.
        alike = run.steps[1:] if task.startswith("substeps") else run.steps
        assert len(run.steps) == steps.STEPS and len(set(alike)) == 1
    assert [task for task, run in found.items() if run.fill] == ["v2a", "a2v"]
    assert found["v2a"].later + found["t2v"].later == pytest.approx(found["joint"].later, rel=0.1)


def test_a_substep_costs_the_audio_stream_alone(found: dict[str, steps.Count]) -> None:
    """A run with the video given has the same passes of the audio, and the joint pass a few FLOPs more."""
    two, four = found["substeps_2"].later, found["substeps_4"].later
    assert (four - two) / 2 == found["v2a"].later
    assert found["joint"].later <= two - found["v2a"].later < 1.05 * found["joint"].later


def test_a_given_video_costs_its_pass_once(found: dict[str, steps.Count]) -> None:
    """Of its three layers the two that are coupled."""
    alone = found["t2v"].later
    assert 0.6 * alone < found["v2a"].fill < 0.8 * alone


def test_a_pass_is_traced_once_and_counted_each_time() -> None:
    counter = Flops()
    model = steps.patcher_on_meta(SIZE.config, counter)
    calls = count_blocks(model.model.diffusion_model)
    with torch.inference_mode():
        made = steps.count(model, counter, SIZE)
    assert calls["audio"] in (2, 4)  # two layers, in one batch of two texts or in two
    assert made.later == made.steps[0] > 0


def test_ratios_and_bars(found: dict[str, steps.Count]) -> None:
    with torch.inference_mode():
        wan = steps.plain(SIZE)
    traffic = dict.fromkeys(BARS.keys() - RATIOS, 0.5)
    made = figures(dict.fromkeys(("14b", "cpu", "tiny"), found), wan, traffic)
    assert set(made) == set(BARS)
    assert 0 < made["v2a_over_joint_tiny"] < 0.6 and made["joint_over_wan_14b"] > made["t2v_over_wan_14b"] > 1
    assert 1 < made["sound_only_guidance_passes"] < 2
    worse = {**dict.fromkeys(BARS, 0.0), "a2v_over_joint_14b": 1.01}
    assert missed(worse) == ["a2v_over_joint_14b"] and missed(dict.fromkeys(BARS, 0.0)) == []
    assert table_of_bars(worse).count("MISSED") == 1
    assert len(table({"tiny": found}, {"tiny": wan}, {"joint": 1.0}).splitlines()) == 1 + len(found) + 1


def test_the_sizes_are_those_of_the_issue() -> None:
    sizes = steps.sizes()
    video, audio = sizes["14b"].config.video, sizes["14b"].config.audio
    assert (video.dim, video.num_layers, audio.dim, audio.num_layers) == (5120, 40, 1536, 30)
    assert len(sizes["14b"].config.interaction.layers) == 30
    assert sizes["14b"].latent == (21, 2 * 22, 2 * 40) and sizes["14b"].tokens == 168
    assert (sizes["cpu"].config.video.dim, sizes["cpu"].config.audio.dim) == (768, 256)
    assert sizes["tiny"].config.video.dim == 160


# ---- bytes


def moved(run: object) -> int:
    with torch.inference_mode(), Traffic() as counter:
        run()
    return counter.bytes


def test_bytes_of_an_op_are_what_it_reads_and_writes() -> None:
    x, y = torch.empty(2, 3, 8, device="meta"), torch.empty(8, device="meta")
    assert moved(lambda: x + y) == 4 * (48 + 8 + 48)
    assert moved(lambda: x + y.expand(2, 3, 8)) == 4 * (48 + 8 + 48)
    assert moved(lambda: torch.cat([x, x], dim=1)) == 4 * (48 + 48 + 96)
    assert moved(lambda: x.view(6, 8)[:3].transpose(0, 1)) == 0
    assert moved(lambda: torch.empty_like(x)) == 0
    assert nbytes(y.expand(100, 8)) == 32 and nbytes(3) == 0


def test_ours_moves_less_than_the_published_order_of_work() -> None:
    ratios = ovi_traffic.ratios(latent=(9, 32, 32), tokens=42, width=512)
    assert ratios.keys() == BARS.keys() - RATIOS
    assert all(0.1 < ratio < 0.8 for ratio in ratios.values()), ratios


def test_times_of_frames_move_no_table_as_large_as_the_tokens() -> None:
    of_frames, of_one = (ovi_traffic.of_ours((5, 16, 16), 26, 256, times) for times in (5, 1))
    assert 0 < of_frames - of_one < 5 * 64 * 256 * 2


def test_a_width_that_is_not_ours_is_another_pass() -> None:
    wider = replace(SIZE, tokens=36)
    assert steps.shapes_of(steps.latent_of(SIZE, "", True)[0].unbind()) != steps.shapes_of(
        steps.latent_of(wider, "", True)[0].unbind()
    )
