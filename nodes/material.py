"""What a person gives to a node (VIDEO, IMAGE, AUDIO) as pictures and sounds, read when they are used."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import Input, InputImpl

from ..ccl_core.host.media.picture import Film, Frames, Picture, open_film
from .inputs import FROM_MATERIAL

# The host leaves out an input that nothing is connected to, and hands on None as the sound of a silent file.
UNCONNECTED: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Material:
    """What a latent takes its proportions and its length from. frame_rate: of the images."""

    video: Input.Video | None
    images: torch.Tensor | None
    audio: dict[str, Any] | None
    frame_rate: Fraction

    @property
    def names(self) -> str:
        """The inputs that are connected, empty where there is none."""
        inputs = {"video": self.video, "images": self.images, "audio": self.audio}
        return " and ".join(name for name, value in inputs.items() if value is not None)

    def sides(self) -> tuple[int, int]:
        """Width and height in pixels; ValueError without a picture."""
        if self.video is None and self.images is None:
            raise ValueError(
                f"size is {FROM_MATERIAL}, and no picture is connected: connect video or images, or choose "
                "another size"
            )
        return self._picture().sides

    def seconds(self) -> Fraction:
        """Length of the video, else of the sound, else of the images; ValueError without any."""
        if self.video is None and self.audio is not None:
            return Fraction(self.audio["waveform"].shape[-1], int(self.audio["sample_rate"]))
        if not self.names:
            raise ValueError(
                f"length is {FROM_MATERIAL}, and nothing is connected: connect video, audio or images, or "
                "choose another length"
            )
        # A file may hold a sound alone.
        return film_of(self.video).seconds if self._is_file else self._picture().seconds

    @property
    def _is_file(self) -> bool:
        return self.video is not None and not isinstance(self.video, InputImpl.VideoFromComponents)

    def _picture(self) -> Picture:
        return Frames(self.images, self.frame_rate) if self.video is None else picture_of(self.video)


def connected_sound(sound: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """The AUDIO in an input, None without one; ValueError where a node is connected that has none."""
    if sound is None:
        raise ValueError(
            f"{name} is connected to a node that gives no sound, such as GetVideoComponents of a file "
            f"without sound: choose a file with sound, or disconnect {name} to have a sound made"
        )
    return sound or None


def picture_of(video: Input.Video) -> Picture:
    """The frames of a VIDEO; ValueError where it has none."""
    if isinstance(video, InputImpl.VideoFromComponents):
        components = video.get_components()
        # A rate may be a float, whose own fraction has a denominator that no file can state.
        rate = Fraction(components.frame_rate).limit_denominator(1001)
        return Frames(components.images, rate)
    film = film_of(video)
    if not film.picture:
        raise ValueError(
            f"{film.name} holds no picture, wanted a film: choose another file. A sound alone goes into "
            "audio, by Load Audio, as in the template Video for Sound"
        )
    return film


def sound_of(video: Input.Video) -> dict[str, Any] | Film:
    """The sound of a VIDEO, as an AUDIO or as the film that has it; ValueError where it has none."""
    if isinstance(video, InputImpl.VideoFromComponents):
        sound = video.get_components().audio
        name = "video"
    else:
        film = film_of(video, of_sound=True)
        sound, name = film if film.sound else None, film.name
    if sound is None:
        raise ValueError(
            f"{name} holds no sound: connect a video with sound, or a sound to audio, or keep the picture"
        )
    return sound


def film_of(video: Input.Video, of_sound: bool = False) -> Film:
    """A VIDEO of a file, or of what else can be read as one. of_sound: it lasts as long as its sound."""
    return open_film(video.get_stream_source(), *video.get_active_trim_window(), of_sound)
