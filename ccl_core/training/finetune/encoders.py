"""The VAEs and the text encoder of a training, by the host's own loaders: media to latents."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...alignment.sizing import Grid, size_av
from ...alignment.timeline import TEMPORAL_STRIDE, fills_latent_frames, frames_of, latent_frames_of
from ...config import CCLConfig
from ...host.base_model import video_format
from ...host.face_mask import has_face_mask, on_tokens
from ...host.files.identify import stated_config
from ...host.files.read import RawFile, naming, read
from ...host.media.encode import Fit, write_audio
from ...host.media.latents import AVLatent, empty, grid_of
from ...host.media.references import encode_voice
from ...host.vae.audio import load_audio_vae, load_audio_vae_file
from ...host.vae.sockets import require_audio_vae, require_video_vae
from ...host.vae.text_encoder import load_text_encoder
from ...host.vae.video import load_video_vae
from ...model.speech_text import bytes_of
from .media import Extras, Media, Shape
from .settings import DataSettings, EncoderSettings

log = logging.getLogger(__name__)

# Part of each clip's stamp: a new number makes every clip be encoded again.
VERSION = 2
# The entry of metadata in which a text encoder says its sizes.
TEXT_ENCODER = "text_encoder"


class Encoders:
    """The VAEs and the text encoder, loaded when the first clip needs them."""

    def __init__(self, settings: EncoderSettings, config: CCLConfig) -> None:
        self.settings = settings
        self.config = config
        self.latent_format = video_format(config.video.out_dim)
        self.told_of_faces = False

    @cached_property
    def parts(self) -> tuple[comfy.sd.VAE, comfy.sd.VAE, comfy.sd.CLIP]:
        chosen = self.settings
        whole = None if chosen.checkpoint is None else read(chosen.checkpoint)
        video = _video_vae(chosen, whole)
        audio = _audio_vae(chosen, whole)
        text = _text_encoder(chosen, whole)
        require_video_vae(video, self.config.video.out_dim)
        # The host takes the frames of a batch of clips for a side, and cuts them to a multiple of 8.
        video.crop_input = False
        if video.device.type == "cpu":
            _last_channels(video.first_stage_model)
        require_audio_vae(audio, self.config.audio_latent.channels)
        return video, audio, text

    @property
    def grid(self) -> Grid:
        return grid_of(self.config, self.latent_format)

    def shape(self, data: DataSettings) -> Shape:
        """The sizes of the settings on the model's grid; ValueError for one that is not."""
        for width, height in data.sizes:
            if min(width, height) < 1 or width % self.grid.cell or height % self.grid.cell:
                raise ValueError(
                    f"data.sizes has {width} x {height}: sides are multiples of {self.grid.cell}, above 0"
                )
        if wrong := [count for count in data.frames if not fills_latent_frames(count)]:
            longer = frames_of(latent_frames_of(max(1, wrong[0])))
            raise ValueError(
                f"data.frames has {wrong[0]}: lengths are {TEMPORAL_STRIDE} k + 1 frames, such as {longer}"
            )
        # Stereo is read, and mixed by the VAE as it does in ComfyUI.
        return Shape(self.config.fps, self.config.audio_latent.sample_rate, 2, data.sizes, data.frames)

    @torch.no_grad()
    def encode(
        self, clips: Sequence[Media], extras: Sequence[Extras] | None = None
    ) -> list[dict[str, Tensor]]:
        """Latents of clips of one shape as the model reads them: video (c, t, h, w), audio (m, a).

        Without picture h and w are 0, without sound a is. A model of image to video gets `image` too. extras:
        what belongs to each clip, of which the model gets what it reads.
        """
        pictures = self._pictures(clips)
        whole = [
            {"audio": self._sound(media)} | picture for media, picture in zip(clips, pictures, strict=True)
        ]
        for media, own, latents in zip(clips, extras or [Extras()] * len(clips), whole, strict=True):
            latents.update(self._beside(media, own))
        return whole

    def _sound(self, media: Media) -> Tensor:
        av = self._empty(media)
        if media.waveform is None:
            return av.audio[0, :, :0]
        return write_audio(av, self.parts[1], self._as_audio(media.waveform), Fit("crop", "pad")).audio[0]

    def _as_audio(self, waveform: Tensor) -> dict[str, Any]:
        return {"waveform": waveform[None], "sample_rate": self.config.audio_latent.sample_rate}

    def _beside(self, media: Media, own: Extras) -> dict[str, Tensor]:
        """References, speech and face, as far as the model reads them and they are there."""
        found = {}
        config = self.config
        if config.video.references and media.frames is not None:
            # A clip without an image of its own has its first frame.
            image = media.frames[:1] if own.image is None else own.image
            found["reference"] = self._encode_frames(image[None])[0, :, 0]
        if config.audio.references and own.voice is not None:
            found["voice"] = encode_voice(self.parts[1], own.voice[None])[0]
        if config.audio.speech_blocks:
            found["speech"] = bytes_of(own.speech)[0]
        if own.face is not None:
            self._tell_of_faces()
            height, width = (side // self.grid.cell for side in own.face.shape[1:])
            found["face"] = on_tokens(own.face, height, width)
        return found

    def _tell_of_faces(self) -> None:
        """Once: films of faces teach nothing to a coupling without face masks."""
        if not self.told_of_faces and not has_face_mask(self.config):
            log.warning(
                "the list names films of faces (face), and this model has no face masks to learn them: they "
                "change nothing. Take them off the list, or train an interaction with face_mask"
            )
        self.told_of_faces = True

    def _pictures(self, clips: Sequence[Media]) -> list[dict[str, Tensor]]:
        if clips[0].frames is None:
            return [{"video": self._empty(media).video[0, ..., :0, :0]} for media in clips]
        encoded = self._encode_frames(torch.stack([media.frames for media in clips]))
        latents = [{"video": latent} for latent in encoded]
        # Wan's image to video reads more channels than it predicts: a mask and the latent of the first frame.
        if self.config.video.in_dim > self.config.video.out_dim:
            for media, latent in zip(clips, latents, strict=True):
                latent["image"] = self._first_frame(media.frames)
        return latents

    def _empty(self, media: Media) -> AVLatent:
        """Zeros of the size of a clip, of one cell where it has no picture."""
        cell = self.grid.cell
        height, width = (cell, cell) if media.frames is None else media.frames.shape[1:3]
        size = size_av(self.grid, width=width, height=height, frames=media.length)
        return empty(size, self.config.video.out_dim, self.config.audio_latent.channels, 1)

    def _encode_frames(self, frames: Tensor) -> Tensor:
        """Frames (b, f, h, w, 3) as latents (b, c, t, h, w)."""
        vae = self.parts[0]
        # bf16 takes a fifth of the time where the processor has it, and its error is far below the noise of
        # the latent. Other processors emulate bf16, which is slower than fp32.
        fast = vae.device.type == "cpu" and "AVX512" in torch.backends.cpu.get_cpu_capability()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return self.latent_format.process_in(vae.encode(frames).float())

    def _first_frame(self, frames: Tensor) -> Tensor:
        """The channels that tell image to video its first frame, (4 + c, t, h, w)."""
        still = frames.clone()
        # Grey, as the host's image to video fills what is not given.
        still[1:] = 0.5
        image = self._encode_frames(still[None])
        # A channel for each pixel frame of a latent frame; 1 is given.
        mask = torch.zeros_like(image[:, :TEMPORAL_STRIDE])
        mask[:, :, 0] = 1
        return torch.cat([mask, image], dim=1)[0]

    @torch.no_grad()
    def encode_text(self, caption: str) -> Tensor:  # (n, d)
        text = self.parts[2]
        return text.encode_from_tokens_scheduled(text.tokenize(caption))[0][0][0]

    def stamp(self) -> dict[str, object]:
        """Names and sizes of the encoders' files: a clip with another stamp is encoded again."""
        files = [Path(path) for path in asdict(self.settings).values() if path is not None]
        if gone := next((path for path in files if not path.is_file()), None):
            raise ValueError(f"{gone} is not there: encoders names it")
        return {"version": VERSION, "encoders": [[path.name, path.stat().st_size] for path in files]}


def _last_channels(vae: torch.nn.Module) -> None:
    """Lay kernels as the CPU's convolutions in bf16 are fast with."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for value in vae.parameters():
        if value.ndim in layouts:
            value.data = value.data.contiguous(memory_format=layouts[value.ndim])


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
        sd, metadata = comfy.utils.load_torch_file(chosen.text_encoder, safe_load=True, return_metadata=True)
        # An encoder of another size than Wan's says it, as that of ccl-tiny does.
        if TEXT_ENCODER in (metadata or {}):
            with naming(Path(chosen.text_encoder).name):
                return load_text_encoder(sd, json.loads(metadata[TEXT_ENCODER]))
        return comfy.sd.load_clip([chosen.text_encoder], clip_type=comfy.sd.CLIPType.WAN)
    weights = whole.bundle("text_encoders.", "text encoder")
    config = stated_config(whole)
    with naming(whole.name):
        return load_text_encoder(weights, {} if config is None else config.text_encoder or {})
