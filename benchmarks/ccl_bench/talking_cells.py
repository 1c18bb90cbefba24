"""The cells of benchmarks/talking_ablations.py: the interactions and the face masks of a talking face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ccl_bench.cells import Cell
from ccl_bench.talking_mask import by_region, ratio

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ccl_pack.ccl_core.training.finetune.cache import EncodedClip
    from ccl_pack.ccl_core.training.finetune.trainer import FineTuner

# Who sees whom, as options of the asymmetric interaction.
FORMS = {
    "asymmetric": {"window": 1, "window_unit": "latents", "interpolation": "centres"},
    "aligned": {"window": 0, "window_unit": "latents", "interpolation": "own"},
    "global": {"window": None, "interpolation": "all"},
}
DECAYING, FIXED, FREE = (0.1, 0.0), (0.1, 0.1), (0.0, 0.0)


def interaction_cells() -> list[Cell]:
    """Every form with a clock inside, then every form without; the mask as in the paper."""
    return [
        Cell(
            form if clock else f"{form}-no-clock",
            f"{form}, {'clock' if clock else 'no clock'}",
            how | {"clock_inside": clock, "face_mask": True},
            {"face_weight": DECAYING},
        )
        for clock in (True, False)
        for form, how in FORMS.items()
    ]


def mask_cell(name: str, title: str, mask: bool, weight: tuple[float, float]) -> Cell:
    how = FORMS["asymmetric"] | {"clock_inside": True, "face_mask": mask}
    return Cell(name, title, how, {"face_weight": weight})


INTERACTIONS = interaction_cells()
# Whose mask decays, and which all others are compared with.
REFERENCE = INTERACTIONS[0]
MASKS = [
    mask_cell("mask-none", "no mask", mask=False, weight=FREE),
    mask_cell("mask-unsupervised", "mask without faces to learn from", mask=True, weight=FREE),
    mask_cell("mask-fixed", "mask, weight .1", mask=True, weight=FIXED),
]
CELLS = {cell.name: cell for cell in [*INTERACTIONS, *MASKS]}

# A face of the cache and the one that is drawn again differ by what a film loses.
SAME = 0.05


class MaskProbe:
    """Where the face mask lies on the held-out clips, on the grid of tokens; nothing without a mask."""

    def __init__(self, clips: Sequence[EncodedClip]) -> None:
        self.clips = list(clips)
        self.faces = [clip.beside["face"] for clip in clips]
        self.regions = [regions_on_tokens(clip) for clip in clips]

    def __call__(self, trainer: FineTuner) -> dict[str, Any]:
        if not trainer.config.interaction.options.face_mask:
            return {}
        return {"mask": self.compare(masks(trainer, self.clips))}

    def compare(self, found: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Masks (t, h, w) against the faces and all regions of the clips."""
        from ccl_pack.ccl_core.training.world import face_regions as world

        lying = [world.shares(*pair) for pair in zip(found, self.regions, strict=True)]
        return {
            "iou": ratio([world.overlap(*pair) for pair in zip(found, self.faces, strict=True)]),
            "constant_iou": round(world.best_constant(self.faces), 4),
            "share": by_region(lying, slice(2)),
            "mean": by_region(lying, slice(None, None, 2)),
        }


def masks(trainer: FineTuner, clips: Sequence[EncodedClip]) -> list[torch.Tensor]:
    """The mask (t, h, w) of each clip in a joint pass at the noise of Show Face Mask, mean over layers."""
    import torch

    from ccl_bench.cell_probe import AT_ONCE
    from ccl_pack.ccl_core.training.finetune.order import generator_of

    found: list[torch.Tensor] = []
    uniform = torch.full((len(clips),), before_shift(trainer))
    with torch.no_grad(), Tap(trainer.model.interaction.values()) as tap:
        for first in range(0, len(clips), AT_ONCE):
            some = clips[first : first + AT_ONCE]
            noise = generator_of(0, "mask probe", first)
            trainer.losses(some, ["joint"] * len(some), uniform[first : first + AT_ONCE], noise)
            mean = torch.stack(tap.taken()).mean(dim=0).cpu()
            found += mean.view(len(some), *clips[0].beside["face"].shape).unbind()
    return found


def before_shift(trainer: FineTuner) -> float:
    """The uniform number that becomes the noise level at which masks are shown."""
    import torch

    from ccl_bench.talking_mask import SIGMA
    from ccl_pack.ccl_core.training.flow import shifted

    train = trainer.settings.train
    shift = trainer.config.shift if train.shift is None else train.shift
    return float(shifted(torch.tensor(SIGMA), 1 / shift))


class Tap:
    """Inside, keeps the masks that layers predict."""

    def __init__(self, layers: Any) -> None:
        self.hooks = [layer.a2v.face.register_forward_hook(self._keep) for layer in layers]
        self.kept: list[torch.Tensor] = []

    def _keep(self, _module: Any, _given: Any, mask: torch.Tensor) -> None:
        self.kept.append(mask.float())

    def taken(self) -> list[torch.Tensor]:
        """Those since the last call, a layer each: (b, v, 1)."""
        kept, self.kept = self.kept, []
        return kept

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def regions_on_tokens(clip: EncodedClip) -> dict[str, np.ndarray]:
    """Where mouth, faces and object of a cached clip are, (t, h, w).

    ScriptError for a clip that the world does not draw so.
    """
    import torch

    from ccl_pack.ccl_core.alignment.timeline import frames_of
    from ccl_pack.ccl_core.host.face_mask import on_tokens
    from ccl_pack.ccl_core.training.tiny.face_clips import drawn_again
    from ccl_pack.ccl_core.training.world.face_regions import FACE, regions_of
    from ccl_tools.console import ScriptError

    remedy = "encode clips that this version of train_tiny.py faces wrote"
    face = clip.beside["face"]
    frames, height, width = frames_of(len(face)), *face.shape[1:]
    try:
        drawn = drawn_again(clip.name, frames)
    except ValueError as error:
        raise ScriptError(str(error), remedy) from error
    covers = {name: torch.from_numpy(cover) for name, cover in regions_of(drawn).items()}
    tokens = {name: on_tokens(cover, height, width) for name, cover in covers.items()}
    if float((tokens[FACE] - face).abs().mean()) > SAME:
        raise ScriptError(f"the face of {clip.name} in the cache is not where it is drawn today", remedy)
    return {name: cover.numpy() for name, cover in tokens.items()}
