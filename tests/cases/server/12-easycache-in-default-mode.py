"""EasyCache has to lose no more in the mode ucg_joint, that of ccl-tiny, than in the mode cfg.

The host clears its mark of a skipped step in every `calc_cond_batch`. The guider calls that once for each
group of routes, so that the coupled pass of a step is skipped and the anchor's is not, and the scale
multiplies the difference.
"""

from __future__ import annotations

from typing import Any

from common import (
    CFG,
    ComfyServer,
    Graph,
    ccl_tiny,
    images_of,
    joint_sampler,
    run,
    server,
    verdict,
    with_images_saved,
)

MODES = {"cfg": CFG, "ucg_joint": CFG | {"mode": "ucg_joint"}}
CACHE = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}


def frames(running: ComfyServer, mode: dict[str, Any], cached: bool) -> Any:
    graph = Graph()
    parts = ccl_tiny(graph, frames=17)
    if cached:
        parts = parts.but(model=graph.add("EasyCache", model=parts.model, **CACHE))
    made = run(running, with_images_saved(graph, parts, joint_sampler(graph, parts, steps=30, **mode)))
    return images_of(running, made.run).astype("f4")


with server() as running:
    loss = {
        name: float(abs(frames(running, mode, True) - frames(running, mode, False)).mean())
        for name, mode in MODES.items()
    }
verdict(loss["ucg_joint"] > 1.5 * loss["cfg"], f"mean difference of the pixels, cached and not: {loss}")
