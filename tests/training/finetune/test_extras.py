"""What belongs to a clip beside its caption: words, a reference image, a reference voice, a face."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_extras.nodes_mask import MaskToImage
from comfy_extras.nodes_mediapipe import MediaPipeFaceMask
from PIL import Image

from ccl_pack.ccl_core.config import AsymmetricOptions, InteractionConfig
from ccl_pack.ccl_core.host.files.identify import stated_config
from ccl_pack.ccl_core.host.files.read import read
from ccl_pack.ccl_core.model.speech_text import bytes_of
from ccl_pack.ccl_core.training.finetune.cache import Cache
from ccl_pack.ccl_core.training.finetune.encoders import Encoders
from ccl_pack.ccl_core.training.finetune.media import Media, Shape, read_extras
from ccl_pack.ccl_core.training.finetune.settings import DataSettings, EncoderSettings
from ccl_pack.ccl_core.training.finetune.sources import Beside, find_clips
from ccl_pack.ccl_core.training.tiny.clips import write_film, write_sound
from support.tiny_vaes import release

CCL_TINY = Path(__file__).resolve().parents[3] / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
RATE = 16000


def tone(seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A film of 9 grey frames whose upper left quarter is the face in the last four, and its list."""
    frames = np.full((9, 32, 64, 3), 90, np.uint8)
    write_film(tmp_path / "a.mkv", frames, tone(9 / 16))
    face = np.zeros_like(frames)
    face[5:, :16, :32] = 255
    write_film(tmp_path / "a.face.mkv", face)
    write_sound(tmp_path / "a.flac", tone(1.2), RATE)
    Image.fromarray(np.full((40, 80, 3), (255, 0, 0), np.uint8)).save(tmp_path / "a.png")
    listed(tmp_path)
    return tmp_path


def listed(folder: Path, **changes: Any) -> None:
    row = {"file": "a.mkv", "caption": "a person talks", "speech": " kama ", "image": "a.png"}
    row |= {"voice": "a.flac", "face": "a.face.mkv"} | changes
    (folder / "captions.jsonl").write_text(json.dumps(row))


def test_a_list_names_what_belongs_to_a_clip(folder: Path) -> None:
    ((source,), refused) = find_clips(folder)
    assert not refused
    assert source.beside == Beside("kama", folder / "a.png", folder / "a.flac", folder / "a.face.mkv")


def test_a_clip_of_which_the_words_are_known_needs_no_caption(folder: Path) -> None:
    listed(folder, caption="")
    ((source,), refused) = find_clips(folder)
    assert not refused and (source.caption, source.beside.speech) == ("", "kama")
    listed(folder, caption="", speech="")
    (sources, (lacking,)) = find_clips(folder)
    assert not sources and "no caption" in lacking.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [({"voice": "none.flac"}, "names none.flac, which is not in"), ({"image": "../a.png"}, "outside")],
)
def test_a_file_that_is_not_there_refuses_its_clip(
    folder: Path, change: dict[str, str], message: str
) -> None:
    listed(folder, **change)
    (sources, (refused,)) = find_clips(folder)
    assert not sources and refused.name == "a.mkv" and message in refused.reason


def test_a_face_film_of_comfyuis_own_nodes_is_read(folder: Path) -> None:
    """A square of landmarks that moves by a pixel a frame, drawn, made a picture and saved."""
    corners = np.array([[8.0, 4], [24, 4], [24, 20], [8, 20]])
    found = [[{"landmarks_xy": corners + np.array([frame, 0])}] for frame in range(9)]
    ring = frozenset({(0, 1), (1, 2), (2, 3), (3, 0)})
    landmarks = {"frames": found, "image_size": (32, 64), "connection_sets": {"face_oval": ring}}
    mask = MediaPipeFaceMask.execute(landmarks, {"regions": "custom", "face_oval": True})[0]
    assert 16 * 16 <= mask[0].sum() <= 17 * 17
    images = MaskToImage.execute(mask)[0]
    write_film(folder / "a.face.mkv", (255 * images + 0.5).to(torch.uint8).numpy())
    ((source,), _) = find_clips(folder)
    shape = Shape(Fraction(16), RATE, 1, ((64, 32),), (9,))
    face = read_extras(source.beside, Media(torch.zeros(9, 32, 64, 3), None, 9), shape).face
    torch.testing.assert_close(face, mask, atol=0.01, rtol=0)


def test_words_that_are_no_text_are_refused_by_name(folder: Path) -> None:
    listed(folder, speech=3)
    with pytest.raises(ValueError, match=r"captions.jsonl has speech of a.mkv that is no text"):
        find_clips(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("image", "cannot be read as a picture"), ("voice", "cannot be decoded"), ("face", "cannot be decoded")],
)
def test_a_damaged_file_says_so(folder: Path, name: str, message: str) -> None:
    broken = folder / "broken.bin"
    broken.write_bytes(b"nothing of a kind")
    media = Media(torch.zeros(9, 32, 64, 3), None, 9)
    with pytest.raises(ValueError, match=rf"broken.bin {message}"):
        read_extras(Beside(**{name: broken}), media, Shape(Fraction(16), RATE, 2, ((64, 32),), (9,)))


def test_a_voice_that_is_too_short_says_how_long_it_is(folder: Path) -> None:
    write_sound(folder / "short.flac", tone(0.5), RATE)
    media = Media(torch.zeros(9, 32, 64, 3), None, 9)
    with pytest.raises(ValueError, match=r"short.flac lasts 0.50 s, wanted 1 s of a reference voice"):
        read_extras(
            Beside(voice=folder / "short.flac"), media, Shape(Fraction(16), RATE, 2, ((64, 32),), (9,))
        )


def test_the_cache_holds_what_the_model_reads(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = stated_config(read(str(CCL_TINY)))
    talking = replace(
        tiny,
        video=replace(tiny.video, references=True),
        audio=replace(tiny.audio, references=True, speech_blocks=2),
        interaction=InteractionConfig("asymmetric", (0,), AsymmetricOptions()),
    )
    encoders = Encoders(EncoderSettings(checkpoint=str(CCL_TINY)), talking)
    data = DataSettings(str(folder), str(tmp_path / "cache"), sizes=((64, 32),), frames=(9,))
    cache = Cache(tmp_path / "cache")
    assert [summary.refused for summary in cache.build(data, encoders)] == [[]]
    (entry,) = cache.entries()
    clip = entry.load()
    assert clip.beside.keys() == {"reference", "voice", "speech", "face"}
    assert torch.equal(clip.beside["speech"], bytes_of("kama")[0])
    # A red picture of the size of the clip, as the video VAE has it.
    red = torch.tensor([1.0, 0, 0]).expand(1, 1, 32, 64, 3)
    torch.testing.assert_close(
        clip.beside["reference"], encoders._encode_frames(red)[0, :, 0], atol=0.02, rtol=0.02
    )
    assert clip.beside["voice"].shape == (talking.audio_latent.channels, 32)
    # Tokens of 16 x 16 pixels; the last of three latent frames has pixel frames 5 to 8.
    wanted = torch.zeros(3, 2, 4)
    wanted[2, 0, :2] = 1
    torch.testing.assert_close(clip.beside["face"], wanted, atol=0.01, rtol=0)
    assert "face masks" not in caplog.text
    # The same clip for a model that reads none of it.
    plain = Cache(tmp_path / "plain")
    assert [s.refused for s in plain.build(data, Encoders(encoders.settings, tiny))] == [[]]
    assert plain.entries()[0].load().beside.keys() == {"face"}
    assert caplog.text.count("films of faces (face), and this model has no face masks") == 1
    release()
