"""Frames of another rate have to be resampled to that of the latent, or refused.

Given are 33 frames of 32 fps (1.03 s), red and then blue, and a latent of 17 frames of 16 fps (1.06 s): it
takes the first 17 frames, half of the given time, and typing the rate changes nothing. The commonest
complaint about sound for a given video elsewhere: https://github.com/kijai/ComfyUI-MMAudio/issues/37, 4 and
68.
"""

from __future__ import annotations

from common import ComfyServer, Graph, ccl_tiny, images_of, log_of, run, server, verdict, with_images_saved


def frames(running: ComfyServer, fps: float) -> bytes:
    """The frames that come back, or the error."""
    graph = Graph()
    parts = ccl_tiny(graph, frames=17)
    halves = [
        graph.add("EmptyImage", width=64, height=64, batch_size=count, color=colour)
        for count, colour in ((17, 0xFF0000), (16, 0x0000FF))
    ]
    images = graph.add("ImageBatch", image1=halves[0], image2=halves[1])
    given = {"images": images, "video_vae": parts.video_vae, "audio_vae": parts.audio_vae, "fps": fps}
    latent = graph.add("CCLEncodeAV", latent=parts.latent, image_fit="crop", length_fit="pad", **given)
    result = run(running, with_images_saved(graph, parts, latent))
    return images_of(running, result.run).tobytes() if result.status == "success" else result.error.encode()


with server() as running:
    before = len(log_of(running))
    same = frames(running, 0.0) == frames(running, 32.0)
    warned = "WARNING" in log_of(running)[before:]
verdict(same and not warned, f"the same frames come back whatever rate is typed: {same}")
