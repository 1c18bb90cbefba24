"""A film in parts, each encoded by itself and joined by its packets: nothing of a part waits for another.

A part begins with a whole picture and holds no packet behind its last frame, so that the parts of a film that
was stopped and continued are those of one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import torch

from .container import open_file, picture_stream
from .remux import OPTIONS, encoded_frames, even_sides, h264_stream

# Of H.264: no difference to the frames is seen. The host's default of 23 is for films that are done with.
QUALITY = {"crf": "18"}


def write_part(images: torch.Tensor, fps: Fraction, path: Path) -> None:
    """Write an mp4 of frames (f, h, w, 3), which stand on the disk as a whole or not at all."""
    draft = path.with_suffix(".draft")
    with av.open(str(draft), "w", format="mp4") as output:
        target = h264_stream(output, *even_sides(images.shape[2], images.shape[1]), fps)
        target.options = QUALITY
        # Packets in the order of their frames, which join without a gap.
        target.codec_context.max_b_frames = 0
        for packet in encoded_frames(target, images):
            output.mux(packet)
    draft.replace(path)


def join_parts(parts: Sequence[tuple[Path, int]], fps: Fraction, path: Path) -> None:
    """Write an mp4 of the parts one behind the other. parts: of each its path and its frames."""
    done = 0
    with av.open(str(path), "w", format="mp4", options=OPTIONS) as output:
        target = None
        for part, frames in parts:
            with open_file(str(part)) as container:
                stream = picture_stream(container)
                if target is None:
                    target = output.add_stream_from_template(stream, opaque=True)
                shift = round(done / fps / stream.time_base)
                for packet in container.demux(stream):
                    if packet.pts is not None:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = target
                        output.mux(packet)
            done += frames
