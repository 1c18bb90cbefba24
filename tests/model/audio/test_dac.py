"""model/dac.py against the published implementation (fixture dac_dev) and its own identities."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ccl_pack.ccl_core.model.audio.dac import DAC, DACConfig, Snake
from support.tiny_audio_vaes import DAC_CONFIG, dac_file

FIXTURE = Path(__file__).parents[2] / "fixtures" / "dac_dev.safetensors"
OTHERS = (
    DAC_CONFIG,
    DACConfig(
        encoder_dim=2,
        encoder_rates=(5, 2),
        latent_dim=3,
        decoder_dim=8,
        decoder_rates=(2, 5),
        sample_rate=8000,
    ),
    DACConfig(
        encoder_dim=3,
        encoder_rates=(6,),
        latent_dim=4,
        decoder_dim=12,
        decoder_rates=(3, 2),
        sample_rate=8000,
    ),
)


def network(config: DACConfig = DAC_CONFIG, seed: int = 0) -> DAC:
    dac = DAC(config, operations=torch.nn).requires_grad_(False)
    dac.load_state_dict(dac_file(config, seed))
    return dac


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(FIXTURE)


@pytest.fixture(scope="module")
def bound() -> float:
    with safe_open(FIXTURE, "pt") as file:
        return json.loads(file.metadata()["info"])["tolerance"]["max_abs"]["outputs/{*}"]


@pytest.fixture(scope="module")
def published(tensors: dict[str, torch.Tensor]) -> DAC:
    weights = {
        key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")
    }
    dac = DAC(DACConfig.from_state_dict(weights), operations=torch.nn).requires_grad_(False)
    dac.load_state_dict(weights)
    return dac


def test_sizes_are_read_from_the_shapes(published: DAC) -> None:
    with safe_open(FIXTURE, "pt") as file:
        info = json.loads(file.metadata()["info"])["config"]
    config = published.config
    assert list(config.encoder_rates) == info["encoder_rates"]
    assert list(config.decoder_rates) == info["decoder_rates"]
    assert (config.encoder_dim, config.latent_dim) == (info["encoder_dim"], info["latent_dim"])
    assert (config.decoder_dim, config.sample_rate) == (info["decoder_dim"], info["sample_rate"])
    assert config.hop == 960


@pytest.mark.parametrize("tile", [None, 4])
def test_posterior_matches_the_published_one(
    published: DAC, tensors: dict[str, torch.Tensor], bound: float, tile: int | None
) -> None:
    mean, logvar = published.posterior(tensors["inputs/waveform"], tile)
    torch.testing.assert_close(mean, tensors["outputs/latent_mode"], atol=bound, rtol=0)
    torch.testing.assert_close(logvar, tensors["outputs/latent_logvar"], atol=bound, rtol=0)
    assert torch.equal(published.encode(tensors["inputs/waveform"], tile), mean)


@pytest.mark.parametrize("tile", [None, 4])
def test_decoding_matches_the_published_one(
    published: DAC, tensors: dict[str, torch.Tensor], bound: float, tile: int | None
) -> None:
    decoded = published.decode(tensors["outputs/latent_mode"], tile)
    torch.testing.assert_close(decoded, tensors["outputs/decoded"], atol=bound, rtol=0)
    torch.testing.assert_close(decoded[..., :9053], tensors["outputs/decoded_trimmed"], atol=bound, rtol=0)
    given = published.decode(tensors["inputs/latent"], tile)
    torch.testing.assert_close(given, tensors["outputs/decoded_from_given_latent"], atol=bound, rtol=0)


def test_snake_has_its_known_values() -> None:
    snake = Snake(2, None, None).requires_grad_(False)
    snake.alpha.copy_(torch.tensor([1.0, 2.0]).view(1, 2, 1))
    x = torch.tensor([[[0.0, torch.pi / 2, torch.pi]] * 2])
    wanted = torch.tensor([[[0.0, torch.pi / 2 + 1, torch.pi], [0.0, torch.pi / 2, torch.pi]]])
    torch.testing.assert_close(snake(x), wanted, atol=1e-6, rtol=0)


def test_a_snake_without_frequency_is_the_identity() -> None:
    snake = Snake(1, None, None).requires_grad_(False)
    snake.alpha.zero_()
    x = torch.randn(1, 1, 5)
    torch.testing.assert_close(snake(x), x)


@pytest.mark.parametrize("config", OTHERS)
def test_every_size_can_be_read_back_and_keeps_its_hop(config: DACConfig) -> None:
    dac = network(config)
    assert DACConfig.from_state_dict(dac.state_dict(), config.sample_rate) == config
    for samples in (1, config.hop, config.hop + 1, 5 * config.hop - 1):
        latent = dac.encode(torch.randn(2, 1, samples))
        assert latent.shape == (2, config.latent_dim, -(-samples // config.hop))
        assert dac.decode(latent).shape == (2, 1, latent.shape[-1] * config.hop)


@pytest.mark.parametrize("config", OTHERS)
@pytest.mark.parametrize("tile", [3, 40])
def test_tiles_change_nothing(config: DACConfig, tile: int) -> None:
    dac = network(config).double()
    audio = torch.randn(2, 1, 30 * config.hop - 3, dtype=torch.float64)
    latent = dac.encode(audio, None)
    torch.testing.assert_close(dac.encode(audio, tile), latent, atol=1e-11, rtol=0)
    torch.testing.assert_close(dac.decode(latent, tile), dac.decode(latent, None), atol=1e-11, rtol=0)


@pytest.mark.parametrize("config", OTHERS)
def test_the_reach_is_neither_too_short_nor_too_long(config: DACConfig) -> None:
    dac, hop, tokens = network(config).double(), config.hop, 101
    latent = torch.randn(1, config.latent_dim, tokens, dtype=torch.float64)
    audio = torch.randn(1, 1, tokens * hop, dtype=torch.float64)
    other_latent, other_audio = latent.clone(), audio.clone()
    other_latent[..., 50] += 1
    other_audio[..., 50 * hop : 51 * hop] += 1
    sound = (dac.decode(other_latent, None) - dac.decode(latent, None)).view(tokens, hop).abs().amax(1)
    codes = (dac.encode(other_audio, None) - dac.encode(audio, None))[0].abs().amax(0)
    for changed, reach in ((sound, config.decoder_reach), (codes, config.encoder_reach)):
        touched = (changed > 1e-13).nonzero()[:, 0]
        assert max(50 - touched.min(), touched.max() - 50) == reach


def test_published_sizes_have_a_short_reach() -> None:
    published = DACConfig(128, (2, 3, 4, 5, 8), 128, 2048, (8, 5, 4, 3, 2))
    assert (published.hop, published.encoder_reach, published.decoder_reach) == (960, 8, 10)
    network = DAC(published, device="meta", operations=torch.nn)
    assert len(network.state_dict()) == 224
    assert sum(parameter.numel() for parameter in network.parameters()) == 371_539_137


def test_a_ragged_end_is_filled_with_silence() -> None:
    dac, hop = network(), DAC_CONFIG.hop
    audio = torch.randn(1, 1, 3 * hop + 5)
    filled = torch.cat([audio, torch.zeros(1, 1, hop - 5)], dim=-1)
    assert torch.equal(dac.encode(audio), dac.encode(filled))


def test_the_log_variance_is_limited() -> None:
    dac = network()
    dac.quant_conv.bias[6:9] = 1e4
    dac.quant_conv.bias[9:] = -1e4
    logvar = dac.posterior(torch.randn(1, 1, 100))[1]
    assert (logvar[:, :3] == 20).all()
    assert (logvar[:, 3:] == -30).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_rates": (2, 3, 5)}, r"\(2, 3, 5\), its decoder \(4, 3, 2\).*mixes two models"),
        ({"encoder_rates": (1, 3), "decoder_rates": (3, 1)}, "wanted 2 or more"),
        ({"encoder_rates": (), "decoder_rates": ()}, "wanted 2 or more"),
        ({"decoder_dim": 12}, "12 cannot be halved 3 times"),
        ({"sample_rate": 0}, "sample rate is 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DAC_CONFIG, **change)


def test_a_file_without_stages_lacks_a_key() -> None:
    sd = {key: value for key, value in dac_file().items() if not key.startswith("decoder.model.1.")}
    with pytest.raises(KeyError, match=r"decoder\.model\.1\.block\.1\.weight"):
        DACConfig.from_state_dict(sd)
