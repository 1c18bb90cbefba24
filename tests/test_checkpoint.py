"""Files: what is read, what is refused and in which words."""

from __future__ import annotations

import comfy.ops
import pytest
import torch
from safetensors.torch import save_file

from ccl_pack.ccl_core.host.checkpoint import load_checkpoint, load_model, read
from ccl_pack.ccl_core.model.joint import JointModel
from tiny import CONFIG, config, state_dict, write


def save(path, tensors, chosen=CONFIG):
    save_file(tensors, path, metadata={"ccl_config": chosen.to_json()})
    return str(path)


def test_every_key_reaches_the_model(tmp_path):
    path = write(tmp_path / "tiny.safetensors", seed=5)
    model = load_model(str(path)).model.diffusion_model
    wanted = state_dict(CONFIG, seed=5)
    loaded = model.state_dict()
    assert set(loaded) == set(wanted)
    assert all(torch.equal(loaded[key].float(), value) for key, value in wanted.items())


def test_key_names_are_wans():
    from comfy.ldm.wan.model import WanModel

    video = {key for key in state_dict(CONFIG) if not key.startswith(("audio.", "interaction."))}
    audio = {key.removeprefix("audio.") for key in state_dict(CONFIG) if key.startswith("audio.")}
    for keys, layers in ((video, 3), (audio, 2)):
        assert keys == set(
            WanModel(
                dim=48, ffn_dim=8, num_heads=2, num_layers=layers, text_dim=8, operations=comfy.ops.disable_weight_init
            ).state_dict()
        )
    assert {key.split(".")[2] for key in state_dict(CONFIG) if key.startswith("interaction.")} == {"a2v", "v2a"}


def test_prefix_of_all_in_one_files_is_accepted(tmp_path):
    tensors = {f"model.diffusion_model.{key}": value for key, value in state_dict(CONFIG).items()}
    assert load_model(save(tmp_path / "a.safetensors", tensors)).model.ccl_config == CONFIG


def test_patcher_can_be_rebuilt_by_the_host(tmp_path):
    patcher = load_model(str(write(tmp_path / "tiny.safetensors")))
    loader, arguments = patcher.cached_patcher_init
    again = loader(*arguments, disable_dynamic=True)
    assert torch.equal(again.model.diffusion_model.head.head.weight, patcher.model.diffusion_model.head.head.weight)


@pytest.mark.parametrize("size", [{"dim": 96, "num_heads": 4}, {"num_layers": 1}, {"in_dim": 36, "model_type": "i2v"}])
def test_any_wan_size_loads(tmp_path, size):
    from dataclasses import replace

    chosen = config(video=replace(CONFIG.video, **size))
    model = JointModel(chosen, device="meta", operations=comfy.ops.disable_weight_init)
    assert (
        load_model(str(write(tmp_path / "tiny.safetensors", video=chosen.video))).model.diffusion_model.dim == model.dim
    )


def test_missing_key_is_named(tmp_path):
    tensors = state_dict(CONFIG)
    del tensors["audio.blocks.1.self_attn.k.weight"]
    with pytest.raises(ValueError, match=r"a.safetensors lacks audio.blocks.1.self_attn.k.weight \(32, 32\)"):
        load_model(save(tmp_path / "a.safetensors", tensors))


def test_misshapen_key_is_named_with_both_shapes(tmp_path):
    tensors = state_dict(CONFIG) | {"interaction.0.a2v.context": torch.zeros(5, 32)}
    with pytest.raises(
        ValueError, match=r"interaction.0.a2v.context has shape \(5, 32\), its ccl_config wants \(3, 32\)"
    ):
        load_model(save(tmp_path / "a.safetensors", tensors))


def test_unknown_key_is_named(tmp_path):
    tensors = state_dict(CONFIG) | {"blocks.0.gate": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"1 unknown keys, the first is blocks.0.gate"):
        load_model(save(tmp_path / "a.safetensors", tensors))


def test_unknown_interaction_is_named(tmp_path):
    from dataclasses import replace

    chosen = config(interaction=replace(CONFIG.interaction, kind="telepathy"))
    with pytest.raises(ValueError, match="interaction 'telepathy', known are cca"):
        load_model(save(tmp_path / "a.safetensors", state_dict(CONFIG), chosen))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"head.modulation": torch.zeros(1)}, "a Wan model without an audio stream: use Load Diffusion Model"),
        ({"model.diffusion_model.head.modulation": torch.zeros(1)}, "a Wan model without an audio stream"),
        ({"decoder.head.0.gamma": torch.zeros(1)}, "a Wan VAE: use Load VAE"),
        ({"diffusion_model.blocks.0.lora_A.weight": torch.zeros(1)}, "a LoRA: use Load LoRA"),
        ({"x": torch.zeros(1)}, r"a file of an unknown kind \(1 tensors\)"),
    ],
)
def test_other_files_are_recognised(tmp_path, tensors, words):
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"other.safetensors is {words}"):
        read(str(tmp_path / "other.safetensors"))


def test_damaged_pickled_and_missing_files_are_refused(tmp_path):
    cut = write(tmp_path / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read as safetensors"):
        read(str(cut))
    torch.save({"x": torch.zeros(1)}, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match=r"pickle\.pt is not a safetensors file"):
        read(str(tmp_path / "pickle.pt"))
    (tmp_path / "renamed.safetensors").write_bytes((tmp_path / "pickle.pt").read_bytes())
    with pytest.raises(ValueError, match=r"renamed\.safetensors cannot be read as safetensors"):
        read(str(tmp_path / "renamed.safetensors"))
    with pytest.raises(ValueError, match="gone"):
        read(str(tmp_path / "gone.safetensors"))


def test_model_only_file_in_the_checkpoint_loader_is_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"tiny\.safetensors holds no text encoder.*CCL Model Loader"):
        load_checkpoint(str(write(tmp_path / "tiny.safetensors")))
