"""A block alone is the host's, its three meeting places stand where they say, and text attention with a
second source is the formula.
"""

from __future__ import annotations

from typing import Any

import comfy.ops
import pytest
import torch
from comfy.ldm.wan.model import WanAttentionBlock, WanT2VCrossAttention
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.model.attention import Place
from ccl_pack.ccl_core.model.blocks import Beside, StreamBlock, TextAttention, is_patched
from ccl_pack.ccl_core.model.rotary import axis_table, rotate
from support.tiny import patcher

DIM, HEADS, TOKENS, TEXT, IMAGE = 16, 2, 12, 5, 7
KINDS = pytest.mark.parametrize("kind", ["t2v_cross_attn", "i2v_cross_attn"])


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block(kind: str, made: type[WanAttentionBlock] = StreamBlock) -> WanAttentionBlock:
    settings = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32}
    found = made(kind, DIM, 24, HEADS, cross_attn_norm=True, operation_settings=settings)
    shapes = found.state_dict().items()
    weights = {
        key: noise(i, *value.shape) / value.shape[-1] ** 0.5 + ("norm" in key)
        for i, (key, value) in enumerate(shapes)
    }
    found.load_state_dict(weights)
    return found.requires_grad_(False)


def reading_block(kind: str) -> StreamBlock:
    found = block(kind)
    found.let_read_beside()
    return found


def arguments(kind: str, times: int = 1) -> dict[str, Any]:
    """What a block reads beside its tokens, in so many times of the whole."""
    image = IMAGE if kind == "i2v_cross_attn" else None
    text = noise(2, 2, TEXT + (image or 0), DIM)
    table = axis_table(torch.arange(float(TOKENS)), DIM // HEADS)
    return {"e": noise(3, 2, times, 6, DIM), "freqs": table, "context": text, "context_img_len": image}


def rows_of(times: int) -> Tensor | None:
    return None if times == 1 else torch.arange(TOKENS) * times // TOKENS


@KINDS
@pytest.mark.parametrize("times", [1, 3, 4])
def test_a_block_alone_is_the_host_s_block(kind: str, times: int) -> None:
    x, given = noise(1, 2, TOKENS, DIM), arguments(kind, times)
    made = block(kind)(x, **given, rows=rows_of(times))
    assert torch.equal(made, block(kind, WanAttentionBlock)(x, **given))


def test_a_time_for_each_token_in_any_order() -> None:
    x, given, rows = noise(1, 2, TOKENS, DIM), arguments("t2v_cross_attn", 3), torch.arange(TOKENS) * 7 % 3
    spread = given | {"e": given["e"][:, rows]}
    made = block("t2v_cross_attn")(x, **given, rows=rows)
    assert torch.equal(made, block("t2v_cross_attn", WanAttentionBlock)(x, **spread))


def test_patches_of_the_host_act_in_a_block() -> None:
    x, given = noise(1, 2, TOKENS, DIM), arguments("t2v_cross_attn")
    patches = {"attn1_patch": [lambda args: 2 * args["x"]], "attn2_patch": [lambda args: args["x"] + 1]}
    given["transformer_options"] = {"patches": patches}
    made = block("t2v_cross_attn")(x, **given)
    assert torch.equal(made, block("t2v_cross_attn", WanAttentionBlock)(x, **given))


# ---- meetings


def nothing_beside(_: Tensor, other: Any) -> tuple[None, Any]:
    return None, other


@pytest.mark.parametrize(
    ("place", "meeting"),
    [
        ("before_block", lambda x, y: (x, y)),
        ("inside_text", nothing_beside),
        ("after_text", lambda x, y: (x, y)),
    ],
)
def test_a_meeting_that_changes_nothing_leaves_the_block_and_hands_the_other_stream_on(
    place: str, meeting: Any
) -> None:
    x, given, other = noise(1, 2, TOKENS, DIM), arguments("t2v_cross_attn"), noise(9, 2, 4, 8)
    made, handed_on = block("t2v_cross_attn")(x, **given, other=other, **{place: meeting})
    assert torch.equal(made, block("t2v_cross_attn")(x, **given)) and handed_on is other


def test_the_places_stand_around_self_attention_and_text_attention() -> None:
    x, given, found, seen = noise(1, 2, TOKENS, DIM), arguments("t2v_cross_attn"), block("t2v_cross_attn"), {}

    def at(place: str) -> Any:
        def meeting(tokens: Tensor, other: Any) -> tuple[Any, Any]:
            seen[place] = tokens
            return (None if place == "inside_text" else tokens), other

        return meeting

    found(x, **given, **{place: at(place) for place in ("before_block", "inside_text", "after_text")})
    shift, scale, gate, *_ = (found.modulation[None] + given["e"]).unbind(2)
    attended = found.self_attn(torch.addcmul(shift, found.norm1(x), 1 + scale), given["freqs"])
    after_self = torch.addcmul(x, attended, gate)
    assert torch.equal(seen["before_block"], x)
    assert torch.equal(seen["inside_text"], after_self)
    after_text = after_self + found.cross_attn(found.norm3(after_self), given["context"])
    assert torch.equal(seen["after_text"], after_text)


def test_what_a_meeting_gives_is_what_the_block_goes_on_with() -> None:
    x, given, delta = noise(1, 2, TOKENS, DIM), arguments("t2v_cross_attn"), noise(8, 2, TOKENS, DIM)
    found = block("t2v_cross_attn")
    made, other = found(x, **given, other=1, before_block=lambda x, y: (x + delta, y + 1))
    assert torch.equal(made, found(x + delta, **given)) and other == 2


# ---- a second source beside the text


def written_out(attention: Any, x: Tensor, given: dict[str, Any], beside: Beside) -> Tensor:
    """o( Attn(q, text) [+ Attn(q, image)] + Attn(R q, beside) on the tokens that ask )."""

    def read(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (q, k, v)]
        return torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

    q = attention.norm_q(attention.q(x))
    image, text = given["context"].tensor_split([given["context_img_len"] or 0], dim=1)
    out = read(q, attention.norm_k(attention.k(text)), attention.v(text))
    if image.shape[1]:
        out = out + read(q, attention.norm_k_img(attention.k_img(image)), attention.v_img(image))
    second = read(rotate(q[:, beside.span], beside.table, HEADS), beside.k, beside.v)
    out[:, beside.span] += second
    return attention.o(out)


def second_source(span: slice) -> Beside:
    asking = span.stop - span.start
    table = axis_table(torch.arange(float(asking)) / 2, DIM // HEADS)
    place = Place("a2v", slice(0, asking), slice(0, 4), 0, (asking, 4))
    return Beside(noise(5, 2, 4, DIM), noise(6, 2, 4, DIM), table, span, place)


@KINDS
@pytest.mark.parametrize("span", [slice(0, TOKENS), slice(3, 9)], ids=["all ask", "references beside do not"])
def test_text_attention_with_a_second_source_is_the_formula(kind: str, span: slice) -> None:
    x, given, attention = noise(1, 2, TOKENS, DIM), arguments(kind), reading_block(kind).cross_attn
    beside = second_source(span)
    made = attention(x, given["context"], context_img_len=given["context_img_len"], beside=beside)
    torch.testing.assert_close(made, written_out(attention, x, given, beside))


@KINDS
def test_under_somebody_s_patch_the_second_source_is_added_to_what_the_patch_gives(kind: str) -> None:
    x, given, found, beside = (
        noise(1, 2, TOKENS, DIM),
        arguments(kind),
        reading_block(kind),
        second_source(slice(3, 9)),
    )
    own = found.cross_attn.forward

    def run() -> Tensor:
        return found(x, **given, inside_text=lambda _, other: (beside, other))[0]

    wanted = run()
    found.cross_attn.forward = lambda *args, **kwargs: own(*args, **kwargs)
    assert is_patched(found.cross_attn)
    torch.testing.assert_close(run(), wanted)
    found.cross_attn.forward = lambda x, *_, **__: torch.zeros_like(x)
    assert (run() - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("kind", OPTIONS)
def test_only_a_coupling_beside_the_text_brings_a_text_attention_of_its_own(kind: str) -> None:
    """Patches of other packs for Wan ask whether a module is of the host's very class."""
    transformer = patcher(interaction=InteractionConfig(kind, (0,), OPTIONS[kind]())).model.diffusion_model
    classes = {
        type(block.cross_attn) for stream in (transformer, transformer.audio) for block in stream.blocks
    }
    assert classes == {TextAttention if kind == "fusion" else WanT2VCrossAttention}


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_patch_is_seen_until_the_host_takes_it_off(stream: str) -> None:
    loaded = patcher()
    transformer = loaded.model.diffusion_model
    attention = (transformer if stream == "video" else transformer.audio).blocks[0].cross_attn
    prefix = "diffusion_model." if stream == "video" else "diffusion_model.audio."
    assert not is_patched(attention)
    patched = loaded.clone()
    patched.add_object_patch(f"{prefix}blocks.0.cross_attn.forward", lambda x, *_, **__: x)
    patched.patch_model(load_weights=False)
    assert is_patched(attention)
    patched.unpatch_model(unpatch_weights=False)
    assert "forward" in attention.__dict__, "the host leaves the bound method that it had saved"
    assert not is_patched(attention)
