"""RenormCFG, which runs on the AV latents of LTX-2, has to run on those of a joint model."""

from __future__ import annotations

from common import Graph, ccl_tiny, ksampler, run, server, verdict, with_sound_saved

graph = Graph()
parts = ccl_tiny(graph)
parts = parts.but(model=graph.add("RenormCFG", model=parts.model, cfg_trunc=100.0, renorm_cfg=1.0))
with server() as running:
    result = run(running, with_sound_saved(graph, parts, ksampler(graph, parts)))
verdict(result.status != "success", f"{result.status} {result.error}")
