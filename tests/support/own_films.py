"""A clip of the procedural world as the film of a person."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio

from ccl_pack.ccl_core.training.world.scene import SAMPLE_RATE, Clip

RATE = 44100


def write_clip(path: Path, clip: Clip, fps: Fraction | int) -> Path:
    """As a camera does: H.264 and AAC in an mp4."""
    waveform = torchaudio.functional.resample(torch.from_numpy(clip.waveform)[None], SAMPLE_RATE, RATE)
    with av.open(str(path), "w") as output:
        video = output.add_stream("h264", rate=fps, options={"crf": "16"})
        video.height, video.width = clip.frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = output.add_stream("aac", rate=RATE, layout="stereo", bit_rate=192000)
        for image in clip.frames:
            output.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        output.mux(video.encode(None))
        samples = np.ascontiguousarray(waveform.expand(2, -1).numpy())
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate = RATE
        output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    return path
