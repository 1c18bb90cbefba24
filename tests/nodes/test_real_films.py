"""Real films through Encode and Decode: their sound in its place. Run with --long, since pip fetches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy_api.latest import InputImpl

from ccl_pack.ccl_core.host.media.sound_file import read_sound
from ccl_pack.nodes.decoding import CCLDecodeAV
from ccl_pack.nodes.encoding import CCLEncodeAV
from ccl_pack.nodes.latents import CCLEmptyAVLatent
from support import tiny
from support.real_clips import fetch
from support.tiny_vaes import audio_vae, release, video_vae

pytestmark = pytest.mark.long

Clip = Callable[[str], Path]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clip]:
    yield partial(fetch, folder=tmp_path_factory.mktemp("clips"))
    release()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path) -> Iterator[None]:
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    with torch.inference_mode():
        yield
    folder_paths.set_temp_directory(before)


def begins(waveform: torch.Tensor, rate: int) -> float:
    """When the first sample that is not 0 stands, in seconds."""
    return waveform.abs().amax(0).nonzero()[0].item() / rate


def lag(first: torch.Tensor, second: torch.Tensor) -> int:
    """Samples by which the first channel of one waveform is behind that of another."""
    size = first.shape[1]
    spectra = [torch.fft.rfft(waveform[0], 2 * size) for waveform in (first, second)]
    place = torch.fft.irfft(spectra[0] * spectra[1].conj()).argmax().item()
    return place if place < size else place - 2 * size


@pytest.mark.parametrize("keep", ["sound", "picture and sound"])
@pytest.mark.parametrize(("name", "start"), [("late sound", 2.43), ("speech", 0.0853), ("film in 5.1", 0.0)])
def test_a_kept_sound_is_in_its_place_and_the_films_own(
    name: str, start: float, keep: str, clip: Clip, tmp_path: Path
) -> None:
    video = InputImpl.VideoFromFile(str(clip(name)))
    sides, length = {"size": "custom", "width": 64, "height": 48}, {"length": "from material"}
    latent = CCLEmptyAVLatent.execute(tiny.patcher(), sides, length, 1, video=video)[0]
    vaes = {"video_vae": video_vae(), "audio_vae": audio_vae()}
    kept = CCLEncodeAV.execute(latent, "crop", "pad", **vaes, video=video, keep=keep)[0]
    _, audio, made = CCLDecodeAV.execute(kept, video_vae(), {"tiling": "off"}, audio_vae()).args
    assert begins(audio["waveform"][0], audio["sample_rate"]) == pytest.approx(start, abs=0.001)
    made.save_to(str(tmp_path / "made.mp4"))
    there = read_sound(str(tmp_path / "made.mp4"), Fraction(0), Fraction(5))
    own = read_sound(str(clip(name)), Fraction(0), Fraction(5))
    assert there.layout == own.layout
    # mp4 states where a late sound starts in whole ms, and then not how much of it was the encoder's delay.
    if start > 1:
        assert abs(lag(there.waveform, own.waveform)) / own.sample_rate < 0.002
    else:
        assert torch.equal(there.waveform, own.waveform)
