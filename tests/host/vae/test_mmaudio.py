"""host/mmaudio.py: folding against the published implementation, and every published form through the
host's class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import comfy.sd
import pytest
import torch
from comfy.ldm.mmaudio.vae.autoencoder import AudioAutoencoder
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_audio import VAEDecodeAudio, VAEDecodeAudioTiled, VAEEncodeAudio
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ccl_pack.ccl_core.host.vae.audio import load_audio_vae, load_audio_vae_file
from ccl_pack.ccl_core.host.vae.mmaudio import (
    MMAudioVAE,
    fold_magnitudes,
    fold_weight_norms,
    host_names,
    is_folded,
    mel_tensors,
    to_host,
)
from ccl_pack.ccl_core.host.vae.sockets import token_rate
from ccl_pack.nodes.decoding import CCLDecodeAV
from ccl_pack.nodes.encoding import CCLEncodeAV
from support.tiny_audio_vaes import mmaudio_folded, mmaudio_published, small_mmaudio
from support.tiny_vaes import frames, sound, video_vae

FIXTURE = Path(__file__).parents[2] / "fixtures" / "mmaudio_fold_dev.safetensors"
# librosa 0.11 filters.mel(sr=16000, n_fft=1024, n_mels=80, fmin=0, fmax=8000): (band, highest bin) and its
# value.
LIBROSA_PEAKS = {
    (0, 2): 0.02253456,
    (1, 5): 0.02422385,
    (26, 64): 0.02211422,
    (27, 67): 0.02378000,
    (40, 110): 0.01444418,
    (60, 238): 0.00665144,
    (79, 493): 0.00333063,
}

StateDict = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest) -> Iterator[None]:
    if "full_size" in request.node.name:
        yield
    else:
        with small_mmaudio():
            yield


@pytest.fixture(scope="module")
def vae() -> MMAudioVAE:
    with small_mmaudio():
        return load_audio_vae(mmaudio_folded())


def part(tensors: StateDict, prefix: str) -> StateDict:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def test_folding_matches_the_published_one() -> None:
    tensors = load_file(FIXTURE)
    with safe_open(FIXTURE, "pt") as file:
        info = json.loads(file.metadata()["info"])
    bounds, stride = info["tolerance"]["max_abs"], info["config"]["vocoder"]["upsample_rates"][0]
    folded = {
        "autoencoder": fold_magnitudes(part(tensors, "weights/autoencoder/")),
        "vocoder": fold_weight_norms(part(tensors, "weights/vocoder/")),
    }
    for name, sd in folded.items():
        wanted = part(tensors, f"outputs/folded/{name}/")
        assert set(sd) == set(wanted)
        for key, value in wanted.items():
            torch.testing.assert_close(sd[key], value, atol=bounds["outputs/folded/{*}"], rtol=0)
        for layer, value in part(tensors, f"outputs/result/{name}/").items():
            weight, x = sd[f"{layer}.weight"], tensors[f"inputs/{name}/{layer}"]
            if layer.startswith("ups."):
                padding = (weight.shape[-1] - stride) // 2
                made = F.conv_transpose1d(x, weight, sd[f"{layer}.bias"], stride, padding)
            else:
                made = F.conv1d(x, weight, sd.get(f"{layer}.bias"), padding=weight.shape[-1] // 2)
            if layer == "decoder.conv_out":
                made = made * (1 + sd["decoder.learnable_gain"])
            torch.testing.assert_close(made, value, atol=bounds["outputs/result/{*}"], rtol=0)


def test_the_mel_basis_is_librosas() -> None:
    basis = mel_tensors()["mel_converter.mel_basis"]
    assert basis.shape == (80, 513)
    for (band, top), value in LIBROSA_PEAKS.items():
        assert basis[band].argmax() == top
        assert basis[band, top].item() == pytest.approx(value, abs=1e-7)
    assert basis.sum().item() == pytest.approx(5.118658, abs=1e-5)


def newer(vocoder: StateDict) -> StateDict:
    """Weight norms in the newer spelling of torch."""
    suffixes = {
        ".weight_g": ".parametrizations.weight.original0",
        ".weight_v": ".parametrizations.weight.original1",
    }
    return {re.sub(r"\.weight_[gv]$", lambda found: suffixes[found[0]], key): v for key, v in vocoder.items()}


def prefixed(sd: StateDict, prefix: str) -> StateDict:
    return {prefix + key: value for key, value in sd.items()}


FORMS: dict[str, Callable[[StateDict, StateDict], StateDict]] = {
    "raw": lambda mel_vae, vocoder: mel_vae | vocoder,
    "newer spelling": lambda mel_vae, vocoder: mel_vae | newer(vocoder),
    "prefixes": lambda mel_vae, vocoder: prefixed(mel_vae, "vae.") | prefixed(vocoder, "vocoder."),
    "nested prefixes": lambda mel_vae, vocoder: (
        prefixed(mel_vae, "tod.vae.") | prefixed(vocoder, "tod.vocoder.vocoder.")
    ),
    "generator": lambda mel_vae, vocoder: mel_vae | prefixed(vocoder, "generator."),
    "vocoder folded": lambda mel_vae, vocoder: mel_vae | fold_weight_norms(vocoder),
    "VAE folded": lambda mel_vae, vocoder: fold_magnitudes(mel_vae) | vocoder,
    "all folded": lambda mel_vae, vocoder: (
        fold_magnitudes(mel_vae) | prefixed(fold_weight_norms(vocoder), "vocoder.")
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_becomes_the_hosts(form: str) -> None:
    made, wanted = to_host(FORMS[form](*mmaudio_published())), mmaudio_folded()
    assert set(made) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(made[key], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("form", ["raw", "all folded"])
def test_bf16_files_become_float32_and_are_told_apart(form: str) -> None:
    sd, wanted = FORMS[form](*mmaudio_published()), mmaudio_folded()
    made = to_host({key: value.bfloat16() for key, value in sd.items()})
    assert {value.dtype for value in made.values()} == {torch.float32}
    for key, value in wanted.items():
        assert (made[key] - value).norm() <= 1e-2 * value.norm(), key


def test_a_dead_row_does_not_hide_that_a_file_is_folded() -> None:
    raw = mmaudio_published()[0]
    raw["decoder.conv_in.weight"] = raw["decoder.conv_in.weight"] * torch.ones(32, 1, 1).index_fill(
        0, torch.tensor(0), 1e-6
    )
    assert not is_folded(raw)
    folded = fold_magnitudes(raw)
    assert folded["decoder.conv_in.weight"][0].norm() < 0.1
    assert is_folded(folded)
    assert not is_folded({})


def test_a_complete_file_keeps_its_own_mel_basis() -> None:
    sd = mmaudio_folded()
    sd["mel_converter.mel_basis"] = torch.full((80, 513), 0.5)
    assert torch.equal(to_host(sd)["mel_converter.mel_basis"], sd["mel_converter.mel_basis"])


@pytest.mark.parametrize("fold", [False, True])
def test_full_size_keys_are_exactly_the_hosts(fold: bool) -> None:
    with torch.device("meta"):
        network = AudioAutoencoder(mode="16k")
        mel_vae, vocoder = mmaudio_published_names(network.state_dict())
    assert (len(mel_vae), len(vocoder)) == (57, 668 + 116)
    assert mel_vae["decoder.conv_in.weight"].shape == (1536, 20, 3)
    assert vocoder["ups.0.0.weight_v"].shape == (1536, 768, 8)
    if fold:
        mel_vae, vocoder = fold_magnitudes(mel_vae), fold_weight_norms(vocoder)
    made = mel_tensors() | fold_magnitudes(fold_weight_norms(host_names(mel_vae | vocoder)))
    assert {key: value.shape for key, value in made.items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }
    assert sum(value.numel() for value in part(made, "vocoder.").values()) == 112_202_089
    counts = {name: len(part(made, name)) for name in ("vae.", "vocoder.", "mel_")}
    assert counts == {"vae.": 57, "vocoder.": 668, "mel_": 2}


def mmaudio_published_names(host: StateDict) -> tuple[StateDict, StateDict]:
    """Names and shapes of v1-16.pth and of the generator in best_netG.pt, from the host's."""
    vocoder = part(host, "vocoder.")
    layers = [key.removesuffix(".weight") for key in vocoder if key.endswith(".weight")]
    for layer in layers:
        weight = vocoder.pop(f"{layer}.weight")
        vocoder[f"{layer}.weight_v"] = weight
        vocoder[f"{layer}.weight_g"] = torch.empty(weight.shape[0], 1, 1, device="meta")
    return part(host, "vae."), vocoder


def test_rates_and_layout(vae: MMAudioVAE) -> None:
    assert isinstance(vae, comfy.sd.VAE)
    assert token_rate(vae) == Fraction(125, 4)
    assert (vae.audio_sample_rate, vae.latent_channels, vae.latent_dim, vae.output_channels) == (
        44100,
        20,
        1,
        1,
    )
    audio = vae.decode(torch.randn(1, 20, 157))
    assert audio.shape == (1, 221559, 1)  # 80,384 samples of 16 kHz: 5.024 s
    assert vae.encode(audio.expand(2, -1, 2)).shape == (2, 20, 157)


def test_host_nodes_play_it(vae: MMAudioVAE) -> None:
    encoded = VAEEncodeAudio.execute(vae=vae, audio=sound(48000, rate=48000, channels=2))[0]
    assert encoded["samples"].shape == (1, 20, 31)
    made = VAEDecodeAudio.execute(vae=vae, samples=encoded)[0]
    assert (made["sample_rate"], made["waveform"].shape) == (44100, (1, 1, 43748))


def test_long_sound_in_tiles_keeps_its_length(vae: MMAudioVAE) -> None:
    latent = torch.randn(1, 20, 40)
    with torch.inference_mode():  # as the server runs nodes
        made = VAEDecodeAudioTiled.execute(vae=vae, samples={"samples": latent}, tile_size=32, overlap=8)[0][
            "waveform"
        ]
        whole = VAEDecodeAudio.execute(vae=vae, samples={"samples": latent})[0]["waveform"]
    assert abs(made.shape[-1] - whole.shape[-1]) <= 1
    assert (made[..., :20000] - whole[..., :20000]).abs().mean() < 0.2 * whole.abs().mean()


def test_a_round_trip_through_the_av_nodes(vae: MMAudioVAE) -> None:
    pictures, tokens = frames(9), round(9 / 24 * 31.25)
    latent = {"samples": NestedTensor((torch.zeros(1, 16, 3, 4, 4), torch.zeros(1, 20, tokens))), "fps": 24.0}
    encoded = CCLEncodeAV.execute(
        latent, "crop", "pad", video_vae=video_vae(), audio_vae=vae, images=pictures, audio=sound(20000)
    )[0]
    given = encoded["samples"].unbind()[1]
    assert given.shape == (1, 20, tokens)
    assert given.abs().amax() > 0
    images, audio, _ = CCLDecodeAV.execute(
        encoded, video_vae(), {"tiling": "off"}, audio_vae=vae, given="decoded"
    )
    assert images.shape == pictures.shape
    assert (audio["sample_rate"], audio["waveform"].shape) == (44100, (1, 1, round(9 / 24 * 44100)))
    assert audio["waveform"].abs().amax() > 0


def test_bad_input_is_named(vae: MMAudioVAE) -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 4\), this MMAudio VAE wants \(batch, 20, tokens\)"):
        vae.decode(torch.zeros(1, 8, 4))
    with pytest.raises(ValueError, match="audio latent contains NaN"):
        vae.decode_tiled(torch.full((1, 20, 4), float("nan")))
    with pytest.raises(ValueError, match="audio to encode contains NaN"):
        vae.encode(torch.full((1, 2000, 1), float("nan")))


def without(sd: StateDict, key: str) -> StateDict:
    assert key in sd
    return {name: value for name, value in sd.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda sd: part(sd, "vae."),
            "without its vocoder: choose mmaudio_vocoder_bigvgan_best_netG in vocoder_name",
        ),
        (
            lambda sd: part(sd, "vocoder."),
            "vocoder of MMAudio without its VAE: choose mmaudio_vae_16k in vae_name",
        ),
        (
            lambda sd: without(sd, "vae.encoder.conv_in.weight"),
            r"lacks the key vae\.encoder\.conv_in\.weight of shape",
        ),
        (
            lambda sd: without(sd, "vocoder.conv_post.bias"),
            r"MMAudio VAE lacks the key vocoder\.conv_post\.bias",
        ),
        (lambda sd: sd | {"vocoder.conv_post.bias": torch.zeros(2)}, r"has shape \(2,\), wanted \(1,\)"),
        (lambda sd: sd | {"extra.weight": torch.zeros(2)}, r"does not know, the first is extra\.weight"),
        (lambda sd: sd | {"vae.data_mean": torch.zeros(1, 128, 1)}, "128 mel bands.*choose mmaudio_vae_16k"),
        (
            lambda sd: sd | {"encoder.conv_in.weight": torch.zeros(2)},
            r"hold vae\.encoder\.conv_in\.weight twice",
        ),
        (lambda sd: sd | {"conv_pre.weight_g": torch.zeros(1)}, r"without vocoder\.conv_pre\.weight_v"),
        (
            lambda sd: sd | prefixed(mmaudio_published()[1], "vocoder."),
            "twice, folded and with weight norm|twice, once",
        ),
        (
            lambda sd: sd | {"head.istft.window": torch.zeros(2)},
            "keys of a vocoder and of a MMAudio VAE in one",
        ),
        (
            lambda sd: sd | {"decoder.model.0.bias": torch.zeros(2)},
            "keys of a DAC autoencoder and of a MMAudio VAE",
        ),
    ],
)
def test_a_wrong_file_is_named(change: Callable[[StateDict], StateDict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_audio_vae(change(mmaudio_folded()))


def test_another_mel_vae_with_a_vocoder_is_not_taken_for_it() -> None:
    ltx = {"audio_vae.decoder.conv_in.conv.weight": (4, 8, 3, 3), "vocoder.conv_pre.weight": (8, 4, 7)}
    with pytest.raises(ValueError, match="this is not an audio VAE"):
        load_audio_vae({key: torch.zeros(shape) for key, shape in ltx.items()})


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_split_repacks_load_in_either_slot(
    tmp_path: Path, vae: MMAudioVAE, order: int, dtype: torch.dtype
) -> None:
    paths = []
    for name, sd in zip(
        ("mmaudio_vae_16k", "mmaudio_vocoder_bigvgan_best_netG"), mmaudio_published(), strict=True
    ):
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file({key: value.to(dtype) for key, value in sd.items()}, paths[-1])
    loaded = load_audio_vae_file(*paths[::order])
    assert isinstance(loaded, MMAudioVAE)
    latent = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(5))
    whole, made = vae.decode(latent), loaded.decode(latent)
    assert (made - whole).norm() <= (1e-4 if dtype == torch.float32 else 0.2) * whole.norm()
    with pytest.raises(
        ValueError, match=r"mmaudio_vae_16k\.safetensors: this is an MMAudio VAE without its vocoder"
    ):
        load_audio_vae_file(paths[0])
    with pytest.raises(ValueError, match=r"both have the key|twice"):
        load_audio_vae_file(paths[0], paths[0])
