"""The nodes of the pack are found in the real page by the words for what they do."""

from __future__ import annotations

import pytest

from support.page import Page


def place_of(page: Page, words: str, title: str) -> int:
    """Where the search shows a node whose title begins so, counted from 1."""
    titles = page.search(words)
    return next((place for place, shown in enumerate(titles, 1) if shown.startswith(title)), len(titles) + 1)


@pytest.mark.parametrize(
    ("words", "title"),
    [
        pytest.param("joint sampler", "Joint Sampler", marks=pytest.mark.long),
        pytest.param("audio video ksampler", "Joint Sampler", marks=pytest.mark.long),
        pytest.param("prompt for video", "Prompt for Video with Sound", marks=pytest.mark.long),
        ("negative prompt", "Prompt for Video with Sound"),
        pytest.param("decode audio-video", "Decode Audio-Video", marks=pytest.mark.long),
        ("waveform", "Decode Audio-Video"),
        pytest.param("preview sound", "Decode Audio-Video", marks=pytest.mark.long),
        pytest.param("combine video audio", "Decode Audio-Video", marks=pytest.mark.long),
        ("music video", "Encode Audio-Video"),
        ("sync", "Encode Audio-Video"),
        pytest.param("start image", "Encode Audio-Video", marks=pytest.mark.long),
        pytest.param("foley", "Encode Audio-Video", marks=pytest.mark.long),
        ("audio video cfg", "Audio-Video CFG Guider"),
        pytest.param("vram", "Memory Plan", marks=pytest.mark.long),
        ("load ovi model", "Load CCL / Ovi"),
        pytest.param("mova", "Load CCL / Ovi", marks=pytest.mark.long),
        pytest.param("prism", "Load CCL / Ovi", marks=pytest.mark.long),
        pytest.param("ovi lora", "Load LoRA (CCL / Ovi", marks=pytest.mark.long),
        ("load mmaudio", "Load Audio VAE (CCL / Ovi"),
        pytest.param("wan audio", "Assemble CCL / Ovi", marks=pytest.mark.long),
    ],
)
def test_a_node_is_found_by_its_words(page: Page, words: str, title: str) -> None:
    assert place_of(page, words, title) <= 3


@pytest.mark.parametrize(
    ("words", "title"),
    [
        pytest.param("ovi", "Load CCL / Ovi", marks=pytest.mark.long),
        pytest.param("mmaudio", "Load Audio VAE (CCL / Ovi", marks=pytest.mark.long),
        ("guider", "Audio-Video CFG Guider"),
        pytest.param("cfg", "Audio-Video CFG Guider", marks=pytest.mark.long),
        pytest.param("load lora", "Load LoRA (CCL / Ovi", marks=pytest.mark.long),
        pytest.param("ksampler", "Joint Sampler", marks=pytest.mark.long),
    ],
)
def test_a_word_of_many_nodes_finds_ours_among_them(page: Page, words: str, title: str) -> None:
    """Blueprints and ComfyUI's own nodes of that name come first."""
    assert place_of(page, words, title) <= 20
