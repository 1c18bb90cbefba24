"""scripts/new_interaction.py: with a fresh interaction the model is its video stream, exactly."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import comfy.ops
import pytest
import torch
from comfy.ldm.wan.model import WanModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ccl_pack.ccl_core.config import CCLConfig
from ccl_pack.ccl_core.host.files.build import load_files, load_model
from ccl_pack.ccl_core.host.files.read import ModelPaths
from ccl_pack.ccl_core.metadata import read_config, write_config
from ccl_tools.console import ScriptError
from support import upstream
from support.commands import load
from support.tiny import CONFIG, config, latents, state_dict

Streams = tuple[Path, Path, dict[str, torch.Tensor]]


command = load("scripts/new_interaction.py")
VOCOS = ("--vae", "vocos", "--rate", "32", "--sample-rate", "16000")
HEADS = ("--video-heads", "2", "--audio-heads", "2")


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    """A Wan file, a file of an audio stream under the same names behind `audio.`, and all their tensors."""
    sd = {
        key: value for key, value in state_dict(CONFIG, seed=4).items() if not key.startswith("interaction.")
    }
    audio = {key: value for key, value in sd.items() if key.startswith("audio.")}
    save_file(audio, tmp_path / "audio.safetensors")
    save_file({key: sd[key] for key in sd.keys() - audio.keys()}, tmp_path / "wan.safetensors")
    return tmp_path / "wan.safetensors", tmp_path / "audio.safetensors", sd


def made(video: Path, audio: Path, *more: str) -> Path:
    output = video.parent / "interaction.safetensors"
    argv = ["--video", str(video), "--audio", str(audio), "--output", str(output), *more]
    command.main(command.arguments(argv))
    return output


def config_in(path: Path) -> CCLConfig:
    with safe_open(path, "pt") as file:
        return read_config(file.metadata()["ccl_config"])


def test_fresh_model_is_wan_exactly(streams: Streams) -> None:
    video, audio, sd = streams
    interaction = made(video, audio, *VOCOS, *HEADS)
    patcher = load_files(ModelPaths(str(video), str(audio), str(interaction)), {"dtype": torch.float32})
    sizes = {
        name: getattr(CONFIG.video, name)
        for name in ("dim", "ffn_dim", "num_heads", "num_layers", "freq_dim")
    }
    wan = WanModel(
        model_type="t2v",
        in_dim=16,
        out_dim=16,
        text_dim=24,
        operations=comfy.ops.disable_weight_init,
        **sizes,
    )
    wan.load_state_dict({key: value for key, value in sd.items() if not key.startswith("audio.")})
    latent, sound = latents()
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(1))
    time = torch.tensor([640.0])
    with torch.no_grad():
        wanted = wan(latent, time, text, transformer_options={})
        alone = patcher.model.diffusion_model(latent, time, text, transformer_options={})
        both, _ = patcher.model.diffusion_model([latent, sound], time, text, transformer_options={})
    assert torch.equal(alone, wanted)
    assert torch.equal(both, wanted)


def test_only_the_output_projections_are_zero(streams: Streams) -> None:
    sd = load_file(made(*streams[:2], *VOCOS, *HEADS, "--dtype", "float32"))
    zero = {key for key, value in sd.items() if not value.any()}
    biases = {key for key in sd if key.endswith(".bias")}
    outputs = {key for key in sd if ".o." in key}
    assert zero == outputs | biases
    norms = [value for key, value in sd.items() if "norm" in key and key.endswith("weight")]
    assert all(torch.equal(value, torch.ones_like(value)) for value in norms)
    contexts = torch.cat([value.flatten() for key, value in sd.items() if key.endswith("context")])
    assert 0.9 < contexts.std() < 1.1


def test_training_moves_it_away_from_wan(streams: Streams) -> None:
    """The zero is that of the output projection alone: with one there, sound reaches the picture."""
    video, audio, _ = streams
    path = made(video, audio, *VOCOS, *HEADS)
    sd = load_file(path)
    trained = {
        key: torch.eye(len(value)) if key.endswith("a2v.o.weight") else value for key, value in sd.items()
    }
    save_file(trained, path, metadata={"ccl_config": write_config(config_in(path))})
    model = load_files(
        ModelPaths(str(video), str(audio), str(path)), {"dtype": torch.float32}
    ).model.diffusion_model
    latent, sound = latents()
    text, time = torch.randn(1, 5, 24), torch.tensor([640.0])
    with torch.no_grad():
        one, two = (model([latent, x], time, text, transformer_options={})[0] for x in (sound, 2 * sound))
    assert (one - two).abs().max() > 1e-3


def test_options_reach_the_configuration(streams: Streams) -> None:
    video, audio, _ = streams
    more = ("--layers", "1", "--context-tokens", "5", "--clock", "uniform", "--fps", "24", "--shift", "5")
    path = made(video, audio, *VOCOS, *HEADS, *more, "--dtype", "float16")
    found = config_in(path)
    assert (found.interaction.layers, found.interaction.options.context_tokens, found.clock) == (
        (1,),
        5,
        "uniform",
    )
    assert (found.fps, found.shift, found.audio_latent.rate) == (Fraction(24), 5.0, Fraction(32))
    sd = load_file(path)
    assert {key.split(".")[1] for key in sd} == {"1"}
    assert sd["interaction.1.a2v.context"].shape == (5, 32)
    assert {value.dtype for value in sd.values()} == {torch.float16}


def test_one_seed_gives_one_file(streams: Streams) -> None:
    files = []
    for seed in ("3", "3", "4"):
        path = made(*streams[:2], *VOCOS, *HEADS, "--seed", seed)
        files.append(path.read_bytes())
        path.unlink()
    assert files[0] == files[1] != files[2]


def test_what_the_audio_file_says_need_not_be_said(tmp_path: Path, streams: Streams) -> None:
    """The configuration in the metadata of an audio stream, and the published audio tower of MOVA."""
    video, audio, sd = streams
    stated = {key: value for key, value in sd.items() if key.startswith("audio.")}
    save_file(stated, audio, metadata={"ccl_config": write_config(CONFIG)})
    found = config_in(made(video, audio, "--video-heads", "2"))
    assert (found.audio, found.audio_latent) == (CONFIG.audio, CONFIG.audio_latent)

    tower = upstream.mova_config(128, 128, 128, layers=2)
    parts = upstream.mova(state_dict(replace(tower, video=replace(tower.video, in_dim=16)), seed=6))
    mova = {
        key.removeprefix("audio_dit."): value for key, value in parts.items() if key.startswith("audio_dit.")
    }
    save_file(mova, audio)
    (tmp_path / "interaction.safetensors").unlink()
    found = config_in(path := made(video, audio, "--video-heads", "2"))
    assert (found.audio.rope, found.audio_latent.vae, found.audio_latent.rate) == (
        "token",
        "dac",
        Fraction(50),
    )
    assert load_files(ModelPaths(str(video), str(audio), str(path))).model.ccl_config == found


def test_any_wan_is_a_video_stream(tmp_path: Path, streams: Streams) -> None:
    """Image to video (36 channels) and the 48 channels of the 5B model, at 24 frames per second."""
    _, audio, _ = streams
    for channels, fps in ((36, 16), (48, 24)):
        chosen = config(video=replace(CONFIG.video, in_dim=channels, out_dim=48 if channels == 48 else 16))
        sd = state_dict(chosen)
        video = tmp_path / "other.safetensors"
        save_file(
            {key: value for key, value in sd.items() if not key.startswith(("audio.", "interaction."))}, video
        )
        path = made(video, audio, *VOCOS, *HEADS)
        found = load_files(ModelPaths(str(video), str(audio), str(path))).model.ccl_config
        assert (found.video.in_dim, found.fps) == (channels, fps)
        path.unlink()


def test_a_quantised_wan_is_a_video_stream(tmp_path: Path, streams: Streams) -> None:
    """In scaled fp8 as from before the host had formats, input scales included."""
    _, audio, sd = streams
    wan = {key: value for key, value in sd.items() if not key.startswith("audio.")}
    for key in [key for key, value in wan.items() if "blocks." in key and value.ndim == 2]:
        layer = key.removesuffix(".weight")
        wan[key] = wan[key].to(torch.float8_e4m3fn)
        wan |= {f"{layer}.scale_weight": torch.ones(()), f"{layer}.scale_input": torch.tensor(2.0)}
    video = tmp_path / "fp8.safetensors"
    save_file(wan | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, video)
    path = made(video, audio, *VOCOS, *HEADS)
    assert load_files(ModelPaths(str(video), str(audio), str(path))).model.ccl_config == config_in(path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (HEADS, "does not say which VAE(.|\n)*--vae, --rate"),
        (VOCOS, "width 48, wanted a multiple of 128(.|\n)*--video-heads"),
        ((*VOCOS, *HEADS, "--layers", "0-2"), "not within the 2 layers of both streams"),
        ((*VOCOS, *HEADS, "--layers", "a"), "no list of layers"),
    ],
)
def test_what_is_missing_is_asked_for(streams: Streams, more: tuple[str, ...], words: str) -> None:
    with pytest.raises(ScriptError, match=words):
        made(*streams[:2], *more)


def test_other_files_are_told_apart(tmp_path: Path, streams: Streams) -> None:
    video, audio, _ = streams
    with pytest.raises(
        ScriptError, match=r"wan\.safetensors is a Wan model(.|\n)*name an audio stream alone"
    ):
        made(video, video)
    with pytest.raises(
        ScriptError, match=r"audio\.safetensors is an audio stream(.|\n)*name a Wan video model alone"
    ):
        made(audio, audio)
    save_file({"decoder.head.0.gamma": torch.zeros(1)}, tmp_path / "vae.safetensors")
    with pytest.raises(ScriptError, match="a Wan VAE"):
        made(tmp_path / "vae.safetensors", audio)
    (tmp_path / "cut.safetensors").write_bytes(video.read_bytes()[:-10])
    with pytest.raises(ScriptError, match="cannot be read as safetensors"):
        made(tmp_path / "cut.safetensors", audio)


def test_nothing_is_overwritten(streams: Streams) -> None:
    path = made(*streams[:2], *VOCOS, *HEADS)
    before = path.read_bytes()
    with pytest.raises(ScriptError, match="is there already"):
        made(*streams[:2], *VOCOS, *HEADS)
    assert path.read_bytes() == before


def test_a_whole_file_loads_when_the_parts_are_joined(tmp_path: Path, streams: Streams) -> None:
    """As a training would save it: one file under our names with the configuration of the interaction."""
    video, audio, sd = streams
    path = made(video, audio, *VOCOS, *HEADS)
    save_file(
        sd | load_file(path),
        tmp_path / "one.safetensors",
        metadata={"ccl_config": write_config(config_in(path))},
    )
    assert load_model(str(tmp_path / "one.safetensors")).model.ccl_config == config_in(path)
