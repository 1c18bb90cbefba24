"""What guidance costs: the work of the passes of a step, beside that of a step without guidance."""

from __future__ import annotations

from collections.abc import Mapping

from .config import CCLConfig, StreamConfig
from .guidance import Branch, StreamWeights
from .memory import Clip, stream_parameters


def stream_work(stream: StreamConfig, tokens: int) -> float:
    """FLOPs of a stream in one pass: each token meets each weight, and each token in self-attention.

    The coupling and the texts are left out: CCL 14B, Ovi and MOVA at their sizes take within 4 % of it, and
    their modes within 6 % of `relative_cost`, counted op by op as `benchmarks/steps.py` does.
    """
    return 2.0 * tokens * stream_parameters(stream) + 4.0 * stream.num_layers * stream.dim * tokens**2


def pass_work(config: CCLConfig, clip: Clip) -> dict[str, float]:
    """FLOPs of each stream of a clip in one pass."""
    work = {"video": stream_work(config.video, clip.video_tokens(config))}
    return work | ({"audio": stream_work(config.audio, clip.audio)} if clip.audio else {})


def relative_cost(weights: Mapping[Branch, StreamWeights], work: Mapping[str, float]) -> float:
    """Work of the branches of a step, in steps without guidance. work: of the streams that passes compute."""
    total = sum(
        share
        for branch, weight in weights.items()
        for stream, share in work.items()
        if _runs(branch, weight, stream)
    )
    return total / sum(work.values())


def _runs(branch: Branch, weight: StreamWeights, stream: str) -> bool:
    """In an anchor branch a stream without a weight is left out, since the other one does not read it."""
    return not branch.anchor or getattr(weight, stream) != 0
