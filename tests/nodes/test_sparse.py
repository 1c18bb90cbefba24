"""Sparse Attention on a MODEL: which calls change, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor

import nodes as host_nodes
from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.ccl_core.host.run import KEEP_GIVEN
from ccl_pack.ccl_core.model import sparse
from ccl_pack.nodes.sparse import CCLSparseAttention
from support.tiny import CONFIG, av_latent, conditioning, config, host_patcher, patcher, state_dict

OVERRIDE = "optimized_attention_override"
# 5 latent frames of 8 x 8 tokens: 8 blocks, and one frame left.
SIZES = {"frames": 5, "height": 16, "width": 16, "tokens": 34}
TOKENS = 5 * 8 * 8


def with_sparse(model: ModelPatcher, keep: float = 0.25) -> ModelPatcher:
    return CCLSparseAttention.execute(model, keep=keep)[0]


def sample(model: ModelPatcher, latent: dict[str, Any], steps: int = 1) -> list[torch.Tensor]:
    texts = conditioning(1), conditioning(2)
    samples = host_nodes.common_ksampler(model, 1, steps, 2.0, "euler", "simple", *texts, latent)[0][
        "samples"
    ]
    return samples.unbind() if isinstance(samples, NestedTensor) else [samples]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


class Count:
    """An override of another pack: it computes as the host does, and notes queries and keys of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(
        self, func: Any, q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        self.calls.append((q.shape[1], k.shape[1]))
        return func(q, k, *args, **kwargs)


def counted(model: ModelPatcher) -> tuple[ModelPatcher, Count]:
    clone, count = model.clone(), Count()
    clone.model_options["transformer_options"][OVERRIDE] = count
    return clone, count


LATENTS = {
    "a pair": av_latent(**SIZES),
    "the video alone": {"samples": av_latent(**SIZES)["samples"].unbind()[0]},
}


@pytest.mark.parametrize("kind", ["cca", "fusion", "bridge", "asymmetric"])
@pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)
def test_all_but_the_video_s_self_attention_stays_with_the_override_that_was_there(
    latent: dict[str, Any], kind: str
) -> None:
    model = patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]()))
    dense, of_dense = counted(model)
    other, of_sparse = counted(model)
    wanted, got = sample(dense, latent), sample(with_sparse(other), latent)
    assert not equal(got, wanted)
    whole = (TOKENS, TOKENS)
    # The queries of the frame that is left go on to the override, in place of all of them.
    assert of_dense.calls.count(whole) >= CONFIG.video.num_layers
    assert [(64, TOKENS) if call == whole else call for call in of_dense.calls] == of_sparse.calls


@pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)
def test_keep_of_1_is_the_model_without_the_node_bit_for_bit(latent: dict[str, Any]) -> None:
    model, _ = counted(patcher())
    kept = with_sparse(with_sparse(model), 1.0)
    assert kept.model_options == model.model_options
    assert equal(sample(kept, latent), sample(model, latent))


def test_the_input_is_not_touched_and_the_last_node_decides() -> None:
    model = patcher()
    before = dict(model.model_options["transformer_options"])
    once, twice = with_sparse(model, 0.5), with_sparse(with_sparse(model, 0.1), 0.5)
    assert model.model_options["transformer_options"] == before
    assert equal(sample(once, LATENTS["a pair"]), sample(twice, LATENTS["a pair"]))


def test_one_whose_blocks_are_all_chosen_is_dense_attention() -> None:
    """A share just below 1 of one block still reads that block."""
    latent = av_latent(frames=4, height=8, width=8, tokens=27)
    model = patcher()
    for got, wanted in zip(sample(with_sparse(model, 0.5), latent), sample(model, latent), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_both_experts_are_sparse() -> None:
    weights = state_dict(config())
    two = patcher(weights=weights)
    attach_low_noise(two, patcher(weights=weights), 0.9)
    latent = LATENTS["a pair"]
    wanted = sample(with_sparse(patcher(weights=weights)), latent, steps=4)
    assert equal(sample(with_sparse(two), latent, steps=4), wanted)


def test_what_is_kept_of_a_given_video_is_that_of_sparse_attention() -> None:
    masks = torch.zeros(1, 1, 5, 16, 16), torch.ones(1, 1, 34)
    model = with_sparse(patcher())
    model.model_options["transformer_options"][KEEP_GIVEN] = False
    wanted = sample(model, av_latent(masks=masks, **SIZES), steps=2)
    model.model_options["transformer_options"][KEEP_GIVEN] = True
    assert equal(sample(model, av_latent(masks=masks, **SIZES), steps=2), wanted)


def test_reference_tokens_are_not_of_the_grid() -> None:
    """Frames of subjects behind the latent, as the host's Phantom has them, count no row of blocks."""
    model = patcher().model.diffusion_model
    video, audio = av_latent(**SIZES)["samples"].unbind()
    options: dict[str, Any] = {}
    text = conditioning(1)[0][0]
    model(
        [video, audio],
        torch.tensor([500.0]),
        text,
        time_dim_concat=video[:, :, :2],
        transformer_options=options,
    )
    assert options[sparse.GRID] == sparse.Grid(0, (5, 8, 8))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_a_compiled_block_equals_the_eager_one_with_a_break_of_its_graph() -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch._dynamo.reset()
    model = with_sparse(
        patcher(
            video=replace(CONFIG.video, num_layers=1),
            audio=replace(CONFIG.audio, num_layers=1),
            interaction=InteractionConfig("cca", (0,), OPTIONS["cca"]()),
        )
    )
    clone = model.clone()
    set_torch_compile_wrapper(clone, backend="eager", keys=["diffusion_model.blocks.0"], fullgraph=False)
    latent = LATENTS["a pair"]
    assert equal(sample(clone, latent), sample(model, latent))
    torch._dynamo.reset()


@pytest.mark.parametrize("keep", [0.0, -1.0, float("nan")])
def test_a_share_of_nothing_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match=r"keep: got .* wanted a share above 0"):
        with_sparse(patcher(), keep)


def test_a_model_of_the_host_is_refused_by_name() -> None:
    sizes = {"dim": 48, "num_heads": 2, "num_layers": 1, "ffn_dim": 64, "freq_dim": 32, "text_dim": 24}
    with pytest.raises(ValueError, match="got WAN21"):
        with_sparse(host_patcher(comfy.supported_models.WAN21_T2V, **sizes))
