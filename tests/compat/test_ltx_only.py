"""Nodes that read what only LTX-2 has: with which words they stop on a joint model.

docs/compatibility.md names them. Where one of them runs one day, it is a row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import comfy.samplers
import comfy_extras.nodes_lt as lt
import comfy_extras.nodes_lt_audio as lt_audio
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_extras.nodes_custom_sampler import RandomNoise

import nodes as host_nodes
from ccl_pack.ccl_core.host.files import build
from support.compatibility.checkouts import KJNODES, LTXVIDEO, module
from support.compatibility.packs import of_models, video
from support.tiny import av_latent, conditioning, latents, patcher

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
BLOCKS = "'JointModel' object has no attribute 'transformer_blocks'"
TEXTS = conditioning(1), conditioning(2)
SOUND = {"waveform": torch.randn(1, 1, 16000), "sample_rate": 16000}
CCL_TINY = Path(build.__file__).parents[2] / "checkpoints" / "ccl-tiny.safetensors"
HOST = "ComfyUI"


def of_ltx(name: str) -> Any:
    return module(LTXVIDEO, name)


def with_stg(model: ModelPatcher) -> ModelPatcher:
    return of_ltx("stg").LTXVApplySTG().apply_stg(model, "1")[0]


def stg_advanced(model: ModelPatcher) -> Any:
    lists = "1.0, 0.9", "3, 3", "1, 1", "1, 1", "[1], [1]"
    return of_ltx("stg").STGGuiderAdvancedNode().get_guider(with_stg(model), *TEXTS, 0.997, False, *lists)


def normalising_sampler(model: ModelPatcher) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*TEXTS)
    run = RandomNoise.execute(1).args[0], guider, comfy.samplers.sampler_object("euler")
    node = of_ltx("easy_samplers").LTXVNormalizingSampler
    return node.execute(*run, torch.tensor([1.0, 0.5, 0.0]), av_latent(), "1", "0.5")


def modified(model: ModelPatcher) -> Any:
    return of_ltx("tricks.nodes.modify_ltx_model_node").ModifyLTXModelNode().modify(model)


def multimodal(model: ModelPatcher) -> Any:
    node = of_ltx("guiders.multimodal_guider").MultimodalGuiderNode()
    return node.get_guider(model, *TEXTS, {}, "")


def normalised_sound(model: ModelPatcher) -> Any:
    patched = of_kj("LTX2AudioLatentNormalizingSampling").execute(model, "0.5").args[0]
    return host_nodes.common_ksampler(patched, 1, 2, 3.0, "euler", "simple", *TEXTS, av_latent())


def of_kj(node: str) -> Any:
    return getattr(module(KJNODES, "nodes.ltxv_nodes"), node)


@cache
def ccl_tiny() -> tuple[ModelPatcher, VAE]:
    """The model and its audio VAE."""
    model, _, _, audio_vae = build.load_checkpoint(str(CCL_TINY))
    return model, audio_vae


def reference_audio(_: ModelPatcher) -> Any:
    model, audio_vae = ccl_tiny()
    return lt.LTXVReferenceAudio.execute(model, *TEXTS, SOUND, audio_vae, 3.0, 0.0, 1.0)


def decoded(_: ModelPatcher) -> Any:
    audio_vae = ccl_tiny()[1]
    latent = lt_audio.LTXVAudioVAEEncode.execute(SOUND, audio_vae).args[0]
    return lt_audio.LTXVAudioVAEDecode.execute(latent, audio_vae)


# By variable, the node, how it is called, and its error.
Cases = dict[str, tuple[Callable[[ModelPatcher], Any], type[Exception], str]]
CASES: dict[str, Cases] = {
    HOST: {
        "LTXVReferenceAudio": (
            reference_audio,
            ValueError,
            "not enough values to unpack (expected 4, got 3)",
        ),
        "LTXVAudioVAEDecode": (
            decoded,
            AttributeError,
            "'Vocos' object has no attribute 'output_sample_rate'",
        ),
        "LTXVEmptyLatentAudio": (
            lambda _: lt_audio.LTXVEmptyLatentAudio.execute(25, 16.0, 1, ccl_tiny()[1]),
            AttributeError,
            "'Vocos' object has no attribute 'latent_frequency_bins'",
        ),
    },
    LTXVIDEO: {
        "MultimodalGuider": (multimodal, AttributeError, BLOCKS),
        "STGGuiderNode": (
            lambda m: of_ltx("stg").STGGuiderNode().get_guider(with_stg(m), *TEXTS, 3.0, 1.0, 0.7),
            AttributeError,
            BLOCKS,
        ),
        "STGGuiderAdvanced": (stg_advanced, AttributeError, BLOCKS),
        "ModifyLTXModel": (
            modified,
            AttributeError,
            "'LTXVModelModified' object has no attribute 'transformer_blocks'",
        ),
        # An error without words: the class of the model is not LTX-2's.
        "LTXVNormalizingSampler": (normalising_sampler, ValueError, ""),
        "LTXVSetAudioRefTokens": (
            lambda _: of_ltx("iclora").LTXVSetAudioRefTokens.execute(*TEXTS, {"samples": latents()[1]}),
            ValueError,
            "not enough values to unpack (expected 4, got 3)",
        ),
    },
    KJNODES: {
        "LTXVEnhanceAVideoKJ": (
            lambda model: of_models("LTXVEnhanceAVideoKJ")().enhance(model, 2.0, video()),
            AttributeError,
            BLOCKS,
        ),
        "LTXVChunkFeedForward": (
            lambda model: of_kj("LTXVChunkFeedForward").execute(model, 2, 4),
            AttributeError,
            BLOCKS,
        ),
        "LTX2AttentionTunerPatch": (
            lambda model: of_kj("LTX2AttentionTunerPatch").execute(model, "", 1.0, 1.0, 1.0, 1.0, False),
            AttributeError,
            BLOCKS,
        ),
        "LTX2_NAG": (
            lambda model: of_kj("LTX2_NAG").execute(model, 11.0, 0.25, 2.5, TEXTS[0]),
            AttributeError,
            "'JointModel' object has no attribute 'inner_dim'",
        ),
        "LTX2AudioLatentNormalizingSampling": (
            normalised_sound,
            AttributeError,
            "'JointModel' object has no attribute 'separate_audio_and_video_latents'",
        ),
    },
}


@pytest.mark.parametrize(
    ("variable", "node"), [(variable, node) for variable, cases in CASES.items() for node in cases]
)
def test_a_node_for_ltx_2_stops_with_its_own_words(variable: str, node: str) -> None:
    if variable != HOST and not os.environ.get(variable):
        pytest.skip(f"{variable} names no checkout of the pack")
    call, kind, words = CASES[variable][node]
    with pytest.raises(kind) as caught:
        call(patcher())
    assert str(caught.value) == words


def test_the_page_names_each_with_its_words() -> None:
    page = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
    for cases in CASES.values():
        for node, (_, _, words) in cases.items():
            assert node in page and words in page
