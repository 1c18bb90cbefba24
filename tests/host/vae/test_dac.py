"""host/audio_vae_dac.py: MOVA's DAC behind the host's audio nodes and those of this pack."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.ops
import folder_paths
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_audio import VAEDecodeAudio, VAEDecodeAudioTiled, VAEEncodeAudio
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile

from ccl_pack.ccl_core.host.vae.audio import load_audio_vae
from ccl_pack.ccl_core.host.vae.dac import DACVAE
from ccl_pack.ccl_core.host.vae.sockets import token_rate
from ccl_pack.ccl_core.model.audio.dac import DAC, DACConfig
from ccl_pack.nodes.audio_vae import CCLAudioVAELoader
from ccl_pack.nodes.decoding import CCLDecodeAV
from ccl_pack.nodes.encoding import CCLEncodeAV
from support.tiny_audio_vaes import DAC_CONFIG, dac_file
from support.tiny_vaes import frames, sound, video_vae

FIXTURE = Path(__file__).parents[2] / "fixtures" / "dac_dev.safetensors"
HOP = DAC_CONFIG.hop
PUBLISHED = DACConfig(128, (2, 3, 4, 5, 8), 128, 2048, (8, 5, 4, 3, 2))

StateDict = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def vae() -> DACVAE:
    return load_audio_vae(dac_file())


def test_the_published_file_needs_no_metadata() -> None:
    tensors = load_file(FIXTURE)
    vae = load_audio_vae(
        {key.removeprefix("weights/"): v for key, v in tensors.items() if key.startswith("weights/")}
    )
    assert isinstance(vae, DACVAE)
    assert (vae.audio_sample_rate, vae.latent_channels, vae.latent_dim, vae.upscale_ratio) == (
        48000,
        12,
        1,
        960,
    )
    assert (vae.output_channels, vae.vae_dtype, token_rate(vae)) == (1, torch.float32, 50)
    latent = vae.encode(tensors["inputs/waveform"].movedim(1, -1))
    torch.testing.assert_close(latent, tensors["outputs/latent_mode"], atol=5e-5, rtol=0)
    torch.testing.assert_close(
        vae.decode(latent)[..., 0], tensors["outputs/decoded"][:, 0], atol=5e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stored_in_two_bytes_computed_in_four(dtype: torch.dtype) -> None:
    stored = {key: value.to(dtype) for key, value in dac_file().items()}
    vae, exact = load_audio_vae(stored), load_audio_vae({key: value.float() for key, value in stored.items()})
    assert {parameter.dtype for parameter in vae.first_stage_model.parameters()} == {dtype}
    assert vae.model_size() * 2 == exact.model_size()
    latent = torch.randn(1, 6, 9)
    torch.testing.assert_close(vae.decode(latent), exact.decode(latent), atol=1e-6, rtol=0)
    audio = torch.randn(1, 200, 1)
    torch.testing.assert_close(vae.encode(audio), exact.encode(audio), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["dac_config", "ccl_config"])
def test_metadata_may_name_another_sample_rate(name: str) -> None:
    given: dict[str, Any] = {"vae": "dac", "sample_rate": 24000}
    metadata = {name: json.dumps(given if name == "dac_config" else {"audio_latent": given})}
    assert load_audio_vae(dac_file(), metadata).audio_sample_rate == 24000


def test_host_nodes_resample_and_mix_to_mono(vae: DACVAE) -> None:
    stereo = sound(4410, rate=44100, channels=2)
    encoded = VAEEncodeAudio.execute(vae=vae, audio=stereo)[0]
    assert encoded["samples"].shape == (1, 6, 200)
    mono = {**stereo, "waveform": stereo["waveform"].mean(1, keepdim=True)}
    torch.testing.assert_close(
        VAEEncodeAudio.execute(vae=vae, audio=mono)[0]["samples"], encoded["samples"], atol=1e-4, rtol=0
    )
    audio = VAEDecodeAudio.execute(vae=vae, samples=encoded)[0]
    assert (audio["sample_rate"], audio["waveform"].shape) == (48000, (1, 1, 4800))


def test_the_host_turns_loud_sounds_down_and_ours_does_not(vae: DACVAE) -> None:
    latent = 20 * torch.randn(1, 6, 90)
    sound_of = vae.decode(latent).movedim(-1, 1)
    assert 5 * sound_of.std() > 1
    made = VAEDecodeAudio.execute(vae=vae, samples={"samples": latent})[0]["waveform"]
    torch.testing.assert_close(made, sound_of / (5 * sound_of.std()))
    joint = {"samples": NestedTensor((torch.zeros(1, 16, 1, 4, 4), latent)), "fps": 24.0}
    ours = CCLDecodeAV.execute(joint, video_vae(), {"tiling": "off"}, audio_vae=vae)[1]["waveform"]
    torch.testing.assert_close(ours, sound_of[..., :2000])  # a frame of 24 a second


def test_tiled_equals_whole(vae: DACVAE) -> None:
    latent = torch.randn(2, 6, 150)
    whole = VAEDecodeAudio.execute(vae=vae, samples={"samples": latent})[0]["waveform"]
    tiled = VAEDecodeAudioTiled.execute(vae=vae, samples={"samples": latent}, tile_size=32, overlap=8)[0][
        "waveform"
    ]
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)
    audio = vae.decode(latent)
    torch.testing.assert_close(
        vae.first_stage_model.decode(latent, None)[:, 0], audio[..., 0], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(vae.decode_tiled(latent), audio, atol=1e-5, rtol=0)
    encoded = vae.encode(audio)
    torch.testing.assert_close(vae.encode_tiled(audio), encoded, atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.encode_tiled(audio, tile_x=8 * HOP, tile_y=1), encoded, atol=1e-4, rtol=0)


def test_a_round_trip_through_the_av_nodes(vae: DACVAE) -> None:
    pictures, tokens = frames(9), 9 * 48000 // (24 * HOP)
    latent = {"samples": NestedTensor((torch.zeros(1, 16, 3, 4, 4), torch.zeros(1, 6, tokens))), "fps": 24.0}
    encoded = CCLEncodeAV.execute(
        latent, "crop", "pad", video_vae=video_vae(), audio_vae=vae, images=pictures, audio=sound(20000)
    )[0]
    given = encoded["samples"].unbind()[1]
    assert given.shape == (1, 6, tokens)
    images, audio, _ = CCLDecodeAV.execute(
        encoded, video_vae(), {"tiling": "off"}, audio_vae=vae, given="decoded"
    )
    assert images.shape == pictures.shape
    assert (audio["sample_rate"], audio["waveform"].shape) == (48000, (1, 1, 18000))
    torch.testing.assert_close(audio["waveform"], vae.decode(given).movedim(-1, 1)[..., :18000])


def peak(function: Callable[[], Any]) -> int:
    """The most bytes that the function held at one time."""
    kinds = [ProfilerActivity.CPU]
    with profile(activities=kinds, profile_memory=True, acc_events=True) as profiler, torch.inference_mode():
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("tokens", [40, 300])
def test_memory_estimates_fit_what_is_measured(tokens: int) -> None:
    config = DACConfig(16, (2, 4, 5), 8, 128, (5, 4, 2))
    vae, hop = load_audio_vae(dac_file(config)), config.hop
    latent, audio = torch.randn(1, 8, tokens), torch.randn(1, 1, tokens * hop)
    decoded = peak(lambda: vae.first_stage_model.decode(latent))
    encoded = peak(lambda: vae.first_stage_model.encode(audio))
    assert 0.7 * decoded < vae.memory_used_decode(latent.shape, torch.float32) < 2 * decoded
    assert 0.7 * encoded < vae.memory_used_encode(audio.shape, torch.float32) < 2 * encoded


def test_estimates_stop_growing_with_the_length(vae: DACVAE) -> None:
    for estimate, unit in ((vae.memory_used_decode, 1), (vae.memory_used_encode, HOP)):
        short, minute, hour = (
            estimate((1, 6, tokens * unit), torch.float32) for tokens in (10, 3000, 180000)
        )
        assert short < minute == hour


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.full((1, 6, 4), float("nan")), "audio latent contains NaN"),
        (
            torch.zeros(1, 20, 4),
            r"\(1, 20, 4\), this DAC autoencoder wants \(batch, 6, tokens\) with at least 1",
        ),
        (torch.zeros(1, 6, 0), "at least 1 tokens"),
    ],
)
def test_a_latent_that_does_not_fit_is_named(vae: DACVAE, latent: torch.Tensor, message: str) -> None:
    for decode in (vae.decode, vae.decode_tiled):
        with pytest.raises(ValueError, match=message):
            decode(latent)


def test_audio_that_does_not_fit_is_named(vae: DACVAE) -> None:
    with pytest.raises(ValueError, match=r"audio to encode has shape \(1, 0, 1\)"):
        vae.encode(torch.zeros(1, 0, 1))
    with pytest.raises(ValueError, match="audio to encode contains NaN or infinity"):
        vae.encode_tiled(torch.full((1, 500, 1), float("inf")))


def without(key: str) -> StateDict:
    sd = dac_file()
    del sd[key]
    return sd


@pytest.mark.parametrize(
    ("sd", "metadata", "message"),
    [
        (
            without("encoder.block.0.weight"),
            {},
            r"lacks the key encoder\.block\.0\.weight: the file is incomplete",
        ),
        (without("post_quant_conv.weight"), {}, r"lacks the key post_quant_conv\.weight"),
        (
            without("decoder.model.4.alpha"),
            {},
            r"lacks the key decoder\.model\.4\.alpha of shape \(1, 4, 1\)",
        ),
        (
            without("encoder.block.2.block.4.weight"),
            {},
            r"rates \(2,\), its decoder \(4, 3, 2\).*mixes two models",
        ),
        (
            dac_file() | {"quant_conv.bias": torch.zeros(5)},
            {},
            r"quant_conv\.bias has shape \(5,\), wanted \(12,\)",
        ),
        (dac_file() | {"encoder.block.1.block.4.weight": torch.zeros(8)}, {}, "too few dimensions"),
        (dac_file() | {"quantizer.codebook": torch.zeros(5)}, {}, r"does not know.*quantizer\.codebook"),
        (
            dac_file() | {"backbone.embed.weight": torch.zeros(5)},
            {},
            "keys of a vocoder and of a DAC autoencoder",
        ),
        (dac_file(), {"dac_config": "{"}, "dac_config is not JSON"),
        (dac_file(), {"dac_config": "{}"}, r"DAC autoencoder is \{\}, wanted a whole sample_rate"),
        (dac_file(), {"dac_config": '{"sample_rate": 0}'}, "sample rate is 0"),
        (dac_file(), {"ccl_config": "{}"}, "is None, wanted a whole sample_rate"),
    ],
)
def test_a_wrong_file_is_named(sd: StateDict, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_audio_vae(sd, metadata)


def test_the_published_layout_is_recognised_whole() -> None:
    """Full size on the meta device: sizes, key count and rates from the shapes that the published file
    has.
    """
    sd = DAC(PUBLISHED, device="meta", dtype=torch.bfloat16, operations=comfy.ops.manual_cast).state_dict()
    assert DACVAE.recognises(sd)
    assert DACConfig.from_state_dict(sd) == PUBLISHED
    assert sd["encoder.block.7.weight"].shape == (128, 4096, 3)
    assert sd["quant_conv.weight"].shape == (256, 128, 1)
    assert sd["decoder.model.7.weight"].shape == (1, 64, 7)
    assert (
        0 < 743_102_794 - sum(value.nbytes for value in sd.values()) < 30_000
    )  # the published file less its header


def test_the_node_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "vae", ([str(tmp_path)], folder_paths.supported_pt_extensions)
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    save_file(dac_file(), tmp_path / "diffusion_pytorch_model.safetensors")
    assert isinstance(CCLAudioVAELoader.execute(vae_name="diffusion_pytorch_model.safetensors")[0], DACVAE)
    with pytest.raises(ValueError, match=r"both have the key|vocoder"):
        CCLAudioVAELoader.execute(
            vae_name="diffusion_pytorch_model.safetensors", vocoder_name="diffusion_pytorch_model.safetensors"
        )
