"""CCLLoopSampler: a video with sound that is longer than one pass of the model, made window by window."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from comfy.sd import VAE
from comfy_api.latest import InputImpl, io

from ..ccl_core.host.forecast import tell_of_run
from ..ccl_core.host.identity import identity
from ..ccl_core.host.media.latents import AVLatent, frame_rate, join, require_finite, split
from ..ccl_core.host.media.long_clip import (
    LongClip,
    long_clip,
    streams_of_result,
    window_of,
    write_film,
    write_pictures,
)
from ..ccl_core.host.media.states import require_task
from ..ccl_core.host.media.unfinished import Unfinished
from ..ccl_core.host.progress import part_of_bar
from ..ccl_core.host.published import longest_frames_of
from ..ccl_core.host.storyboard import at, times_of
from ..ccl_core.host.vae.sockets import (
    require_audio_vae,
    require_connected,
    require_video_vae,
)
from ..ccl_core.notices import notice, told
from .decoding import temporary_file
from .guidance import (
    LARGEST_SEED,
    make_guider,
    require_one_clock,
    sample_latent,
    schedule_inputs,
    schedule_of,
)
from .guidance_inputs import OF_MODE, guidance_inputs
from .inputs import FROM_MODEL, latent_fps_input, phrases, seconds_input, titles
from .node import CCLNode, known_choices

# Far apart, since a sampler that adds noise counts one on.
SEED_STEP = 1_000_003
# Of a text for a whole clip: what has a time axis of its own, or is of its start.
OF_WHOLE_CLIP = ("concat_latent_image", "concat_mask", "control", "vace_frames", "time_dim_concat")
# Of the bar of a window; the rest is the decoding of its picture. The sound comes last.
SAMPLING, WINDOWS = Fraction(9, 10), Fraction(19, 20)
ROOM = "ccl_loop"

# A window of a clip by its number, from what is given of it.
Sampled = Callable[[LongClip, int, AVLatent], AVLatent]


def _socket_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip=f"A joint model ({titles(', ')})."),
        io.Conditioning.Input(
            "positive", tooltip="What to generate. Storyboard (CCL) has a prompt for each scene."
        ),
        io.Conditioning.Input("negative", tooltip="What to move away from; an empty prompt will do."),
        io.Latent.Input(
            "latent_image",
            tooltip="The whole clip, as long as it shall be: from Empty Audio-Video Latent (CCL), "
            "with a given sound, film or first frame from Encode Audio-Video (CCL).",
        ),
        io.Vae.Input("video_vae", tooltip="The model's video VAE."),
        io.Vae.Input(
            "audio_vae",
            optional=True,
            tooltip="The model's audio VAE. Only a latent without audio part can do without it.",
        ),
    ]


def _length_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "window",
            display_name=f"window (0: {FROM_MODEL})",
            default=0.0,
            min=0.0,
            max=600.0,
            step=0.05,
            round=0.001,
            tooltip="Seconds of a window, which is one pass. 0: as long as the model was trained.",
        ),
        seconds_input(
            "overlap",
            1.0,
            "Seconds that a window keeps of the one before it. More holds on to what moves and "
            "sounds, less takes fewer windows.",
        ),
    ]


class CCLLoopSampler(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLLoopSampler",
            display_name="Loop Sampler (CCL)",
            category="CCL/sampling",
            description="A long video with sound, made window by window: each goes on from the end of the "
            "one before it. Memory stays that of one window, and a run that was stopped goes on.",
            search_aliases=[
                *("long video", "long video with sound", "minutes", "longer than 5 seconds", "loop sampler"),
                *("infinite length", "extend video", "continue video", "music video", "autoregressive"),
                *("context windows with sound", "soundtrack for a whole film", "story"),
                *phrases("{model} long video"),
            ],
            inputs=[
                *_socket_inputs(),
                *_length_inputs(),
                # A run that was stopped goes on with the same seed alone.
                *schedule_inputs(io.ControlAfterGenerate.fixed),
                *guidance_inputs(),
                latent_fps_input(),
            ],
            outputs=[io.Video.Output("video", tooltip="Video and sound as a file, for SaveVideo.")],
        )

    @classmethod
    def validate_inputs(cls, model: Any = None, mode: Any = None) -> bool | str:
        return known_choices(cls, model=model, mode=mode)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        latent_image: dict[str, Any],
        video_vae: VAE,
        window: float,
        overlap: float,
        seed: int,
        steps: int,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        mode: dict[str, Any],
        audio_vae: VAE | None = None,
        skip_layers: str = "",
        kept_parts: str = FROM_MODEL,
        lowest_sigma: float = OF_MODE,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        guidance = (mode, skip_layers, kept_parts, lowest_sigma)
        schedule = (sampler_name, scheduler, steps, denoise)
        _check(model, positive, negative, latent_image)
        av = split(latent_image)
        rate = frame_rate(av, fps)
        _require_vaes(av, video_vae, audio_vae)
        lengths = _lengths(model, window, overlap, rate)
        clip = long_clip(av, rate, *lengths, times_of(positive), (video_vae, audio_vae))
        sockets = (model, positive, negative, video_vae, audio_vae, latent_image)
        key = identity(*sockets, clip.windows, seed, guidance, schedule, float(rate))
        about = {"windows": clip.count, "seconds": float(clip.seconds(clip.count - 1)), "seed": seed}
        work = Unfinished.of(Path(folder_paths.get_output_directory()) / ROOM, key, about)
        _make(clip, work, partial(_sampled, model, (positive, negative), guidance, schedule, seed))
        path = temporary_file()
        with part_of_bar(WINDOWS, Fraction(1)):
            write_film(clip, work, clip.count, path)
        work.remove()
        return io.NodeOutput(InputImpl.VideoFromFile(path))


def _sampled(
    model: Any,
    texts: tuple[list, list],
    guidance: tuple,
    schedule: tuple,
    seed: int,
    clip: LongClip,
    number: int,
    latent: AVLatent,
) -> AVLatent:
    """A window, by the texts that hold where its new part begins."""
    guider = make_guider(model, *(at(text, clip.begin(number)) for text in texts), *guidance)
    sampler, sigmas = schedule_of(model, *schedule)
    given = join(latent)
    if number == 0:
        tell_of_run(guider, given, len(sigmas) - 1)
    own_seed = (seed + number * SEED_STEP) % (LARGEST_SEED + 1)
    return split(sample_latent(guider, given, own_seed, sampler, sigmas))


def _check(model: Any, positive: list, negative: list, latent: dict[str, Any]) -> None:
    """ValueError for what cannot be made window by window."""
    if getattr(model.model, "ccl_config", None) is None:
        raise ValueError(
            f"model: got {type(model.model).__name__}, which this pack cannot sample in windows: load a "
            f"joint model ({titles(', ')})"
        )
    for name, conditioning in (("positive", positive), ("negative", negative)):
        held = [key for _, extra in conditioning for key in OF_WHOLE_CLIP if extra.get(key) is not None]
        if held:
            raise ValueError(
                f"{name} carries {', '.join(dict.fromkeys(held))}, which is made for one pass and cannot be "
                "cut into windows: write images by Encode Audio-Video (CCL), or sample one clip by Joint "
                "Sampler (CCL)"
            )
    require_task(latent)
    require_finite(split(latent), "latent_image")
    require_one_clock(model, latent)


def _require_vaes(av: AVLatent, video_vae: VAE, audio_vae: VAE | None) -> None:
    require_video_vae(video_vae, av.video.shape[1])
    if av.audio is not None:
        require_connected(audio_vae, "audio_vae", "a latent with an audio part")
        require_audio_vae(audio_vae, av.audio.shape[1])


def _lengths(model: Any, window: float, overlap: float, fps: Fraction) -> tuple[Fraction, Fraction]:
    """Window and overlap in seconds."""
    # A NaN compares false too.
    for name, seconds in (("window", window), ("overlap", overlap)):
        if not 0 <= seconds <= 600:
            raise ValueError(f"{name} is {seconds}: give 0 to 600 seconds")
    exact = [Fraction(seconds).limit_denominator(1_000_000) for seconds in (window, overlap)]
    return exact[0] or Fraction(longest_frames_of(model)) / fps, exact[1]


def _make(clip: LongClip, work: Unfinished, sampled: Sampled) -> None:
    """Sample and decode the windows that are not there yet."""
    done = work.done(clip.count)
    overlap = f"{clip.count} windows of up to {clip.windows[0].stop} latent frames"
    told(f"{overlap}, {done} of them done before: {work.folder}" if done else overlap)
    before = work.load(done - 1) if done else None
    try:
        for number in range(done, clip.count):
            before = _make_window(clip, work, sampled, number, before)
    except comfy.model_management.InterruptProcessingException:
        _tell_of_rest(clip, work, partial(write_film, clip, work))
        raise


def _make_window(
    clip: LongClip, work: Unfinished, sampled: Sampled, number: int, before: dict[str, Any] | None
) -> dict[str, Any]:
    begin, share = WINDOWS * number / clip.count, WINDOWS / clip.count
    with part_of_bar(begin, begin + SAMPLING * share):
        made = streams_of_result(sampled(clip, number, window_of(clip, number, before)))
    with part_of_bar(begin + SAMPLING * share, begin + share):
        write_pictures(clip, number, made, before, work.pictures(number))
    work.save(number, made)
    return made


def _tell_of_rest(clip: LongClip, work: Unfinished, write: Callable[[int, str], None]) -> None:
    """Of a run that was cancelled: a film of what is done, and where it is."""
    done = work.done(clip.count)
    if not done:
        return
    write(done, str(work.so_far))
    notice(
        f"{done} of {clip.count} windows are done, {float(clip.seconds(done - 1)):.2f} s: {work.so_far} is "
        f"the film of them. The same inputs go on from there, for a week: {work.folder}"
    )
