"""What nodes of KJNodes that patch Wan's modules do to each joint model, with sound and without.

    PYTHONPATH=scripts:tests python tests/cases/model/kjnodes.py /path/of/ComfyUI-KJNodes

"by": how far the node moves the video, as a part of its largest value; never 0 but where a node changes no
result (chunks of the feed-forward). "from Wan": how far the patched video is from that of the host's Wan
under the same node, on a coupling that is still fresh; wanted 0. Below the boundary MOVA's low-noise expert
runs alone.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path

from small_models import (
    ARGUMENTS,
    ModelPatcher,
    av_latent,
    ccl,
    low_noise_of,
    mova,
    ovi,
    relative,
    sample,
    tiny,
    wan_of,
)

Node = Callable[[ModelPatcher], ModelPatcher]
# Each with the part of the run: below MOVA's boundary of .9 its low-noise expert runs alone.
RUNS = {
    "CCL": (ccl, 1.0),
    "Ovi": (ovi, 1.0),
    "MOVA, one expert": (partial(mova, experts=1), 1.0),
    "MOVA, low-noise expert": (mova, 0.5),
}


def load(folder: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """Its two files of nodes, as the host would load them: their server has to be there."""
    import server

    server.PromptServer(asyncio.new_event_loop())
    for name, place in (("kjnodes", folder), ("kjnodes.nodes", folder / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package
    names = ("kjnodes.nodes.model_optimization_nodes", "kjnodes.nodes.nodes")
    return tuple(importlib.import_module(name) for name in names)


def nodes_of(folder: Path, latent: dict) -> dict[str, Node]:
    """Each node as it starts, but for a frequency of RIFLEx that small heads have, and for small chunks."""
    patches, others = load(folder)
    text = tiny.conditioning(21)
    return {
        "NAG": lambda model: patches.WanVideoNAG().patch(model, text, 11.0, 0.25, 2.5)[0],
        "Enhance-A-Video": lambda model: patches.WanVideoEnhanceAVideoKJ().enhance(model, 2.0, latent)[0],
        "RIFLEx": lambda model: others.ApplyRifleXRoPE_WanVideo().patch(model, latent, 3)[0],
        "chunked feed-forward": lambda model: patches.WanChunkFeedForward.execute(model, 2, 4).args[0],
    }


def report(name: str, node: Node, family: str, make: Callable[..., ModelPatcher], denoise: float) -> None:
    run = partial(sample, cfg=1.0, denoise=denoise)
    coupled, fresh = make(), make(fresh=True)
    plain = wan_of(fresh, low_noise=denoise < 1.0)
    alone = av_latent(coupled, sound=False)
    wanted = run(node(plain), alone)[0]
    parts = [f"moves Wan by {relative(wanted, run(plain, alone)[0]):.1e}"]
    for title, latent in (("with sound", av_latent(coupled)), ("video alone", alone)):
        moved = relative(run(node(coupled), latent)[0], run(coupled, latent)[0])
        apart = relative(run(node(fresh), latent)[0], wanted)
        parts.append(f"{title} by {moved:.1e}, from Wan {apart:.1e}")
    print(f"{name}, {family}: {'; '.join(parts)}; chunks {chunks_of(fresh)}")


def chunks_of(model: ModelPatcher) -> list[int]:
    """The chunks in which each expert ran its feed-forward: the node's function leaves the number there."""
    experts = [expert for expert in (model, low_noise_of(model)) if expert is not None]
    return [getattr(expert.model.diffusion_model.blocks[0].ffn, "num_chunks", 0) for expert in experts]


def main() -> None:
    if len(ARGUMENTS) != 1:
        raise SystemExit("name the folder of ComfyUI-KJNodes: python tests/cases/model/kjnodes.py FOLDER")
    latent = av_latent(ccl(), sound=False)
    for name, node in nodes_of(Path(ARGUMENTS[0]).resolve(), latent).items():
        for family, (make, denoise) in RUNS.items():
            report(name, node, family, make, denoise)


main()
