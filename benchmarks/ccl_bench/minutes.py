"""FLOPs of a step of the published models, and the minutes that a card needs for a run of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccl_bench.steps import Size

# Dense bf16 TFLOP/s with float32 sums, by the makers' data sheets.
CARDS = {"RTX 3060 12 GB": 25, "RTX 4070": 58, "RTX 3090": 71, "RTX 4090": 165, "RTX 5090": 210}
# Of that, what a run of large matrices reaches; an assumption.
SHARE = 0.5
STEPS = 50  # as published
HEAD = f"| clip | PFLOP a step | {' | '.join(CARDS)} |\n|---|---|{'---|' * len(CARDS)}"


def sizes() -> dict[str, Size]:
    """The published clips: latent frames, height, width, and audio tokens."""
    from ccl_bench.published_sizes import mova, ovi
    from ccl_bench.steps import Size

    return {
        "Ovi, 832x480, 5 s": Size(ovi(), (31, 30, 52), 157),
        "Ovi, 832x480, 10 s": Size(ovi(), (61, 30, 52), 314),
        "Ovi, 720x720, 5 s": Size(ovi(), (31, 44, 44), 157),
        "Ovi, 960x960, 5 s": Size(ovi(), (31, 60, 60), 157),
        "MOVA 360p, 8 s": Size(mova(), (49, 44, 80), 403),
        "Prism, 848x480, 2 s": Size(mova(), (13, 60, 106), 103),
        "Prism, 848x480, 8.5 s": Size(mova(), (52, 60, 106), 428),
    }


def petaflops(size: Size) -> float:
    """PFLOP of a step under `cfg`, which is two passes."""
    from ccl_bench.counters import Flops
    from ccl_bench.steps import count, patcher_on_meta

    counter = Flops()
    return count(patcher_on_meta(size.config, counter), counter, size).later / 1e15


def minutes(step: float, card: int) -> float:
    return STEPS * step * 1e15 / (card * 1e12 * SHARE) / 60


def row(name: str, step: float) -> str:
    times = " | ".join(f"{minutes(step, card):.0f}" for card in CARDS.values())
    return f"| {name} | {step:.2f} | {times} |"
