"""The joint model as a MODEL of the host: conditions, masks, normalisation, memory of two packed streams."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import comfy.conds
import comfy.context_windows
import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ..alignment.timeline import TEMPORAL_STRIDE
from ..config import CCLConfig
from ..families import FAMILIES
from ..metadata import ENTRY, as_tensor, write_config
from ..model.joint import JointModel
from ..model.kept import KEPT
from .audio_shift import at_own_level, audio_noise_scale
from .diagnosis import require_finite_prediction
from .given import kept_for
from .kept_parts import mask_for_timesteps
from .run import RUN, Run, unpack
from .saving import require_writable, sound_weights
from .texts import of_streams, reference_sound
from .video_wrappers import for_video

# Conditions that a context window cuts: the stream whose window it is, and the axis of time. None: not cut,
# though an axis may be as long as the video.
WINDOWED = {"video_mask": (0, 2), "video_concat": (0, 2), "audio_mask": (1, 2)}
WINDOWED |= dict.fromkeys(("reference_latent", "audio_reference"))
# Of the host, with a shift per stream where it has one.
FLOW = getattr(comfy.model_base.ModelType, "FLOW_AV", comfy.model_base.ModelType.FLOW)
# Keys of wrappers around a pass that handle a packed pair: our own, and that of the host's compile nodes.
PACKED_WRAPPERS = frozenset(("ccl_low_noise", "torch.compile"))
# By the channels of the latent.
VIDEO_FORMATS = {16: comfy.latent_formats.Wan21, 48: comfy.latent_formats.Wan22}


class RawVideo(comfy.latent_formats.LatentFormat):
    """The latent of a video VAE that is neither of Wan's, as that VAE makes it."""

    latent_dimensions = 3
    temporal_downscale_ratio = TEMPORAL_STRIDE


class CCLModel(comfy.model_base.WAN21):
    """Samples a plain video latent (b, c, t, h, w) or the host's packed pair (b, 1, n) of video and audio."""

    def __init__(self, model_config: CCLModelConfig, device: Any = None) -> None:
        self.ccl_config = model_config.ccl_config
        self.run: Run | None = None  # while one samples; set by its wrapper
        self.audio_vae: comfy.sd.VAE | None = None  # of the checkpoint that the model comes from
        # Past WAN21's own constructor, which builds the host's WanModel.
        comfy.model_base.BaseModel.__init__(
            self,
            model_config,
            FLOW,
            device=device,
            unet_model=partial(JointModel, self.ccl_config),
        )
        self.image_to_video = self.ccl_config.video.in_dim > self.ccl_config.video.out_dim
        self.audio_shift = self.ccl_config.audio_shift  # the node sets it as an object patch of this name

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - the host's signature
        **conds: Any,
    ) -> Tensor:
        """The prediction (b, 1, n), inside the wrappers of the host's APPLY_MODEL, which see a video."""
        options = for_video(transformer_options, conds.get("latent_shapes") or (), PACKED_WRAPPERS)
        prediction = super().apply_model(x, t, c_concat, c_crossattn, control, options, **conds)
        run: Run | None = transformer_options.get(RUN)
        if run is None:
            return prediction
        model = self if run.experts is None else run.experts.active.model
        run.watch.note(model, t, x, prediction)
        run.tell_of_other_models(transformer_options)
        # Once: a wait for the device in each pass would cost more than it tells.
        if run.is_first(transformer_options):
            given = {"latent": x, "image": c_concat, "text": c_crossattn, **conds}
            require_finite_prediction(prediction, model, given)
        return prediction

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - the host's signature
        **conds: Any,
    ) -> Tensor:
        """The clean latent (b, 1, n) that the model predicts, with the routes of the run.

        Where the audio has a sigma shift of its own, the host's method sees it at its own noise level.
        """
        host = super()
        run: Run | None = transformer_options.get(RUN)
        if run is not None:
            conds["routes"] = run.routes_of_pass(len(x))
            kept = kept_for(run, self.current_patcher, len(x), transformer_options)
            transformer_options = {**transformer_options, **run.switches, KEPT: kept}

        def predict(x: Tensor) -> Tensor:
            return host._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **conds)

        scale = audio_noise_scale(self.audio_shift, self.model_sampling)
        shapes = conds.get("latent_shapes") or ()
        if scale == 1.0 or len(shapes) < 2:
            return predict(x)
        return at_own_level(predict, x, t, shapes, conds.get("audio_mask"), scale)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        if not kwargs.get("latent_shapes"):
            kwargs |= self._of_pair(kwargs["noise"])
        shapes = kwargs.get("latent_shapes") or []
        mask = kwargs.get("denoise_mask")
        masks = [] if mask is None else unpack(self._mask_of_times(mask), shapes)
        text, audio_text = of_streams(kwargs.get("cross_attn"))
        out = super().extra_conds(**_video_view(kwargs | {"cross_attn": text}, shapes))
        if len(shapes) > 1:
            out["latent_shapes"] = comfy.conds.CONDConstant(shapes)
            # The host's _apply_model would concatenate it to the packed latent, which has one channel.
            if "c_concat" in out:
                out["video_concat"] = comfy.conds.CONDRegular(out.pop("c_concat").cond)
        for name, mask in zip(("video_mask", "audio_mask"), masks, strict=False):
            if not (mask == 1).all():
                out[name] = comfy.conds.CONDRegular(mask_for_timesteps(mask))
        if audio_text is not None:
            out["audio_context"] = comfy.conds.CONDRegular(audio_text)
        sound = reference_sound(kwargs, self.ccl_config)
        if sound is not None:
            out["audio_reference"] = comfy.conds.CONDRegular(sound)
        return out

    def _of_pair(self, noise: Tensor) -> dict[str, Any]:
        """Shapes and noise of the pair that is sampled, for conditions that a hook makes during a step.

        PerpNeg does, and knows one stream. Of the noise only the shape is read.
        """
        if self.run is None or len(self.run.shapes) < 2:
            return {}
        numbers = sum(math.prod(shape[1:]) for shape in self.run.shapes)
        shapes = [torch.Size(shape) for shape in self.run.shapes]
        return {"latent_shapes": shapes, "noise": noise.new_zeros(noise.shape[0], 1, numbers)}

    def process_timestep(
        self,
        timestep: Tensor,
        latent_shapes: Any = None,
        video_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Time 0 where a mask keeps the latent, the audio's own time where it has a shift of its own.

        (b,) without masks, else per latent frame, per patch, or per audio token.
        """
        patch = self.diffusion_model.patch_size
        video = timestep if video_mask is None else self._masked(timestep, video_mask, patch)
        if latent_shapes is None:
            return video
        audio = timestep if audio_mask is None else self._masked(timestep, audio_mask, (1,))
        scale = audio_noise_scale(self.audio_shift, self.model_sampling)
        # The audio's own sigma, k s / (1 + (k - 1) s), as the time that the model was trained with.
        if scale != 1.0:
            steps = self.model_sampling.multiplier
            audio = comfy.model_sampling.time_snr_shift(scale, audio / steps) * steps
        return video, audio

    @staticmethod
    def _masked(timestep: Tensor, mask: Tensor, patch: tuple[int, ...]) -> Tensor:
        # A patch is clean where all its cells are kept; `ceil_mode` as the latent is padded to whole patches.
        if mask.ndim == 5 and mask.shape[-2:] != (1, 1):
            mask = torch.nn.functional.max_pool3d(
                mask, patch, patch, ceil_mode=True
            )  # (b, 1, t, h, w) of patches
        return timestep[:, None] * mask.flatten(1)

    def _mask_of_times(self, mask: Tensor) -> Tensor:
        """The mask, 1 where kept parts have the time of the rest (kept_parts.py)."""
        noisy = None if self.run is None else self.run.noisy
        return mask if noisy is None else mask.masked_fill(noisy.to(mask.device), 1.0)

    def scale_latent_inpaint(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **kwargs: Any
    ) -> Tensor:
        """What is kept, as the model sees it in a step: clean, or with the noise of the step."""
        noisy = None if self.run is None else self.run.noisy
        if noisy is None:
            return latent_image
        noised = super().scale_latent_inpaint(sigma=sigma, noise=noise, latent_image=latent_image, **kwargs)
        return torch.where(noisy.to(latent_image.device), noised, latent_image)

    def process_latent_in(self, latent: Any) -> Any:
        # The audio's latent is normalised already, by its VAE: it is only made k times smaller.
        scale = audio_noise_scale(self.audio_shift, self.model_sampling)
        return self._map_streams(latent, self.latent_format.process_in, lambda audio: audio / scale)

    def process_latent_out(self, latent: Any) -> Any:
        scale = audio_noise_scale(self.audio_shift, self.model_sampling)
        return self._map_streams(latent, self.latent_format.process_out, lambda audio: audio * scale)

    def _map_streams(
        self, latent: Any, map_video: Callable[[Tensor], Tensor], map_audio: Callable[[Tensor], Tensor]
    ) -> Any:
        """A latent mapped stream by stream, in the form it came in: nested, of the video alone, or packed."""
        if latent.is_nested:
            video, *audio = latent.unbind()
            return type(latent)([map_video(video), *map(map_audio, audio)])
        if latent.ndim == 5:
            return map_video(latent)
        video, *audio = comfy.utils.unpack_latents(latent, self.run.shapes)
        return comfy.utils.pack_latents([map_video(video), *map(map_audio, audio)])[0]

    def state_dict_for_saving(
        self,
        unet_state_dict: dict[str, Tensor],
        clip_state_dict: dict[str, Tensor] | None = None,
        vae_state_dict: dict[str, Tensor] | None = None,
        clip_vision_state_dict: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """What the host's ModelSave and CheckpointSave write, with the configuration and the audio VAE.

        Their metadata is the prompt alone, so the configuration is a tensor. ValueError for a GGUF file.
        """
        require_writable(self.model_config)
        model = unet_state_dict | {ENTRY: as_tensor(write_config(self.ccl_config))}
        saved = super().state_dict_for_saving(model, clip_state_dict, vae_state_dict, clip_vision_state_dict)
        return saved if vae_state_dict is None else saved | sound_weights(self.audio_vae)

    def get_dynamic_vram__units(self) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
        """The modules that stay in VRAM longest and those that leave it first, which newer hosts ask for.

        The audio stream leaves first: the passes of the video alone need none of it.
        """
        return [], list(self.diffusion_model.audio.blocks)

    def memory_required(
        self,
        input_shape: list[int],
        cond_shapes: dict[str, Any] = {},  # noqa: B006 - the host's signature
    ) -> float:
        """The host's estimate of a step, by the positions of both streams in a packed latent (b, 1, n)."""
        # The host takes all n numbers for positions. In a context window n is smaller than that of the run.
        if len(input_shape) == 3:
            shapes = [(1, self.latent_format.latent_channels, 1)] if self.run is None else self.run.shapes
            values = sum(math.prod(shape[1:]) for shape in shapes)
            positions = sum(math.prod(shape[2:]) for shape in shapes)
            input_shape = [input_shape[0], 1, input_shape[2] * positions // values]
        return super().memory_required(input_shape, cond_shapes)

    def map_context_window_to_modalities(
        self, primary_indices: list[int], latent_shapes: list[torch.Size], dim: int
    ) -> list[list[int]]:
        """The audio tokens of a window are those TARP assigns to its latent frames."""
        if len(latent_shapes) < 2:
            return [primary_indices]
        timeline = self.diffusion_model.timeline(latent_shapes[0][dim], latent_shapes[1][dim])
        return [primary_indices, timeline.tokens_of(primary_indices)]

    def resize_cond_for_context_window(
        self,
        cond_key: str,
        cond_value: Any,
        window: Any,
        x_in: Tensor,
        device: Any,
        retain_index_list: list[int] = [],  # noqa: B006
    ) -> Any:
        # The host cuts what it knows; the conditions of one stream are ours to cut.
        if cond_key not in WINDOWED:
            resize = super().resize_cond_for_context_window
            return resize(cond_key, cond_value, window, x_in, device, retain_index_list=retain_index_list)
        place = WINDOWED[cond_key]
        if place is None or cond_value.cond.shape[place[1]] == 1:  # one value for all times
            return cond_value
        stream, axis = place
        if stream > 0:
            own = window.get_window_for_modality(stream)
            return cond_value._copy_with(own.get_tensor(cond_value.cond, device, dim=axis))
        return comfy.context_windows.slice_cond(
            cond_value, window, x_in, device, temporal_dim=axis, retain_index_list=retain_index_list
        )


class CCLModelConfig(comfy.supported_models_base.BASE):
    """The host's description of a model; one instance per loaded file."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}
    supported_inference_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    latent_format = comfy.latent_formats.Wan21
    # Of an all-in-one file, as Load Checkpoint reads it.
    text_encoder_key_prefix: ClassVar[list[str]] = ["text_encoders."]
    vae_key_prefix: ClassVar[list[str]] = ["vae."]

    def __init__(self, ccl_config: CCLConfig) -> None:
        super().__init__({"image_model": "ccl"})
        self.ccl_config = ccl_config
        self.sampling_settings = {"shift": ccl_config.shift, "audio_shift": ccl_config.audio_shift}
        # As the host's WAN21_T2V in supported_models.
        self.memory_usage_factor = ccl_config.video.dim / 2222
        if not FAMILIES[ccl_config.family].fp16:
            self.supported_inference_dtypes = [torch.bfloat16, torch.float32]
        self.latent_format = video_format(ccl_config.video.out_dim)
        if ccl_config.latent_rgb_factors is not None:
            self.latent_format.latent_rgb_factors = ccl_config.latent_rgb_factors[:-1]
            self.latent_format.latent_rgb_factors_bias = ccl_config.latent_rgb_factors[-1]

    def get_model(
        self,
        state_dict: dict[str, Tensor],  # noqa: ARG002 - the host's signature
        prefix: str = "",  # noqa: ARG002
        device: Any = None,
    ) -> CCLModel:
        return CCLModel(self, device=device)


def video_format(channels: int) -> comfy.latent_formats.LatentFormat:
    """The latent of a video VAE with so many channels: Wan 2.1's, Wan 2.2's, or any other as it comes."""
    latent_format = VIDEO_FORMATS.get(channels, RawVideo)()
    latent_format.latent_channels = channels
    return latent_format


def _video_view(kwargs: dict[str, Any], shapes: list[torch.Size]) -> dict[str, Any]:
    """The arguments of the host's extra_conds with every packed latent cut down to its video."""
    if len(shapes) < 2:
        return kwargs
    packed = ("noise", "denoise_mask", "latent_image")
    cut = dict(kwargs)
    for name in packed:
        if kwargs.get(name) is not None:
            cut[name] = comfy.utils.unpack_latents(kwargs[name], shapes)[0]
    return cut
