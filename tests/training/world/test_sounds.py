"""Notes start at once, end in time and add up."""

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world.sounds import LONGEST, SAMPLE_RATE, SOUNDS, strike, synthesise


@pytest.mark.parametrize("sound", SOUNDS)
def test_a_note_starts_at_once_and_ends_in_time(sound: str) -> None:
    note = strike(np.random.default_rng(1), sound)
    assert len(note) == round(LONGEST * SAMPLE_RATE)
    peak = np.abs(note).max()
    assert 0.3 < peak < 1
    assert np.abs(note[:32]).max() > 0.4 * peak  # 2 ms
    assert np.abs(note[-40:]).max() < 0.02 * peak


def test_spectra_differ() -> None:
    spectra = {}
    for sound in SOUNDS:
        power = np.abs(np.fft.rfft(strike(np.random.default_rng(1), sound))) ** 2
        bands = np.array([band.sum() for band in np.split(power[:1920], 60)]) ** 0.5
        spectra[sound] = bands / np.linalg.norm(bands)
    for one in SOUNDS:
        assert max(spectra[one] @ spectra[other] for other in SOUNDS if other != one) < 0.75


def test_parts_add_up() -> None:
    parts = [("beep", (0.1, 0.5)), ("horn", (0.2,))]
    both = synthesise(np.random.default_rng(2), parts, 16000)
    assert both.shape == (16000,) and not both[:1600].any() and both[1600] > 0.2
    alone = synthesise(np.random.default_rng(2), parts[:1], 16000)
    assert np.array_equal(both[:3200], alone[:3200]) and not np.array_equal(both, alone)


def test_a_note_is_cut_at_the_end() -> None:
    assert synthesise(np.random.default_rng(2), [("bell", (0.99,))], 16000).shape == (16000,)
