"""Which tokens of a stream the coupling reads and writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ccl_pack.ccl_core.model.spans import add_to_span
from support.tiny import CONFIG, latents, patcher


@pytest.mark.parametrize("span", [slice(0, 5), slice(0, 2), slice(1, 4), slice(3, 5)])
def test_a_residual_changes_the_tokens_of_its_span_alone(span: slice) -> None:
    tokens, delta = torch.randn(2, 5, 3), torch.randn(2, span.stop - span.start, 3)
    before = tokens.clone()
    wanted = tokens.clone()
    wanted[:, span] += delta
    assert torch.equal(add_to_span(tokens, span, delta), wanted)
    assert torch.equal(tokens, before)


def test_references_take_no_part_in_the_coupling() -> None:
    """Those before the latent, those behind it, and frames added to it."""
    model = patcher(video=replace(CONFIG.video, in_dim_ref_conv=16)).model.diffusion_model
    conds = {
        "reference_latent": torch.randn(1, 16, 4, 6),
        "context_latents": [torch.randn(1, 16, 1, 4, 6)],
        "time_dim_concat": torch.randn(1, 16, 1, 4, 6),
    }
    text, time = torch.randn(1, 5, 24), torch.tensor([500.0])
    tokens, video = model.embed_video(latents()[0], time, text, {}, **conds)
    assert tokens.shape[1] == 6 + 18 + 6 + 6
    assert video.spans.seen == video.spans.updated == slice(6, 24)
    _, audio = model.audio.embed_audio(latents()[1], time, text, range(18), {})
    assert audio.spans.seen == audio.spans.updated == slice(0, 18)
