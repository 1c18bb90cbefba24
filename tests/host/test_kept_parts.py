"""How a model sees what a mask keeps: clean at time 0 where its stream learned that, else with the noise of
the step, as the host shows it to Wan 2.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import comfy.model_base
import comfy.patcher_extension
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.host.kept_parts import noisy_parts
from ccl_pack.ccl_core.host.run import KEEP_GIVEN
from ccl_pack.nodes.guidance import CCLJointSampler
from nodes import common_ksampler
from support.tiny import av_latent, conditioning, count_blocks, given, patcher

# What of each family is shown clean where a part of it is kept.
BOTH = {"video", "audio"}
CLEAN = {"ccl": BOTH, "ovi": {"video"}, "mova": set(), "prism": set(), "uniavgen": BOTH}
KINDS = {"ccl": "cca", "ovi": "fusion", "mova": "bridge", "prism": "bridge", "uniavgen": "asymmetric"}
KEPT = {"video": 1, "audio": 7}  # latent frames, tokens


def model_of(family: str) -> Any:
    kind = KINDS[family]
    return patcher(family=family, interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]()))


def a_part_of(stream: str) -> tuple[Tensor, Tensor]:
    """Masks that keep the start of one stream and generate the other."""
    masks = given(stream)
    masks[0 if stream == "video" else 1][:, :, KEPT[stream] :] = 1
    return masks


class Step(NamedTuple):
    """What a model got in a step, by stream."""

    sigma: float
    latents: dict[str, Tensor]
    times: dict[str, Tensor]


def seen(model: Any, masks: tuple[Tensor, Tensor], count: int = 2, **options: Any) -> list[Step]:
    """options: of CCLJointSampler, which samples in the place of KSampler then."""
    steps = []

    def note(executor: Any, x: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        options = next(arg for arg in (*args, kwargs.get("transformer_options")) if isinstance(arg, dict))
        latents = {"video": x[0].clone(), "audio": x[1][:, 0].clone()}
        times = dict(zip(("video", "audio"), timestep, strict=True))
        steps.append(Step(float(options["sigmas"][0]), latents, times))
        return executor(x, timestep, *args, **kwargs)

    model.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, note)
    texts, latent = (conditioning(1), conditioning(2)), av_latent(masks=masks)
    if options:
        usual = {"steps": count, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        mode = {"mode": "cfg", "video_cfg": 1.0, "audio_cfg": 1.0}
        CCLJointSampler.execute(model, *texts, latent, seed=1, mode=mode, **usual, **options)
    else:
        common_ksampler(model, 1, count, 1.0, "euler", "simple", *texts, latent)
    return steps


@pytest.mark.parametrize("family", CLEAN)
def test_the_sampler_may_choose_otherwise(family: str) -> None:
    for choice, is_clean in (("clean", True), ("noisy", False), ("from model", "audio" in CLEAN[family])):
        for step in seen(model_of(family), a_part_of("audio"), kept_parts=choice):
            assert bool((step.times["audio"] == 0).any()) is is_clean


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="kept_parts is 'dirty': choose one of clean, noisy"):
        seen(patcher(), a_part_of("audio"), kept_parts="dirty")


@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize("family", CLEAN)
def test_a_kept_part_is_shown_as_its_stream_learned(family: str, stream: str) -> None:
    model = model_of(family)
    video, audio = av_latent()["samples"].unbind()
    latent = model.model.latent_format.process_in(video) if stream == "video" else audio
    kept = slice(0, KEPT[stream])
    for sigma, latents, times in seen(model, a_part_of(stream)):
        same = torch.allclose(latents[stream][:1, :, kept], latent[:, :, kept], atol=1e-5)
        if stream in CLEAN[family]:
            assert same and times[stream].shape[1] > 1 and times[stream][0, 0] == 0
        else:
            assert times[stream].numel() == len(times[stream])
            noise = (latents[stream][:1, :, kept] - (1 - sigma) * latent[:, :, kept]) / sigma
            assert not same and 0.8 < noise.std() < 1.2


@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize("family", CLEAN)
def test_a_stream_that_is_kept_as_a_whole_is_clean_in_every_family(family: str, stream: str) -> None:
    first, *others = seen(model_of(family), given(stream))
    for step in (first, *others):
        assert not step.times[stream].any()
        assert torch.equal(step.latents[stream], first.latents[stream])


@pytest.mark.parametrize("family", CLEAN)
def test_what_is_kept_comes_back_to_the_bit_either_way(family: str) -> None:
    for stream in ("video", "audio"):
        masks, latent = a_part_of(stream), av_latent()
        latent["noise_mask"] = NestedTensor(list(masks))
        texts = conditioning(1), conditioning(2)
        made = common_ksampler(model_of(family), 1, 3, 3.0, "euler", "simple", *texts, latent)[0]["samples"]
        for before, after, mask in zip(latent["samples"].unbind(), made.unbind(), masks, strict=True):
            keep = (mask == 0).expand_as(before)
            assert torch.equal(before[keep], after[keep]) and (before[~keep] != after[~keep]).all()


def test_each_clip_of_a_batch_is_shown_by_its_own_mask() -> None:
    mask = torch.ones(3, 2, 4)
    mask[0, :, :2] = 0  # a part
    mask[1] = 0  # the whole
    assert noisy_parts("mova", [mask])[:, 0, 0].tolist() == [True, False, False]
    assert noisy_parts("ccl", [mask]) is None and noisy_parts("mova", [mask[1:]]) is None
    packed = noisy_parts("ovi", [torch.ones(3, 2, 1, 1, 1), mask])
    assert packed.shape == (3, 1, 2 + 8) and packed[:, 0].sum(dim=1).tolist() == [8, 0, 0]


def test_a_mask_that_a_node_changes_in_each_step_leaves_one_time_for_all() -> None:
    """Differential Diffusion makes .5 into 0, then into 1: half of the time would be right in no step."""
    model = DifferentialDiffusion.execute(patcher())[0]
    masks = a_part_of("audio")
    masks[1][:, :, 7:] = 0.5
    audio = av_latent()["samples"].unbind()[1]
    for sigma, latents, times in seen(model, masks, 4):
        assert times["audio"].numel() == len(times["audio"]) and times["audio"].min() > 0
        noise = (latents["audio"][:1, :, :7] - (1 - sigma) * audio[:, :, :7]) / sigma
        assert 0.8 < noise.std() < 1.2
    assert noisy_parts("ccl", [masks[1]]) is None and noisy_parts("ccl", [masks[1]], by_step=True).all()
    assert noisy_parts("ccl", [a_part_of("audio")[1]], by_step=True) is None


def test_every_family_is_here() -> None:
    assert set(CLEAN) == {name for name, family in FAMILIES.items() if family.coupling}
    assert {name: set(FAMILIES[name].token_times) for name in CLEAN} == CLEAN


def test_the_host_shows_wan_2_1_what_is_kept_with_the_noise_of_the_step() -> None:
    """The behaviour that is taken over here."""
    assert comfy.model_base.WAN21.scale_latent_inpaint is comfy.model_base.BaseModel.scale_latent_inpaint


@pytest.mark.parametrize("family", CLEAN)
def test_a_mask_of_ones_is_no_mask_to_the_bit(family: str) -> None:
    texts = conditioning(1), conditioning(2)
    masks = tuple(torch.ones_like(mask) for mask in given("video"))
    made = []
    for latent in (av_latent(masks=masks), av_latent()):
        done = common_ksampler(model_of(family), 1, 3, 3.0, "euler", "simple", *texts, latent)[0]
        made.append(done["samples"].unbind())
    assert all(map(torch.equal, *made))


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_given_stream_is_computed_once_beside_one_that_is_kept_in_part(stream: str) -> None:
    other = {"video": "audio", "audio": "video"}[stream]
    masks = [torch.minimum(*pair) for pair in zip(given(stream), a_part_of(other), strict=True)]
    texts, made, calls = (conditioning(1), conditioning(2)), [], []
    for once in (True, False):
        model = patcher()
        model.model_options["transformer_options"][KEEP_GIVEN] = once
        calls.append(count_blocks(model.model.diffusion_model))
        done = common_ksampler(model, 1, 3, 3.0, "euler", "simple", *texts, av_latent(masks=tuple(masks)))[0]
        made.append(done["samples"].unbind())
    assert all(map(torch.equal, *made))
    assert 0 < calls[0][stream] <= calls[1][stream] / 3 and calls[0][other] == calls[1][other]
