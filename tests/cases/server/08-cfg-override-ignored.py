"""CFGOverride on the model has to act in CCLJointSampler as in KSampler, or be refused there."""

from __future__ import annotations

from collections.abc import Callable

from common import (
    ComfyServer,
    Graph,
    Link,
    ccl_tiny,
    joint_sampler,
    ksampler,
    run,
    samples_of,
    server,
    verdict,
    with_sound_saved,
)


def sound(running: ComfyServer, sampler: Callable[..., Link], override: bool) -> bytes:
    graph = Graph()
    parts = ccl_tiny(graph)
    if override:
        span = {"start_percent": 0.0, "end_percent": 1.0}
        parts = parts.but(model=graph.add("CFGOverride", model=parts.model, cfg=1.0, **span))
    made = run(running, with_sound_saved(graph, parts, sampler(graph, parts, steps=4)))
    return samples_of(running, made.run).tobytes()


with server() as running:
    same = {
        sampler.__name__: sound(running, sampler, True) == sound(running, sampler, False)
        for sampler in (ksampler, joint_sampler)
    }
verdict(
    same["joint_sampler"] and not same["ksampler"],
    f"the sound is the same with CFGOverride and without: {same}",
)
