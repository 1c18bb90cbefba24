"""The nodes of the pack."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .audio_vae import CCLAudioVAELoader
from .conditioning import CCLDualPrompt
from .cutting import CCLJoinAV, CCLTrimAV
from .decoding import CCLDecodeAV
from .encoding import CCLEncodeAV
from .face_mask import CCLFaceMask, CCLFaceModulation, CCLSpeakerMasks
from .guidance import CCLGuider, CCLJointSampler
from .inspecting import CCLInspectAV
from .latent_files import CCLLoadAVLatent, CCLSaveAVLatent
from .latents import CCLEmptyAVLatent
from .loaders import CCLCheckpointLoader, CCLModelAssembler, CCLModelLoader
from .looping import CCLLoopSampler
from .lora import CCLLoraLoader
from .memory import CCLMemoryPlan
from .prompts import CCLPrompt, CCLPromptTags
from .references import CCLReferences
from .shift import CCLStreamShift
from .sparse import CCLSparseAttention
from .storyboard import CCLStoryboard
from .substeps import CCLSubstepSampler
from .tasks import CCLMaskAV, CCLSetTask
from .upscale import CCLUpscaleAV

CORE = Path(__file__).resolve().parents[1] / "ccl_core"
CHECKPOINTS = CORE / "checkpoints"
DIFFUSION_MODELS = CORE / "diffusion_models"

# Saved workflows hold the ids, which are the names of these classes: never rename one.
NODES: list[type[io.ComfyNode]] = [
    CCLCheckpointLoader,
    CCLModelLoader,
    CCLModelAssembler,
    CCLAudioVAELoader,
    CCLLoraLoader,
    CCLEmptyAVLatent,
    CCLEncodeAV,
    CCLSetTask,
    CCLMaskAV,
    CCLTrimAV,
    CCLJoinAV,
    CCLSaveAVLatent,
    CCLLoadAVLatent,
    CCLInspectAV,
    CCLUpscaleAV,
    CCLSpeakerMasks,
    CCLDecodeAV,
    CCLPrompt,
    CCLPromptTags,
    CCLStoryboard,
    CCLDualPrompt,
    CCLReferences,
    CCLStreamShift,
    CCLSparseAttention,
    CCLFaceModulation,
    CCLFaceMask,
    CCLGuider,
    CCLJointSampler,
    CCLLoopSampler,
    CCLSubstepSampler,
    CCLMemoryPlan,
]


class CCLExtension(ComfyExtension):
    """What the host asks for: the nodes, and where the embedded weights lie."""

    async def on_load(self) -> None:
        # Beside the user's folders: the host's own loaders list the tiny models too.
        for folder in (CHECKPOINTS, DIFFUSION_MODELS):
            folder_paths.add_model_folder_path(folder.name, str(folder))

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
