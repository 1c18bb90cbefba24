"""Object patches of others on the modules of Wan: what they do to plain Wan they do to every kind of
joint model.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import comfy.ldm.flux.layers
import comfy.ldm.wan.model as wan
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from support.tiny import conditioning
from support.uncoupled import KINDS, model_of, sample, wan_of

Patches = dict[str, Any]


def patched(model: ModelPatcher, patches: Patches) -> ModelPatcher:
    clone = model.clone()
    for key, value in patches.items():
        clone.add_object_patch(f"diffusion_model.{key}", value)
    return clone


class NormalisedAttentionGuidance:
    """Text attention pushed away from a negative text (NAG, arXiv 2505.21179), bound as an attribute of a
    module is.

    z = z+ + scale (z+ - z-),  z capped to tau |z+| in the L1 norm of a token,  alpha z + (1 - alpha) z+
    """

    def __init__(self, negative: Tensor, scale: float = 10.0, tau: float = 2.5, alpha: float = 0.25) -> None:
        self.negative, self.scale, self.tau, self.alpha = negative, scale, tau, alpha

    def __get__(self, attention: torch.nn.Module, kind: type) -> Callable[..., Tensor]:
        return types.MethodType(self._forward, attention)

    def _forward(
        self, attention: Any, x: Tensor, context: Tensor, transformer_options: Any = None, **_: Any
    ) -> Tensor:
        options = transformer_options or {}
        q = attention.norm_q(attention.q(x))
        positive, negative = (self._read(attention, q, text, options) for text in (context, self.negative))
        pushed = positive + self.scale * (positive - negative)
        norms = [z.abs().sum(dim=-1, keepdim=True) for z in (positive, pushed)]
        pushed = pushed * (self.tau * norms[0] / norms[1]).clamp(max=1.0)
        return attention.o(self.alpha * pushed + (1 - self.alpha) * positive)

    @staticmethod
    def _read(attention: Any, q: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        k, v = attention.norm_k(attention.k(text)), attention.v(text)
        k, v = (part.expand(len(q), -1, -1) for part in (k, v))
        return wan.optimized_attention(q, k, v, heads=attention.num_heads, transformer_options=options)


def unchanged(module: torch.nn.Module, *args: Any, beside: Any = None, **kwargs: Any) -> Tensor:  # noqa: ARG001
    """What the module's own forward gives. Somebody's patch knows no second source beside the text."""
    return type(module).forward(module, *args, **kwargs)


def halved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    return 0.5 * unchanged(module, *args, **kwargs)


def on_all(method: str, make: Callable[[torch.nn.Module], Any], stream: str = "") -> Callable[[Any], Patches]:
    """Patches of one module's forward in all blocks of a stream."""

    def patches(transformer: Any) -> Patches:
        made = {}
        for i, block in enumerate(transformer.get_submodule(f"{stream}blocks")):
            made[f"{stream}blocks.{i}.{method}.forward"] = make(block.get_submodule(method))
        return made

    return patches


def bound(function: Callable[..., Tensor]) -> Callable[[torch.nn.Module], Any]:
    return lambda module: function.__get__(module, module.__class__)


def guided_away(transformer: Any) -> Patches:
    """NAG on text attention, its negative text embedded by the model as the node of others does."""
    guidance = NormalisedAttentionGuidance(transformer.text_embedding(conditioning(21)[0][0]))
    return on_all("cross_attn", lambda attention: guidance.__get__(attention, attention.__class__))(
        transformer
    )


def other_positions(transformer: Any) -> Patches:
    """A rotary embedding of another base, as methods that make a clip longer put there."""
    old = transformer.rope_embedder
    new = comfy.ldm.flux.layers.EmbedND(dim=old.dim, theta=500.0, axes_dim=old.axes_dim)
    return {"rope_embedder": new}


VIDEO_PATCHES = {
    "NAG": guided_away,
    "self-attention": on_all("self_attn", bound(halved)),
    "text attention": on_all("cross_attn", bound(halved)),
    "feed-forward": on_all("ffn", bound(halved)),
    "rotary embedding": other_positions,
}


@KINDS
@pytest.mark.parametrize("name", VIDEO_PATCHES)
def test_a_patch_of_the_video_does_what_it_does_to_plain_wan(kind: str, name: str) -> None:
    """On a fresh coupling, bit for bit, with sound and without."""
    joint = model_of(kind, fresh=True)
    plain, make = wan_of(joint), VIDEO_PATCHES[name]
    wanted = sample(patched(plain, make(plain.model.diffusion_model)), sound=False)[0]
    assert (wanted - sample(plain, sound=False)[0]).abs().max() > 1e-3
    changed = patched(joint, make(joint.model.diffusion_model))
    for sound in (True, False):
        assert torch.equal(sample(changed, sound)[0], wanted)


@KINDS
@pytest.mark.parametrize("name", VIDEO_PATCHES)
def test_a_patch_acts_where_streams_meet_and_leaves_nothing_when_it_is_taken_off(
    kind: str, name: str
) -> None:
    model = model_of(kind, fresh=False)
    before = sample(model)
    changed = sample(patched(model, VIDEO_PATCHES[name](model.model.diffusion_model)))
    assert all((x - y).abs().max() > 1e-4 for x, y in zip(changed, before, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(sample(model), before, strict=True))


@KINDS
@pytest.mark.parametrize("stream", ["", "audio."])
@pytest.mark.parametrize("method", ["self_attn", "cross_attn", "ffn"])
def test_a_patch_that_does_what_the_original_does_changes_nothing(
    kind: str, stream: str, method: str
) -> None:
    """But for the order of a sum: fusion then adds its share of the output projection to that of the text."""
    model = model_of(kind, fresh=False)
    patches = on_all(method, bound(unchanged), stream)(model.model.diffusion_model)
    changed, wanted = sample(patched(model, patches)), sample(model)
    allowed = 1e-6 if kind == "fusion" and method == "cross_attn" else 0.0
    for x, y in zip(changed, wanted, strict=True):
        assert (x - y).abs().max() <= allowed * y.abs().max()


@KINDS
@pytest.mark.parametrize("method", ["self_attn", "cross_attn", "ffn"])
def test_a_patch_of_the_audio_acts_on_the_audio(kind: str, method: str) -> None:
    """And, through a coupling that is not fresh, on the video."""
    for fresh in (True, False):
        model = model_of(kind, fresh)
        before = sample(model)
        patches = on_all(method, bound(halved), "audio.")(model.model.diffusion_model)
        changed = sample(patched(model, patches))
        assert (changed[1] - before[1]).abs().max() > 1e-3
        assert torch.equal(changed[0], before[0]) is fresh
        assert all(torch.equal(x, y) for x, y in zip(sample(model), before, strict=True))
