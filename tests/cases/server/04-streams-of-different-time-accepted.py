"""Streams of different length in one latent have to be refused or repaired, or at least named.

Here a video of 33 frames (2.06 s) is joined with the sound of 9 (.56 s); and TrimVideoLatent cuts one step
off the axis of time of each stream: 4 frames (.25 s) and one token of the sound (.03 s).
"""

from __future__ import annotations

from common import (
    Graph,
    ccl_tiny,
    joint_sampler,
    ksampler,
    log_of,
    output,
    run,
    server,
    verdict,
    with_sound_saved,
)


def joined() -> Graph:
    graph = Graph()
    parts = ccl_tiny(graph, frames=9)
    video = graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=33, batch_size=1)
    sound = output(graph.add("LTXVSeparateAVLatent", av_latent=parts.latent), 1)
    both = graph.add("LTXVConcatAVLatent", video_latent=video, audio_latent=sound)
    return with_sound_saved(graph, parts, joint_sampler(graph, parts.but(latent=both)), fps=16.0)


def trimmed() -> Graph:
    graph = Graph()
    parts = ccl_tiny(graph)
    latent = graph.add("TrimVideoLatent", samples=ksampler(graph, parts), trim_amount=1)
    return with_sound_saved(graph, parts, latent, fps=16.0)


silent = []
with server() as running:
    for name, make in (("joined", joined), ("trimmed", trimmed)):
        before = len(log_of(running))
        result = run(running, make())
        print(name, result.status, result.error[:200])
        said = result.status != "success" or "WARNING" in log_of(running)[before:]
        silent += [] if said else [name]
verdict(bool(silent), f"neither an error nor a warning: {silent}")
