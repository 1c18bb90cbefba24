"""Train a model on videos with sound: the interaction of two streams, LoRA on them, or weights.

    python scripts/train.py --config train.json

Two phases: `cache` encodes the clips of the configuration once, `train` trains on them and writes files for
the loaders of the pack. Start the same command again to go on after a stop. docs/training.md has an example
of a configuration.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_tools.console import ScriptError, Ticker, exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec
from ccl_tools.training_samples import sampler_of

if TYPE_CHECKING:
    from ccl_pack.ccl_core.config import CCLConfig
    from ccl_pack.ccl_core.training.finetune.settings import Settings

PHASES = ("all", "cache", "train")
CONFIG_REMEDY = "correct the configuration or the files it names (docs/training.md), then start again"
CLIPS_REMEDY = "read the lines above, put other clips into data.clips, then start again"


def cache(settings: Settings, config: CCLConfig) -> None:
    from ccl_pack.ccl_core.training.finetune.cache import Cache, Summary
    from ccl_pack.ccl_core.training.finetune.encoders import Encoders

    ticker = Ticker("caching")
    summary = Summary()
    for summary in Cache(Path(settings.data.cache)).build(settings.data, Encoders(settings.encoders, config)):
        ticker.tick(f"{summary.made} encoded, {summary.kept} there already, {len(summary.refused)} refused")
    for refused in summary.refused:
        say(f"  refused {refused.name}: {refused.reason}")
    ticker.done(f"{summary.made} clips encoded, {summary.kept} there already, {len(summary.refused)} refused")
    if not summary.made + summary.kept:
        raise ScriptError("no clip can be used", CLIPS_REMEDY)


def main(options: argparse.Namespace) -> None:
    import torch

    # Which trains faster than the host's default on a CPU; on a GPU it is the default.
    load_pack(cpu=options.cpu or not torch.cuda.is_available(), pytorch_attention=True)
    import comfy.model_management

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    from ccl_pack.ccl_core.training.finetune.load import read_model
    from ccl_pack.ccl_core.training.finetune.run import finetune
    from ccl_pack.ccl_core.training.finetune.settings_file import read_settings

    try:
        settings = read_settings(options.config)
        assembly, config = read_model(settings.model)
        # Before the clips are encoded, which may take hours.
        sampler = sampler_of(settings, config)
        if options.phase != "train":
            cache(settings, config)
            comfy.model_management.unload_all_models()
        if options.phase != "cache":
            device = comfy.model_management.get_torch_device()
            finetune(settings, assembly, config, device, sampler)
    except ValueError as error:
        raise ScriptError(str(error), CONFIG_REMEDY) from error


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the configuration, a JSON file")
    parser.add_argument("--phase", choices=PHASES, default="all", help="which part to run (default: all)")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU where there is a GPU")
    return parser.parse_args(argv)


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
