"""The configuration of files: what they state, fitted to the streams there are, or what is published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccl_pack.ccl_core.host.files.assemble import assemble
from ccl_pack.ccl_core.host.files.build import put_together
from ccl_pack.ccl_core.host.files.configure import boundary_of, configure, published_config
from ccl_pack.ccl_core.host.files.translate import translate
from ccl_tools import published as p
from support.model_files import WAN_STREAM, file, mova, on_wan, refused
from support.tiny import CONFIG, config


def test_interaction_brings_the_configuration() -> None:
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
def test_interaction_made_for_another_width(width: int) -> None:
    refused(
        on_wan(replace(p.TINY_WAN, dim=width)),
        rf"wan\.safetensors has a video stream of dim {width}, wanted 256, for which "
        rf"interaction\.safetensors was made",
    )


def test_small_wan_under_an_interaction_for_the_large_one() -> None:
    """1.3B and 14B: 40 heads do not divide the width of the small one."""
    files = mova()
    chosen = config(video=replace(WAN_STREAM, dim=5120, num_heads=40, num_layers=2))
    files["interaction"] = replace(on_wan()["interaction"], config=chosen)
    files["video"] = file(p.wan(replace(p.TINY_WAN, dim=1536)), "small.safetensors")
    refused(files, r"small\.safetensors has a video stream of dim 1536, wanted 5120")


def test_interaction_made_for_another_text_encoder() -> None:
    refused(on_wan(replace(p.TINY_WAN, text=48)), r"video stream of text_dim 48, wanted 24")


def test_interaction_of_more_layers_than_the_stream() -> None:
    refused(on_wan(replace(p.TINY_WAN, layers=1)), r"video stream of 1 layers, wanted 2 or more")


def test_interaction_without_configuration() -> None:
    files = on_wan()
    files["interaction"] = replace(files["interaction"], config=None)
    refused(files, r"interaction\.safetensors has no ccl_config entry.*new_interaction\.py")


def test_streams_may_read_texts_of_two_widths() -> None:
    files = mova()
    files["audio"] = file(p.audio_tower(replace(p.TINY_MOVA_AUDIO, text=32)), "audio.safetensors")
    _, found = put_together(files)
    assert (found.video.text_dim, found.audio.text_dim) == (24, 32)


def test_boundary_of_the_experts() -> None:
    assert boundary_of(put_together(mova())[1]) == 0.9
    assert boundary_of(CONFIG) == 0.875
    assert boundary_of(config(video=replace(CONFIG.video, in_dim=36))) == 0.9
    assert boundary_of(config(expert_boundary=0.5)) == 0.5


def test_heads_that_no_shape_tells_enter_through_configure() -> None:
    small = p.Sizes(56, 64, 1, 48, 48, 32, 64), p.Sizes(56, 64, 1, 20, 20, 32, 64), 256
    sd = translate(p.meta(p.ovi(*small)), "small")
    with pytest.raises(ValueError, match="small has a video stream of width 56, wanted a multiple of 128"):
        published_config("ovi", sd, "small")
    given = {"num_heads": 2, "text_len": 16}
    config = published_config("ovi", sd, "small", video=given, audio=given, clock_scale=0.25)
    assert (config.video.num_heads, config.audio.text_len, config.clock_scale) == (2, 16, 0.25)
    assert (config.video.freq_dim, config.audio.stem_dim) == (64, 256)
