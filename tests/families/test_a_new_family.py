"""A model family that this test alone knows: one row and weights under its own names, served by the
product.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from ccl_pack.ccl_core.alignment.sizing import size_av
from ccl_pack.ccl_core.config import AudioLatentConfig, BridgeOptions, CCLConfig, InteractionConfig
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.families.base import (
    DIRECTIONS,
    MODEL,
    Content,
    Family,
    LoraNames,
    Preset,
    PromptStyle,
    Sampling,
)
from ccl_pack.ccl_core.guidance import TermScale
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_files, load_model
from ccl_pack.ccl_core.host.files.identify import identify
from ccl_pack.ccl_core.host.files.lora import Strengths, apply_lora
from ccl_pack.ccl_core.host.files.read import ModelPaths, read
from ccl_pack.ccl_core.host.media.latents import grid_of
from ccl_pack.ccl_core.prompts import read_prompt, style_named, styles, write_prompt
from ccl_pack.nodes import CHECKPOINTS
from ccl_pack.nodes.guidance import CCLGuider
from ccl_pack.nodes.latents import CCLEmptyAVLatent
from ccl_pack.nodes.loaders import CCLModelLoader
from ccl_pack.nodes.prompts import CCLPrompt, CCLPromptTags
from support import tiny

BRIDGE = ("norm_y", "q", "k", "v", "o", "norm_q", "norm_k")
SONATA = Family(
    title="Sonata",
    coupling="bridge",
    modules=frozenset(BRIDGE),
    mark=r"^link\.",
    renames=(
        (r"^picture\.", ""),
        (r"^sound\.", "audio."),
        (r"^link\.(\d+)\.to_picture\.", r"interaction.\1.a2v."),
        (r"^link\.(\d+)\.to_sound\.", r"interaction.\1.v2a."),
        (r"^(interaction\.\d+\.\w+\.)source_norm\.", r"\1norm_y."),
    ),
    contents=(Content(MODEL, "a Sonata model"), Content(DIRECTIONS, "the link of Sonata")),
    other_files={"cello.weight": "the cello of Sonata: play it"},
    published={
        "fps": Fraction(12),
        "audio_latent": AudioLatentConfig("dac", 8, Fraction(24), 24000),
        "clock": "uniform",
        "shift": 4.0,
        "audio_shift": 2.0,
    },
    streams={"video": {"num_heads": 2}, "audio": {"num_heads": 2, "rope": "token"}},
    lora=LoraNames(
        video=("picture.",),
        audio=("sound.",),
        coupling={"a2v": ("link.{layer}.to_picture.{weight}",), "v2a": ("link.{layer}.to_sound.{weight}",)},
        weights={"norm_y": "source_norm"},
    ),
    prompts=(
        PromptStyle("Sonata 1", speech=("<say>", "</say>"), audio=("<hear>", "</hear>"), lead="Allegro."),
    ),
    presets=(Preset("Sonata, 2 s", 64, 96, frames=25, audio_tokens=51),),
    sampling=Sampling(
        mode="cfg",
        settings={"text": TermScale(6.0, 7.0)},
        steps=3,
        sampler_name="euler",
        negative="out of tune",
    ),
)
CONFIG = replace(
    tiny.CONFIG,
    audio=replace(tiny.CONFIG.audio, rope="token"),
    interaction=InteractionConfig("bridge", (0, 1), BridgeOptions()),
    family="sonata",
    **SONATA.published,
)


@pytest.fixture(autouse=True)
def sonata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "sonata", SONATA)


def sonata_name(key: str) -> str:
    """The family's name of one of our keys."""
    if key.startswith("interaction."):
        _, layer, direction, module, *rest = key.split(".")
        side = {"a2v": "to_picture", "v2a": "to_sound"}[direction]
        return ".".join(["link", layer, side, "source_norm" if module == "norm_y" else module, *rest])
    return f"sound.{key.removeprefix('audio.')}" if key.startswith("audio.") else f"picture.{key}"


def write(path: Path, section: str = "") -> str:
    """The weights whose names begin with the section, without metadata."""
    tensors = {sonata_name(key): value for key, value in tiny.state_dict(CONFIG).items()}
    save_file({key: value for key, value in tensors.items() if key.startswith(section)}, path)
    return str(path)


def load(tmp_path: Path) -> Any:
    return load_model(write(tmp_path / "sonata.safetensors"), {"dtype": torch.float32})


def sample(model: Any) -> list[torch.Tensor]:
    sampling = FAMILIES[model.model.ccl_config.family].sampling
    conds = tiny.conditioning(1), tiny.conditioning(2)
    run = host_nodes.common_ksampler(
        model, 1, sampling.steps, 6.0, sampling.sampler_name, sampling.scheduler, *conds, tiny.av_latent()
    )
    return run[0]["samples"].unbind()


def test_a_file_under_its_names_is_the_model(tmp_path: Path) -> None:
    model = load(tmp_path)
    assert model.model.ccl_config == CONFIG
    weights = model.model.diffusion_model.state_dict()
    for key, value in tiny.state_dict(CONFIG).items():
        assert torch.equal(weights[key], value), key


def test_its_parts_are_named_and_put_together(tmp_path: Path) -> None:
    parts = {
        name: write(tmp_path / f"{name}.safetensors", f"{name}.") for name in ("picture", "sound", "link")
    }
    assert identify(read(parts["link"])).content.description == "the link of Sonata"
    whole = load_files(ModelPaths(parts["picture"], parts["sound"], parts["link"]), {"dtype": torch.float32})
    assert whole.model.ccl_config == CONFIG


def test_another_file_of_it_is_described(tmp_path: Path) -> None:
    save_file({"cello.weight": torch.zeros(1)}, tmp_path / "cello.safetensors")
    with pytest.raises(ValueError, match=r"the cello of Sonata: play it\. Wanted: a model of .*Sonata"):
        load_model(str(tmp_path / "cello.safetensors"))


def test_it_samples_as_its_configuration_says(tmp_path: Path) -> None:
    made = sample(load(tmp_path))
    wanted = sample(tiny.patcher(weights=tiny.state_dict(CONFIG), **fields_of(CONFIG)))
    for stream, expected in zip(made, wanted, strict=True):
        assert torch.isfinite(stream).all() and torch.equal(stream, expected)


def fields_of(config: CCLConfig) -> dict[str, Any]:
    return {
        name: getattr(config, name) for name in ("video", "audio", "interaction", "family", *SONATA.published)
    }


def test_a_lora_under_its_names_reaches_all_parts(tmp_path: Path) -> None:
    model = load(tmp_path)
    keys = ("blocks.0.self_attn.q", "audio.blocks.1.ffn.0", "interaction.0.a2v.q", "interaction.1.v2a.o")
    weights, tensors = model.model.diffusion_model.state_dict(), {}
    for key in keys:
        rows, columns = weights[f"{key}.weight"].shape
        tensors[f"{sonata_name(key)}.lora_A.weight"] = torch.ones(2, columns)
        tensors[f"{sonata_name(key)}.lora_B.weight"] = torch.ones(rows, 2)
    save_file(tensors, tmp_path / "lora.safetensors")
    patched = apply_lora(model, str(tmp_path / "lora.safetensors"), Strengths(1.0, 0.5, 0.25))
    for key, strength in zip(keys, (1.0, 0.5, 0.25, 0.25), strict=True):
        found = patched.patch_weight_to_device(f"diffusion_model.{key}.weight", return_weight=True)
        torch.testing.assert_close(found, weights[f"{key}.weight"] + 2 * strength)


def test_its_prompts_are_written_and_read_in_its_tags() -> None:
    prompt = read_prompt('She sings: "La." Rain.', "a cello")
    written = write_prompt(prompt, style_named("Sonata 1"))
    assert written == "Allegro. She sings: <say>La.</say> Rain. <hear>a cello</hear>"
    assert read_prompt(written) == prompt and "Sonata 1" in styles()
    assert write_prompt(read_prompt(written), style_named("Ovi 1.0 (720, 5 s)")) == (
        "She sings: <S>La.<E> Rain. <AUDCAP>a cello<ENDAUDCAP>"
    )


def test_sizes_have_the_tokens_it_was_trained_with(tmp_path: Path) -> None:
    model = load(tmp_path).model
    grid = replace(grid_of(model.ccl_config, model.latent_format), exact_c=False)
    (preset,) = SONATA.presets
    size = size_av(grid, width=preset.width, height=preset.height, frames=preset.frames)
    assert (size.fps, size.frames, size.audio_tokens) == (12, 25, 51)


def test_its_number_formats_and_sampling_are_those_of_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "sonata.safetensors")
    with pytest.raises(ValueError, match=r"sonata\.safetensors cannot run in fp16"):
        load_model(path, {"dtype": torch.float16})
    model = load(tmp_path).model
    assert FAMILIES[model.ccl_config.family].sampling.settings["text"] == TermScale(6.0, 7.0)
    assert (model.model_sampling.shift, model.audio_shift) == (4.0, 2.0)


def test_nodes_take_its_prompts_sizes_and_guidance_from_the_row(tmp_path: Path) -> None:
    model = load(tmp_path)
    clip = load_checkpoint(str(CHECKPOINTS / "ccl-tiny.safetensors"))[1]
    positive, negative = CCLPrompt.execute(model, clip, "Rain.", sound="a cello", speech="La.").args
    for conditioning, text in (
        (positive, "Allegro. Rain. <say>La.</say> <hear>a cello</hear>"),
        (negative, "out of tune"),
    ):
        assert torch.equal(conditioning[0][0], clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0])
    latent = CCLEmptyAVLatent.execute(model, {"size": "from model"}, {"length": "from model"}, 1)[0]
    assert latent["samples"].unbind()[0].shape[2:] == (7, 12, 8)
    guider = CCLGuider.execute(model, tiny.conditioning(1), tiny.conditioning(2), {"mode": "from model"})[0]
    assert (guider.mode, guider.settings) == ("cfg", {"text": TermScale(6.0, 7.0)})


def test_people_find_it_in_names_tooltips_and_choices() -> None:
    loader = CCLModelLoader.define_schema()
    assert "Sonata" in loader.display_name and "load sonata model" in loader.search_aliases
    choices = {entry.id: entry for entry in CCLEmptyAVLatent.define_schema().inputs}
    assert "Sonata, 2 s" in [option.key for option in choices["size"].options]
    variants = {entry.id: entry for entry in CCLPromptTags.define_schema().inputs}["variant"]
    assert "Sonata 1" in [option.key for option in variants.options]
