"""What CCLDecodeAV tells of the sound it gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.host.media.latents import AVLatent, join
from ccl_pack.ccl_core.host.media.source import Source, remember
from ccl_pack.nodes import decoding
from support.media_files import tone
from support.tiny_vaes import audio_vae, release, video_vae

QUIET = tone(0.5625, 16000, level=0.05)


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()


def decode(
    waveform: torch.Tensor, monkeypatch: pytest.MonkeyPatch, source: Source | None = None, **more: Any
) -> None:
    """Decode a latent whose sound becomes this waveform (ch, n)."""

    def made(*_: Any) -> dict[str, Any]:
        return {"waveform": waveform[None], "sample_rate": 16000}

    monkeypatch.setattr(decoding, "decode_audio", made)
    kept = None if source is None else torch.zeros(1, 1, 18)
    av = AVLatent(torch.zeros(1, 16, 3, 4, 4), torch.ones(1, 8, 18), audio_mask=kept, fps=16.0)
    latent = join(remember(av, source or Source()))
    with torch.inference_mode():
        decoding.CCLDecodeAV.execute(latent, video_vae(), {"tiling": "off"}, audio_vae(), **more)


def test_a_silent_sound_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    decode(QUIET, monkeypatch)
    assert not caplog.records
    decode(0 * QUIET, monkeypatch)
    (record,) = caplog.records
    assert record.message.startswith("The decoded sound is silent")


def test_a_kept_sound_that_comes_back_at_another_level_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Two equal channels are 3 dB louder than their mean, which is what a mono VAE was given.
    given = Source(sound={"waveform": QUIET.expand(1, 2, -1), "sample_rate": 16000})
    decode(1.9 * QUIET, monkeypatch, given, given="decoded")
    assert not caplog.records
    decode(10 * QUIET, monkeypatch, given, given="original")
    assert not caplog.records
    decode(10 * QUIET, monkeypatch, given, given="decoded")
    (record,) = caplog.records
    assert record.message.startswith("The decoded sound is 20 dB louder than the given one")
    assert "Choose original in given" in record.message
