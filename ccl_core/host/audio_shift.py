"""A sigma shift of the audio stream's own, on the steps of the video's schedule.

A shift is a factor k of the noise: with k = audio shift / video shift, the latent y = (1 - s) x0 / k + s
noise is (1 + (k - 1) s) / k times the latent of the audio's own sigma, k s / (1 + (k - 1) s). A sampler that
knows only the video's sigma s takes on y, from any denoise, the path of the audio's own schedule (euler: its
very steps), and the noise that ancestral and SDE samplers add is that of the audio's own sigma too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_sampling
import comfy.utils
from torch import Tensor

# The host's schedule with a shift per stream, by which nodes and samplers know that the audio is scaled. On a
# host without one (0.30) the schedule of the video carries the audio's shift beside its own.
PairSchedule: type = getattr(
    comfy.model_sampling, "ModelSamplingAV", comfy.model_sampling.ModelSamplingDiscreteFlow
)


def schedule_of(model_config: Any, video_shift: float, audio_shift: float) -> Any:
    """A schedule of the host's with a shift per stream."""

    class Schedule(PairSchedule, comfy.model_sampling.CONST):
        pass

    schedule = Schedule(model_config)
    schedule.set_parameters(shift=video_shift)
    schedule.audio_shift = audio_shift
    return schedule


def audio_noise_scale(audio_shift: float | None, model_sampling: Any) -> float:
    """k: by how much the audio is smaller while it is sampled. 1 without a shift of its own.

    audio_shift: the model's own, which that of a schedule with a shift per stream goes before. ValueError if
    the schedule of the video has no shift.
    """
    own = getattr(model_sampling, "audio_shift", None)
    audio_shift = audio_shift if own is None else own
    if audio_shift is None:
        return 1.0
    shift = getattr(model_sampling, "shift", None)
    if not isinstance(model_sampling, comfy.model_sampling.ModelSamplingDiscreteFlow) or not shift > 0:
        raise ValueError(
            f"the audio stream has a sigma shift of its own ({audio_shift}), which needs one of the video "
            f"above 0 to relate to, and its schedule has {shift}: set both with Stream Shift (CCL)"
        )
    return audio_shift / shift


def at_own_level(
    predict: Callable[[Tensor], Tensor],
    x: Tensor,
    sigma: Tensor,
    shapes: Sequence[Sequence[int]],
    audio_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """The prediction of the clean pair, packed (b, 1, n), where the audio in x is `scale` (k) times smaller.

    predict: the host's, which takes the audio of its own level and one step of the video's sigma. sigma:
    (b,). audio_mask: (b, 1, a), 0 where the audio is kept and so has no noise.
    """
    # 1 / (1 + (k - 1) s), see the head of this file. A kept token has s = 0 and is k times smaller alike.
    level = sigma[:, None, None]
    if audio_mask is not None:
        level = level * audio_mask
    shrink = 1 / (1 + (scale - 1) * level)  # (b, 1, 1 or a)
    video, audio = comfy.utils.unpack_latents(x, shapes)
    audio = audio * scale * shrink
    video, predicted = comfy.utils.unpack_latents(
        predict(comfy.utils.pack_latents([video, audio])[0]), shapes
    )
    # The host went one step of the video's sigma along the velocity; the audio's is scale * shrink of that.
    clean = audio - scale * shrink * (audio - predicted)
    return comfy.utils.pack_latents([video, clean / scale])[0]
