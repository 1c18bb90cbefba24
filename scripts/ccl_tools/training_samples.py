"""The samples of a training: clips through the pack's own nodes from what was just saved, as mp4 files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccl_pack.ccl_core.config import CCLConfig
    from ccl_pack.ccl_core.training.finetune.run import Save
    from ccl_pack.ccl_core.training.finetune.settings import Sample, Settings

log = logging.getLogger(__name__)

FOLDER = "samples"


def sampler_of(settings: Settings, config: CCLConfig) -> Callable[[Save], None] | None:
    """What makes the clips of `train.samples`; None where there are none. ValueError: a clip will not do."""
    from ccl_pack.ccl_core.training.finetune.sources import SOUNDS

    for sample in settings.train.samples:
        if sample.clip is not None and not Path(sample.clip).is_file():
            raise ValueError(f"{sample.clip} is not there: train.samples names it")
        if sample.task == "v2a" and Path(sample.clip).suffix.lower() in SOUNDS:
            raise ValueError(f"{sample.clip} has no picture, which v2a is given: name a film as its clip")
    return Sampler(settings, config) if settings.train.samples else None


class Sampler:
    """Loads a save as a person would, and samples with the defaults of the nodes.

    The clips have the first of `data.sizes` and the longest of `data.frames`.
    """

    def __init__(self, settings: Settings, config: CCLConfig) -> None:
        self.settings = settings
        self.config = config

    @cached_property
    def _encoders(self) -> tuple[Any, Any, Any]:
        from ccl_pack.ccl_core.training.finetune.encoders import Encoders

        return Encoders(self.settings.encoders, self.config).parts

    def __call__(self, save: Save) -> None:
        import comfy.model_management

        folder = Path(self.settings.train.out) / FOLDER
        folder.mkdir(exist_ok=True)
        loaded = self._load(save)
        for number, sample in enumerate(self.settings.train.samples):
            path = folder / f"step-{save.step:06}-{number}-{sample.task}.mp4"
            try:
                self._make(sample, loaded, path)
            except Exception:
                log.exception("the sample %s failed, the others go on", path.name)
        comfy.model_management.unload_all_models()

    def _make(self, sample: Sample, loaded: tuple[Any, Any, Any, Any], path: Path) -> None:
        model, video_vae, audio_vae, text = loaded
        latent = sampled(model, text, self._latent(model, video_vae, audio_vae, sample), sample)
        decoded(latent, video_vae, audio_vae).save_to(str(path))

    def _load(self, save: Save) -> tuple[Any, Any, Any, Any]:
        """MODEL, video VAE, audio VAE and CLIP."""
        from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_files
        from ccl_pack.ccl_core.host.files.lora import Strengths, apply_lora

        if save.whole:
            model, text, video_vae, audio_vae = load_checkpoint(save.files.video)
        else:
            model = load_files(save.files)
            video_vae, audio_vae, text = self._encoders
        if save.lora is not None:
            model = apply_lora(model, str(save.lora), Strengths())
        return model, video_vae, audio_vae, text

    def _latent(self, model: Any, video_vae: Any, audio_vae: Any, sample: Sample) -> dict[str, Any]:
        """An empty latent, or one that holds the given stream of a clip."""
        from ccl_pack.nodes.encoding import CCLEncodeAV
        from ccl_pack.nodes.latents import CCLEmptyAVLatent

        width, height = self.settings.data.sizes[0]
        length = {"length": "frames", "frames": max(self.settings.data.frames)}
        size = {"size": "custom", "width": width, "height": height}
        made = defaults(CCLEmptyAVLatent) | {"model": model, "size": size, "length": length}
        latent = CCLEmptyAVLatent.execute(**made).result[0]
        if sample.clip is None:
            return latent
        encoded = defaults(CCLEncodeAV) | {"latent": latent, "video_vae": video_vae, "audio_vae": audio_vae}
        return CCLEncodeAV.execute(**encoded | given(sample)).result[0]


def given(sample: Sample) -> dict[str, Any]:
    """What Encode Audio-Video (CCL) is given of the clip: the picture of a film, its sound, or a sound."""
    from comfy_api.latest import InputImpl
    from comfy_extras.nodes_audio import load

    from ccl_pack.ccl_core.training.finetune.sources import SOUNDS

    if Path(sample.clip).suffix.lower() in SOUNDS:
        waveform, rate = load(sample.clip)
        return {"audio": {"waveform": waveform[None], "sample_rate": rate}}
    keep = "picture" if sample.task == "v2a" else "sound"
    return {"video": InputImpl.VideoFromFile(sample.clip), "keep": keep}


def sampled(model: Any, text: Any, latent: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """The latent through Joint Sampler (CCL), as the model was published."""
    from ccl_pack.nodes.guidance import CCLJointSampler
    from nodes import CLIPTextEncode

    positive, negative = (CLIPTextEncode().encode(text, words)[0] for words in (sample.caption, ""))
    settings = defaults(CCLJointSampler) | {"seed": sample.seed, "mode": {"mode": "from model"}}
    return CCLJointSampler.execute(
        **settings, model=model, positive=positive, negative=negative, latent_image=latent
    ).result[0]


def decoded(latent: dict[str, Any], video_vae: Any, audio_vae: Any) -> Any:
    """The VIDEO of Decode Audio-Video (CCL)."""
    from ccl_pack.nodes.decoding import CCLDecodeAV

    vaes = {"video_vae": video_vae, "audio_vae": audio_vae}
    return CCLDecodeAV.execute(latent=latent, tiling={"tiling": "off"}, fps=0.0, **vaes).result[2]


def defaults(node: Any) -> dict[str, Any]:
    """The default of every widget of a node."""
    inputs = node.define_schema().inputs
    return {entry.id: entry.default for entry in inputs if getattr(entry, "default", None) is not None}
