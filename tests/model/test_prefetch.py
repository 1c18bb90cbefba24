"""The host brings weights in ahead by a queue of layers: what stands in it is what a pass enters, once
and in order.
"""

from __future__ import annotations

from typing import Any

import comfy.model_prefetch
import pytest
import torch

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.kept import KEPT, Kept
from support.tiny import latents, patcher

Modules = list[torch.nn.Module]
# The streams that run, and the option that leaves the other one out.
STREAMS: dict[str, dict[str, bool]] = {
    "video audio": {},
    "video": {"run_ax": False},
    "audio": {"run_vx": False},
}


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[Modules]:
    """The layers of each pass as the host is given them; on a CPU it makes no queue of them."""
    passes: list[Modules] = []
    make = comfy.model_prefetch.make_prefetch_queue

    def note(layers: Modules, *args: Any) -> Any:
        passes.append([module for layer in layers for module in layer.children()])
        return make(layers, *args)

    monkeypatch.setattr(comfy.model_prefetch, "make_prefetch_queue", note)
    return passes


def model_of(kind: str) -> JointModel:
    return patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]())).model.diffusion_model


def entered(model: JointModel) -> Modules:
    """A list that fills with the modules of layers, each as its forward begins."""
    seen: Modules = []
    for module in (*model.blocks, *model.audio.blocks, *model.interaction.values()):
        module.register_forward_pre_hook(lambda module, _: seen.append(module))
    return seen


def expected(model: JointModel, streams: str) -> Modules:
    """The modules of the streams that run, layer by layer: video block, audio block, interaction."""
    modules: Modules = []
    depth = len(model.blocks) if "video" in streams else len(model.audio.blocks)
    for i in range(depth):
        modules += model.blocks[i : i + 1] if "video" in streams else []
        modules += model.audio.blocks[i : i + 1] if "audio" in streams else []
        modules += [model.interaction[str(i)]] if str(i) in model.interaction else []
    return modules


def run(model: JointModel, routes: tuple[bool, bool] = (True, True), **options: Any) -> None:
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(1))
    model(list(latents()), torch.tensor([500.0]), text, transformer_options=options, routes=routes)


@pytest.mark.parametrize("kind", ["cca", "fusion", "bridge", "asymmetric"])
@pytest.mark.parametrize("streams", STREAMS)
def test_a_pass_enters_each_module_of_its_queue_once_and_in_its_order(
    queued: list[Modules], kind: str, streams: str
) -> None:
    model = model_of(kind)
    seen = entered(model)
    run(model, **STREAMS[streams])
    assert queued == [expected(model, streams)]
    assert seen == queued[0]


def test_a_skipped_layer_is_not_entered(queued: list[Modules]) -> None:
    model = model_of("cca")
    seen = entered(model)
    run(model, skip_layers=(1,))
    skipped = [model.blocks[1], model.audio.blocks[1], model.interaction["1"]]
    assert seen == [module for module in queued[0] if module not in skipped]


def test_what_a_given_stream_hands_out_is_a_pass_of_its_own(queued: list[Modules]) -> None:
    """The blocks of the given stream run once; each later pass enters those of the other one alone."""
    model, kept = model_of("cca"), Kept("video")
    seen = entered(model)
    for _ in range(2):
        run(model, routes=(False, True), **{KEPT: kept})
    # The third layer of the video is not coupled.
    given, made = expected(model, "video")[:-1], expected(model, "audio")
    assert queued == [given, made, made]
    assert seen == given + made + made
