"""Whether the two streams of a latent cover the same seconds."""

from __future__ import annotations

import math
from fractions import Fraction

from .sizing import pinned_at
from .time_grid import WAN, Steps


def disagreement(
    latent_frames: int, tokens: int, fps: Fraction, audio_rate: Fraction, steps: Steps = WAN.video
) -> str | None:
    """A sentence with the seconds of both streams where they differ, None where they agree.

    A sound agrees that ends anywhere from the end of the frames to that of as many full latent frames (the
    paper gives the short first one as many tokens as the others), or that a family was trained with. An audio
    VAE may round the last token down. steps: of the video.
    """
    frames = steps.before(latent_frames)
    fewest = math.floor(frames / fps * audio_rate) - 1
    most = math.ceil(steps.mean * latent_frames / fps * audio_rate)
    if fewest <= tokens <= most or (latent_frames, tokens) in pinned_at(fps, audio_rate):
        return None
    return (
        f"the video is {float(frames / fps):.3f} s long ({frames} frames at {float(fps):g} fps), the sound "
        f"{float(tokens / audio_rate):.3f} s ({tokens} tokens of {float(audio_rate):g} a second)"
    )
