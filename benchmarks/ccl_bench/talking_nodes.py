"""Talking clips through the real nodes: loaded, given, asked, sampled and decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_bench.generate import Loaded, defaults, empty_latent, stack
from ccl_bench.tiny_options import CHECKPOINT, TALKING
from ccl_tools.console import ScriptError

if TYPE_CHECKING:
    import torch

    from ccl_pack.ccl_core.training.tiny.face_asked import AskedFace
    from ccl_pack.ccl_core.training.world.face import FaceClip
    from ccl_pack.ccl_core.training.world.face_score import FaceTask

# Of an all-in-one file, before the keys of its encoders.
INSIDE = ("text_encoders.", "vae.", "audio_vae.")
ENCODERS = {name: f"{name}.safetensors" for name in ("video_vae", "audio_vae", "text_encoder")}


@dataclass(frozen=True)
class Sampling:
    """How clips are generated; None leaves a value to the model. coupled: else both streams run alone.

    scale: of the mode in both streams, for all of its terms. lowest_sigma: below it there is no guidance.
    """

    guidance: str | None = None
    steps: int | None = None
    sampler: str | None = None
    coupled: bool = True
    scale: float | None = None
    lowest_sigma: float | None = None


def load(checkpoint: Path, encoders: Path | None = None) -> Loaded:
    """A checkpoint with its encoders: its own, or those of `encoders`, a folder or an all-in-one file."""
    import folder_paths

    from ccl_pack.nodes.loaders import CCLCheckpointLoader, CCLModelLoader

    if encoders is None and is_whole(checkpoint):
        folder_paths.add_model_folder_path("checkpoints", str(checkpoint.parent), is_default=True)
        model, clip, video_vae, audio_vae = CCLCheckpointLoader.execute(ckpt_name=checkpoint.name).result
    else:
        folder_paths.add_model_folder_path("diffusion_models", str(checkpoint.parent), is_default=True)
        (model,) = CCLModelLoader.execute(unet_name=checkpoint.name).result
        video_vae, audio_vae, clip = encoders_of(model.model.ccl_config, encoders or beside(checkpoint))
    require_words(model.model.ccl_config, checkpoint)
    return Loaded(model, clip, video_vae, audio_vae, float(model.model.ccl_config.fps))


def is_whole(checkpoint: Path) -> bool:
    """Whether a file holds its encoders."""
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as file:
        begins = {f"{key.split('.')[0]}." for key in file.keys()}  # noqa: SIM118 - no mapping
    return begins.issuperset(INSIDE)


def beside(checkpoint: Path) -> Path:
    """Where the encoders of a file lie: with it; of the one that ships in ccl-tiny, which shares its own."""
    if all((checkpoint.parent / name).is_file() for name in ENCODERS.values()):
        return checkpoint.parent
    if checkpoint == TALKING:
        return CHECKPOINT
    raise ScriptError(
        f"{checkpoint.name} holds no encoders, and {', '.join(ENCODERS.values())} are not beside it",
        "say with --encoders where they are: a folder with the three, or an all-in-one file",
    )


def encoders_of(config: Any, source: Path) -> tuple[Any, ...]:
    """Video VAE, audio VAE and text encoder of a folder with the three files, or of an all-in-one file."""
    from ccl_pack.ccl_core.training.finetune.encoders import Encoders
    from ccl_pack.ccl_core.training.finetune.settings import EncoderSettings

    files = {name: str(source / file) for name, file in ENCODERS.items()}
    chosen = EncoderSettings(**files) if source.is_dir() else EncoderSettings(checkpoint=str(source))
    return Encoders(chosen, config).parts


def require_words(config: Any, checkpoint: Path) -> None:
    """ScriptError for a model that does not read words, or is not shown who speaks."""
    if not (config.audio.speech_blocks and config.video.references):
        raise ScriptError(
            f"{checkpoint.name} reads no words, or no reference image",
            "give a checkpoint of a talking face (UniAVGen)",
        )


def pictures(clip: FaceClip) -> torch.Tensor:
    """(f, h, w, 3) in 0..1"""
    import torch

    return torch.from_numpy(clip.frames).float() / 255


def sound(waveforms: Sequence[Any]) -> dict[str, Any]:
    """Waveforms (n,) of one length as an AUDIO."""
    import numpy as np
    import torch

    from ccl_pack.ccl_core.training.world.sounds import SAMPLE_RATE

    return {"waveform": torch.from_numpy(np.stack(waveforms))[:, None], "sample_rate": SAMPLE_RATE}


def material(clip: FaceClip, task: FaceTask, fps: float) -> dict[str, Any]:
    """What a task gives of a clip: a whole stream, or the start of both."""
    from ccl_pack.ccl_core.training.world.sounds import SAMPLE_RATE

    if task.kept:
        samples = round(task.kept / fps * SAMPLE_RATE)
        return {"images": pictures(clip)[: task.kept], "audio": sound([clip.waveform[:samples]])}
    video = {} if task.video else {"images": pictures(clip)}
    return video if task.audio else {"audio": sound([clip.waveform])}


def encode(loaded: Loaded, frames: int, given: dict[str, Any]) -> dict[str, Any]:
    """A latent of one clip with the material in it, kept; what is missing is generated."""
    from ccl_pack.nodes.encoding import CCLEncodeAV

    latent = empty_latent(loaded, frames, 1)
    if not given:
        return latent
    return CCLEncodeAV.execute(
        latent=latent,
        image_fit="crop",
        length_fit="generate",
        video_vae=loaded.video_vae,
        audio_vae=loaded.audio_vae,
        **given,
    ).result[0]


def latents(loaded: Loaded, asked: Sequence[AskedFace], task: FaceTask) -> dict[str, Any]:
    """What is given of each clip, as one batch."""
    made = [encode(loaded, len(one.clip.frames), material(one.clip, task, loaded.fps)) for one in asked]
    return stack(made)


def whole(clip: FaceClip) -> dict[str, Any]:
    """Both streams of a clip."""
    return {"images": pictures(clip), "audio": sound([clip.waveform])}


def texts(loaded: Loaded, asked: Sequence[AskedFace]) -> list[list[Any]]:
    """Positive and negative of a batch: captions for the video, words for the sound."""
    from ccl_pack.nodes.prompts import CCLPrompt

    written = [
        CCLPrompt.execute(loaded.model, loaded.clip, one.caption, speech=one.clip.transcript).result
        for one in asked
    ]
    return [joined(side) for side in zip(*written, strict=True)]


def joined(conditionings: Sequence[list[Any]]) -> list[Any]:
    """Texts of one clip each as one batch; zeros behind a shorter one are no text."""
    from ccl_pack.ccl_core.host.texts import StreamTexts, of_streams

    streams = zip(*(of_streams(conditioning[0][0]) for conditioning in conditionings), strict=True)
    return [[StreamTexts.join(*map(padded, streams)), {}]]


def padded(texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """(1, n, d) of several lengths as (b, n, d)."""
    import torch

    rows = [text[0] for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def conditionings(
    loaded: Loaded, asked: Sequence[AskedFace], task: FaceTask, latent: dict[str, Any]
) -> dict[str, Any]:
    """Texts and references; without an image the first frame of a given video is the reference."""
    import numpy as np
    import torch

    from ccl_pack.nodes.references import CCLReferences

    shown: dict[str, Any] = {}
    if task.video:
        shown["image"] = torch.from_numpy(np.stack([one.image for one in asked])).float() / 255
    if task.voice:
        shown["voice"] = sound([one.voice for one in asked])
    vaes = {"video_vae": loaded.video_vae, "audio_vae": loaded.audio_vae}
    both = CCLReferences.execute(*texts(loaded, asked), latent, **vaes, **shown).result
    return dict(zip(("positive", "negative"), both, strict=True))


def sample(
    loaded: Loaded, conditioning: dict[str, Any], latent: dict[str, Any], sampling: Sampling, seed: int
) -> dict[str, Any]:
    """One run of CCLJointSampler for a batch."""
    from ccl_pack.nodes.guidance import CCLJointSampler

    settings = defaults(CCLJointSampler, "mode", sampling.guidance if sampling.coupled else "ucg_cross")
    if not sampling.coupled:
        # T0 + 0 (TC - T0): the text, and each stream alone.
        settings["mode"] |= {"video_modality_scale": 0.0, "audio_modality_scale": 0.0}
    if sampling.scale is not None:
        settings["mode"] |= dict.fromkeys(scales_in(settings["mode"]), sampling.scale)
    if sampling.lowest_sigma is not None:
        settings["lowest_sigma"] = sampling.lowest_sigma
    settings |= {"sampler_name": sampling.sampler} if sampling.sampler else {}
    settings |= {"seed": seed, "steps": sampling.steps or settings["steps"]}
    return CCLJointSampler.execute(
        model=loaded.model, latent_image=latent, **conditioning, **settings
    ).result[0]


def scales_in(mode: dict[str, Any]) -> list[str]:
    """The inputs of a mode that are scales."""
    return [name for name in mode if name.startswith(("video_", "audio_"))]


def is_kept(before: dict[str, Any], after: dict[str, Any]) -> list[bool]:
    """Whether what a mask keeps came back to the bit, clip by clip."""
    from ccl_pack.ccl_core.host.media.latents import split

    given, made = split(before), split(after)
    video = same(given.video, made.video, given.video_mask)
    audio = same(given.audio, made.audio, given.audio_mask)
    return [picture and sound for picture, sound in zip(video, audio, strict=True)]


def same(given: torch.Tensor, made: torch.Tensor, mask: torch.Tensor) -> list[bool]:
    """given, made: (b, c, n, ...); mask: (b, 1, n, ...), 0 where it keeps."""
    changed = (given.cpu() != made.cpu()) & (mask.cpu() == 0)
    return (~changed.flatten(1).any(1)).tolist()
