"""CCLMemoryPlan: what a model, a latent and a guidance mode will take in memory, before the run."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from server import PromptServer

from ..ccl_core.guidance import MODES
from ..ccl_core.host.memory_report import report
from ..ccl_core.host.published import sampling_of
from .inputs import FROM_MODEL, model_input
from .node import CCLNode


class CCLMemoryPlan(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLMemoryPlan",
            display_name="Memory Plan (CCL)",
            category="CCL/sampling",
            description="Tells before the run whether model, size and guidance fit this machine, and what "
            "helps.",
            search_aliases=[
                "vram",
                "out of memory",
                "oom",
                "offload",
                "memory estimate",
                "will it fit",
                "low vram",
                "how much vram",
                "does it fit",
            ],
            is_output_node=True,
            inputs=[
                model_input(),
                io.Latent.Input(
                    "latent_image", tooltip="What will be sampled; a plain video latent means no audio."
                ),
                io.Combo.Input(
                    "mode",
                    options=[FROM_MODEL, *MODES],
                    default=FROM_MODEL,
                    tooltip="The guidance mode of the sampler. from model: the one the model was published "
                    "with.",
                ),
            ],
            outputs=[io.String.Output("report", tooltip="The plan as text; it also stands on the node.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        # NaN equals nothing, so the host runs the node each time: the free memory may have changed.
        return float("nan")

    @classmethod
    def execute(cls, model: Any, latent_image: dict[str, Any], mode: str) -> io.NodeOutput:
        text = report(model, latent_image, sampling_of(model).mode if mode == FROM_MODEL else mode)
        # The frontend shows `ui` text on nodes of its own only, but progress text on every node.
        if cls.hidden and cls.hidden.unique_id:
            PromptServer.instance.send_progress_text(text, cls.hidden.unique_id)
        return io.NodeOutput(text, ui=ui.PreviewText(text))
