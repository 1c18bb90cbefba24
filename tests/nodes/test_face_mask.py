"""CCLFaceModulation, CCLFaceMask and CCLSpeakerMasks as a person puts them together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.config import AsymmetricOptions, InteractionConfig
from ccl_pack.ccl_core.host.face_mask import FaceModulation, on_tokens
from ccl_pack.ccl_core.model.interactions.asymmetric import FACE_MASK
from ccl_pack.nodes.face_mask import CCLFaceMask, CCLFaceModulation, CCLSpeakerMasks
from support import tiny
from support.tiny_vaes import frames, sound

POSITIVE = tiny.conditioning(1)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def talking() -> Any:
    return tiny.patcher(interaction=InteractionConfig("asymmetric", (0, 1), AsymmetricOptions()))


def change_of(model: Any) -> FaceModulation | None:
    return model.model_options["transformer_options"].get(FACE_MASK)


def test_the_last_modulation_of_a_model_counts_and_the_model_before_stays() -> None:
    model = talking()
    first = CCLFaceModulation.execute(model, 0.5)[0]
    second = CCLFaceModulation.execute(first, 2.0, torch.full((1, 4, 6), 3.0))[0]
    assert change_of(model) is None
    assert (change_of(first).strength, change_of(first).mask) == (0.5, None)
    assert change_of(second).strength == 2.0 and torch.equal(change_of(second).mask, torch.ones(1, 4, 6))


def test_a_model_without_a_face_mask_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.patcher()
    assert CCLFaceModulation.execute(model, 0.5)[0] is model
    mask, image = CCLFaceMask.execute(model, POSITIVE, tiny.av_latent(), 0.3).args
    assert mask.shape == (9, 32, 48) and mask.min() == 1 and image.shape == (9, 32, 48, 3)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == 2 * [
        "this model has no face mask"
    ]


def test_another_model_is_refused() -> None:
    for run in (
        lambda model: CCLFaceModulation.execute(model, 1.0),
        lambda model: CCLFaceMask.execute(model, POSITIVE, tiny.av_latent(), 0.3),
    ):
        with pytest.raises(ValueError, match="model: got LTXAV, which has no coupling of this pack"):
            run(tiny.other_model())


def test_a_mask_that_was_shown_can_take_the_place_of_the_predicted_one() -> None:
    mask, image = CCLFaceMask.execute(talking(), POSITIVE, tiny.av_latent(), 0.3, frames(9, 32, 48)).args
    assert mask.shape == (9, 32, 48) and image.shape == (9, 32, 48, 3)
    given = change_of(CCLFaceModulation.execute(talking(), 1.0, mask)[0])
    torch.testing.assert_close(on_tokens(given.mask, 2, 3), on_tokens(mask, 2, 3))


def test_two_speakers_make_a_mask_for_each_frame_and_one_sound() -> None:
    first, second = sound(8000), sound(8000, seed=5)
    first["waveform"][..., 4000:] = 0
    second["waveform"][..., :4000] = 0
    left, right = torch.zeros(1, 32, 48), torch.zeros(1, 32, 48)
    left[..., :24], right[..., 24:] = 1, 1
    mask, audio = CCLSpeakerMasks.execute(tiny.av_latent(), left, first, right, second).args
    # 9 frames at 16 a second, of which 4 pass in 4000 samples at 16 kHz.
    assert mask.shape == (9, 32, 48) and audio["waveform"].shape == (1, 1, 8000)
    assert torch.equal(mask[:4], left.expand(4, -1, -1)) and torch.equal(mask[4:8], right.expand(4, -1, -1))
    assert torch.equal(mask[8], (left + right)[0])


def test_a_latent_that_does_not_say_its_rate_needs_one() -> None:
    plain = {"samples": tiny.latents()[0]}
    given = torch.ones(1, 4, 6), sound(800), torch.ones(1, 4, 6), sound(800)
    with pytest.raises(ValueError, match="the latent does not say its frame rate"):
        CCLSpeakerMasks.execute(plain, *given)
    assert CCLSpeakerMasks.execute(plain, *given, fps=16.0)[0].shape == (9, 4, 6)
