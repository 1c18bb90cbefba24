"""The cache of encoded clips: real files in, latents of the model's grid out, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ccl_pack.ccl_core.host.files.identify import stated_config
from ccl_pack.ccl_core.host.files.read import read
from ccl_pack.ccl_core.training.finetune.cache import Cache, Read, Summary
from ccl_pack.ccl_core.training.finetune.encoders import Encoders
from ccl_pack.ccl_core.training.finetune.media import Media
from ccl_pack.ccl_core.training.finetune.settings import DataSettings, EncoderSettings
from ccl_pack.ccl_core.training.finetune.sources import Source
from ccl_pack.ccl_core.training.tiny.export import unpack
from ccl_tools.sample_clips import make
from support.tiny import CONFIG
from support.tiny_vaes import audio_vae, release, video_vae

CCL_TINY = Path(__file__).resolve().parents[3] / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> DataSettings:
    make(tmp_path / "clips", 1, seconds=0.7, size=(48, 32), voice=False)
    return DataSettings(str(tmp_path / "clips"), str(tmp_path / "cache"), sizes=((48, 32),), frames=(5, 9))


@pytest.fixture
def encoders() -> Iterator[Encoders]:
    yield Encoders(EncoderSettings(checkpoint=str(CCL_TINY)), stated_config(read(str(CCL_TINY))))
    release()


def channels(encoders: Encoders) -> int:
    """Of the audio latent."""
    return encoders.config.audio_latent.channels


def build(data: DataSettings, encoders: Encoders) -> Summary:
    return list(Cache(Path(data.cache)).build(data, encoders))[-1]


def test_encoders_in_a_file_each_encode_as_those_of_one_file(
    data: DataSettings, encoders: Encoders, tmp_path: Path
) -> None:
    unpack(CCL_TINY, tmp_path)
    files = {
        kind: str(tmp_path / f"{kind}.safetensors") for kind in ("video_vae", "audio_vae", "text_encoder")
    }
    apart = Encoders(EncoderSettings(**files), encoders.config)
    for chosen, cache in ((encoders, "whole"), (apart, "apart")):
        build(replace(data, cache=str(tmp_path / cache)), chosen)
    (whole,), (parts,) = (Cache(tmp_path / cache).entries() for cache in ("whole", "apart"))
    for kind in ("video", "audio", "text"):
        assert torch.equal(getattr(whole.load(), kind), getattr(parts.load(), kind))


def test_clips_are_encoded_once_and_again_where_something_changed(
    data: DataSettings, encoders: Encoders
) -> None:
    clips = Path(data.clips)
    (clips / "bad.mp4").write_bytes(b"nothing")
    (clips / "bad.txt").write_text("not a video")
    first = build(data, encoders)
    assert (first.made, first.kept) == (1, 0)
    assert [refused.name for refused in first.refused] == ["bad.mp4"]
    (entry,) = Cache(Path(data.cache)).entries()
    clip = entry.load()
    assert clip.name == "clip-000.mp4" and not clip.beside
    assert clip.video.shape == (16, 3, 4, 6) and clip.audio.shape == (channels(encoders), 18)
    torch.testing.assert_close(
        clip.text,
        encoders.encode_text((clips / "clip-000.txt").read_text().strip()).float(),
        atol=2e-3,
        rtol=2e-3,
    )
    assert Cache(Path(data.cache)).no_text().shape[1] == clip.text.shape[1]

    untouched = Encoders(encoders.settings, encoders.config)
    again = build(data, untouched)
    assert (again.made, again.kept) == (0, 1) and "parts" not in vars(untouched)
    (clips / "clip-000.txt").write_text("something else is said")
    assert build(data, encoders).made == 1
    assert build(replace(data, frames=(5,)), encoders).made == 1
    assert Cache(Path(data.cache)).entries()[0].shapes[0] == (16, 2, 4, 6)


def test_an_interrupted_cache_is_not_trained_on(data: DataSettings, encoders: Encoders) -> None:
    build = Cache(Path(data.cache)).build(data, encoders)
    encoders.__dict__["parts"] = (video_vae(), audio_vae(mels=channels(encoders)), encoders.parts[2])
    next(build)
    with pytest.raises(ValueError, match="run the cache phase to its end"):
        Cache(Path(data.cache)).entries()
    assert len(list(build)) == 0 and len(Cache(Path(data.cache)).entries()) == 1


def test_clips_of_one_shape_are_encoded_at_once_and_as_each_alone(encoders: Encoders) -> None:
    generator = torch.Generator().manual_seed(0)
    clips = [
        Media(torch.rand(9, 32, 48, 3, generator=generator), torch.rand(2, 9000, generator=generator), 9)
        for _ in range(3)
    ]
    together = encoders.encode(clips)
    for clip, latents in zip(clips, together, strict=True):
        (alone,) = encoders.encode([clip])
        for name, value in latents.items():
            torch.testing.assert_close(value, alone[name], atol=0.05, rtol=0.05)
    waiting = [Read(Source(Path(), "", ""), {}, clip) for clip in clips]
    sound, longer = Media(None, clips[0].waveform, 9), Media(clips[0].frames, clips[0].waveform, 5)
    assert waiting[2].joins(waiting[:2])
    assert not replace(waiting[2], media=sound).joins(waiting[:2])
    assert not replace(waiting[2], media=longer).joins(waiting[:2])
    assert not waiting[2].joins(waiting * 3)


def test_a_clip_of_one_stream_has_nothing_of_the_other(tmp_path: Path, encoders: Encoders) -> None:
    lone = [Media(None, torch.rand(2, 9000), 9), Media(torch.rand(9, 32, 48, 3), None, 9)]
    shapes = []
    for number, clip in enumerate(lone):
        (latents,) = encoders.encode([clip])
        cache = Cache(tmp_path / str(number))
        cache.folder.mkdir()
        cache.index([cache.write("clip", latents | {"text": torch.ones(5, 24)}, {})])
        (entry,) = cache.entries()
        shapes.append((entry.shapes[:2], entry.load().only_task))
    mels = channels(encoders)
    assert shapes == [(((16, 3, 0, 0), (mels, 18)), "t2a"), (((16, 3, 4, 6), (mels, 0)), "t2v")]


def test_image_to_video_gets_its_first_frame() -> None:
    config = replace(CONFIG, video=replace(CONFIG.video, in_dim=36))
    encoders = Encoders(EncoderSettings(checkpoint="none.safetensors"), config)
    vae = video_vae()
    vae.crop_input = False
    encoders.__dict__["parts"] = (vae, audio_vae(), None)
    frames = torch.rand(9, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    other = torch.cat([frames[:1], frames[1:].flip(0)])
    waveform = torch.zeros(2, 9000)
    first, second = encoders.encode([Media(pictures, waveform, 9) for pictures in (frames, other)])
    release()
    assert first["image"].shape == (20, 3, 4, 6)
    assert first["image"][:4, 0].eq(1).all() and first["image"][:4, 1:].eq(0).all()
    assert torch.equal(first["image"], second["image"])
    assert not torch.allclose(first["video"], second["video"])
    torch.testing.assert_close(first["image"][4:, 0], first["video"][:, 0])


def test_sizes_off_the_grid_are_refused(data: DataSettings, encoders: Encoders) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        encoders.shape(replace(data, sizes=((50, 32),)))
    with pytest.raises(ValueError, match="0 x 32: sides are multiples of 16, above 0"):
        encoders.shape(replace(data, sizes=((0, 32),)))
    with pytest.raises(ValueError, match=r"4 k \+ 1 frames"):
        encoders.shape(replace(data, frames=(16,)))
    gone = Encoders(EncoderSettings(checkpoint="/nowhere/gone.safetensors"), encoders.config)
    with pytest.raises(ValueError, match=r"gone\.safetensors is not there"):
        gone.stamp()


def cached(folder: Path) -> Cache:
    """A cache of one clip of random numbers."""
    folder.mkdir()
    cache = Cache(folder)
    tensors = {"video": torch.randn(16, 2, 4, 6), "audio": torch.randn(8, 9), "text": torch.randn(5, 24)}
    cache.index([cache.write("clip.mp4", tensors, {})])
    return cache


def test_a_cached_clip_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (entry,) = cached(tmp_path / "cache").entries()
    assert entry.load().video.shape == (16, 2, 4, 6)


@pytest.mark.parametrize("place", [-1, -700, -1900])
def test_a_cached_clip_of_which_a_bit_changed_is_refused(tmp_path: Path, place: int) -> None:
    (entry,) = cached(tmp_path / "cache").entries()
    data = bytearray(entry.path.read_bytes())
    data[place] ^= 1
    entry.path.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"clip-\w+\.safetensors cannot be used \(its checksum is another one\)"
    ):
        entry.load()


def test_a_damaged_cache_is_named_with_its_remedy(tmp_path: Path) -> None:
    cache = cached(tmp_path / "cache")
    path = cache.entries()[0].path
    whole = path.read_bytes()
    for damage in (whole[:50], whole[:-4], b"", b"{}" * 99):
        path.write_bytes(damage)
        with pytest.raises(
            ValueError, match=r"clip-\w+\.safetensors .*: delete it and run the cache phase again"
        ):
            cache.entries()[0].load()
    save_file({"video": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="delete it and run the cache phase again"):
        cache.entries()
    with pytest.raises(ValueError, match=r"no_text\.safetensors cannot be used"):
        cache.no_text()


@pytest.mark.parametrize("text", ["", "[1]", "{}", '["../a.safetensors"]', '["/a.safetensors"]', '["a'])
def test_an_index_of_other_things_is_refused(tmp_path: Path, text: str) -> None:
    cache = cached(tmp_path / "cache")
    (cache.folder / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json|holds no clip"):
        cache.entries()
