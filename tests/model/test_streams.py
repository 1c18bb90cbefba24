"""The video stream of a fresh coupling against the host's WanModel, with all that may stand beside the
latent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.ops
import pytest
import torch
from comfy.ldm.wan.model import WanModel, sinusoidal_embedding_1d
from torch import Tensor

from ccl_pack.ccl_core.config import CCLConfig, StreamConfig
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.times import Times
from support.tiny import CONFIG, config, latents, patcher, state_dict


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


T2V = replace(CONFIG.video, in_dim_ref_conv=16)
I2V = replace(CONFIG.video, in_dim_ref_conv=16, in_dim=36, model_type="i2v")
FLF = replace(I2V, flf_pos_embed_token_number=514)
SIZES = pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=["even", "odd"])


def fresh(video: StreamConfig) -> JointModel:
    """A model whose coupling adds nothing yet."""
    chosen: CCLConfig = config(video=video)
    weights = {
        key: torch.zeros_like(value) if key.startswith("interaction.") and ".o." in key else value
        for key, value in state_dict(chosen).items()
    }
    return patcher(weights=weights, video=video).model.diffusion_model


def wan_of(model: JointModel) -> WanModel:
    stream = model.ccl_config.video
    wan = WanModel(**stream.wan_arguments(), dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    wan.load_state_dict({key: value for key, value in model.state_dict().items() if key in wan.state_dict()})
    return wan.requires_grad_(False)


def beside(channels: int, size: tuple[int, int] = (4, 6)) -> dict[str, dict[str, Any]]:
    """What the host's nodes put beside a latent of so many channels and of that size, by name."""
    padded = [side + side % 2 for side in size]
    context = [noise(2, 1, channels, 1, *size), noise(3, 1, channels, 2, 7, 5)]
    ways = {
        "nothing": {},
        "a reference": {"reference_latent": noise(1, 1, 16, *padded)},
        "context latents": {"context_latents": context},
        "further frames": {"time_dim_concat": noise(4, 1, channels, 2, *size)},
    }
    return ways | {"all of them": {key: value for way in ways.values() for key, value in way.items()}}


CASES = [(T2V, way) for way in beside(16)] + [(I2V, "all of them"), (FLF, "a reference")]


@pytest.mark.parametrize(
    ("stream", "way"), CASES, ids=lambda case: case if isinstance(case, str) else case.model_type
)
@SIZES
def test_a_fresh_model_with_references_and_sound_is_the_host_s_wan(
    stream: StreamConfig, way: str, size: tuple[int, int]
) -> None:
    model = fresh(stream)
    video, text, time = noise(5, 1, stream.in_dim, 3, *size), noise(6, 1, 5, 24), torch.tensor([400.0])
    conds = beside(stream.in_dim, size)[way]
    if stream.model_type == "i2v":
        conds["clip_fea"] = noise(7, 1, stream.flf_pos_embed_token_number or 257, 1280)
    wanted = wan_of(model)(video, time, text, transformer_options={}, **conds)
    made, _ = model([video, latents()[1]], time, text, transformer_options={}, **conds)
    assert torch.equal(made, wanted) and made.std() > 0.1


@pytest.mark.parametrize("frames", [1, 3])
def test_what_comes_out_has_the_size_of_what_came_in(frames: int) -> None:
    model = fresh(T2V)
    latent, text, time = noise(5, 1, 16, frames, 5, 7), noise(6, 1, 5, 24), torch.tensor([400.0])
    tokens, made = model.embed_video(latent, time, text, {}, **beside(16, (5, 7))["all of them"])
    assert made.latent.shape[3:] == (6, 8) and made.grid == (frames + 2, 3, 4)
    assert tokens.shape == (1, 12 + (frames + 2) * 12 + 12 + 2 * 12, CONFIG.video.dim)
    assert model.unembed_video(tokens, made, latent.shape).shape == latent.shape


def test_the_options_of_the_rotary_table_are_those_of_the_host() -> None:
    model = fresh(T2V)
    options = {"rope_options": {"scale_t": 0.5, "scale_x": 2.0, "shift_y": 1.0}}
    video, text, time = noise(5, 1, 16, 3, 4, 6), noise(6, 1, 5, 24), torch.tensor([400.0])
    wanted = wan_of(model)(video, time, text, transformer_options=dict(options))
    assert torch.equal(model(video, time, text, transformer_options=dict(options)), wanted)
    assert not torch.equal(model(video, time, text, transformer_options={}), wanted)


def test_a_row_of_the_table_of_times_is_the_embedding_of_its_time() -> None:
    model = fresh(T2V)
    time, e = model.embed_times(Times(torch.tensor([[0.0, 500.0], [900.0, 100.0]]), None), torch.float32)
    assert time.shape == (2, 2, 48) and e.shape == (2, 2, 6, 48)
    wave = sinusoidal_embedding_1d(32, torch.tensor([900.0]))
    torch.testing.assert_close(time[1, 0], model.time_embedding(wave)[0])
    torch.testing.assert_close(
        e[1, 0], model.time_projection(model.time_embedding(wave)).unflatten(1, (6, 48))[0]
    )


# ---- texts


def test_rows_of_zeros_fill_the_text_of_a_model_that_counts_them() -> None:
    model = fresh(replace(T2V, text_len=9))
    text = noise(6, 1, 5, 24)
    made, image = model.embed_text(text)
    assert image is None
    assert torch.equal(made, model.text_embedding(torch.nn.functional.pad(text, (0, 0, 0, 4))))
    longer = noise(6, 1, 11, 24)
    assert torch.equal(model.embed_text(longer)[0], model.text_embedding(longer))


def test_clip_vision_tokens_stand_before_the_text() -> None:
    model = fresh(I2V)
    text, clip = noise(6, 1, 5, 24), noise(7, 1, 257, 1280)
    made, image = model.embed_text(text, clip)
    assert image == 257 and made.shape == (1, 262, 48)
    assert torch.equal(made[:, image:], model.text_embedding(text)) and torch.equal(
        made[:, :image], model.img_emb(clip)
    )


WIDE = replace(CONFIG.audio, text_dim=40)


def test_each_stream_reads_texts_of_its_own_width() -> None:
    model = patcher(audio=WIDE).model.diffusion_model
    video_text, audio_text, time = noise(6, 2, 5, 24), noise(8, 2, 7, 40), torch.tensor([400.0, 700.0])
    made = model(list(latents(batch=2)), time, video_text, audio_context=audio_text, transformer_options={})
    other = model(
        list(latents(batch=2)), time, video_text, audio_context=audio_text + 1, transformer_options={}
    )
    assert [stream.shape for stream in made] == [stream.shape for stream in latents(batch=2)]
    assert (made[1] - other[1]).abs().max() > 1e-3


def test_a_text_of_another_width_is_refused_with_both_widths() -> None:
    model = patcher(audio=WIDE).model.diffusion_model
    with pytest.raises(ValueError, match="got a text of width 24, this stream reads texts of width 40"):
        model(list(latents()), torch.tensor([400.0]), noise(6, 1, 5, 24), transformer_options={})
