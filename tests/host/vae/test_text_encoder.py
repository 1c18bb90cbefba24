"""A umT5 of any size becomes the host's CLIP; a file that does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from comfy.sd import CLIP

from ccl_pack.ccl_core.host.vae.text_encoder import load_text_encoder
from ccl_pack.ccl_core.training.tiny.text_encoder import TextRecipe, build_encoder
from support.vocabulary import WORDS_SEEN, train_words

RECIPE = TextRecipe(vocab_size=320, d_model=32, num_layers=2, num_heads=2, d_kv=8, d_ff=48)
CONFIG = {"umt5xxl_model_config": RECIPE.model_config(), "min_length": 12}
PROMPT = "a red ball bounces, drum"


@pytest.fixture(scope="module")
def vocabulary() -> torch.Tensor:
    return torch.frombuffer(bytearray(train_words(RECIPE.vocab_size)), dtype=torch.uint8)


@pytest.fixture
def state_dict(vocabulary: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {**build_encoder(RECIPE).state_dict(), "spiece_model": vocabulary}


def encode(clip: CLIP, prompt: str) -> torch.Tensor:
    ((cond, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return cond


def real_tokens(clip: CLIP, prompt: str) -> int:
    return sum(token != 0 for token, _ in clip.tokenize(prompt)["umt5xxl"][0])


@pytest.mark.parametrize("prompt", [PROMPT, "", "Ein roter Ball \N{SNOWMAN}"])
def test_prompt_gives_informative_tokens_and_silent_padding(
    state_dict: dict[str, torch.Tensor], prompt: str
) -> None:
    clip = load_text_encoder(state_dict, CONFIG)
    cond, real = encode(clip, prompt), real_tokens(clip, prompt)
    assert cond.shape[0] == 1 and cond.shape[2] == 32
    assert cond.shape[1] == max(12, real)
    torch.testing.assert_close(cond[0, :real].square().mean(-1), torch.ones(real), atol=1e-3, rtol=0)
    assert not cond[0, real:].any()
    assert torch.equal(cond, encode(clip, prompt))


def test_different_words_give_different_tokens(state_dict: dict[str, torch.Tensor]) -> None:
    clip = load_text_encoder(state_dict, CONFIG)
    red, blue = encode(clip, PROMPT), encode(clip, PROMPT.replace("red", "blue"))
    assert (red - blue).abs().max() > 0.1


def test_prompt_longer_than_the_shortest_length_is_kept_whole(state_dict: dict[str, torch.Tensor]) -> None:
    clip = load_text_encoder(state_dict, CONFIG)
    prompt = ", ".join([PROMPT] * 4)
    assert encode(clip, prompt).shape[1] == real_tokens(clip, prompt) > 12


def test_weighted_word_moves_only_along_its_own_direction(state_dict: dict[str, torch.Tensor]) -> None:
    clip = load_text_encoder(state_dict, CONFIG)
    stressed = "a (red:1.5) ball bounces, drum"
    (red,) = (i for i, (_, weight) in enumerate(clip.tokenize(stressed)["umt5xxl"][0]) if weight == 1.5)
    plain, weighted, empty = encode(clip, PROMPT), encode(clip, stressed), encode(clip, "")
    changed = (plain - weighted).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [red]
    torch.testing.assert_close(weighted[0, red], empty[0, red] + 1.5 * (plain[0, red] - empty[0, red]))


def test_half_precision_file_equals_its_rounded_weights(state_dict: dict[str, torch.Tensor]) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in state_dict.items()}
    rounded = {key: value.float() if value.is_floating_point() else value for key, value in half.items()}
    torch.testing.assert_close(
        encode(load_text_encoder(half, CONFIG), PROMPT), encode(load_text_encoder(rounded, CONFIG), PROMPT)
    )


def test_names_of_the_hosts_checkpoints_are_read_too(state_dict: dict[str, torch.Tensor]) -> None:
    prefixed = {
        key if key == "spiece_model" else f"umt5xxl.transformer.{key}": value
        for key, value in state_dict.items()
    }
    prefixed["umt5xxl.logit_scale"] = torch.tensor(4.6)
    assert torch.equal(
        encode(load_text_encoder(prefixed, CONFIG), PROMPT),
        encode(load_text_encoder(state_dict, CONFIG), PROMPT),
    )


def test_given_dictionaries_are_left_alone(state_dict: dict[str, torch.Tensor]) -> None:
    keys = set(state_dict)
    load_text_encoder(state_dict, CONFIG)
    assert set(state_dict) == keys
    assert CONFIG["umt5xxl_model_config"] == RECIPE.model_config()


def without(key: str) -> Any:
    return lambda sd: sd.pop(key)


def replaced(key: str, value: torch.Tensor) -> Any:
    return lambda sd: sd.update({key: value})


QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"


@pytest.mark.parametrize(
    "damage, named",
    [
        (without(QUERY), rf"'{QUERY}' is missing \(wanted \(16, 32\)\)"),
        (without("spiece_model"), "'spiece_model'.*is missing"),
        (
            replaced("shared.weight", torch.zeros(320, 16)),
            r"'shared.weight' has shape \(320, 16\), wanted \(320, 32\)",
        ),
        (
            replaced("decoder.block.0.weight", torch.zeros(1)),
            "'decoder.block.0.weight' is not part of a umT5",
        ),
        (replaced("spiece_model", torch.zeros(8)), "'spiece_model' must be a 1-D uint8 tensor"),
        (
            replaced("spiece_model", torch.full((64,), 7, dtype=torch.uint8)),
            "'spiece_model' is no SentencePiece model",
        ),
    ],
)
def test_damaged_file_is_refused_by_the_name_of_the_key(
    state_dict: dict[str, torch.Tensor], damage: Callable[..., Any], named: str
) -> None:
    damage(state_dict)
    with pytest.raises(ValueError, match=named):
        load_text_encoder(state_dict, CONFIG)


def test_many_faults_are_counted_not_listed(state_dict: dict[str, torch.Tensor]) -> None:
    only_vocabulary = {"spiece_model": state_dict["spiece_model"]}
    with pytest.raises(ValueError, match=r"and \d+ more"):
        load_text_encoder(only_vocabulary, CONFIG)


def stated(**changes: Any) -> dict[str, Any]:
    """The configuration with other values."""
    return CONFIG | {"umt5xxl_model_config": RECIPE.model_config() | changes}


@pytest.mark.parametrize(
    "config, named",
    [
        ({}, "'umt5xxl_model_config'"),
        ({"umt5xxl_model_config": {**RECIPE.model_config(), "d_model": 0}}, "positive integers for: d_model"),
        ({"umt5xxl_model_config": {"d_model": 32}}, "vocab_size, d_kv, d_ff, num_heads, num_layers"),
        ({**CONFIG, "min_length": -1}, "'min_length' must be a positive number of tokens, got -1"),
        ({**CONFIG, "min_length": 10**9}, "'min_length' must be a positive number of tokens, got 1000000000"),
        (stated(num_layers=10**9), "for: num_layers; none far larger"),
        (stated(vocab_size=10**12, d_ff=True), "for: vocab_size, d_ff"),
        (stated(dense_act_fn=1e30), "'dense_act_fn' is 1e\\+30, known are gelu_pytorch_tanh, relu"),
        (stated(dense_act_fn=[]), "'dense_act_fn' is \\[\\], known are"),
        (stated(is_gated_act="x"), "'is_gated_act' is 'x', known are True, False"),
        (stated(model_type=None), "'model_type' is None, known are umt5, t5"),
    ],
)
def test_incomplete_configuration_is_refused(
    state_dict: dict[str, torch.Tensor], config: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        load_text_encoder(state_dict, config)


def test_vocabulary_of_another_encoder_is_refused(state_dict: dict[str, torch.Tensor]) -> None:
    recipe = replace(RECIPE, vocab_size=100)
    smaller = {**build_encoder(recipe).state_dict(), "spiece_model": state_dict["spiece_model"]}
    with pytest.raises(ValueError, match=r"\d{3} pieces but 'shared.weight' only 100 rows"):
        load_text_encoder(smaller, {**CONFIG, "umt5xxl_model_config": recipe.model_config()})


def test_vocabulary_knows_the_words_it_was_trained_on(state_dict: dict[str, torch.Tensor]) -> None:
    clip = load_text_encoder(state_dict, CONFIG)
    assert {word: real_tokens(clip, word) for word in WORDS_SEEN} == dict.fromkeys(WORDS_SEEN, 2)


def test_wan_s_own_encoder_needs_no_configuration_and_all_its_weights(vocabulary: torch.Tensor) -> None:
    last = "umt5xxl.transformer.encoder.block.23.layer.1.DenseReluDense.wi_1.weight"
    weights = {last: torch.zeros(1, dtype=torch.bfloat16).expand(10240, 4096), "spiece_model": vocabulary}
    with pytest.raises(ValueError, match=r"umT5-XXL, has no .* and 235 more: the file was cut.*CLIPLoader"):
        load_text_encoder(weights, None)
