"""What our modules compute for each case of a golden fixture, by the names of its outputs.

Sizes that no shape tells come from the fixture's `config` and enter through the configuration that the loader
uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.host.files.assemble import assemble
from ccl_pack.ccl_core.host.files.build import build_model
from ccl_pack.ccl_core.host.files.configure import published_config
from ccl_pack.ccl_core.host.files.identify import identify
from ccl_pack.ccl_core.host.files.read import RawFile
from ccl_pack.ccl_core.host.vae import audio as audio_vae
from ccl_pack.ccl_core.host.vae import mmaudio
from ccl_tools.golden_fixture import Fixture

Results = dict[str, Tensor]
STREAMS = ("video", "audio")


def ovi(fixture: Fixture) -> Results:
    """FusionModel of Ovi: plain, with a clean first frame, and with a layer left out of both streams."""
    inputs = fixture.inputs
    config = fixture.config
    video, audio = config["video_model"], config["audio_model"]
    model = joint_model(
        fixture.weights,
        fixture.name,
        video={"num_heads": video["num_heads"], "text_len": video["text_len"]},
        audio={"num_heads": audio["num_heads"], "text_len": audio["text_len"]},
        audio_latent=replace(FAMILIES["ovi"].published["audio_latent"], channels=audio["in_dim"]),
        clock_scale=audio["temporal_rope_scaling_factor"],
    )
    time = inputs["timestep"]
    latent = inputs["video_latent"]
    clean = torch.ones(1, latent.shape[2])
    clean[:, 0] = 0.0  # of the latent frames

    def run(times: Any, **options: Any) -> tuple[Tensor, Tensor]:
        made_video, made_audio = model(
            [latent, inputs["audio_latent"].mT],
            times,
            inputs["video_context"],
            audio_context=inputs["audio_context"],
            transformer_options=options,
        )
        return made_video, made_audio.mT

    with states(model) as kept:
        found = named("joint", run(time))
    found |= {f"joint/{name}": value for name, value in kept.items()}
    found |= named("first_frame_clean", run((time[:, None] * clean, time)))
    skipped = (
        (config["slg_layer"],) if config["slg_layer"] > 0 else ()
    )  # the reference cannot skip its first layer
    return found | named("skip_layer", run(time, skip_layers=skipped))


def mova(fixture: Fixture) -> Results:
    """Both towers of MOVA and the bridge: its strengths, own times, the tables of its rotary embedding."""
    inputs = fixture.inputs
    config = fixture.config
    audio = config["audio_dit"]
    bridge = config["dual_tower_bridge"]
    scaled = config["bridge_scaled"]
    latent = replace(
        FAMILIES["mova"].published["audio_latent"],
        channels=audio["in_dim"],
        rate=Fraction(bridge["audio_fps"]),
    )
    model = joint_model(
        {key.replace("/", ".", 1): value for key, value in fixture.weights.items()},
        fixture.name,
        video={"num_heads": config["video_dit"]["num_heads"]},
        audio={"num_heads": audio["num_heads"]},
        options={
            "head_width": bridge.get("head_dim"),
            "first_frame_bias": bridge.get("apply_first_frame_bias_in_rope", False),
        },
        fps=Fraction(config["video_fps"]),
        audio_latent=latent,
    )
    time = inputs["timestep"]

    def run(times: Any, **options: Any) -> list[Tensor]:
        return model(
            [inputs["video_latent"], inputs["audio_latent"]],
            times,
            inputs["context"],
            video_concat=inputs["video_condition"],
            transformer_options=options,
        )

    with states(model) as kept:
        found = named("joint", run(time))
    found |= {
        (name if name.startswith("cross_rope") else f"joint/{name}"): value for name, value in kept.items()
    }
    found |= named("split_timesteps", run((time, inputs["audio_timestep"])))
    found |= named("bridge_off", run(time, a2v_cross_attn=False, v2a_cross_attn=False))
    scales = {"a2v_scale": scaled["audio_to_video"], "v2a_scale": scaled["video_to_audio"]}
    return found | named("bridge_scaled", run(time, **scales))


def prism(fixture: Fixture) -> Results:
    """Prism: MOVA's forward with a text for each tower, on both video experts of one file."""
    inputs = fixture.inputs
    config = fixture.config
    scaled = config["bridge_scaled"]
    high, low = bridged_experts(fixture)

    def run(model: Any, times: Any, audio_context: Tensor | None = None, **options: Any) -> list[Tensor]:
        return model(
            [inputs["video_latent"], inputs["audio_latent"]],
            times,
            inputs["context"],
            audio_context=audio_context,
            video_concat=inputs["video_condition"],
            transformer_options=options,
        )

    time = inputs["timestep"]
    own = inputs["audio_context"]
    with states(high) as kept:
        found = named("joint", run(high, time))
    found |= {
        (name if name.startswith("cross_rope") else f"joint/{name}"): value for name, value in kept.items()
    }
    found |= named("split_timesteps", run(high, (time, inputs["audio_timestep"])))
    found |= named("bridge_off", run(high, time, a2v_cross_attn=False, v2a_cross_attn=False))
    scales = {"a2v_scale": scaled["audio_to_video"], "v2a_scale": scaled["video_to_audio"]}
    found |= named("bridge_scaled", run(high, time, **scales))
    found |= named("dual_prompt", run(high, time, own))
    with states(low) as kept:
        found |= named("low_noise", run(low, (inputs["low_timestep"], inputs["low_audio_timestep"]), own))
    return found | {f"low_noise/{name}": value for name, value in kept.items() if "cross_rope" not in name}


def bridged_experts(fixture: Fixture) -> list[Any]:
    """Both video experts of one file, each with the audio tower and the bridge."""
    config = fixture.config
    audio = config["audio_dit"]
    bridge = config["dual_tower_bridge"]
    file = identify(RawFile(fixture.name, fixture.weights, {}, {}, False))
    assembly = assemble({"video": file})
    family = FAMILIES[file.family]
    stated = published_config(
        file.family,
        assembly.sd,
        fixture.name,
        video={"num_heads": config["video_dit"]["num_heads"]},
        audio={"num_heads": audio["num_heads"]},
        options={
            "head_width": bridge["head_dim"],
            "first_frame_bias": bridge["apply_first_frame_bias_in_rope"],
        },
        fps=Fraction(config["video_fps"]),
        audio_latent=replace(
            family.published["audio_latent"], channels=audio["in_dim"], rate=Fraction(bridge["audio_fps"])
        ),
    )
    return [in_float32(expert.sd, stated, fixture.name) for expert in assembly.experts()]


def in_float32(sd: dict[str, Tensor], config: Any, name: str) -> Any:
    patcher = build_model(sd, config, name, {}, {"dtype": torch.float32}, disable_dynamic=True)
    return patcher.model.diffusion_model


def joint_model(weights: dict[str, Tensor], name: str, **sizes: Any) -> Any:
    """A published state dict as the loader makes a model of it, in float32."""
    file = identify(RawFile(name, weights, {}, {}, False))
    config = published_config(file.family, file.tensors, name, **sizes)
    return in_float32(file.tensors, config, name)


@contextmanager
def states(model: Any) -> Iterator[Results]:
    """Hidden states inside the passes: `block{N}_*` after a layer, `bridge{N}_*` between bridge and blocks.

    Where a bridge runs, also the tables of its rotary embedding, `cross_rope/*`.
    """
    kept: Results = {}
    hooks = []
    for stream, tower in zip(STREAMS, (model, model.audio), strict=True):
        for i, block in enumerate(tower.blocks):
            hooks.append(block.register_forward_hook(_output(kept, f"block{i}_{stream}")))
            hooks.append(block.norm1.register_forward_pre_hook(_input(kept, f"bridge{i}_{stream}")))
    for layer in model.interaction.values():
        hooks.append(layer.register_forward_pre_hook(_tables(kept)))
    yield kept
    for hook in hooks:
        hook.remove()


def _output(kept: Results, name: str) -> Callable[..., None]:
    """The tokens, which stand before those of the other stream where the streams meet inside the block."""
    return lambda _, __, out: kept.update({name: out if torch.is_tensor(out) else out[0]})


def _input(kept: Results, name: str) -> Callable[..., None]:
    return lambda _, args: kept.update({name: args[0]})


def _tables(kept: Results) -> Callable[..., None]:
    """The reference has cosine and sine of both halves of a head, ours are rotations (1, n, 1, d/2, 2, 2)."""

    def keep(_: Any, args: tuple[Any, ...]) -> None:
        link = args[2]
        for stream, table in zip(STREAMS, link.a2v, strict=True):
            for name, row in (("cos", 0), ("sin", 1)):
                half = table[:, :, 0, :, row, 0]
                kept[f"cross_rope/{stream}_{name}"] = torch.cat([half, half], dim=-1)

    return keep


def named(group: str, streams: tuple[Tensor, Tensor] | list[Tensor]) -> Results:
    return {f"{group}/{name}": value for name, value in zip(STREAMS, streams, strict=True)}


def dac(fixture: Fixture) -> Results:
    """The continuous audio autoencoder of MOVA."""
    waveform = fixture.inputs["waveform"]
    sizes = {"sample_rate": fixture.config["sample_rate"]}
    model = audio_vae.load_audio_vae(
        dict(fixture.weights), {"dac_config": json.dumps(sizes)}
    ).first_stage_model
    mode, logvar = model.posterior(waveform)
    decoded = model.decode(mode)
    return {
        "latent_mode": mode,
        "latent_logvar": logvar,
        "decoded": decoded,
        "decoded_trimmed": decoded[..., : waveform.shape[-1]],
        "decoded_from_given_latent": model.decode(fixture.inputs["latent"]),
    }


def vocos(fixture: Fixture) -> Results:
    """The Vocos vocoder: log-mel features and synthesis."""
    features = fixture.config["feature_extractor"]
    sizes = {name: features[name] for name in ("sample_rate", "hop_length", "padding")}
    sizes["mel_n_fft"] = features["n_fft"]
    model = audio_vae.load_audio_vae(
        dict(fixture.weights), {"vocos_config": json.dumps(sizes)}
    ).first_stage_model
    waveform = fixture.inputs["waveform"][:, None]
    frames = None
    # The reference reflects at the true end and drops what fills no whole frame.
    if sizes["padding"] == "same":
        frames = waveform.shape[-1] // sizes["hop_length"]
        waveform = torch.nn.functional.pad(waveform, (0, sizes["mel_n_fft"]), mode="reflect")
    mel = model.encode(waveform)[..., :frames]
    return {
        "mel": mel,
        "waveform_from_mel": model.decode(fixture.inputs["mel"])[:, 0],
        "resynthesis": model.decode(mel)[:, 0],
    }


def mmaudio_fold(fixture: Fixture) -> Results:
    """Weights of MMAudio's VAE and vocoder as the loader folds them, and the convolutions with them."""
    parts: dict[str, Results] = {"autoencoder": {}, "vocoder": {}}
    for name, value in fixture.weights.items():
        part, _, key = name.partition("/")
        parts[part][key] = value
    folded = {
        "autoencoder": mmaudio.fold_magnitudes(parts["autoencoder"]),
        "vocoder": mmaudio.fold_weight_norms(parts["vocoder"]),
    }
    found = {f"folded/{part}/{key}": value for part, sd in folded.items() for key, value in sd.items()}
    for name, x in fixture.inputs.items():
        part, _, layer = name.partition("/")
        found[f"result/{name}"] = _convolved(folded[part], layer, x, fixture.config)
    return found


def _convolved(sd: dict[str, Tensor], layer: str, x: Tensor, config: dict[str, Any]) -> Tensor:
    """The padding of a convolution keeps the length; the upsampling ones of the vocoder are transposed."""
    weight = sd[f"{layer}.weight"]
    bias = sd.get(f"{layer}.bias")
    kernel = weight.shape[-1]
    if layer.startswith("ups."):
        stride = config["vocoder"]["upsample_rates"][int(layer.split(".")[1])]
        return torch.nn.functional.conv_transpose1d(
            x, weight, bias, stride=stride, padding=(kernel - stride) // 2
        )
    gain = sd.get(f"{layer.partition('.')[0]}.learnable_gain") if layer.endswith("conv_out") else None
    weight = weight if gain is None else weight * (gain + 1)
    return torch.nn.functional.conv1d(x, weight, bias, padding=kernel // 2)


CASES: dict[str, Callable[[Fixture], Results]] = {
    "ovi": ovi,
    "mova": mova,
    "prism": prism,
    "dac": dac,
    "vocos": vocos,
    "mmaudio_fold": mmaudio_fold,
}
