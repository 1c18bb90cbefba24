"""The audio at a noise level of its own: the factor k, and a prediction at that level."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.model_sampling
import comfy.utils
import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.host.audio_shift import at_own_level, audio_noise_scale
from support.tiny import latents


def schedule(shift: float) -> comfy.model_sampling.ModelSamplingDiscreteFlow:
    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=shift)
    return sampling


def own_sigma(sigma: Tensor, scale: float) -> Tensor:
    return scale * sigma / (1 + (scale - 1) * sigma)


def test_the_factor_is_the_ratio_of_the_shifts() -> None:
    assert audio_noise_scale(2.0, schedule(5.0)) == pytest.approx(0.4)
    assert audio_noise_scale(5.0, schedule(5.0)) == 1.0
    assert audio_noise_scale(None, object()) == 1.0


def test_its_level_is_that_of_its_own_shift_on_the_same_grid() -> None:
    """u -> s u / (1 + (s - 1) u) for the shifts 5 and 2."""
    u = torch.linspace(0, 1, 9)
    video, audio = own_sigma(u, 5.0), own_sigma(u, 2.0)
    torch.testing.assert_close(own_sigma(video, 2.0 / 5.0), audio)


@pytest.mark.parametrize(
    "sampling", [SimpleNamespace(shift=5.0), schedule(0.0)], ids=["another schedule", "shift 0"]
)
def test_a_schedule_without_a_shift_is_refused(sampling: object) -> None:
    with pytest.raises(ValueError, match=r"shift of its own \(2.0\).*Stream Shift"):
        audio_noise_scale(2.0, sampling)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("masked", [False, True])
def test_the_model_sees_the_audio_at_its_own_level_and_its_prediction_comes_back_scaled(
    scale: float, masked: bool
) -> None:
    (video, clean), (_, noise) = latents(1, batch=2), latents(2, batch=2)
    sigma, mask, shapes = torch.tensor([0.8, 0.3]), torch.ones(2, 1, 18), [video.shape, clean.shape]
    if masked:
        mask[..., :7] = 0
    level = sigma[:, None, None] * mask
    own = own_sigma(level, scale)
    seen = []

    def predict(packed: Tensor) -> Tensor:
        """As the host: one step of the video's sigma along the right velocity, noise - clean."""
        video, audio = comfy.utils.unpack_latents(packed, shapes)
        seen.append(audio)
        return comfy.utils.pack_latents([2 * video, audio - level * (noise - clean)])[0]

    x = (1 - level) * clean / scale + level * noise
    packed = comfy.utils.pack_latents([video, x])[0]
    made = at_own_level(predict, packed, sigma, shapes, mask if masked else None, scale)
    made_video, made_audio = comfy.utils.unpack_latents(made, shapes)
    torch.testing.assert_close(seen[0], (1 - own) * clean + own * noise, rtol=1e-4, atol=1e-4)
    assert torch.equal(made_video, 2 * video)
    torch.testing.assert_close(made_audio, clean / scale, rtol=1e-4, atol=1e-4)
