"""Products of a coupling in another order: the same sums, fewer multiplications.

A query that sees few keys: Wo sum_j p_j v_j = sum_j p_j (Wo v_j), so `Wo` is multiplied with the values of
each head, once a key instead of once a query. Many keys and few queries: sum_j p_j (Wv y_j) = Wv sum_j p_j
y_j, so `Wv` comes behind the attention.

Axes: b batch, n queries, m keys, h heads, e width of a head, d width, y width of the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import comfy.ops
import torch
from comfy.quant_ops import QuantizedTensor
from einops import rearrange
from torch import Tensor

from ..blocks import is_patched
from ..sparse import OVERRIDE, SparseOverride

# Multiplications that a fold must save: with fewer, its further kernels take longer than it gains.
WORTH = 2**24
# Queries of which the attention weights are made at once.
CHUNK = 4096
HostLinear = comfy.ops.disable_weight_init.Linear


def out_is_folded(
    linear: Any, options: dict[str, Any], queries: int, seen: int, keys: int, heads: int
) -> bool:
    """Whether `Wo` goes into the values. seen: keys of one query, keys: of all of them."""
    if not is_plain(linear, options):
        return False
    d = linear.weight.shape[0]
    plain = queries * d * (d + seen)
    return plain - keys * d * d - queries * seen * heads * d > WORTH


def values_are_last(
    linear: Any, options: dict[str, Any], queries: int, seen: int, keys: int, heads: int
) -> bool:
    """Whether `Wv` comes behind the attention."""
    if not is_plain(linear, options):
        return False
    d, y = linear.weight.shape
    plain = keys * y * d + queries * seen * d
    return plain - queries * (seen * heads + d) * y > WORTH


def is_plain(linear: Any, options: dict[str, Any]) -> bool:
    """Whether a projection is a matrix that may be taken out of it.

    Not where somebody put something in its place (bypass LoRA, object patch, hook) or in that of attention,
    where the host multiplies quantised weights, or where gradients are wanted.
    """
    # The gated baseline has a function there.
    if not isinstance(linear, torch.nn.Linear):
        return False
    kind = type(linear)
    own = kind.forward is HostLinear.forward
    own = own and kind.forward_comfy_cast_weights is HostLinear.forward_comfy_cast_weights
    if not own or is_patched(linear) or torch.is_grad_enabled():
        return False
    if linear._forward_hooks or linear._forward_pre_hooks or isinstance(linear.weight, QuantizedTensor):
        return False
    override = options.get(OVERRIDE)
    return override is None or (isinstance(override, SparseOverride) and override.before is None)


class Out(NamedTuple):
    """Values of the context tokens after `Wo`, (1, h, m, d), those of the other stream, and the bias (d,)."""

    anchor: Tensor
    source: Tensor | None
    bias: Tensor | None


def fold_out(linear: Any, anchor: Tensor, source: Tensor | None, heads: int) -> Out:
    """`Wo` multiplied with the values of context tokens (1, m, d) and of a source (b, m, d)."""
    weight, bias, stream = _taken(linear, anchor)
    weight = rearrange(weight, "d (h e) -> h e d", h=heads)
    made = [None if values is None else _by_head(values, weight) for values in (anchor, source)]
    bias = None if bias is None else bias.clone()  # the host may move another weight to its place
    comfy.ops.uncast_bias_weight(linear, weight, bias, stream)
    return Out(*made, bias)


def read_anchor(q: Tensor, k: Tensor, out: Out, heads: int) -> Tensor:
    """Queries (b, n, d) on the context tokens alone, keys (1, m, d): (b, n, d), projected."""
    values = out.anchor.flatten(1, 2)
    parts = [_weighted(part, k, values, out.bias, heads) for part in q.split(CHUNK, dim=1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def read_both(q: Tensor, k: Tensor, out: Out, window: slice, heads: int) -> Tensor:
    """Queries (b, n, d) on the context tokens and a window of the source, keys (b, m, d): projected."""
    anchor = out.anchor.expand(len(q), -1, -1, -1)
    values = torch.cat([anchor, out.source[:, :, window]], dim=2)
    return _weighted(q, k, values.flatten(1, 2), out.bias, heads)


def project_last(linear: Any, mixed: Tensor) -> Tensor:
    """`Wv` on what each head has read of the source, (b, h, n, y): (b, n, h * e)."""
    weight, bias, stream = _taken(linear, mixed)
    heads = mixed.shape[1]
    by_head = rearrange(weight, "(h e) y -> h y e", h=heads)
    made = torch.bmm(rearrange(mixed, "b h n y -> h (b n) y"), by_head)
    made = rearrange(made, "h (b n) e -> b n (h e)", b=len(mixed))
    # The weights of a query sum to 1, so the bias is there once.
    made = made if bias is None else made + bias
    comfy.ops.uncast_bias_weight(linear, weight, bias, stream)
    return made


def mix(q: Tensor, k: Tensor, parts: Iterable[Tensor], heads: int) -> Tensor:
    """What each head of q (b, n, d) reads of unprojected tokens: (b, h, n, y).

    k: (b, m, d), keys of all parts. parts: their tokens (b, m, y), one after the other.
    """
    weights, start, made = attention_weights(q, k, heads).flatten(1, 2), 0, None  # (b, h*n, m)
    for tokens in parts:
        own = weights[..., start : start + tokens.shape[1]]
        tokens = tokens.expand(len(q), -1, -1)
        made = own @ tokens if made is None else torch.baddbmm(made, own, tokens)
        start += tokens.shape[1]
    return made.unflatten(1, (heads, -1))


def attention_weights(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(e)) of q (b, n, d) on k (b, m, d): (b, h, n, m)."""
    # float32, as kernels of attention do inside.
    by_head: Sequence[Tensor] = [rearrange(x, "b n (h e) -> b h n e", h=heads).float() for x in (q, k)]
    scores = by_head[0] @ by_head[1].mT
    return torch.softmax(scores * by_head[0].shape[-1] ** -0.5, dim=-1).to(q.dtype)


def _weighted(q: Tensor, k: Tensor, values: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """values: (b, h * m, d) of each head and key, projected."""
    weights = rearrange(attention_weights(q, k, heads), "b h n m -> b n (h m)")
    values = values.expand(len(q), -1, -1)
    return weights @ values if bias is None else torch.baddbmm(bias, weights, values)


def _by_head(values: Tensor, weight: Tensor) -> Tensor:
    """Values (b, m, h * e) by the weights of their head (h, e, d): (b, h, m, d)."""
    made = torch.bmm(rearrange(values, "b m (h e) -> h (b m) e", h=len(weight)), weight)
    return rearrange(made, "h (b m) d -> b h m d", b=len(values))


def _taken(linear: Any, like: Tensor) -> tuple[Tensor, Tensor | None, Any]:
    """Weight and bias on the device and in the type of `like`, as the host's Linear takes them."""
    if linear.comfy_cast_weights or linear.weight_function or linear.bias_function:
        return comfy.ops.cast_bias_weight(linear, like, offloadable=True)
    return linear.weight, linear.bias, None
