"""The face mask of a talking face through CCLFaceMask, beside where the face of true clips is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ccl_bench import talking_nodes as nodes
from ccl_bench.generate import Loaded, batches
from ccl_tools.console import Ticker

if TYPE_CHECKING:
    import torch

    from ccl_pack.ccl_core.training.tiny.face_asked import AskedFace

# The noise level at which the model is asked, as in the node.
SIGMA = 0.3
# What a mask that was supervised must reach, and by how much it must be ahead of the best constant one.
GOAL, AHEAD = 0.75, 0.3


def masks(loaded: Loaded, asked: Sequence[AskedFace], batch: int) -> list[torch.Tensor]:
    """The mask that the model predicts of every true clip, (f, h, w) in pixels each."""
    from ccl_pack.ccl_core.training.world.face_score import TASKS
    from ccl_pack.nodes.face_mask import CCLFaceMask

    task = TASKS["joint"]
    ticker = Ticker(f"face masks, {len(asked)} clips")
    found: list[torch.Tensor] = []
    for some in batches(asked, batch):
        clips = [one.clip for one in some]
        latent = nodes.stack([nodes.encode(loaded, len(clip.frames), nodes.whole(clip)) for clip in clips])
        # What is kept is shown without noise: the mask is asked of a clip that is made.
        made = {key: value for key, value in latent.items() if key != "noise_mask"}
        positive = nodes.conditionings(loaded, some, task, made)["positive"]
        mask, _ = CCLFaceMask.execute(loaded.model, positive, made, SIGMA).result
        found += mask.chunk(len(some))
        ticker.tick(f"{len(found)} of {len(asked)} done")
    ticker.done()
    return found


def measure(loaded: Loaded, asked: Sequence[AskedFace], batch: int) -> dict[str, Any] | None:
    """How the predicted masks lie on the faces, None of a model without one."""
    from ccl_pack.ccl_core.host.face_mask import has_face_mask

    if not has_face_mask(loaded.model.model.ccl_config):
        return None
    return compare(loaded.model, asked, masks(loaded, asked, batch))


def compare(model: Any, asked: Sequence[AskedFace], found: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Masks (f, h, w) in pixels against the true regions: on tokens the face, in pixels all regions."""
    import torch

    from ccl_pack.ccl_core.host.face_mask import on_tokens
    from ccl_pack.ccl_core.host.media.latents import model_grid
    from ccl_pack.ccl_core.training.world import face_regions as world

    cell = model_grid(model).cell
    regions = [world.regions_of(one.clip) for one in asked]
    height, width = (side // cell for side in found[0].shape[1:])
    faces = [on_tokens(torch.from_numpy(some[world.FACE]), height, width) for some in regions]
    tokens = [on_tokens(mask, height, width) for mask in found]
    iou = ratio([world.overlap(*pair) for pair in zip(tokens, faces, strict=True)])
    constant = world.best_constant(faces)
    lying = [world.shares(*pair) for pair in zip(found, regions, strict=True)]
    return {
        "sigma": SIGMA,
        "grid": [height, width],
        "iou": iou,
        "constant_iou": round(constant, 4),
        "goal": {"iou": GOAL, "ahead": AHEAD, "met": iou >= GOAL and iou >= constant + AHEAD},
        "share": by_region(lying, slice(2)),
        "mean": by_region(lying, slice(None, None, 2)),
    }


def by_region(lying: Sequence[dict[str, tuple[float, ...]]], which: slice) -> dict[str, float | None]:
    """The ratio of two of the numbers of `shares` over all clips."""
    pairs: dict[str, list[tuple[float, ...]]] = {name: [] for name in lying[0]}
    for row in lying:
        for name, numbers in row.items():
            pairs[name].append(numbers[which])
    return {name: ratio(some) for name, some in pairs.items()}


def ratio(pairs: Sequence[Sequence[float]]) -> float | None:
    """The sum of the parts over that of the wholes; None of nothing."""
    part, whole = map(sum, zip(*pairs, strict=True))
    return round(part / whole, 4) if whole else None
