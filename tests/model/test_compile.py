"""torch.compile on the host's samplers: by block in whole graphs, by any module within, and by the whole
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.ldm.wan.model
import pytest
import torch
import torch._dynamo
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch import Tensor
from torch._dynamo.eval_frame import _debug_get_cache_entry_list as cache_entries

import nodes as host_nodes
from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.host.run import KEEP_GIVEN
from ccl_pack.ccl_core.model.blocks import StreamBlock
from support.tiny import CONFIG, av_latent, conditioning, patcher

KINDS = ("cca", "fusion", "bridge", "asymmetric")
# What the compile nodes of others set; torch's own limit is 8, and all blocks share one cache.
CACHE_LIMIT = 64
Latent = dict[str, Any]


@pytest.fixture(autouse=True)
def a_compiler_without_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The host's choice on a CPU splits attention by the memory that is free, which breaks graphs.
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=CACHE_LIMIT):
        yield
    torch._dynamo.reset()


@dataclass
class Graphs:
    """A backend that runs each graph as it is, and counts them."""

    nodes: list[int] = field(default_factory=list)

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:  # noqa: ARG002 - torch's signature
        self.nodes.append(len(graph.graph.nodes))
        return graph.forward

    def __len__(self) -> int:
        return len(self.nodes)


def model_of(kind: str, video_layers: int = 2, audio_layers: int = 1) -> ModelPatcher:
    """By default one joint layer, and one of the video alone: a graph of each is enough to trace every
    line.
    """
    return patcher(
        video=replace(CONFIG.video, num_layers=video_layers),
        audio=replace(CONFIG.audio, num_layers=audio_layers),
        interaction=InteractionConfig(kind, tuple(range(audio_layers)), OPTIONS[kind]()),
    )


def blocks_of(model: ModelPatcher) -> list[str]:
    return [f"diffusion_model.blocks.{i}" for i in range(len(model.model.diffusion_model.blocks))]


def compiled(model: ModelPatcher, graphs: Graphs, keys: list[str], fullgraph: bool = True) -> ModelPatcher:
    """As the host's and others' compile nodes do it. With fullgraph a break of a graph is an error."""
    clone = model.clone()
    set_torch_compile_wrapper(clone, backend=graphs, keys=keys, fullgraph=fullgraph)
    return clone


def latent(height: int = 4, frames: int = 2, tokens: int = 8, given: str | None = None) -> Latent:
    """given: the stream that is given, or "frame" for the first latent frame of the video."""
    video, audio = torch.ones(1, 1, frames, height, 4), torch.ones(1, 1, tokens)
    if given is not None:
        {"video": video, "audio": audio, "frame": video[:, :, :1]}[given].zero_()
    return av_latent(masks=(video, audio), frames=frames, height=height, width=4, tokens=tokens)


def sample(model: ModelPatcher, given: Latent, steps: int = 2) -> list[Tensor]:
    """The streams of a run on the host's sampler."""
    texts = conditioning(1), conditioning(2)
    samples = host_nodes.common_ksampler(model, 1, steps, 1.0, "euler", "simple", *texts, given)[0]["samples"]
    return samples.unbind() if isinstance(samples, NestedTensor) else [samples]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def entries() -> int:
    """Traces of a block that are kept."""
    return len(cache_entries(StreamBlock.forward.__code__))


# Two sizes, two lengths, open and anchored routes, one time for all tokens and one per latent frame.
LATENTS = {
    "all open": latent(),
    "another size and a clean first frame": latent(height=6, given="frame"),
    "another length and a given video": latent(frames=3, tokens=18, given="video"),
    "the video alone": {"samples": latent()["samples"].unbind()[0]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_blocks_are_whole_graphs_and_equal_the_eager_run(kind: str) -> None:
    """Every run traces the joint layer and the one alone at most once each, for all its steps."""
    model, graphs = model_of(kind), Graphs()
    by_block = compiled(model, graphs, blocks_of(model))
    for name, given in LATENTS.items():
        before = len(graphs)
        assert equal(sample(by_block, given), sample(model, given)), name
        assert len(graphs) - before <= 2, name
    assert 0 < entries() == len(graphs)


def test_all_later_layers_share_the_graphs_of_the_first_ones() -> None:
    """The first layer has its own, since its tokens come from the patches in another memory layout."""
    model, graphs = model_of("cca", video_layers=5, audio_layers=3), Graphs()
    by_block = compiled(model, graphs, blocks_of(model))
    assert equal(sample(by_block, latent()), sample(model, latent()))
    assert entries() == len(graphs) == 3


def test_modules_compiled_within_a_compiled_block_are_part_of_its_graph() -> None:
    model, graphs = model_of("cca"), Graphs()
    within = ["diffusion_model.audio.blocks.0", "diffusion_model.interaction.0"]
    everything = compiled(model, graphs, [*blocks_of(model), *within])
    assert equal(sample(everything, latent()), sample(model, latent()))
    assert len(graphs) == 2


@pytest.mark.parametrize("key", ["audio.blocks.0", "interaction.0"])
def test_a_module_within_a_block_compiles_by_itself(key: str) -> None:
    model, graphs = model_of("cca"), Graphs()
    assert equal(
        sample(compiled(model, graphs, [f"diffusion_model.{key}"]), latent()), sample(model, latent())
    )
    assert len(graphs) == 1


def test_what_is_kept_of_a_given_video_leaves_a_compiled_block() -> None:
    """A pass of the video alone that hands out keys and values, then the audio on them: a graph each."""
    model, graphs = model_of("cca", video_layers=1), Graphs()
    given = latent(given="video")
    model.model_options["transformer_options"][KEEP_GIVEN] = False
    wanted = sample(model, given)
    model.model_options["transformer_options"][KEEP_GIVEN] = True
    within = ["diffusion_model.audio.blocks.0"]
    assert equal(sample(compiled(model, graphs, [*blocks_of(model), *within]), given), wanted)
    assert len(graphs) == 2


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_the_whole_model_compiled_with_breaks_equals_the_eager_run() -> None:
    model, graphs = model_of("fusion", video_layers=1), Graphs()
    whole = compiled(model, graphs, ["diffusion_model"], fullgraph=False)
    assert equal(sample(whole, latent()), sample(model, latent()))
    assert len(graphs) > 0


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_the_whole_model_compiled_with_breaks_keeps_a_given_video() -> None:
    model, graphs = model_of("cca", video_layers=1), Graphs()
    given = latent(given="video")
    whole = compiled(model, graphs, ["diffusion_model"], fullgraph=False)
    assert equal(sample(whole, given), sample(model, given))
    assert len(graphs) > 0
