"""How the latents of each kind of model count time: a row of GRIDS for each.

The rows of models that are not the pack's state what ComfyUI's own code says of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .timeline import HALF, TEMPORAL_STRIDE


@dataclass(frozen=True)
class Steps:
    """How many units the steps of a stream hold: frames in a latent frame, equal bits of sound in a token.

    first: of the first steps of a clip. cycle: of those behind them, again and again. rest: of the steps of a
    clip, how many are left beyond whole cycles.
    """

    cycle: tuple[int, ...] = (1,)
    first: tuple[int, ...] = ()
    rest: int = 0

    @property
    def mean(self) -> Fraction:
        """Units of a step behind the first ones."""
        return Fraction(sum(self.cycle), len(self.cycle))

    def before(self, step: int) -> int:
        """Units in front of a step of a whole clip: those of a clip of so many steps."""
        cycles, left = divmod(max(0, step - len(self.first)), len(self.cycle))
        return sum(self.first[:step]) + cycles * sum(self.cycle) + sum(self.cycle[:left])

    def held(self, step: int) -> int:
        """Units in a step."""
        return self.before(step + 1) - self.before(step)

    def filled(self, units: int) -> int:
        """Steps that so many units fill."""
        return bisect_right(range(units + 2), units, key=self.before) - 1

    def covering(self, units: int) -> int:
        """Steps of the shortest clip that holds so many units."""
        return self._length(bisect_left(range(units + 2), units, key=self.before), math.ceil)

    def nearest(self, units: Fraction) -> int:
        """The step that begins nearest to so many units."""
        step = self.filled(math.floor(units))
        return step + (2 * (units - self.before(step)) >= self.held(step))

    def nearest_length(self, units: Fraction) -> int:
        """Steps of a clip that ends nearest to so many units."""
        return self._length(self.nearest(units), lambda cycles: math.floor(cycles + HALF))

    def _length(self, steps: int, rounded: Callable[[Fraction], int]) -> int:
        return self.rest + len(self.cycle) * rounded(Fraction(steps - self.rest, len(self.cycle)))

    def nearest_cut(self, units: Fraction) -> int:
        """The step nearest to so many units with which a clip of its own can begin: each one of a cycle."""
        return math.floor(units / sum(self.cycle) + HALF) * len(self.cycle)

    def unit_of_cut(self, step: int) -> int:
        """The unit with which a clip begins that is cut to begin with a step of a whole one."""
        # It is the first step of the clip then, which has one unit: the last one that it holds.
        return self.before(step + 1) - 1

    def last_cut(self, steps: int) -> int:
        """The last step of a clip with which another one can begin, or the one behind its end."""
        # Where the first step holds less than others, it is the picture with which the clip ends.
        return (steps - len(self.first)) // len(self.cycle) * len(self.cycle)


@dataclass(frozen=True)
class TimeGrid:
    """Both streams of the latents of a kind of model.

    video_channels: by which its video is told, none: any. audio_sizes: of the axes of its sound behind batch
    and channels, None for that of time. fps, audio_rate (tokens a second): where the model fixes them.
    tokens: rounds those of a video to whole ones. patch: latent cells along a side of a patch.
    """

    name: str
    video: Steps
    audio: Steps = Steps()
    video_channels: tuple[int, ...] = ()
    audio_channels: int | None = None
    audio_sizes: tuple[int | None, ...] = (None,)
    fps: Fraction | None = None
    audio_rate: Fraction | None = None
    tokens: Callable[[Fraction], int] = math.ceil
    patch: int = 2

    @property
    def audio_axis(self) -> int:
        """The axis of time of its sound (b, c, ...)."""
        return 2 + self.audio_sizes.index(None)

    @property
    def audio_form(self) -> str:
        """The shape of its sound, for messages."""
        sizes = ["a" if size is None else str(size) for size in self.audio_sizes]
        return f"(b, {', '.join([str(self.audio_channels or 'c'), *sizes])})"

    def has_video(self, shape: Sequence[int]) -> bool:
        """Whether a latent of this shape is its video."""
        return len(shape) == 5 and shape[1] in (self.video_channels or (shape[1],))

    def has_audio(self, shape: Sequence[int]) -> bool:
        """Whether a latent of this shape is its sound."""
        wanted = (self.audio_channels, *self.audio_sizes)
        return len(shape) == 1 + len(wanted) and all(
            size in (None, found) for size, found in zip(wanted, shape[1:], strict=True)
        )


WAN = TimeGrid("Wan", Steps((TEMPORAL_STRIDE,), first=(1,)))
GRIDS = (
    # comfy/latent_formats.py, LTXV: 128 channels, temporal_downscale_ratio 8; the first latent frame is one
    # frame (`latent_to_pixel_coords`, causal_fix). comfy/ldm/lightricks/av_model.py: 8 channels and 16
    # frequencies of sound. `AudioPatchifier`, as the model makes it: a token is 4 hops of 160 samples at
    # 16000 Hz, the first one a single hop. `num_of_latents_from_frames` rounds up (to the nearest in 0.33).
    # `SymmetricPatchifier(1)`: a patch is one cell.
    TimeGrid(
        "LTX-2",
        Steps((8,), first=(1,)),
        Steps((4,), first=(1,)),
        video_channels=(128,),
        audio_channels=8,
        audio_sizes=(None, 16),
        audio_rate=Fraction(16000, 4 * 160),
        patch=1,
    ),
    # comfy/ldm/minimax/model.py: FRAME_PER_TOKEN. comfy_extras/nodes_minimax_h3.py: FPS, AUDIO_LATENT_FPS,
    # lengths of 5 k + 2 latent frames, the sound (b, 32, 2, a), and `round`.
    TimeGrid(
        "MiniMax H3",
        Steps((1, 4, 4, 4, 4), rest=2),
        video_channels=(24,),
        audio_channels=32,
        audio_sizes=(2, None),
        fps=Fraction(24),
        audio_rate=Fraction(40),
        tokens=round,
    ),
    WAN,
)


def grid_of_shapes(video: Sequence[int] | None, audio: Sequence[int] | None) -> TimeGrid | None:
    """The row of a latent with streams of these shapes, None for no stream; None where no row has both."""
    for grid in GRIDS:
        known = video is None or grid.has_video(video)
        if known and (audio is None or grid.has_audio(audio)):
            return grid
    return None
