"""What templates load: each published model with its files, its size and length, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ccl_tools.graphs import File, From, Node, Outer

# The same as in ccl_core/repository.py.
REPOSITORY = "https://github.com/PUBLISHER/ccl-audio-video"
HUB = "https://huggingface.co"
KIJAI = f"{HUB}/Kijai/WanVideo_comfy/resolve/main"
WAN21 = f"{HUB}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN22 = f"{HUB}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
MOVA_360P = "OpenMOSS-Team/MOVA-360p"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def file(address: str, directory: str, gb: float) -> File:
    return File(address.rpartition("/")[2], address, directory, gb)


UMT5 = file(f"{WAN21}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", "text_encoders", 6.7)
VAE_21 = file(f"{WAN22}/vae/wan_2.1_vae.safetensors", "vae", 0.25)
VAE_22 = file(f"{WAN22}/vae/wan2.2_vae.safetensors", "vae", 1.4)
MMAUDIO = file(f"{KIJAI}/Ovi/mmaudio_vae_16k_fp32.safetensors", "vae", 0.7)
VOCODER = file(f"{KIJAI}/Ovi/mmaudio_vocoder_bigvgan_best_netG_fp32.safetensors", "vae", 0.45)
OVI_11 = file(
    f"{HUB}/Kijai/WanVideo_comfy_fp8_scaled/resolve/main/TI2V/Ovi/"
    "Wan2_2-5B-Ovi_960x960_10s_fp8_e4m3fn_scaled_KJ.safetensors",
    "diffusion_models",
    12,
)
OVI_10 = file(
    f"{HUB}/rkfg/Ovi-fp8_quantized/resolve/main/model_fp8_e4m3fn.safetensors", "diffusion_models", 11.7
)
PRISM_PARTS = {
    name: file(
        f"{HUB}/t8star/Prism-Comfy/resolve/main/prism_alpha_{part}_int8_convrot.safetensors",
        "diffusion_models",
        gb,
    )
    for name, part, gb in (
        ("video_model", "video_dit", 14.5),
        ("audio_stream", "audio_dit", 1.5),
        ("interaction", "dual_tower_bridge", 2.6),
        ("low_noise_model", "video_dit_2", 14.5),
    )
}
# By `hf download`, as the shards of both experts have the same names.
MOVA_PARTS = {
    "video_model": "MOVA-360p/video_dit/diffusion_pytorch_model-00001-of-00003.safetensors",
    "audio_stream": "MOVA-360p/audio_dit/diffusion_pytorch_model.safetensors",
    "interaction": "MOVA-360p/dual_tower_bridge/diffusion_pytorch_model.safetensors",
    "low_noise_model": "MOVA-360p/video_dit_2/diffusion_pytorch_model-00001-of-00003.safetensors",
}
MOVA_AUDIO_VAE = "MOVA-360p/audio_vae/diffusion_pytorch_model.safetensors"
LIGHTX2V = {
    noise: file(
        f"{KIJAI}/LoRAs/Wan22_Lightx2v/"
        f"Wan_2_2_I2V_A14B_{noise}_lightx2v_4step_lora_260412_rank_256_fp16.safetensors",
        "loras",
        2.5,
    )
    for noise in ("HIGH", "LOW")
}


@dataclass(frozen=True)
class Release:
    """A model as it is loaded.

    loaders: nodes with the outputs of `sources`; shown: their file names on the subgraph; size: pixels, None
    where it is the model's own; frames: its length where a first frame is needed, else None; kept_seconds and
    new_seconds: of a continuation; sampling: widgets of the sampler that differ from what the model was
    published with; sound: whether what is heard has a field of its own.
    """

    title: str
    loaders: tuple[Node, ...]
    sources: Mapping[str, From]
    shown: tuple[str, ...]
    size: tuple[int, int] | None = None
    seconds: float = 5.0
    frames: int | None = None
    kept_seconds: float = 1.0
    new_seconds: float = 4.0
    fps: float = 24.0
    variant: str = "from model"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    tiling: str = "off"
    sound: bool = True

    @property
    def files(self) -> tuple[File, ...]:
        return tuple(file for node in self.loaders for file in node.files)


def apart() -> dict[str, From]:
    """The outputs of a model, its text encoder and its VAEs in nodes of their own."""
    return {
        "model": From("model", "model"),
        "clip": From("clip", "CLIP"),
        "video_vae": From("video_vae", "VAE"),
        "audio_vae": From("audio_vae", "audio_vae"),
    }


def one_file(name: str, files: tuple[File, ...] = ()) -> Node:
    return Node("model", "CCLModelLoader", {"unet_name": Outer("model", name)}, files=files)


def text_encoder(device: str = "default") -> Node:
    inputs = {"clip_name": Outer("text_encoder", UMT5.name), "type": "wan", "device": device}
    return Node("clip", "CLIPLoader", inputs, "Load text encoder", (UMT5,))


def video_vae(vae: File) -> Node:
    return Node(
        "video_vae", "VAELoader", {"vae_name": Outer("video_vae", vae.name)}, "Load video VAE", (vae,)
    )


MMAUDIO_LOADER = Node(
    "audio_vae",
    "CCLAudioVAELoader",
    {"vae_name": Outer("audio_vae", MMAUDIO.name), "vocoder_name": Outer("vocoder", VOCODER.name)},
    files=(MMAUDIO, VOCODER),
)
DAC_LOADER = Node("audio_vae", "CCLAudioVAELoader", {"vae_name": Outer("audio_vae", MOVA_AUDIO_VAE)})
ENCODERS = ("text_encoder", "video_vae", "audio_vae")


def ovi(model: File, title: str, **changes: Any) -> Release:
    loaders = (one_file(model.name, (model,)), text_encoder(), video_vae(VAE_22), MMAUDIO_LOADER)
    shown = ("model", *ENCODERS, "vocoder")
    return replace(Release(title, loaders, apart(), shown, size=(1280, 704)), **changes)


def assembled(title: str, parts: Mapping[str, Any], **changes: Any) -> Release:
    """Of files of its parts."""
    names = {part: Outer(part, getattr(given, "name", given)) for part, given in parts.items()}
    files = tuple(given for given in parts.values() if isinstance(given, File))
    model = Node("model", "CCLModelAssembler", names, files=files)
    loaders = (model, text_encoder(), video_vae(VAE_21), DAC_LOADER)
    return replace(Release(title, loaders, apart(), (*parts, *ENCODERS)), **changes)


TINY = Release(
    title="tiny",
    loaders=(Node("model", "CCLCheckpointLoader", {"ckpt_name": Outer("model", "ccl-tiny.safetensors")}),),
    sources={name: From("model", name) for name in ("model", "clip", "video_vae", "audio_vae")},
    shown=("model",),
    seconds=2.0,
    kept_seconds=0.8,
    new_seconds=1.25,
    fps=16.0,
    sound=False,
)
OVI = ovi(OVI_11, "Ovi 1.1")
OVI_OLD = ovi(OVI_10, "Ovi 1.0", size=(704, 704), variant="Ovi 1.0 (720, 5 s)")
OVI_LOW = replace(
    OVI,
    title="Ovi 1.1, low memory",
    loaders=(OVI.loaders[0], text_encoder("cpu"), *OVI.loaders[2:]),
    size=(832, 480),
    tiling="on",
)
MOVA = assembled("MOVA", MOVA_PARTS, size=(640, 352), frames=193)
MOVA_LOW = replace(
    MOVA,
    loaders=(one_file("MOVA-360p_fp8.safetensors"), text_encoder("cpu"), *MOVA.loaders[2:]),
    shown=("model", *ENCODERS),
    tiling="on",
)
PRISM = assembled("Prism", PRISM_PARTS, size=(848, 480), frames=205)
WAN_PARTS = {
    "video_model": "wan2.1_t2v_1.3B_bf16.safetensors",
    "audio_stream": MOVA_PARTS["audio_stream"],
    "interaction": "interaction.safetensors",
}
CCL_ON_WAN = assembled("CCL on Wan", WAN_PARTS, size=(832, 480), fps=16.0)


def with_nodes(release: Release, *nodes: Node, shown: tuple[str, ...]) -> Release:
    """With nodes behind the model, the last of which gives it."""
    sources = {**release.sources, "model": From(nodes[-1].key, "model")}
    return replace(
        release, loaders=(*release.loaders, *nodes), sources=sources, shown=(*shown, *release.shown)
    )


def lora(key: str, of: str, name: Any, files: tuple[File, ...] = (), **inputs: Any) -> Node:
    return Node(key, "CCLLoraLoader", {"model": From(of, "model"), "lora_name": name, **inputs}, files=files)


OVI_LORA = with_nodes(
    OVI,
    lora(
        "lora",
        "model",
        Outer("lora", "your_lora.safetensors"),
        strength_video=Outer("strength_video", 1.0),
        strength_audio=Outer("strength_audio", 1.0),
    ),
    shown=("lora", "strength_video", "strength_audio"),
)
PRISM_FEW_STEPS = replace(
    with_nodes(
        PRISM,
        lora(
            "high",
            "model",
            Outer("high_noise_lora", LIGHTX2V["HIGH"].name),
            (LIGHTX2V["HIGH"],),
            expert="high noise",
        ),
        lora(
            "low",
            "high",
            Outer("low_noise_lora", LIGHTX2V["LOW"].name),
            (LIGHTX2V["LOW"],),
            expert="low noise",
        ),
        Node(
            "shift", "CCLStreamShift", {"model": From("low", "model"), "video_shift": 5.0, "audio_shift": 7.0}
        ),
        shown=("high_noise_lora", "low_noise_lora"),
    ),
    # Guided in the first of 8 steps alone.
    sampling={
        "steps": 8,
        "mode": "cfg",
        "mode.video_cfg": 2.0,
        "mode.audio_cfg": 5.0,
        "mode.cfg_end_percent": 0.1,
    },
)
