"""Where a run keeps what a given stream hands out, for how long, and when it does not keep it."""

from __future__ import annotations

import uuid
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_easycache import EasyCacheNode
from torch import Tensor

from ccl_pack.ccl_core.host import given as module
from ccl_pack.ccl_core.host.given import release
from ccl_pack.ccl_core.host.run import KEEP_GIVEN, Run
from ccl_pack.ccl_core.model.interactions import KV
from ccl_pack.ccl_core.model.kept import Kept
from ccl_pack.ccl_core.tasks import State
from support.tiny import CONFIG, av_latent, conditioning, count_blocks, given, patcher

STEPS = 4
# A pass of a given stream ends with the coupling.
COUPLED = len(CONFIG.interaction.layers)
STREAMS = pytest.mark.parametrize("stream", ["video", "audio"])


def sample(
    model: ModelPatcher, latent: dict[str, Any], keep: bool = True, callback: Any = None
) -> list[Tensor]:
    clone = model.clone()
    clone.model_options["transformer_options"][KEEP_GIVEN] = keep
    guider = comfy.samplers.CFGGuider(clone)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(3.0)
    samples, euler = latent["samples"], comfy.samplers.sampler_object("euler")
    out = guider.sample(
        comfy.sample.prepare_noise(samples, 1),
        samples,
        euler,
        torch.linspace(1, 0, STEPS + 1),
        denoise_mask=latent["noise_mask"],
        callback=callback,
        disable_pbar=True,
        seed=1,
    )
    return list(out.unbind())


def equal(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


# ---- for which passes


@STREAMS
def test_a_given_stream_that_changes_is_computed_again(stream: str) -> None:
    """A function of the mask, as differential diffusion has one, may make all of it in the last step."""
    model = patcher()
    model.set_model_denoise_mask_function(lambda sigma, mask, **_: mask if sigma > 0.3 else mask + 1 - mask)
    latent = av_latent(masks=given(stream))
    wanted = sample(model, latent, keep=False)
    calls = count_blocks(model.model.diffusion_model)
    assert equal(sample(model, latent), wanted)
    assert calls[stream] == 2 * COUPLED


def by_step(args: dict[str, Any]) -> Tensor:
    return args["x"] * (1 + 0.5 * float(args["transformer_options"]["sigmas"][0]))


def test_under_a_patch_inside_a_block_nothing_is_kept() -> None:
    """It may act by the step, as this one does."""
    model = patcher()
    model.set_model_attn2_patch(by_step)
    latent = av_latent(masks=given("video"))
    wanted = sample(model, latent, keep=False)
    calls = count_blocks(model.model.diffusion_model)
    assert equal(sample(model, latent), wanted) and calls["video"] == STEPS * CONFIG.video.num_layers


def test_under_a_patch_of_a_method_nothing_is_kept() -> None:
    model, steps = patcher(), []
    attention = model.model.diffusion_model.blocks[0].self_attn

    def by_call(*args: Any, **kwargs: Any) -> Tensor:
        steps.append(1)
        return len(steps) * type(attention).forward(attention, *args, **kwargs)

    model.add_object_patch("diffusion_model.blocks.0.self_attn.forward", by_call)
    latent = av_latent(masks=given("video"))
    wanted = sample(model, latent, keep=False)
    steps.clear()
    assert equal(sample(model, latent), wanted) and len(steps) == STEPS


def test_an_object_patch_of_something_else_does_not_stop_it() -> None:
    model = patcher()
    model.add_object_patch("model_sampling", model.get_model_object("model_sampling"))
    calls = count_blocks(model.model.diffusion_model)
    sample(model, av_latent(masks=given("video")))
    assert calls["video"] == COUPLED


def test_clips_of_a_batch_of_which_one_is_given_as_a_whole() -> None:
    masks = given("video", batch=2)
    masks[1][0] = 0
    model, latent = patcher(), av_latent(masks=masks, batch=2)
    wanted = sample(model, latent, keep=False)
    calls = count_blocks(model.model.diffusion_model)
    assert equal(sample(model, latent), wanted) and calls["video"] == COUPLED


# ---- for how long


def renamed(conds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**cond, "uuid": uuid.uuid4()} for cond in conds]


def test_texts_made_anew_in_each_step_do_not_pile_up() -> None:
    """As the hook of PerpNeg makes them."""
    model, counts = patcher(), []

    def other_texts(executor: Any, model: Any, conds: Any, *args: Any) -> Any:
        return executor(model, list(map(renamed, conds)), *args)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "test", other_texts)
    sample(
        model, av_latent(masks=given("video")), callback=lambda *_: counts.append(len(model.model.run.kept))
    )
    assert counts == [1, 2, 2, 2]


# ---- in which memory


class Card:
    """A card with room for so many bytes of kept layers, and more when the weights have gone."""

    def __init__(self, room: int, gained: int = 0) -> None:
        self.free, self.gained, self.waiting = room, gained, []

    def room(self) -> int:
        return self.free

    def release(self, waiting: int) -> None:
        self.waiting.append(waiting)
        self.free += self.gained


def stored(layers: int, card: Card) -> Kept:
    """Layers of 96 bytes each, which take room on the card as they come."""
    kept = Kept("video", card)
    kept.begin()
    for i in range(layers):
        before = len(kept._in_ram)
        kept.put(KV(torch.full((3, 4), float(i)), torch.full((3, 4), -float(i))))
        card.free -= 96 if len(kept._in_ram) == before else 0
    return kept


def test_layers_beyond_the_room_of_the_card_go_to_ram() -> None:
    card = Card(200)
    kept = stored(4, card)
    assert kept._in_ram == {2, 3}
    kept.settle([torch.zeros(1)])
    assert card.waiting == [192] and kept._in_ram == {2, 3}
    for i in range(4):
        made = kept.take(i, torch.device("cpu"))
        assert torch.equal(made.k, torch.full((3, 4), float(i))) and torch.equal(made.v, -made.k)


def test_they_come_into_the_room_that_the_weights_leave() -> None:
    kept = stored(4, Card(0, gained=100))
    kept.settle([torch.zeros(1)])
    # The stand-in does not count what came back, the card itself does.
    assert kept._in_ram == set()


class Copies:
    """A stream of copies that notes what it waits for."""

    def __init__(self) -> None:
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)

    @staticmethod
    def as_context(_: Any) -> Any:
        return torch.no_grad()


def test_the_copy_of_a_layer_starts_with_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, side, computing = comfy.model_management, Copies(), Copies()
    monkeypatch.setattr(memory, "get_offload_stream", lambda _: side)
    monkeypatch.setattr(memory, "current_stream", lambda _: computing)
    kept = stored(3, Card(100))
    kept.settle([torch.zeros(1)])
    first = kept.take(0, torch.device("cpu"))
    assert first.k[0, 0] == 0 and list(kept._ahead) == [1] and side.waited == [computing]
    second = kept.take(1, torch.device("cpu"))
    # The stream that computes waits for the copy, which is no tensor of the store.
    assert computing.waited == [side] and second.k[0, 0] == 1
    assert second.k is not kept.sources[1].k and list(kept._ahead) == [2]


def test_a_run_out_of_ram_is_the_run_out_of_vram(monkeypatch: pytest.MonkeyPatch) -> None:
    model, latent, cards = patcher(), av_latent(masks=given("video")), []
    wanted = sample(model, latent)

    def no_room(*_: Any) -> Card:
        cards.append(Card(0))
        return cards[-1]

    monkeypatch.setattr(module, "_memory_of", no_room)
    assert equal(sample(model, latent), wanted)
    assert len(cards) == 1 and len(cards[0].waiting) == 1 and cards[0].waiting[0] > 0


def test_pins_end_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, pinned = comfy.model_management, []
    monkeypatch.setattr(memory, "pin_memory", lambda tensor: pinned.append(tensor.data_ptr()) or True)
    monkeypatch.setattr(memory, "unpin_memory", lambda tensor: pinned.remove(tensor.data_ptr()))
    monkeypatch.setattr(memory, "synchronize", lambda: None)
    monkeypatch.setattr(module, "_memory_of", lambda *_: Card(0))
    held = []
    sample(patcher(), av_latent(masks=given("video")), callback=lambda *_: held.append(len(pinned)))
    layers = len(CONFIG.interaction.layers)
    assert held == [2 * layers] * STEPS and pinned == []


def test_in_ram_itself_there_is_nothing_to_place() -> None:
    assert module._memory_of(Run((), None, None), patcher(), 1) is None


# ---- what the card gets back


def test_the_weights_of_the_given_blocks_leave_the_card_and_no_other_does() -> None:
    model = patcher()
    comfy.model_management.load_models_gpu([model])
    before = model.model.model_loaded_weight_memory
    latent = av_latent(masks=given("video"))
    wanted = sample(model, latent)
    release(model, "diffusion_model.blocks.")
    blocks = model.model.diffusion_model.blocks
    # The host moves a block's own parameter with nothing.
    freed = sum(comfy.model_management.module_size(block) - block.modulation.nbytes for block in blocks)
    assert before - model.model.model_loaded_weight_memory == freed > 0
    for name, part in model.model.named_modules():
        if hasattr(part, "comfy_patched_weights"):
            assert part.comfy_patched_weights is not name.startswith("diffusion_model.blocks.")
    assert "_load_list" not in vars(model)
    assert equal(sample(model, latent), wanted)


class Dynamic:
    """What `release` reads of a patcher under dynamic loading."""

    class model:
        model_loaded_weight_memory = 30

    freed: tuple[Any, ...] = ()

    def is_dynamic(self) -> bool:
        return True

    def loaded_size(self) -> int:
        return 130

    def partially_unload(self, *arguments: Any) -> None:
        self.freed = arguments


def test_dynamic_loading_frees_its_range_and_not_what_was_loaded_beside_it() -> None:
    model = Dynamic()
    release(model, "diffusion_model.blocks.")
    assert model.freed == (None, 100)


# ---- beside what skips steps


def test_easycache_skips_no_step_where_the_video_is_given() -> None:
    """It looks at the video alone, and would take one that does not change for steps that do not."""
    model, latent = patcher(), av_latent(masks=given("video"))
    cached = EasyCacheNode.execute(model, 0.2, 0.0, 1.0, False).args[0]
    calls = count_blocks(model.model.diffusion_model)
    made = sample(cached, latent)
    assert calls["audio"] == STEPS * CONFIG.audio.num_layers
    assert equal(made, sample(model, latent))


# ---- the card


class Loaded:
    """What `Vram` reads of a patcher; memory is what the host says."""

    load_device = torch.device("cpu")

    def get_free_memory(self, _: torch.device) -> int:
        return 150


@pytest.mark.parametrize(
    ("free", "waiting", "goes"), [(100, 0, False), (99, 0, True), (100, 1, True), (200, 100, False)]
)
def test_weights_leave_where_what_is_free_is_less_than_a_pass_needs(
    monkeypatch: pytest.MonkeyPatch, free: int, waiting: int, goes: bool
) -> None:
    gone: list[str] = []
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda _: free)
    monkeypatch.setattr(module, "release", lambda _, prefix: gone.append(prefix))
    card = module.Vram(Loaded(), 100, "diffusion_model.blocks.")
    assert card.room() == 50
    card.release(waiting)
    assert gone == (["diffusion_model.blocks."] if goes else [])


def test_a_card_keeps_what_the_host_wants_free_for_a_batch() -> None:
    model = patcher()
    run = Run(((1, 16, 3, 4, 6), (1, 8, 18)), State.GIVEN, State.GENERATED)
    model.model.run = run
    model.load_device = torch.device("cuda", 0)
    numbers = 16 * 3 * 4 * 6 + 8 * 18
    needed = model.model.memory_required([2, 1, numbers])
    card = module._memory_of(run, model, 2)
    reserve = int(1.5 * needed) + comfy.model_management.extra_reserved_memory()
    assert card.reserve == reserve and card.given == "diffusion_model.blocks."
