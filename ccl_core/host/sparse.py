"""Sparse self-attention of the video on a MODEL, through the host's override of attention."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from ..model.sparse import MARKED, OVERRIDE, SparseOverride


def with_sparse_attention(model: ModelPatcher, keep: float) -> ModelPatcher:
    """A clone whose video reads this share of its key blocks; the override that was there serves the rest.

    keep: above 0; from 1 on attention is dense. ValueError for none at all.
    """
    if not keep > 0:
        raise ValueError(
            f"keep: got {keep}, wanted a share above 0 and up to 1, which is dense: .25 is usual"
        )
    clone = model.clone()
    # The clone has option dicts of its own.
    options = clone.model_options["transformer_options"]
    before = options.pop(OVERRIDE, None)
    if isinstance(before, SparseOverride):  # the last node decides
        before = before.before
        options.pop(MARKED)
    if keep < 1:
        options[MARKED] = True
        before = SparseOverride(keep, before)
    if before is not None:
        options[OVERRIDE] = before
    return clone
