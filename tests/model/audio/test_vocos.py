"""vocos.py against the published implementation (fixture vocos_dev) and its own identities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ccl_pack.ccl_core.model.audio.vocos import Vocos, VocosConfig

FIXTURE = Path(__file__).parents[2] / "fixtures" / "vocos_dev.safetensors"


def fixture_config() -> VocosConfig:
    with safe_open(FIXTURE, "pt") as file:
        info = json.loads(file.metadata()["info"])["config"]
    features, backbone = info["feature_extractor"], info["backbone"]
    return VocosConfig(
        sample_rate=features["sample_rate"],
        hop=features["hop_length"],
        mels=features["n_mels"],
        mel_n_fft=features["n_fft"],
        n_fft=info["head"]["n_fft"],
        dim=backbone["dim"],
        intermediate_dim=backbone["intermediate_dim"],
        layers=backbone["num_layers"],
        padding=features["padding"],
    )


def small_config(**changes: object) -> VocosConfig:
    sizes = {
        "sample_rate": 16000,
        "hop": 500,
        "mels": 12,
        "mel_n_fft": 1000,
        "n_fft": 1000,
        "dim": 16,
        "intermediate_dim": 40,
    }
    return VocosConfig(**{**sizes, "layers": 2, "padding": "same", **changes})


def small_vocos(**changes: object) -> Vocos:
    torch.manual_seed(1)
    return Vocos(small_config(**changes), operations=torch.nn).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(FIXTURE)


@pytest.fixture(scope="module")
def published(tensors: dict[str, torch.Tensor]) -> Vocos:
    vocos = Vocos(fixture_config(), operations=torch.nn).eval().requires_grad_(False)
    weights = {
        key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")
    }
    missing, unexpected = vocos.load_state_dict(weights, strict=False)
    assert set(missing) == {"latent_mean", "latent_std", "latent_floor"}
    assert not unexpected
    return vocos


def test_features_match_the_published_ones(published: Vocos, tensors: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(
        published.mel(tensors["inputs/waveform"]), tensors["outputs/mel"], atol=1e-3, rtol=0
    )


def test_synthesis_matches_the_published_one(published: Vocos, tensors: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(
        published.synthesize(tensors["inputs/mel"]), tensors["outputs/waveform_from_mel"], atol=1e-5, rtol=0
    )


def test_resynthesis_matches_the_published_one(published: Vocos, tensors: dict[str, torch.Tensor]) -> None:
    resynthesis = published.decode(published.encode(tensors["inputs/waveform"][:, None]))[:, 0]
    torch.testing.assert_close(resynthesis, tensors["outputs/resynthesis"], atol=2e-5, rtol=0)


def test_fixed_tensors_are_computed_when_a_file_lacks_them(tensors: dict[str, torch.Tensor]) -> None:
    fresh = Vocos(fixture_config(), operations=torch.nn).state_dict()
    for key in (
        "feature_extractor.mel_spec.spectrogram.window",
        "feature_extractor.mel_spec.mel_scale.fb",
        "head.istft.window",
    ):
        torch.testing.assert_close(fresh[key], tensors[f"weights/{key}"], atol=1e-6, rtol=0)


# One frame a token, and two or three shorter ones.
FRAMES = [{}, {"hop": 250, "frames_per_token": 2, "phase_rounds": 3}, {"hop": 200, "frames_per_token": 3}]


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("samples", [700, 5000, 33001])
def test_lengths_follow_the_config(padding: str, samples: int, frames: dict[str, int]) -> None:
    vocos = small_vocos(padding=padding, **frames)
    latent = vocos.encode(torch.randn(2, 1, samples))
    assert latent.shape == (2, vocos.config.channels, vocos.config.tokens(samples))
    made = vocos.decode(latent)
    assert made.shape == (2, 1, vocos.config.samples(latent.shape[-1]))
    assert abs(made.shape[-1] - samples) < vocos.config.token_hop


def test_a_sound_shorter_than_half_a_window_is_named() -> None:
    with pytest.raises(ValueError, match=r"500 samples.*at least 501"):
        small_vocos(padding="center").encode(torch.randn(1, 1, 500))


def test_same_padding_is_exactly_hop_samples_per_token() -> None:
    config = small_config()
    assert [config.tokens(n) for n in (1, 499, 500, 501, 45000)] == [1, 1, 1, 2, 90]
    assert config.samples(90) == 45000


def test_a_token_of_two_frames_is_two_hops() -> None:
    config = small_config(hop=250, frames_per_token=2)
    assert (config.channels, config.token_hop) == (24, 500)
    assert [config.tokens(n) for n in (1, 250, 251, 500, 501, 45000)] == [1, 1, 1, 1, 2, 90]
    assert config.samples(90) == 45000
    centred = small_config(hop=250, frames_per_token=2, padding="center")
    assert [centred.tokens(n) for n in (249, 250, 499, 500, 1250)] == [1, 1, 1, 2, 3]
    assert [centred.samples(n) for n in (1, 2, 3)] == [250, 750, 1250]


def test_the_frames_of_a_token_lie_one_after_the_other_in_its_channels() -> None:
    vocos = small_vocos(hop=250, frames_per_token=2)
    audio = torch.randn(1, 1, 5000)
    mel = vocos.mel(audio[:, 0])
    assert mel.shape == (1, 12, 20)
    latent = vocos.encode(audio)
    assert torch.equal(latent[:, :12], mel[..., 0::2])
    assert torch.equal(latent[:, 12:], mel[..., 1::2])
    torch.testing.assert_close(vocos.decode(latent)[:, 0], vocos.synthesize(mel), atol=1e-6, rtol=0)


def test_silence_fills_the_last_token() -> None:
    vocos = small_vocos(hop=250, frames_per_token=2)
    audio = torch.randn(1, 1, 5200)
    filled = torch.nn.functional.pad(audio, (0, 300))
    assert torch.equal(vocos.encode(audio), vocos.encode(filled))


@pytest.mark.parametrize(("padding", "offset"), [("same", 250), ("center", 0)])
def test_an_impulse_is_seen_by_the_token_at_its_place(padding: str, offset: int) -> None:
    vocos = small_vocos(padding=padding)
    waveform = torch.zeros(1, 10000)
    waveform[0, 7 * 500 + offset] = 1.0
    energy = vocos.mel(waveform).exp().sum(dim=1)[0]
    assert energy.argmax() == 7
    assert energy[5] < 1e-3 * energy[7]


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("tile", [1, 7, 500])
def test_tiles_change_nothing(padding: str, tile: int, frames: dict[str, int]) -> None:
    vocos = small_vocos(padding=padding, **frames)
    audio = torch.randn(2, 1, 20500)
    latent = vocos.encode(audio)
    torch.testing.assert_close(vocos.encode(audio, tile), latent, atol=1e-4, rtol=0)
    # The rounds carry rounding on.
    near = 1e-4 if vocos.config.phase_rounds else 1e-5
    torch.testing.assert_close(vocos.decode(latent, tile), vocos.decode(latent), atol=near, rtol=0)


@pytest.mark.parametrize("padding", ["same", "center"])
def test_synthesis_undoes_analysis(padding: str) -> None:
    head = small_vocos(padding=padding, hop=250).head
    waveform = torch.randn(2, 5000)
    torch.testing.assert_close(head.synthesis(head.analysis(waveform)), waveform, atol=1e-5, rtol=0)


def test_rounds_find_phases_that_agree_and_keep_the_magnitudes() -> None:
    time = torch.arange(16000) / 16000
    glide = torch.cos(2 * torch.pi * (300 * time + 100 * time**2))[None]
    torch.manual_seed(0)
    errors = {}
    for rounds in (0, 16):
        head = small_vocos(hop=250, phase_rounds=rounds).head
        magnitude = head.analysis(glide).abs()
        unknown = torch.polar(magnitude, 6.3 * torch.rand_like(magnitude))
        agreed = head.agreed(unknown)
        torch.testing.assert_close(agreed.abs(), magnitude, atol=1e-3, rtol=1e-4)
        made = head.analysis(head.synthesis(agreed)).abs()
        errors[rounds] = float((made - magnitude).norm() / magnitude.norm())
    assert errors[0] > 0.5
    assert errors[16] < 0.2


def test_latent_is_normalised_per_band() -> None:
    vocos = small_vocos()
    audio = torch.randn(1, 1, 20000)
    mel = vocos.encode(audio)
    vocos.latent_mean.copy_(mel.mean(dim=(0, 2)))
    vocos.latent_std.copy_(mel.std(dim=(0, 2)))
    latent = vocos.encode(audio)
    torch.testing.assert_close(latent.mean(dim=(0, 2)), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(latent.std(dim=(0, 2)), torch.ones(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(vocos.decode(latent)[:, 0], vocos.synthesize(mel), atol=1e-5, rtol=0)


def test_silence_is_the_floor() -> None:
    vocos = small_vocos()
    vocos.latent_floor.fill_(-3.0)
    torch.testing.assert_close(vocos.mel(torch.zeros(1, 2000)), torch.full((1, 12, 4), -3.0))


def test_half_precision_layers_keep_a_float32_transform() -> None:
    vocos = small_vocos()
    mel = vocos.mel(torch.randn(1, 10000))
    exact = vocos.synthesize(mel)
    half = Vocos(vocos.config, dtype=torch.bfloat16, operations=torch.nn).eval().requires_grad_(False)
    half.load_state_dict(vocos.state_dict())
    rough = half.synthesize(mel)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": "valid"}, "'valid'.*center, same"),
        ({"hop": 0}, "hop 0"),
        ({"n_fft": 900}, "hop 500 does not fit n_fft 900"),
        ({"mel_n_fft": 1001}, "mel_n_fft 1001"),
        ({"sample_rate": 0}, "sample rate is 0"),
        ({"frames_per_token": 0}, "frames_per_token is 0, wanted 1 or more"),
        ({"phase_rounds": -1}, "phase_rounds is -1, wanted 0 to 1000"),
    ],
)
def test_sizes_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**change)
