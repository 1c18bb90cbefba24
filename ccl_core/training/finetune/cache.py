"""Clips as latents and text embeddings on disk, encoded once by the host's own loaders."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import comfy.sd
import comfy.utils
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...alignment.sizing import Grid, size_av
from ...alignment.timeline import TEMPORAL_STRIDE, fills_latent_frames, frames_of, latent_frames_of
from ...config import CCLConfig
from ...host.base_model import video_format
from ...host.files.identify import stated_config
from ...host.files.read import RawFile, naming, read
from ...host.media.encode import Fit, write_audio, write_images
from ...host.media.latents import AVLatent, empty, grid_of
from ...host.vae.audio import load_audio_vae, load_audio_vae_file
from ...host.vae.sockets import require_audio_vae, require_video_vae
from ...host.vae.text_encoder import load_text_encoder
from ...host.vae.video import load_video_vae
from . import stored
from .media import Media, Refused, Shape, Source, find_clips, read_media
from .settings import DataSettings, EncoderSettings

log = logging.getLogger(__name__)

# Part of each clip's stamp: a new number makes every clip be encoded again.
VERSION = 2
INDEX = "index.json"
NO_TEXT = "no_text.safetensors"
# `read_media` has cut the frames to a length that fills latent frames: another length is a fault.
REFUSE_LENGTH = Fit("crop", "refuse")


@dataclass(frozen=True)
class Summary:
    """What a run of the cache phase did."""

    made: int = 0
    kept: int = 0
    refused: list[Refused] = field(default_factory=list)

    def after(self, other: Summary) -> Summary:
        """The sum of both, this one first."""
        return Summary(self.made + other.made, self.kept + other.kept, [*self.refused, *other.refused])


class Encoders:
    """The VAEs and the text encoder, loaded when the first clip needs them."""

    def __init__(self, settings: EncoderSettings, config: CCLConfig) -> None:
        self.settings = settings
        self.config = config
        self.latent_format = video_format(config.video.out_dim)

    @cached_property
    def _parts(self) -> tuple[comfy.sd.VAE, comfy.sd.VAE, comfy.sd.CLIP]:
        chosen = self.settings
        whole = None if chosen.checkpoint is None else read(chosen.checkpoint)
        video = _video_vae(chosen, whole)
        audio = _audio_vae(chosen, whole)
        text = _text_encoder(chosen, whole)
        require_video_vae(video, self.config.video.out_dim)
        require_audio_vae(audio, self.config.audio_latent.channels)
        return video, audio, text

    @property
    def grid(self) -> Grid:
        return grid_of(self.config, self.latent_format)

    def shape(self, data: DataSettings) -> Shape:
        """The sizes of the settings on the model's grid; ValueError for one that is not."""
        for width, height in data.sizes:
            if width % self.grid.cell or height % self.grid.cell:
                raise ValueError(
                    f"data.sizes has {width} x {height}: sides are multiples of {self.grid.cell}"
                )
        if wrong := [count for count in data.frames if not fills_latent_frames(count)]:
            longer = frames_of(latent_frames_of(max(1, wrong[0])))
            raise ValueError(
                f"data.frames has {wrong[0]}: lengths are {TEMPORAL_STRIDE} k + 1 frames, such as {longer}"
            )
        # Stereo is read, and mixed by the VAE as it does in ComfyUI.
        return Shape(self.config.fps, self.config.audio_latent.sample_rate, 2, data.sizes, data.frames)

    @torch.no_grad()
    def encode(self, media: Media) -> dict[str, Tensor]:
        """Latents as the model reads them: video (c, t, h, w), audio (m, a), image to video's image."""
        video_vae, audio_vae, _ = self._parts
        count, height, width, _ = media.frames.shape
        size = size_av(self.grid, width=width, height=height, frames=count)
        av = empty(size, self.config.video.out_dim, self.config.audio_latent.channels, 1)
        av = write_images(av, video_vae, media.frames, REFUSE_LENGTH)
        sound = {"waveform": media.waveform[None], "sample_rate": self.config.audio_latent.sample_rate}
        av = write_audio(av, audio_vae, sound, Fit("crop", "pad"))
        latents = {"video": self.latent_format.process_in(av.video)[0], "audio": av.audio[0]}
        # Wan's image to video reads more channels than it predicts: a mask and the latent of the first frame.
        if self.config.video.in_dim > self.config.video.out_dim:
            latents["image"] = self._first_frame(replace(av, video_mask=None), media.frames)
        return latents

    def _first_frame(self, av: AVLatent, frames: Tensor) -> Tensor:
        """The channels that tell image to video its first frame, (4 + c, t, h, w)."""
        video_vae = self._parts[0]
        still = frames.clone()
        # Grey, as the host's image to video fills what is not given.
        still[1:] = 0.5
        image = write_images(av, video_vae, still, REFUSE_LENGTH).video
        # A channel for each pixel frame of a latent frame; 1 is given.
        mask = torch.zeros_like(image[:, :TEMPORAL_STRIDE])
        mask[:, :, 0] = 1
        return torch.cat([mask, self.latent_format.process_in(image)], dim=1)[0]

    @torch.no_grad()
    def encode_text(self, caption: str) -> Tensor:  # (n, d)
        text = self._parts[2]
        return text.encode_from_tokens_scheduled(text.tokenize(caption))[0][0][0]

    def stamp(self) -> dict[str, object]:
        """Names and sizes of the encoders' files: a clip with another stamp is encoded again."""
        files = [Path(path) for path in asdict(self.settings).values() if path is not None]
        if gone := next((path for path in files if not path.is_file()), None):
            raise ValueError(f"{gone} is not there: encoders names it")
        return {"version": VERSION, "encoders": [[path.name, path.stat().st_size] for path in files]}


def _video_vae(chosen: EncoderSettings, whole: RawFile | None) -> comfy.sd.VAE:
    if chosen.video_vae is None:
        weights = whole.bundle("vae.", "video VAE")
        with naming(whole.name):
            return load_video_vae(weights, whole.metadata)
    sd, metadata = comfy.utils.load_torch_file(chosen.video_vae, safe_load=True, return_metadata=True)
    with naming(Path(chosen.video_vae).name):
        return load_video_vae(sd, metadata)


def _audio_vae(chosen: EncoderSettings, whole: RawFile | None) -> comfy.sd.VAE:
    if chosen.audio_vae is not None:
        return load_audio_vae_file(chosen.audio_vae, chosen.vocoder)
    weights = whole.bundle("audio_vae.", "audio VAE")
    with naming(whole.name):
        return load_audio_vae(weights, whole.metadata)


def _text_encoder(chosen: EncoderSettings, whole: RawFile | None) -> comfy.sd.CLIP:
    if chosen.text_encoder is not None:
        return comfy.sd.load_clip([chosen.text_encoder], clip_type=comfy.sd.CLIPType.WAN)
    weights = whole.bundle("text_encoders.", "text encoder")
    config = stated_config(whole)
    with naming(whole.name):
        return load_text_encoder(weights, {} if config is None else config.text_encoder or {})


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """An encoded clip as the trainer reads it. text (n, d); image: for image to video, else None."""

    name: str
    video: Tensor
    audio: Tensor
    text: Tensor
    image: Tensor | None


@dataclass(frozen=True)
class Entry:
    """A cached clip without its numbers: shapes of video, audio and text."""

    path: Path
    name: str
    shapes: tuple[tuple[int, ...], ...]

    def load(self) -> EncodedClip:
        tensors = {key: value.float() for key, value in stored.read(self.path).items()}
        text = padded(tensors["text"], self.shapes[2][0])
        return EncodedClip(self.name, tensors["video"], tensors["audio"], text, tensors.get("image"))


def padded(text: Tensor, rows: int) -> Tensor:
    """Rows of zeros behind a text (n, d), as Wan's text encoder leaves them."""
    return torch.nn.functional.pad(text, (0, 0, 0, rows - text.shape[0]))


class Cache:
    """The folder of the encoded clips: a file for each, the empty caption, the index of those in the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, data: DataSettings, encoders: Encoders) -> Iterator[Summary]:
        """Encode the clips that are not there yet; yields a summary so far after each clip.

        A broken clip is refused by name, and the others go on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = encoders.shape(data)
        stamp = encoders.stamp() | {"shape": repr(shape)}
        sources, refused = find_clips(
            Path(data.clips), None if data.captions is None else Path(data.captions)
        )
        summary = Summary(refused=refused)
        if not self._holds(NO_TEXT, stamp):
            self._write(NO_TEXT, {"text": encoders.encode_text("")}, "", stamp)
        names = []
        for source in sources:
            done = self._build_one(source, shape, encoders, stamp)
            summary = summary.after(done)
            if not done.refused:
                names.append(_file_name(source.name))
            yield summary
        self.index(names)

    def _build_one(
        self, source: Source, shape: Shape, encoders: Encoders, stamp: dict[str, object]
    ) -> Summary:
        """Encode one clip unless it is there, and say which of the three happened to it."""
        file = _file_name(source.name)
        own = stamp | self._source(source)
        if self._holds(file, own):
            return Summary(kept=1)
        try:
            media = read_media(source.path, shape)
        except ValueError as error:
            return Summary(refused=[Refused(source.name, str(error))])
        tensors = encoders.encode(media) | {"text": encoders.encode_text(source.caption)}
        self._write(file, tensors, source.name, own)
        return Summary(made=1)

    def index(self, files: list[str]) -> None:
        """Say which files a run trains on."""
        part = self.folder / f"{INDEX}.part"
        part.write_text(json.dumps(sorted(files)), encoding="utf-8")
        part.replace(self.folder / INDEX)

    def entries(self) -> list[Entry]:
        """The clips of the index; ValueError where there are none or one is gone."""
        index = self.folder / INDEX
        if not index.is_file():
            raise ValueError(f"{self.folder} has no {INDEX}: run the cache phase to its end first")
        names = self._indexed(index)
        if not names:
            raise ValueError(
                f"{self.folder} holds no clip: every one was refused, read why in the cache phase"
            )
        return [self._entry(self.folder / name) for name in names]

    @staticmethod
    def _indexed(index: Path) -> list[str]:
        """The names of files in the index; ValueError for what is no name of a file beside it."""
        try:
            names = json.loads(index.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{index} is no JSON ({error}): run the cache phase again") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{index} is no list of names: run the cache phase again")
        strange = next((name for name in names if Path(name).name != name), None)
        if strange is not None:
            raise ValueError(
                f"{index} names {strange!r}, which is no file beside it: run the cache phase again"
            )
        return names

    def no_text(self) -> Tensor:
        """The embedding of the empty caption, (n, d)."""
        return stored.read(self.folder / NO_TEXT)["text"].float()

    def write(self, name: str, tensors: dict[str, Tensor], stamp: dict[str, object]) -> str:
        """Write an encoded clip of that name; returns the name of its file."""
        file = _file_name(name)
        self._write(file, tensors, name, stamp)
        return file

    @staticmethod
    def _source(source: Source) -> dict[str, object]:
        state = source.path.stat()
        return {"size": state.st_size, "changed": state.st_mtime_ns, "caption": source.caption}

    def _holds(self, file: str, stamp: dict[str, object]) -> bool:
        try:
            with safe_open(self.folder / file, "pt") as stored:
                return (stored.metadata() or {}).get("stamp") == json.dumps(stamp)
        except (OSError, SafetensorError):
            return False

    def _write(self, file: str, tensors: dict[str, Tensor], name: str, stamp: dict[str, object]) -> None:
        text = tensors["text"]
        # Wan's text encoder fills up with rows of zeros, most of 512: `padded` puts them back.
        used = int(text.any(dim=1).nonzero().max()) + 1 if text.any() else 1
        kept = tensors | {"text": text[:used] if name else text}
        metadata = {"stamp": json.dumps(stamp), "name": name, "rows": str(text.shape[0])}
        halves = {key: value.half().cpu().contiguous() for key, value in kept.items()}
        stored.write(self.folder / file, halves, metadata)

    @staticmethod
    def _entry(path: Path) -> Entry:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                # A slice knows its shape without reading the numbers.
                shapes = [tuple(file.get_slice(key).get_shape()) for key in ("video", "audio", "text")]
            return Entry(path, metadata["name"], (*shapes[:2], (int(metadata["rows"]), shapes[2][1])))
        # The last three: what is no file of a cache, under the name of one.
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{path.name} in the cache cannot be read ({error}): delete it and run the cache phase again"
            ) from error


def _file_name(name: str) -> str:
    """A flat name that no two clips share."""
    return f"{Path(name).stem}-{hashlib.sha256(name.encode()).hexdigest()[:10]}.safetensors"
