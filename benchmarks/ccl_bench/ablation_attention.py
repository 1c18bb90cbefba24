"""Where the coupling looks: attention maps of a world clip, and how much rests on the context tokens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ccl_bench import generate
from ccl_bench.charts import save
from ccl_tools.console import Ticker, say

if TYPE_CHECKING:
    from ccl_pack.ccl_core.attention_maps import AttentionMap
    from ccl_pack.ccl_core.training.world.scene import Clip

    Tensor = torch.Tensor

# Pixels of a video token: the VAE's 8 times the patch's 2.
CELL = 16
# Share of a cell from which a video token is foreground.
MOVES = 0.02
# Share of the loudest token from which an audio token is foreground.
SOUNDS = 0.05
SEED = 900


def draw(options: argparse.Namespace) -> None:
    """Maps of one clip as PNG and SVG, shares over several clips as JSON, of a pass halfway from noise."""
    from ccl_pack.ccl_core.training.world.evaluate import draw_clips

    loaded = generate.load(options.checkpoint.resolve())
    clips = draw_clips(SEED, options.evaluation_clips, options.frames, loaded.fps)
    ticker = Ticker("attention")
    shares: dict[tuple[str, int], list[tuple[float | None, float | None]]] = {}
    with torch.inference_mode():
        for number, clip in enumerate(clips):
            maps = record(loaded, clip, options.sigma, number)
            for found in maps:
                shares.setdefault((found.direction, found.layer), []).append(share_of(found, clip))
            if number == 0:
                draw_maps(maps, clip, options.out)
            ticker.tick(f"{number + 1} of {len(clips)} clips")
    write(shares, options)


def record(loaded: Any, clip: Clip, sigma: float, seed: int) -> list[AttentionMap]:
    """All maps of one pass of the model over the noised clip, both routes open."""
    import comfy.model_management

    from ccl_bench.ablation_data import WorldEncoders
    from ccl_pack.ccl_core.attention_maps import Recorder
    from ccl_pack.ccl_core.host.media.latents import split

    comfy.model_management.load_models_gpu([loaded.model])
    latent = split(generate.encode(loaded, clip, video=True, audio=True))
    model = loaded.model.model.diffusion_model
    text = generate.conditioning(loaded, [clip.caption])[0][0]
    generator = torch.Generator().manual_seed(seed)
    clean = [WorldEncoders.normalise(latent.video), latent.audio]
    noised = [torch.lerp(x, torch.randn(x.shape, generator=generator), sigma) for x in clean]
    recorder = Recorder(model)
    # The model reads noise levels in thousandths.
    model(noised, torch.tensor([1000.0 * sigma]), text, transformer_options={"ccl_taps": recorder.taps})
    return recorder.maps


def foreground(clip: Clip, direction: str, queries: int) -> Tensor:
    """Which queries belong to the shape, or to a sound: (queries,) bool."""
    from ccl_pack.ccl_core.alignment.timeline import TEMPORAL_STRIDE
    from ccl_pack.ccl_core.training.world.contacts import FOREGROUND

    if direction == "v2a":
        waveform = torch.from_numpy(clip.waveform)
        level = torch.nn.functional.adaptive_avg_pool1d(waveform.square()[None], queries)[0].sqrt()
        return level > SOUNDS * level.amax()
    frames = torch.from_numpy(clip.frames).float() / 255  # (f, h, w, 3)
    background = frames.flatten(0, 2).median(dim=0).values
    differs = ((frames - background).abs().amax(-1) > FOREGROUND).float()
    cells = torch.nn.functional.avg_pool2d(differs[:, None], CELL)[:, 0]  # (f, h/16, w/16)
    first = cells[:1]
    rest = cells[1:].unflatten(0, (-1, TEMPORAL_STRIDE)).amax(1)
    return (torch.cat([first, rest]) > MOVES).flatten()


def share_of(found: AttentionMap, clip: Clip) -> tuple[float | None, float | None]:
    from ccl_pack.ccl_core.attention_maps import context_share

    weights = found.mean
    return context_share(weights, found.context_tokens, foreground(clip, found.direction, len(weights)))


def draw_maps(maps: list[AttentionMap], clip: Clip, out: Path) -> None:
    """A row per direction, a column per layer; a red edge marks foreground queries."""
    from ccl_pack.ccl_core.attention_maps import image

    layers = sorted({found.layer for found in maps})

    def plot(plt: Any) -> None:
        grid = plt.subplots(2, len(layers), figsize=(2.4 * len(layers), 7), squeeze=False)[1]
        for found in maps:
            row = ("a2v", "v2a").index(found.direction)
            axes = grid[row, layers.index(found.layer)]
            weights = found.mean
            picture = image(weights, found.context_tokens)[0]
            edge = torch.zeros(len(picture), 2, 3)
            edge[foreground(clip, found.direction, len(weights)), :, 0] = 1
            # Two pixels of red beside the rows that belong to the foreground.
            axes.imshow(torch.cat([edge, picture], dim=1).numpy(), aspect="auto", interpolation="nearest")
            axes.set_title(f"{found.direction}, layer {found.layer}", fontsize=9)
            axes.set(xticks=[], yticks=[])
        grid[0, 0].set_ylabel("video queries, frame by frame")
        grid[1, 0].set_ylabel("audio queries in time")

    save(plot, out / "attention")


def write(
    shares: dict[tuple[str, int], list[tuple[float | None, float | None]]], options: argparse.Namespace
) -> None:
    """attention.json, and the shares on the console."""
    rows = []
    for (direction, layer), pairs in sorted(shares.items()):
        of_background, of_foreground = zip(*pairs, strict=True)
        means = [known_mean(of_background), known_mean(of_foreground)]
        rows.append({"direction": direction, "layer": layer, "background": means[0], "foreground": means[1]})
        say(
            f"  {direction}, layer {layer}: the context tokens get {shown(means[0])} of the attention of "
            f"background queries, {shown(means[1])} of that of foreground queries"
        )
    report = {
        "clips": options.evaluation_clips,
        "sigma": options.sigma,
        "checkpoint": options.checkpoint.name,
        "context_share": rows,
    }
    (options.out / "attention.json").write_text(json.dumps(report, indent=1) + "\n")


def known_mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known, None where nothing is."""
    numbers = [value for value in values if value is not None]
    return round(sum(numbers) / len(numbers), 4) if numbers else None


def shown(value: float | None) -> str:
    return "nothing known" if value is None else f"{value:.1%}"
