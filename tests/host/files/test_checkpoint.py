"""Every part of an all-in-one file is checked whole, before anything is built of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ccl_pack.ccl_core.host.files import build
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_files, load_model
from ccl_pack.ccl_core.host.files.read import ModelPaths
from ccl_pack.ccl_core.host.vae.video import load_video_vae
from support import tiny
from support.tiny_vaes import video_vae

CCL_TINY = Path(build.__file__).parents[2] / "checkpoints" / "ccl-tiny.safetensors"
WHOLE = load_file(CCL_TINY)
PARTS = ("vae.", "audio_vae.", "text_encoders.", "model.diffusion_model.")
# Tensors that follow from the sizes of the vocoder.
COMPUTED = ("window", "mel_scale.fb")


def refusal(weights: dict[str, Tensor], folder: Path) -> str:
    path = folder / "changed.safetensors"
    with safe_open(CCL_TINY, "pt") as file:
        save_file(weights, path, file.metadata())
    with pytest.raises(ValueError, match=r"^changed\.safetensors[: ]") as error:
        load_checkpoint(str(path))
    assert len(str(error.value)) < 1000
    return str(error.value)


def keys_of(part: str) -> list[str]:
    keys = [key for key in WHOLE if key.startswith(part)] or [
        key for key in WHOLE if not key.startswith(PARTS[:3])
    ]
    return [key for key in keys if not key.endswith(COMPUTED)]


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_key_of_a_part_is_refused(part: str, tmp_path: Path) -> None:
    keys = keys_of(part)
    for key in keys[:: max(1, len(keys) // 6)]:
        message = refusal({name: value for name, value in WHOLE.items() if name != key}, tmp_path)
        # The name of the layer, or of a tensor that stands alone.
        assert any(name in message for name in key.split(".")[-2:]), (key, message)


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_shape_of_a_part_is_refused(part: str, tmp_path: Path) -> None:
    keys = [key for key in keys_of(part) if WHOLE[key].ndim and WHOLE[key].shape[0] > 1]
    for key in keys[:: max(1, len(keys) // 6)]:
        refusal(WHOLE | {key: WHOLE[key][1:].clone()}, tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_an_unknown_key_of_a_part_is_refused(part: str, tmp_path: Path) -> None:
    prefix = part if any(key.startswith(part) for key in WHOLE) else ""
    assert "stranger" in refusal(WHOLE | {f"{prefix}stranger.weight": torch.ones(2, 2)}, tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.int64])
@pytest.mark.parametrize("part", PARTS)
def test_a_weight_that_is_no_real_number_is_refused(part: str, dtype: torch.dtype, tmp_path: Path) -> None:
    key = next(key for key in keys_of(part) if WHOLE[key].ndim == 2 or part == "vae.")
    kind = str(dtype).removeprefix("torch.")
    message = refusal(WHOLE | {key: WHOLE[key].to(dtype)}, tmp_path)
    assert f"is of the type {kind}, wanted a floating-point type" in message


@pytest.mark.parametrize("key", ["latent_mean", "latent_std", "latent_floor"])
def test_statistics_of_the_latent_have_to_be_there(key: str, tmp_path: Path) -> None:
    weights = {name: value for name, value in WHOLE.items() if name != f"audio_vae.{key}"}
    assert f"lacks {key}, the statistics" in refusal(weights, tmp_path)


def test_a_whole_file_loads() -> None:
    model, _, picture, sound = load_checkpoint(str(CCL_TINY))
    assert picture.first_stage_model is not None and sound.first_stage_model is not None
    held = model.model.diffusion_model.state_dict()
    prefixed = {key.removeprefix("model.diffusion_model."): value for key, value in WHOLE.items()}
    assert all(torch.equal(value.float(), prefixed[key].float()) for key, value in held.items())


def test_a_size_that_a_vae_only_states_takes_no_memory() -> None:
    weights = dict(video_vae().first_stage_model.state_dict())
    # A network of this width would have 10^13 weights.
    weights["decoder.head.0.gamma"] = torch.ones(100_000, 1, 1, 1)
    with pytest.raises(
        ValueError, match=r"the video VAE is none that ComfyUI can build \(size mismatch for "
    ):
        load_video_vae(weights)


def test_weights_of_another_type_in_files_of_a_model_name_their_file(tmp_path: Path) -> None:
    weights = tiny.state_dict(tiny.CONFIG)
    path = str(tiny.write(tmp_path / "a.safetensors"))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(weights | {"head.head.bias": torch.ones(64, dtype=torch.int32)}, path, metadata)
    for load in (load_model, lambda path: load_files(ModelPaths(path))):
        with pytest.raises(ValueError, match=r"^a\.safetensors: head\.head\.bias is of the type int32"):
            load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["vae.", "audio_vae."])
def test_a_vae_with_nan_in_it_is_refused(part: str, value: float, tmp_path: Path) -> None:
    key = next(key for key in keys_of(part) if WHOLE[key].ndim > 1)
    weights = WHOLE | {key: WHOLE[key].clone()}
    weights[key].view(-1)[0] = value
    assert "1 weights of the" in (message := refusal(weights, tmp_path))
    assert f"hold NaN or infinity, the first is {key.removeprefix(part)}" in message
