"""One run of the sampler: its task, what it keeps of a given stream, and that nothing of it outlives it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, TermScale
from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.run import KEEP_GIVEN, RUN, Run, run_of, sample_in_run, state_of
from ccl_pack.ccl_core.tasks import State
from nodes import common_ksampler
from support.tiny import (
    CONFIG,
    av_latent,
    conditioning,
    count_blocks,
    dual_conditioning,
    given,
    latents,
    patcher,
    state_dict,
)

SIGMAS = torch.tensor([1.0, 0.8, 0.4, 0.0])
STEPS = 3
OTHER = {"video": "audio", "audio": "video"}
DEPTH = {"video": CONFIG.video.num_layers, "audio": CONFIG.audio.num_layers}
# A pass of a given stream ends with the coupling.
COUPLED = len(CONFIG.interaction.layers)
STREAMS = pytest.mark.parametrize("stream", ["video", "audio"])
Callback = Callable[..., None]


def computing(model: ModelPatcher) -> ModelPatcher:
    """A clone whose passes compute a given stream again and again."""
    clone = model.clone()
    clone.model_options["transformer_options"][KEEP_GIVEN] = False
    return clone


def sample(
    model: ModelPatcher,
    latent: dict[str, Any],
    mode: str = "cfg",
    callback: Callback | None = None,
    positive: Any = None,
    skip_layers: tuple[int, ...] = (),
) -> list[Tensor]:
    guider = AVGuider(model)
    guider.set_conds(positive or conditioning(1), conditioning(2))
    scales = {term: TermScale(2.0, 3.0) for term in MODES[mode].terms}
    guider.set_guidance(mode, scales, skip_layers=skip_layers)
    samples, mask = latent["samples"], latent.get("noise_mask")
    noise, euler = comfy.sample.prepare_noise(samples, 1), comfy.samplers.sampler_object("euler")
    options = {"denoise_mask": mask, "callback": callback, "disable_pbar": True, "seed": 1}
    out = guider.sample(noise, samples, euler, SIGMAS, **options)
    return list(out.unbind()) if out.is_nested else [out]


def equal(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


def seen_runs(model: ModelPatcher, runs: list[Run]) -> Callback:
    """A callback that notes the run of each step."""
    return lambda *_: runs.append(model.model.run)


# ---- the task


@pytest.mark.parametrize(
    ("masks", "routes"),
    [
        ((0, 1), (False, True)),
        ((1, 0), (True, False)),
        (None, (True, True)),
        ((1, 1), (True, True)),
        ((0, 0), (False, False)),
    ],
    ids=["video given", "audio given", "no mask", "a mask of ones", "both given"],
)
def test_masks_choose_the_routes_of_the_task(
    masks: tuple[int, int] | None, routes: tuple[bool, bool]
) -> None:
    model, runs = patcher(), []
    if masks is not None:
        shapes = (1, 1, 3, 4, 6), (1, 1, 18)
        masks = tuple(torch.full(shape, float(value)) for shape, value in zip(shapes, masks, strict=True))
    sample(model, av_latent(masks=masks), callback=seen_runs(model, runs))
    assert {run.routes for run in runs} == {routes}


def test_a_plain_video_latent_has_no_audio_and_closes_both_routes() -> None:
    model, runs = patcher(), []
    video, _ = latents()
    sample(model, {"samples": video}, callback=seen_runs(model, runs))
    assert {(run.video, run.audio, run.routes) for run in runs} == {
        (State.GENERATED, State.ABSENT, (False, False))
    }
    assert runs[0].shapes == (tuple(video.shape),)


def test_a_stream_is_given_where_its_mask_keeps_all_of_it() -> None:
    part = torch.ones(1, 1, 18)
    part[..., :17] = 0
    sound = latents()[1]
    assert state_of(None, sound) is State.GENERATED and state_of(part, sound) is State.GENERATED
    assert state_of(torch.zeros(1, 1, 18), sound) is State.GIVEN


@pytest.mark.parametrize(
    ("video", "audio", "stream"),
    [
        (State.GIVEN, State.GENERATED, "video"),
        (State.GENERATED, State.GIVEN, "audio"),
        (State.GENERATED, State.GENERATED, None),
        (State.GIVEN, State.GIVEN, None),
        (State.GIVEN, State.ABSENT, None),
        (State.GENERATED, State.ABSENT, None),
    ],
)
def test_the_given_stream_is_one_beside_another_that_is_made(
    video: State, audio: State, stream: str | None
) -> None:
    assert Run((), video, audio).given == stream


# ---- what it keeps


@STREAMS
@pytest.mark.parametrize("mode", MODES)
def test_a_given_stream_runs_once_in_every_mode_of_guidance(mode: str, stream: str) -> None:
    model, latent = patcher(), av_latent(masks=given(stream))
    calls = count_blocks(model.model.diffusion_model)
    wanted = sample(computing(model), latent, mode)
    each, calls[stream], calls[OTHER[stream]] = calls[OTHER[stream]], 0, 0
    assert equal(sample(model, latent, mode), wanted)
    assert calls == {stream: COUPLED, OTHER[stream]: each}


@STREAMS
def test_negative_passes_that_skip_a_layer_keep_a_set_of_their_own(stream: str) -> None:
    model, latent, runs = patcher(), av_latent(masks=given(stream)), []
    wanted = sample(computing(model), latent, skip_layers=(1,))
    calls = count_blocks(model.model.diffusion_model)
    made = sample(model, latent, skip_layers=(1,), callback=seen_runs(model, runs))
    assert equal(made, wanted)
    assert calls[stream] == 2 * COUPLED - 1 and len(runs[-1].kept) == 2
    whole, skipped = sorted(runs[-1].kept.values(), key=lambda kept: kept.sources[1] is None)
    assert whole.sources[1] is not None and skipped.sources[1] is None


@STREAMS
def test_two_texts_keep_two_sets(stream: str) -> None:
    """As rows of one batch where they run in one pass."""
    model, latent, runs = patcher(), av_latent(masks=given(stream)), []
    sample(model, latent, callback=seen_runs(model, runs))
    (kept,) = runs[-1].kept.values()
    of_one, of_other = kept.sources[1].k
    assert (of_one - of_other).abs().max() > 1e-3


@STREAMS
def test_each_clip_of_a_batch_keeps_its_own(stream: str) -> None:
    model, latent, runs = patcher(), av_latent(masks=given(stream, batch=2), batch=2), []
    wanted = sample(computing(model), latent)
    assert equal(sample(model, latent, callback=seen_runs(model, runs)), wanted)
    (kept,) = runs[-1].kept.values()
    assert len(kept.sources[0].k) == 4  # two clips, two texts


@STREAMS
def test_a_text_for_each_stream(stream: str) -> None:
    model, latent, texts = patcher(), av_latent(masks=given(stream)), dual_conditioning(3, 4, (5, 7))
    wanted = sample(computing(model), latent, "ucg_cross", positive=texts)
    assert equal(sample(model, latent, "ucg_cross", positive=texts), wanted)


def windowed(model: ModelPatcher) -> ModelPatcher:
    sizes = {"context_length": 4, "context_overlap": 2, "context_stride": 1, "closed_loop": False, "dim": 2}
    ways = {"context_schedule": "standard_static", "fuse_method": "pyramid", "freenoise": False}
    return ContextWindowsManualNode.execute(model, **sizes, **ways)[0]


@STREAMS
def test_each_context_window_keeps_its_own(stream: str) -> None:
    model = windowed(patcher())
    latent = av_latent(frames=8, tokens=58, masks=given(stream, frames=8, tokens=58))
    calls, runs = count_blocks(model.model.diffusion_model), []
    wanted = sample(computing(model), latent)
    windows = calls[stream] // DEPTH[stream] // STEPS
    calls[stream] = 0
    assert equal(sample(model, latent, callback=seen_runs(model, runs)), wanted)
    assert windows > 1 and calls[stream] == windows * COUPLED and len(runs[-1].kept) == windows


def test_each_video_expert_keeps_its_own() -> None:
    model, low = patcher(), patcher(weights=low_noise_weights())
    attach_low_noise(model, low, 0.9)
    latent = av_latent(masks=given("video"))
    wanted = sample(computing(model), latent)
    calls = [count_blocks(expert.model.diffusion_model) for expert in (model, low)]
    assert equal(sample(model, latent), wanted)
    assert [counted["video"] for counted in calls] == [COUPLED] * 2
    assert [counted["audio"] for counted in calls] == [DEPTH["audio"], 2 * DEPTH["audio"]]


def low_noise_weights() -> dict[str, Tensor]:
    """A second expert: other blocks of the video, the same audio stream and coupling."""
    other = {key: value for key, value in state_dict(CONFIG, 1).items() if key.startswith("blocks.")}
    return state_dict(CONFIG) | other


def hooked() -> list:
    """A text whose LoRA on the video grows at 30 % of the steps."""
    name, generator = "diffusion_model.blocks.0.self_attn.q", torch.Generator().manual_seed(0)
    lora = {f"{name}.lora_A.weight": torch.randn(2, 48, generator=generator)}
    lora[f"{name}.lora_B.weight"] = torch.randn(48, 2, generator=generator)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in ((0.0, 0.2), (0.3, 1.0)):
        keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    group = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    group.set_keyframes_on_hooks(keyframes)
    return conditioning(1, hooks=group)


def test_a_text_whose_hooks_change_the_weights_by_the_step_keeps_nothing() -> None:
    model, latent, runs = patcher(), av_latent(masks=given("video")), []
    wanted = sample(computing(model), latent, positive=hooked())
    assert equal(sample(model, latent, positive=hooked(), callback=seen_runs(model, runs)), wanted)
    assert len(runs[-1].kept) == 1, "of the negative text"


@pytest.mark.parametrize("kind", ["fusion", "bridge"])
@STREAMS
def test_a_coupling_without_routes_computes_both_streams_in_every_step(kind: str, stream: str) -> None:
    interaction = InteractionConfig(kind, (0, 1), OPTIONS[kind]())
    model, runs = patcher(interaction=interaction), []
    latent = av_latent(masks=given(stream))
    wanted = sample(computing(model), latent)
    calls = count_blocks(model.model.diffusion_model)
    assert equal(sample(model, latent, callback=seen_runs(model, runs)), wanted)
    assert calls == {name: STEPS * depth for name, depth in DEPTH.items()} and runs[-1].kept == {}


@pytest.mark.parametrize("partly", [False, True], ids=["both generated", "a first frame kept"])
def test_where_both_streams_are_made_nothing_is_kept(partly: bool) -> None:
    masks = given("audio")
    masks[1].fill_(1.0)
    masks[0][:, :, 0] = float(not partly)
    model, latent, runs = patcher(), av_latent(masks=masks), []
    wanted = sample(computing(model), latent)
    assert equal(sample(model, latent, callback=seen_runs(model, runs)), wanted)
    assert all(run.kept == {} for run in runs)


def test_where_the_option_is_off_nothing_is_kept() -> None:
    model, runs = patcher(), []
    sample(computing(model), av_latent(masks=given("video")), callback=seen_runs(model, runs))
    assert runs[-1].given == "video" and runs[-1].kept == {}


# ---- that it ends


class Watched:
    """Weak references to the run of a model and to what it keeps."""

    def __init__(self, model: ModelPatcher) -> None:
        self.model = model
        self.references: list[weakref.ref] = []

    def __call__(self, *_: Any) -> None:
        run = self.model.model.run
        self.references.append(weakref.ref(run))
        for kept in run.kept.values():
            self.references += [weakref.ref(tensor) for source in kept.sources if source for tensor in source]

    def assert_gone(self) -> None:
        gc.collect()
        assert len(self.references) > 1 and self.model.model.run is None
        assert [reference() for reference in self.references if reference() is not None] == []


@STREAMS
def test_after_the_run_nothing_of_it_is_left(stream: str) -> None:
    model = patcher()
    watched = Watched(model)
    sample(model, av_latent(masks=given(stream)), callback=watched)
    watched.assert_gone()
    assert RUN not in model.model_options["transformer_options"]


def test_a_guider_that_lives_on_holds_nothing_of_its_run() -> None:
    """The host keeps the guider of a workflow in its cache."""
    model = patcher()
    guider, watched = comfy.samplers.CFGGuider(model), Watched(model)
    guider.set_conds(conditioning(1), conditioning(2))
    latent = av_latent(masks=given("video"))
    samples, mask = latent["samples"], latent["noise_mask"]
    noise, euler = comfy.sample.prepare_noise(samples, 1), comfy.samplers.sampler_object("euler")
    guider.sample(
        noise, samples, euler, SIGMAS, denoise_mask=mask, callback=watched, disable_pbar=True, seed=1
    )
    watched.assert_gone()


@pytest.mark.parametrize("fault", [comfy.model_management.InterruptProcessingException, RuntimeError])
def test_a_run_that_is_cut_short_leaves_nothing(fault: type[BaseException]) -> None:
    model, latent = patcher(), av_latent(masks=given("video"))
    watched = Watched(model)

    def stop(*_: Any) -> None:
        watched()
        raise fault

    with pytest.raises(fault):
        sample(model, latent, callback=stop)
    watched.assert_gone()
    assert equal(sample(model, latent), sample(patcher(), latent))


def test_a_run_inside_a_run_gives_the_outer_one_back() -> None:
    model, seen = patcher(), []
    guider = comfy.samplers.CFGGuider(model)
    video, audio = latents()

    def outer(x: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(model.model.run.shapes)
        in_run(inner, video, [video.shape])
        seen.append(model.model.run.shapes)
        return x

    def inner(x: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(model.model.run.shapes)
        return x

    def in_run(body: Callable[..., Tensor], x: Tensor, shapes: list[torch.Size]) -> None:
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(body, guider, [sample_in_run])
        executor.execute(x, x, None, SIGMAS, latent_shapes=shapes)

    in_run(outer, *comfy.utils.pack_latents([video, audio]))
    pair, alone = (tuple(video.shape), tuple(audio.shape)), (tuple(video.shape),)
    assert seen == [pair, alone, pair] and model.model.run is None


@pytest.mark.parametrize("kind", ["cca", "fusion", "bridge"])
def test_only_a_coupling_with_routes_keeps(kind: str) -> None:
    model = patcher(interaction=InteractionConfig(kind, (0,), OPTIONS[kind]())).model
    packed, shapes = comfy.utils.pack_latents(latents())
    assert run_of(model, shapes, packed, None, {}).keeps is (kind == "cca")
    assert not run_of(model, shapes, packed, None, {KEEP_GIVEN: False}).keeps


@pytest.mark.parametrize(
    ("texts", "said"), [(1, []), (2, []), (3, ["positive has texts for 3 clips, the latent 2: the last 1"])]
)
def test_texts_for_more_clips_than_there_are_are_told_of(
    texts: int, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    ((text, options),) = conditioning(1)
    positive = [[text.repeat(texts, 1, 1), options]]
    texts_of_both = positive, conditioning(2)
    common_ksampler(patcher(), 1, 1, 3.0, "euler", "simple", *texts_of_both, av_latent(batch=2))
    told = [record.message for record in caplog.records if "texts" in record.message]
    assert len(told) == len(said) and all(map(str.startswith, told, said))


@pytest.mark.parametrize(("tokens", "agree"), [(18, True), (24, True), (40, False), (8, False)])
def test_streams_of_other_seconds_are_told_of(
    tokens: int, agree: bool, caplog: pytest.LogCaptureFixture
) -> None:
    latent = av_latent(tokens=tokens)
    common_ksampler(patcher(), 1, 1, 3.0, "euler", "simple", conditioning(1), conditioning(2), latent)
    told = [record.message for record in caplog.records if "the video is 0.562 s long" in record.message]
    assert len(told) == (0 if agree else 1)


def with_stg(model: ModelPatcher) -> ModelPatcher:
    """As LTXVSpatioTemporalGuidance of newer hosts: a pass of its own behind the CFG step."""

    def guide(args: dict[str, Any]) -> Tensor:
        transformer = {**args["model_options"]["transformer_options"], "stg_self_attn_blocks": frozenset({1})}
        options = {**args["model_options"], "transformer_options": transformer}
        (perturbed,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], options
        )
        return args["denoised"] + args["cond_denoised"] - perturbed

    guided = model.clone()
    guided.set_model_sampler_post_cfg_function(guide)
    return guided


def test_the_stg_of_ltx_is_told_of_once_in_a_run_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, texts = patcher(), (conditioning(1), conditioning(2))
    results = []
    for chosen in (model, with_stg(model), with_stg(model)):
        made = common_ksampler(chosen, 1, 2, 3.0, "euler", "simple", *texts, av_latent())[0]["samples"]
        results.append(made.unbind())
    plain, guided, _ = results
    told = [record.message for record in caplog.records if "stg_self_attn_blocks" in record.message]
    # One in each of two runs of two steps.
    assert len(told) == 2 and all("use SkipLayerGuidanceDiT" in message for message in told)
    for ours, wanted in zip(guided, plain, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


OTHERS = {
    "the streams swapped": (
        lambda video, audio: [audio, video],
        r"the video latent has the shape \(1, 8, 18\)",
    ),
    "sound alone": (lambda _, audio: [audio], r"the video latent has the shape \(1, 8, 18\)"),
    "a video of another VAE": (
        lambda video, audio: [video.repeat(1, 3, 1, 1, 1), audio],
        r"the video latent has the shape \(1, 48, 3, 4, 6\), this model wants 5 .* and 16 channels",
    ),
    "a sound of LTX-2": (
        lambda video, audio: [video, audio[..., None].repeat(1, 1, 1, 16)],
        r"the audio latent has the shape \(1, 8, 18, 16\), this model wants 3 dimensions",
    ),
    "no latent frames": (
        lambda video, audio: [video[:, :, :0], audio],
        r"the video latent .* none of them 0",
    ),
    "three latents": (lambda video, audio: [video, audio, audio], "got 3 latents in one"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_hosts_sampler_refuses_a_latent_of_another_model_in_a_sentence(case: str) -> None:
    change, words = OTHERS[case]
    streams = change(*latents())
    samples = NestedTensor(streams) if len(streams) > 1 else streams[0]
    texts = conditioning(1), conditioning(2)
    with pytest.raises(ValueError, match=f"^latent_image: {words}"):
        common_ksampler(patcher(), 1, 2, 3.0, "euler", "simple", *texts, {"samples": samples})
