"""Every sound of the world is heard with its own kind and time, also beside another one."""

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.world.listen import Onset, listen
from ccl_pack.ccl_core.training.world.sounds import SOUNDS, synthesise

GAPS = (0.0, 0.01, 0.03, 0.06, 0.12, 0.2)
Change = Callable[[torch.Tensor], torch.Tensor]


def two_notes(seed: int, first: str, second: str, gap: float) -> tuple[torch.Tensor, list[Onset]]:
    """A second of sound, and what begins in it."""
    rng = np.random.default_rng(seed)
    time = float(rng.uniform(0.2, 0.45))
    true = [Onset(time, first), Onset(time + gap, second)]
    wave = synthesise(rng, [(onset.sound, (onset.time,)) for onset in true], 16000)
    return torch.from_numpy(wave), true


def exact(wave: torch.Tensor) -> torch.Tensor:
    return wave


def soft(wave: torch.Tensor) -> torch.Tensor:
    return 0.1 * wave


def noisy(wave: torch.Tensor) -> torch.Tensor:
    """Over a bed 20 dB below the loudest notes."""
    return wave + 0.03 * torch.randn(len(wave), generator=torch.Generator().manual_seed(0))


def without_phase(wave: torch.Tensor) -> torch.Tensor:
    """What a vocoder keeps at best: the magnitudes of 64 bands of mel at 62.5 Hz, with new phases."""
    window = torch.hann_window(1024)
    bins = torch.stft(wave, 1024, 256, window=window, return_complex=True)
    mel = 2595 * torch.log10(1 + torch.arange(513) * 8000 / 512 / 700)
    band = (mel / mel[-1] * 63.99).long()
    power = bins.abs().square()
    means = torch.stack([power[band == k].mean(0) if (band == k).any() else power[0] for k in range(64)])
    magnitude = means[band].sqrt()
    phase = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    for _ in range(24):
        made = torch.istft(torch.polar(magnitude, phase), 1024, 256, window=window, length=len(wave))
        phase = torch.stft(made, 1024, 256, window=window, return_complex=True).angle()
    return made


def is_heard(asked: Onset, heard: list[Onset], tolerance: float) -> bool:
    return any(note.sound == asked.sound and abs(note.time - asked.time) <= tolerance for note in heard)


@pytest.mark.parametrize(
    ("change", "tolerance"), [(exact, 0.01), (soft, 0.01), (noisy, 0.01), (without_phase, 0.03)]
)
def test_two_notes_are_heard_at_any_distance(change: Change, tolerance: float) -> None:
    met = false = true = 0
    for seed, ((first, second), gap) in enumerate(product(permutations(SOUNDS, 2), GAPS)):
        wave, asked = two_notes(seed, first, second, gap)
        heard = listen(change(wave), 16000)
        found = sum(is_heard(onset, heard, tolerance) for onset in asked)
        met += found
        true += len(asked)
        false += len(heard) - found
    assert met / true >= 0.98 and false / true <= 0.02, (met, false, true)


@pytest.mark.parametrize("sound", SOUNDS)
def test_one_kind_is_heard_again_and_again(sound: str) -> None:
    times = np.arange(0.1, 1.9, 0.3)
    wave = torch.from_numpy(synthesise(np.random.default_rng(1), [(sound, times)], 32000))
    heard = listen(wave, 16000)
    assert [onset.sound for onset in heard] == [sound] * len(times)
    assert [onset.time for onset in heard] == pytest.approx(times, abs=0.01)


def test_a_sound_that_is_much_softer_is_heard_beside_a_loud_one() -> None:
    for loud, other in permutations(SOUNDS, 2):
        rng = np.random.default_rng(2)
        near = synthesise(rng, [(loud, (0.3, 0.8))], 20000)
        far = synthesise(rng, [(other, (0.35, 1.0))], 20000, loudness=0.19)
        heard = listen(torch.from_numpy(near + far), 16000)
        assert [onset.sound for onset in heard] == [loud, other, loud, other]


def test_the_rate_of_a_waveform_and_its_channels_do_not_matter() -> None:
    wave, asked = two_notes(3, "bell", "drum", 0.06)
    wave = torch.nn.functional.interpolate(wave[None, None], scale_factor=3, mode="linear")[0, 0]
    heard = listen(torch.stack([wave, wave]), 48000)
    assert [onset.sound for onset in heard] == ["bell", "drum"]
    assert [onset.time for onset in heard] == pytest.approx([onset.time for onset in asked], abs=0.01)


def test_silence_and_what_never_changes_have_no_notes() -> None:
    seconds = torch.arange(32000) / 16000
    assert listen(torch.zeros(32000), 16000) == []
    assert listen(0.3 * torch.sin(2 * torch.pi * 440 * seconds), 16000) == []
