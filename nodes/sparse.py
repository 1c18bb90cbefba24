"""CCLSparseAttention: block-sparse self-attention of the video."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ccl_core.host.base_model import CCLModel
from ..ccl_core.host.sparse import with_sparse_attention
from .inputs import model_input, titles
from .node import CCLNode


class CCLSparseAttention(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLSparseAttention",
            display_name="Sparse Attention (CCL)",
            category="CCL/sampling",
            description="Lets each block of 4x4x4 video tokens read only the blocks that suit it best. "
            "Without this node attention is dense, which is most of the work at 720p and above.",
            search_aliases=[
                "block sparse attention",
                "sparse attention wan",
                "faster attention 720p",
                "video self-attention top-k",
            ],
            inputs=[
                model_input(),
                io.Float.Input(
                    "keep",
                    default=0.25,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of the key blocks that a block of queries reads. Models were trained with "
                    ".25; 1 is dense.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The model with sparse self-attention of the video.")],
        )

    @classmethod
    def execute(cls, model: Any, keep: float) -> io.NodeOutput:
        if not isinstance(model.model, CCLModel):
            raise ValueError(
                f"model: got {type(model.model).__name__}, which does not say where its video tokens lie: "
                f"load a joint model ({titles(', ')}), or put this Wan file into one with CCLModelAssembler"
            )
        return io.NodeOutput(with_sparse_attention(model, keep))
