"""Files that belong together and files that do not; every refusal names the file, what it is and what was wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest

import published as p
from ccl_pack.ccl_core.config import StreamConfig
from ccl_pack.ccl_core.host.files.assemble import assemble
from ccl_pack.ccl_core.host.files.build import boundary_of, put_together
from ccl_pack.ccl_core.host.files.configure import configure
from ccl_pack.ccl_core.host.files.identify import identify
from ccl_pack.ccl_core.host.files.read import ModelPaths, RawFile, read, read_files
from ccl_pack.ccl_core.metadata import write_config
from tiny import CONFIG, config, state_dict, write

WAN_STREAM = StreamConfig(16, 16, 256, 160, 2, 3, 24, freq_dim=32)


def file(shapes, name, chosen=None):
    metadata = {} if chosen is None else {"ccl_config": write_config(chosen)}
    return identify(RawFile(name, p.meta(shapes), metadata, {}, False))


def ccl(chosen, section):
    shapes = {key: tuple(value.shape) for key, value in state_dict(chosen).items() if key.startswith(section)}
    return file(shapes, f"{section}.safetensors", chosen if section == "interaction" else None)


def on_wan(video=p.TINY_WAN, **changes):
    chosen = config(video=WAN_STREAM, **changes)
    return {
        "video": file(p.wan(video), "wan.safetensors"),
        "audio": ccl(chosen, "audio"),
        "interaction": ccl(chosen, "interaction"),
    }


def mova():
    return {
        "video": file(p.wan(p.TINY_MOVA_VIDEO), "high.safetensors"),
        "audio": file(p.audio_tower(p.TINY_MOVA_AUDIO), "audio.safetensors"),
        "interaction": file(p.bridge(*p.TINY_MOVA), "bridge.safetensors"),
        "low_noise": file(p.wan(p.TINY_MOVA_VIDEO), "low.safetensors"),
    }


def refused(files, words):
    with pytest.raises(ValueError, match=words):
        put_together(files)


def test_interaction_brings_the_configuration():
    files = on_wan()
    assembly = assemble(files)
    assert configure(files, assembly) == config(video=WAN_STREAM)
    assert assembly.sources == {
        "video": "wan.safetensors",
        "audio": "audio.safetensors",
        "a2v": "interaction.safetensors",
        "v2a": "interaction.safetensors",
    }


@pytest.mark.parametrize("width", [128, 384, 640])
def test_interaction_made_for_another_width(width):
    refused(
        on_wan(replace(p.TINY_WAN, dim=width)),
        rf"wan\.safetensors has a video stream of dim {width}, wanted 256, for which interaction\.safetensors was made",
    )


def test_small_wan_under_an_interaction_for_the_large_one():
    """1.3B and 14B: 40 heads do not divide the width of the small one."""
    files = mova()
    chosen = config(video=replace(WAN_STREAM, dim=5120, num_heads=40, num_layers=2))
    files["interaction"] = replace(on_wan()["interaction"], config=chosen)
    files["video"] = file(p.wan(replace(p.TINY_WAN, dim=1536)), "small.safetensors")
    refused(files, r"small\.safetensors has a video stream of dim 1536, wanted 5120")


def test_interaction_made_for_another_text_encoder():
    refused(on_wan(replace(p.TINY_WAN, text=48)), r"video stream of text_dim 48, wanted 24")


def test_interaction_of_more_layers_than_the_stream():
    refused(on_wan(replace(p.TINY_WAN, layers=1)), r"video stream of 1 layers, wanted 2 or more")


def test_interaction_without_configuration():
    files = on_wan()
    files["interaction"] = replace(files["interaction"], config=None)
    refused(files, r"interaction\.safetensors has no ccl_config entry.*new_interaction\.py")


def test_streams_may_read_texts_of_two_widths():
    files = mova()
    files["audio"] = file(p.audio_tower(replace(p.TINY_MOVA_AUDIO, text=32)), "audio.safetensors")
    _, found = put_together(files)
    assert (found.video.text_dim, found.audio.text_dim) == (24, 32)


def test_experts_of_two_shapes():
    files = mova()
    files["low_noise"] = file(p.wan(replace(p.TINY_MOVA_VIDEO, ffn=192)), "low.safetensors")
    refused(files, r"low\.safetensors has the ffn_dim 192, high\.safetensors 160: wanted the two experts")
    files["low_noise"] = file(p.wan(replace(p.TINY_MOVA_VIDEO, channels_in=16)), "low.safetensors")
    refused(files, r"low\.safetensors has the in_dim 16, high\.safetensors 36")
    files["low_noise"] = file(p.wan(replace(p.TINY_MOVA_VIDEO, dim=384)), "low.safetensors")
    refused(files, r"low\.safetensors has the dim 384, high\.safetensors 256")


@pytest.mark.parametrize(
    ("role", "other", "words"),
    [
        ("video", "audio", r"audio\.safetensors, chosen as video_model, is an audio stream\. Wanted: a file"),
        ("audio", "video", r"high\.safetensors, chosen as audio_stream, is a Wan model without an audio stream"),
        ("interaction", "audio", r"audio\.safetensors, chosen as interaction, is an audio stream"),
        ("low_noise", "interaction", r"bridge\.safetensors, chosen as low_noise_model, is the bridge of MOVA"),
    ],
)
def test_files_in_each_others_place(role, other, words):
    files = mova()
    refused(files | {role: files[other]}, words)


def test_missing_parts_are_named_with_what_is_there():
    files = mova()
    refused(
        {"video": files["video"]}, r"no audio and no interaction.*high\.safetensors is a Wan model without an audio"
    )
    refused({"video": files["video"], "audio": files["audio"]}, r"hold no interaction")


def test_audio_of_ovi_needs_the_video_of_ovi():
    audio = file(p.prefixed("audio_model.", p.ovi_audio(p.TINY_OVI_AUDIO, p.TINY_OVI_VIDEO, 64)), "audio.safetensors")
    video = file(p.wan(replace(p.TINY_OVI_VIDEO)), "wan.safetensors")
    refused(
        {"video": video, "audio": audio}, r"hold no interaction \(a2v\).*audio\.safetensors is the audio part of Ovi"
    )


def test_a_part_given_twice():
    whole = file(p.ovi(*p.TINY_OVI), "ovi.safetensors")
    audio = file(p.prefixed("audio_model.", p.ovi_audio(p.TINY_OVI_AUDIO, p.TINY_OVI_VIDEO, 64)), "audio.safetensors")
    refused({"video": whole, "audio": audio}, r"audio\.safetensors, chosen as audio_stream, both hold audio")


def test_ovi_and_mova_mixed_up():
    files = mova()
    ovi = file(p.ovi_video(*p.TINY_OVI[:2]), "ovi.safetensors")
    refused({"video": ovi, "audio": files["audio"]}, r"hold no interaction \(v2a\).*the video part of Ovi")
    refused(
        {"video": ovi, "audio": files["audio"], "interaction": files["interaction"]}, r"both hold interaction\.0\.a2v"
    )


def test_boundary_of_the_experts():
    assert boundary_of(put_together(mova())[1]) == 0.9
    assert boundary_of(CONFIG) == 0.875
    assert boundary_of(config(video=replace(CONFIG.video, in_dim=36))) == 0.9
    assert boundary_of(config(expert_boundary=0.5)) == 0.5


def test_read_keeps_other_parts_of_an_all_in_one_file_apart(tmp_path):
    from safetensors.torch import save_file

    tensors = {f"model.diffusion_model.{key}": value for key, value in state_dict(CONFIG).items()}
    tensors |= {"vae.x": tensors["model.diffusion_model.head.modulation"].clone()}
    save_file(tensors, tmp_path / "all.safetensors", metadata={"ccl_config": write_config(CONFIG)})
    found = read(str(tmp_path / "all.safetensors"))
    assert found.bundled["vae."].keys() == {"x"}
    assert (identify(found).family, identify(found).config) == ("ccl", CONFIG)
    with pytest.raises(ValueError, match=r"all\.safetensors holds no text encoder"):
        found.bundle("text_encoders.", "text encoder")


def test_roles_without_a_file_are_left_out(tmp_path):
    path = str(write(tmp_path / "tiny.safetensors"))
    assert read_files(ModelPaths(path)).keys() == {"video"}


def test_damaged_configuration_is_named_with_its_file():
    with pytest.raises(ValueError, match=r"interaction\.safetensors: the ccl_config metadata is not JSON"):
        identify(RawFile("interaction.safetensors", {}, {"ccl_config": "{"}, {}, False))
