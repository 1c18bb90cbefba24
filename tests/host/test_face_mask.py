"""The face mask of a coupling: changed, replaced and looked at, in whole clips and in context windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.config import AsymmetricOptions, InteractionConfig
from ccl_pack.ccl_core.host.face_mask import (
    FaceModulation,
    frames_in,
    look_at_mask,
    on_pixels,
    on_tokens,
    overlay,
    with_face_modulation,
)
from ccl_pack.ccl_core.model.attention import TAPS
from ccl_pack.ccl_core.model.interactions.asymmetric import FACE_MASK
from ccl_pack.ccl_core.model.sparse import GRID, Grid
from support import tiny

# tiny.av_latent: 3 latent frames of 4 x 6 cells of 8 pixels, so 2 x 3 tokens of 16 pixels; 9 frames.
TOKENS, FRAMES, SIZE, CELL = (2, 3), 9, (32, 48), 16
POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(7)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def talking(**fields: Any) -> Any:
    return tiny.patcher(interaction=InteractionConfig("asymmetric", (0, 1), AsymmetricOptions(**fields)))


def sampled(model: Any, latent: dict[str, Any] | None = None) -> list[Tensor]:
    latent = tiny.av_latent() if latent is None else latent
    run = host_nodes.common_ksampler(model, 1, 2, 1.0, "euler", "simple", POSITIVE, NEGATIVE, latent)
    return run[0]["samples"].unbind()


def equal(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


def options(frames: int, window: Any = None) -> dict[str, Any]:
    return {GRID: Grid(0, (frames, *TOKENS))} | ({} if window is None else {"context_window": window})


def test_frames_lie_on_tokens_by_the_clock_of_the_video() -> None:
    """The first latent frame is frame 0, the second frames 1 to 4."""
    light = torch.arange(FRAMES, dtype=torch.float32).view(-1, 1, 1).expand(-1, *SIZE)
    assert on_tokens(light, *TOKENS)[:, 0, 0].tolist() == [0, 2.5, 6.5]
    part = torch.zeros(1, *SIZE)
    part[:, :16, 16:40] = 1
    assert on_tokens(part, *TOKENS)[0].tolist() == [[0, 1, 0.5], [0, 0, 0]]
    # Where the last latent frame is not full.
    assert on_tokens(light[:7], *TOKENS)[:, 0, 0].tolist() == [0, 2.5, 5.5]


def test_tokens_as_pixels_are_those_tokens_again() -> None:
    tokens = torch.rand(1, 3, *TOKENS)
    frames = on_pixels(tokens, CELL, SIZE)
    assert frames.shape == (FRAMES, *SIZE)
    torch.testing.assert_close(on_tokens(frames, *TOKENS), tokens[0])


@pytest.mark.parametrize(("strength", "wanted"), [(0.0, [0, 0]), (0.5, [0.2, 0.45]), (2.0, [0.8, 1.0])])
def test_a_strength_multiplies_the_mask_up_to_1(strength: float, wanted: list[float]) -> None:
    predicted = torch.tensor([0.4, 0.9]).view(1, 2, 1)
    made = FaceModulation(strength, None)(predicted, {})
    torch.testing.assert_close(made.flatten(), torch.tensor(wanted, dtype=torch.float32))


def test_a_mask_of_one_s_own_follows_the_frames_of_a_window() -> None:
    class Window:
        index_list, total_frames = [2, 0], 3

    light = torch.tensor([0.1] + 4 * [0.2] + 4 * [0.3]).view(-1, 1, 1).expand(-1, *SIZE)
    change = FaceModulation(1.0, light)
    whole = change(torch.zeros(2, 18, 1), options(3))
    assert whole.shape == (2, 18, 1)
    torch.testing.assert_close(whole[0, ::6, 0], torch.tensor([0.1, 0.2, 0.3]))
    windowed = change(torch.zeros(2, 12, 1), options(2, Window()))
    torch.testing.assert_close(windowed[1, ::6, 0], torch.tensor([0.3, 0.1]))


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, ""), (FRAMES, ""), (5, "the last one fills"), (13, "those behind its end are left out")],
)
def test_a_mask_of_another_length_is_told(count: int, told: str, caplog: pytest.LogCaptureFixture) -> None:
    light = torch.linspace(0, 1, count).view(-1, 1, 1).expand(-1, *SIZE)
    change = FaceModulation(1.0, light)
    made = [change(torch.zeros(1, 18, 1), options(3)) for _ in range(2)]
    assert torch.equal(*made)
    assert [told in record.getMessage() for record in caplog.records] == ([True] if told else [])


def test_as_predicted_is_the_model_itself_and_white_is_no_modulation() -> None:
    model = talking()
    plain = sampled(model)
    assert equal(sampled(with_face_modulation(model, 1.0, None)), plain)
    white = sampled(with_face_modulation(model, 1.0, torch.ones(1, 8, 8)))
    weights = tiny.state_dict(model.model.ccl_config)
    without = {key: value for key, value in weights.items() if ".face." not in key}
    coupling = InteractionConfig("asymmetric", (0, 1), AsymmetricOptions(face_mask=False))
    assert equal(white, sampled(tiny.patcher(weights=without, interaction=coupling)))
    assert not equal(white, plain)


def test_at_strength_0_the_streams_do_not_meet() -> None:
    silent = with_face_modulation(talking(), 0.0, None)
    mute = tiny.av_latent(masks=tiny.given("audio"))
    other = tiny.av_latent(masks=tiny.given("audio"))
    other["samples"].tensors[1].mul_(-2)
    assert torch.equal(sampled(silent, mute)[0], sampled(silent, other)[0])
    assert not torch.equal(sampled(talking(), mute)[0], sampled(talking(), other)[0])


def test_in_context_windows_a_mask_keeps_its_moments() -> None:
    """Each window gets the part of the mask that belongs to its frames, and to the one that the host puts in
    front of it.
    """
    seen: dict[tuple[int, ...], Tensor] = {}

    def watch(mask: Tensor, given: dict[str, Any]) -> Tensor:
        made = change(mask, given)
        seen[tuple(frames_in(given))] = made[0].unflatten(0, (-1, TOKENS[0] * TOKENS[1]))[:, 0, 0]
        return made

    light = torch.tensor([0.1] + 4 * [0.2] + 4 * [0.3]).view(-1, 1, 1).expand(-1, *SIZE)
    change = FaceModulation(1.0, light)
    windowed = ContextWindowsManualNode.execute(
        talking(), 2, 1, "standard_static", 1, False, "pyramid", 2, False
    )
    model = windowed[0].clone()
    model.model_options["transformer_options"][FACE_MASK] = watch
    sampled(model)
    assert seen.keys() == {(0, 1), (0, 1, 2)}
    for frames, made in seen.items():
        torch.testing.assert_close(made, torch.tensor([0.1, 0.2, 0.3])[list(frames)])
    assert looked(windowed[0]).shape == (FRAMES, *SIZE)


def looked(model: Any, latent: dict[str, Any] | None = None, sigma: float = 0.3) -> Tensor:
    return look_at_mask(model, POSITIVE, tiny.av_latent() if latent is None else latent, sigma)


def test_the_mask_shown_is_the_mean_of_what_the_layers_predict() -> None:
    model, masks = talking().clone(), []
    model.model_options["transformer_options"][TAPS] = {"face_mask": lambda _, mask: masks.append(mask)}
    mask = looked(model)
    assert mask.shape == (FRAMES, *SIZE) and len(masks) == 2
    wanted = torch.stack(masks).mean(dim=0).view(3, *TOKENS)
    torch.testing.assert_close(on_tokens(mask, *TOKENS), wanted)
    assert wanted.std() > 0.01


def test_it_is_the_predicted_one_whatever_takes_its_place() -> None:
    """In the first layer, whose tokens no mask has changed."""
    shown = [looked(model) for model in (one_layer(), with_face_modulation(one_layer(), 0.0, None))]
    assert torch.equal(*shown)


def one_layer() -> Any:
    return tiny.patcher(interaction=InteractionConfig("asymmetric", (0,), AsymmetricOptions()))


def test_each_clip_has_its_own_frames_and_a_given_film_is_looked_at_too() -> None:
    both = tiny.av_latent(batch=2)
    assert looked(talking(), both).shape == (2 * FRAMES, *SIZE)
    film = looked(talking(), tiny.av_latent(masks=tiny.given("video")))
    assert film.shape == (FRAMES, *SIZE) and film.min() > 0 and film.max() < 1


def test_without_a_video_there_is_no_mask() -> None:
    absent = tiny.av_latent(masks=tiny.given("video"))
    absent["samples"].tensors[0].zero_()
    with pytest.raises(ValueError, match="latent has no video, so no face mask"):
        looked(talking(), absent)


def test_looking_leaves_the_model_as_it_was() -> None:
    model = talking()
    before = sampled(model)
    looked(model)
    assert FACE_MASK not in model.model_options["transformer_options"] and equal(sampled(model), before)


def test_a_mask_that_is_none_is_refused() -> None:
    for mask in (torch.ones(1, 1, 8, 8), torch.full((1, 8, 8), float("nan"))):
        with pytest.raises(ValueError, match="wanted \\(frames, height, width\\) of 0 to 1"):
            with_face_modulation(talking(), 1.0, mask)


def test_pictures_are_dark_where_the_mask_is_black() -> None:
    mask = torch.zeros(2, *SIZE)
    mask[1] = 1
    shown = overlay(mask, torch.full((1, 64, 96, 3), 0.8))
    assert shown.shape == (2, *SIZE, 3)
    torch.testing.assert_close(shown.amax(dim=(1, 2, 3)), torch.tensor([0.2, 0.8]))
    assert torch.equal(overlay(mask, None)[..., 1], mask)
