"""host/audio_vae.py and the node: a Vocos vocoder behind the host's audio nodes, and files that are
something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import comfy.sd
import folder_paths
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_audio import VAEDecodeAudio, VAEDecodeAudioTiled, VAEEncodeAudio
from safetensors.torch import load_file, save_file

from ccl_pack.ccl_core.host.vae.audio import load_audio_vae, load_audio_vae_file
from ccl_pack.ccl_core.host.vae.vocos import VocosVAE, vocos_config
from ccl_pack.ccl_core.metadata import from_tensor
from ccl_pack.ccl_core.model.audio.vocos import Vocos, VocosConfig
from ccl_pack.nodes.audio_vae import CCLAudioVAELoader
from support.tiny_vaes import audio_vae, image_vae, sound, video_vae

PAGES = Path(__file__).parents[3] / "js" / "docs"
FIXTURE = Path(__file__).parents[2] / "fixtures" / "vocos_dev.safetensors"
SIZES = {"sample_rate": 16000, "hop_length": 500, "padding": "same"}
METADATA = {"vocos_config": json.dumps(SIZES)}
CCL_METADATA = {
    "ccl_config": json.dumps(
        {"audio_latent": {"vae": "vocos", "channels": 12, "rate": "32", "sample_rate": 16000}}
    )
}
SMALL = VocosConfig(
    sample_rate=16000,
    hop=500,
    mels=12,
    mel_n_fft=1000,
    n_fft=1000,
    dim=16,
    intermediate_dim=40,
    layers=2,
    padding="same",
)

StateDict = dict[str, torch.Tensor]


def small_file() -> StateDict:
    """What training saves: no computed tensors, a latent that is not neutral."""
    torch.manual_seed(3)
    sd = Vocos(SMALL, operations=torch.nn).state_dict()
    sd = {key: value for key, value in sd.items() if "feature_extractor" not in key and "istft" not in key}
    return {
        **sd,
        "latent_mean": torch.linspace(-2, 1, 12),
        "latent_std": torch.linspace(1, 2, 12),
        "latent_floor": torch.tensor(-4.0),
    }


def published_file() -> tuple[StateDict, StateDict]:
    tensors = load_file(FIXTURE)
    return {
        key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")
    }, tensors


@pytest.fixture(scope="module")
def vae() -> VocosVAE:
    return load_audio_vae(small_file(), METADATA)


def test_the_published_file_needs_no_metadata() -> None:
    sd, tensors = published_file()
    vae = load_audio_vae(sd)
    assert isinstance(vae, VocosVAE)
    assert (vae.audio_sample_rate, vae.latent_channels, vae.upscale_ratio) == (24000, 100, 256)
    latent = vae.encode(tensors["inputs/waveform"][..., None])
    torch.testing.assert_close(latent, tensors["outputs/mel"], atol=1e-3, rtol=0)
    torch.testing.assert_close(vae.decode(latent)[..., 0], tensors["outputs/resynthesis"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("metadata", [METADATA, CCL_METADATA])
def test_sizes_come_from_shapes_and_metadata(metadata: dict[str, str]) -> None:
    assert vocos_config(small_file(), metadata) == SMALL


def test_a_half_precision_file_gives_the_same_sound(vae: VocosVAE) -> None:
    half = load_audio_vae(
        {key: value if "latent" in key else value.half() for key, value in small_file().items()}, METADATA
    )
    latent = torch.randn(1, 12, 20)
    assert (half.decode(latent) - vae.decode(latent)).norm() < 1e-2 * vae.decode(latent).norm()
    assert half.first_stage_model.backbone.embed.weight.dtype == torch.float32


@pytest.mark.parametrize("samples", [1, 500, 501, 45000])
def test_tokens_are_exactly_a_hop(vae: VocosVAE, samples: int) -> None:
    latent = vae.encode(torch.randn(2, samples, 1))
    assert latent.shape == (2, 12, -(-samples // 500))
    assert vae.decode(latent).shape == (2, latent.shape[-1] * 500, 1)


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("samples", [1700, 2250, 45001])
def test_a_token_of_two_frames_has_the_channels_of_both(padding: str, samples: int) -> None:
    sizes = {"sample_rate": 16000, "hop_length": 250, "padding": padding}
    sizes |= {"frames_per_token": 2, "phase_rounds": 2}
    vae = load_audio_vae(small_file(), {"vocos_config": json.dumps(sizes)})
    assert (vae.latent_channels, vae.downscale_ratio, vae.least_tokens) == (24, 500, 1)
    latent = vae.encode(torch.randn(2, samples, 1))
    assert latent.shape == (2, 24, vae.config.tokens(samples))
    made = vae.decode(latent)
    assert made.shape == (2, vae.config.samples(latent.shape[2]), 1)
    torch.testing.assert_close(vae.decode_tiled(latent, tile_x=5), made, atol=1e-4, rtol=0)
    tiled = vae.encode_tiled(made, tile_x=3500, tile_y=1, overlap=500)
    torch.testing.assert_close(tiled, vae.encode(made), atol=1e-4, rtol=0)
    saved = vae.get_sd()
    entry = from_tensor(saved.pop("vocos_config"))
    again = load_audio_vae(saved, {"vocos_config": entry})
    assert again.config == vae.config
    torch.testing.assert_close(again.decode(latent), made)


def test_host_nodes_resample_and_mix_to_mono(vae: VocosVAE) -> None:
    waveform = torch.randn(1, 2, 48000)
    stereo = VAEEncodeAudio.execute(vae=vae, audio={"waveform": waveform, "sample_rate": 48000})[0]
    assert stereo["samples"].shape == (1, 12, 32)
    mixed = {"waveform": waveform.mean(dim=1, keepdim=True), "sample_rate": 48000}
    torch.testing.assert_close(
        VAEEncodeAudio.execute(vae=vae, audio=mixed)[0]["samples"], stereo["samples"], atol=1e-4, rtol=0
    )
    audio = VAEDecodeAudio.execute(vae=vae, samples=stereo)[0]
    assert audio["sample_rate"] == 16000
    assert audio["waveform"].shape == (1, 1, 16000)


def test_host_node_takes_the_audio_of_a_joint_latent(vae: VocosVAE) -> None:
    audio = torch.randn(1, 12, 24)
    joint = {"samples": NestedTensor((torch.zeros(1, 16, 3, 8, 8), audio))}
    made = VAEDecodeAudio.execute(vae=vae, samples=joint)[0]["waveform"]
    torch.testing.assert_close(
        made, VAEDecodeAudio.execute(vae=vae, samples={"samples": audio})[0]["waveform"]
    )


def test_tiled_equals_whole(vae: VocosVAE) -> None:
    latent = torch.randn(2, 12, 200)
    whole = VAEDecodeAudio.execute(vae=vae, samples={"samples": latent})[0]["waveform"]
    tiled = VAEDecodeAudioTiled.execute(vae=vae, samples={"samples": latent}, tile_size=32, overlap=8)[0][
        "waveform"
    ]
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)
    audio = vae.decode(latent)
    torch.testing.assert_close(vae.decode_tiled(latent), audio, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        vae.encode_tiled(audio, tile_x=8000, tile_y=1, overlap=500), vae.encode(audio), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (torch.full((1, 12, 4), float("nan")), "audio latent contains NaN"),
        (torch.zeros(1, 13, 4), r"\(1, 13, 4\), this vocoder wants \(batch, 12, tokens\)"),
        (torch.zeros(1, 12, 0), "at least 1 tokens"),
        (torch.zeros(1, 16, 3, 8, 8), r"\(1, 16, 3, 8, 8\)"),
        (
            NestedTensor((torch.zeros(1, 16, 3, 8, 8), torch.zeros(1, 12, 4))),
            r"\[\(1, 16, 3, 8, 8\), \(1, 12, 4\)\]",
        ),
    ],
)
def test_a_latent_that_does_not_fit_is_named(vae: VocosVAE, latent: torch.Tensor, message: str) -> None:
    for decode in (vae.decode, vae.decode_tiled):
        with pytest.raises(ValueError, match=message):
            decode(latent)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, 0, 1), r"audio to encode has shape \(1, 0, 1\)"),
        (torch.zeros(1, 8, 8, 3), r"\(1, 8, 8, 3\), wanted \(batch, samples, channels\)"),
        (torch.full((1, 500, 1), float("inf")), "audio to encode contains NaN or infinity"),
    ],
)
def test_audio_that_does_not_fit_is_named(vae: VocosVAE, audio: torch.Tensor, message: str) -> None:
    for encode in (vae.encode, vae.encode_tiled):
        with pytest.raises(ValueError, match=message):
            encode(audio)


def without(key: str) -> StateDict:
    return {name: value for name, value in small_file().items() if name != key}


@pytest.mark.parametrize(
    ("sd", "metadata", "message"),
    [
        (without("head.out.weight"), METADATA, "lacks the key head.out.weight"),
        (
            without("backbone.convnext.1.gamma"),
            METADATA,
            r"lacks the key backbone.convnext.1.gamma of shape \(16,\)",
        ),
        (
            {**small_file(), "head.out.bias": torch.zeros(9)},
            METADATA,
            r"head.out.bias has shape \(9,\), wanted \(1002,\)",
        ),
        (
            {**small_file(), "latent_mean": torch.zeros(5)},
            METADATA,
            r"latent_mean has shape \(5,\), wanted \(12,\)",
        ),
        ({**small_file(), "backbone.embed.weight": torch.zeros(16, 12)}, METADATA, "wanted 3 dimensions"),
        (
            {**small_file(), "backbone.pos_net.weight": torch.zeros(3)},
            METADATA,
            "does not know.*backbone.pos_net.weight",
        ),
        (small_file(), None, "12 mel bands and n_fft 1000 needs the metadata entry vocos_config"),
        (small_file(), {"vocos_config": "{"}, "vocos_config is not JSON"),
        (small_file(), {"vocos_config": "[]"}, "JSON list, wanted an object"),
        (small_file(), {"vocos_config": '{"sample_rate": 16000}'}, "incomplete.*hop_length"),
        (small_file(), {"vocos_config": json.dumps({**SIZES, "hop_length": "x"})}, "wrong type"),
        (
            small_file(),
            {"vocos_config": json.dumps({**SIZES, "padding": "left"})},
            "'left', known are center, same",
        ),
        (
            small_file(),
            {"vocos_config": json.dumps({**SIZES, "frames_per_token": 0})},
            "frames_per_token is 0, wanted 1 or more",
        ),
        (small_file(), {"vocos_config": json.dumps({**SIZES, "frames_per_token": "two"})}, "wrong type.*two"),
        (small_file(), {"ccl_config": "{}"}, "audio_latent in ccl_config is None"),
        (
            small_file(),
            {"ccl_config": json.dumps({"audio_latent": {"rate": "33", "sample_rate": 16000}})},
            "33 tokens per second do not divide the sample rate 16000",
        ),
        ({"blocks.0.weight": torch.zeros(3)}, None, "not an audio VAE.*blocks.0.weight"),
        ({}, None, "first keys are none"),
    ],
)
def test_a_wrong_file_is_named(sd: StateDict, metadata: dict[str, str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_audio_vae(sd, metadata)


@pytest.mark.parametrize("other", [image_vae, video_vae])
def test_a_vae_for_images_or_video_is_refused(other: Callable[[], comfy.sd.VAE]) -> None:
    with pytest.raises(
        ValueError, match="not an audio VAE but one for images or video: load it with Load VAE"
    ):
        load_audio_vae(other().get_sd())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "vae", ([str(tmp_path)], folder_paths.supported_pt_extensions)
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def test_the_node_lists_and_loads_safetensors_only(folder: Path) -> None:
    save_file(small_file(), folder / "vocoder.safetensors", metadata=METADATA)
    (folder / "old.pt").write_bytes(b"")
    inputs = CCLAudioVAELoader.GET_NODE_INFO_V1()["input"]
    assert inputs["required"]["vae_name"][1]["options"] == ["vocoder.safetensors"]
    assert inputs["optional"]["vocoder_name"][1]["options"] == ["none", "vocoder.safetensors"]
    vae = CCLAudioVAELoader.execute(vae_name="vocoder.safetensors")[0]
    assert isinstance(vae, VocosVAE)


def test_the_node_joins_a_split_release(folder: Path) -> None:
    sd = small_file()
    save_file(
        {key: value for key, value in sd.items() if "head" not in key},
        folder / "a.safetensors",
        metadata=METADATA,
    )
    save_file({key: value for key, value in sd.items() if "head" in key}, folder / "b.safetensors")
    split = CCLAudioVAELoader.execute(vae_name="a.safetensors", vocoder_name="b.safetensors")[0]
    latent = torch.randn(1, 12, 8)
    torch.testing.assert_close(split.decode(latent), load_audio_vae(sd, METADATA).decode(latent))
    with pytest.raises(ValueError, match=r"a\.safetensors: the vocoder lacks the key head\.out\.weight"):
        CCLAudioVAELoader.execute(vae_name="a.safetensors")
    with pytest.raises(
        ValueError, match=r"a\.safetensors: .* both have the key backbone\.convnext\.0\.dwconv\.bias"
    ):
        CCLAudioVAELoader.execute(vae_name="a.safetensors", vocoder_name="a.safetensors")


@pytest.mark.usefixtures("folder")
def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        CCLAudioVAELoader.execute(vae_name="gone.safetensors")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "is empty.*download it again"),
        ("text", "cannot be read as safetensors.*download it again"),
        ("truncated", "cannot be read as safetensors.*cut off.*download it again"),
        ("pickle", "is not a safetensors file but a pickle.*Convert it first"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "vae.safetensors"
    save_file(small_file(), path)
    whole = path.read_bytes()
    if kind == "pickle":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(
            {"empty": b"", "text": b"not a model at all", "truncated": whole[: len(whole) // 2]}[kind]
        )
    with pytest.raises(ValueError, match=rf"vae\.safetensors {words}"):
        load_audio_vae_file(str(path))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("v1-16.pth", r"convert_mmaudio\.py v1-16\.pth best_netG\.pt"),
        ("best_netG.pt", r"convert_mmaudio\.py v1-16\.pth best_netG\.pt"),
        ("vae.ckpt", r"safetensors\.torch\.save_file"),
    ],
)
def test_a_pickle_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, name: str, command: str
) -> None:
    torch.save(small_file(), tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is not a safetensors file but a pickle.*{command}"):
        load_audio_vae_file(str(tmp_path / name))


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.safetensors is gone from .*choose the file again"):
        load_audio_vae_file(str(tmp_path / "gone.safetensors"))


def test_the_node_names_the_licence_of_the_mmaudio_weights() -> None:
    info = CCLAudioVAELoader.GET_NODE_INFO_V1()
    assert "CC-BY-NC-4.0" in info["description"]
    assert "CC-BY-NC-4.0" in info["input"]["required"]["vae_name"][1]["tooltip"]
    assert "CC-BY-NC-4.0" in (PAGES / "CCLAudioVAELoader.md").read_text()


def test_a_surround_sound_is_mixed_in_the_nodes_of_the_host_too() -> None:
    voice = sound(9000)["waveform"]
    film = torch.zeros(1, 6, 9000)
    film[:, 2:3] = voice
    mixed, alone = (audio_vae().encode(waveform.movedim(1, -1)) for waveform in (film, voice))
    assert torch.allclose(mixed, alone, atol=1e-4)
