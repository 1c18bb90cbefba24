"""The parts of CCL on trial: CCL, CCL without each part, and two rival couplings, trained and measured alike.

    python benchmarks/method.py --work method-work    # trains, measures, writes docs/method/
    python benchmarks/method.py --summarise           # draws anew from docs/method/method.json
    python benchmarks/method.py --attention           # the attention maps of ccl-tiny

As in the paper, the coupling comes to streams that are trained already: --stream-steps without any coupling,
once for all seeds and all variants whose streams are alike. For one seed all variants then see the same
clips, tasks, times and noise in the same order, for --steps, and have as many parameters within 3 %. They are
smaller than the shipped model (--layers, --widths), so that many runs are affordable. Training clips are made
once into --work with the autoencoders and the text encoder of --checkpoint. Killed and started again, the
script goes on where it was; several processes may share --work if their --variants or their --seeds differ.
Runs that method.json already records with the same settings are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ccl_bench.ablation import choose_variants, run
from ccl_bench.ablation_report import collect, summarise
from ccl_bench.tiny_options import CHECKPOINT, check_frames, guidance_modes
from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("method-work"), help="folder of data, runs and their states"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "method", help="folder of JSON, plots and tables"
    )
    parser.add_argument("--variants", nargs="+", help="names from ablations.VARIANTS (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--layers", type=int, default=4, help="of the compared models")
    parser.add_argument(
        "--widths", type=int, nargs=2, default=[128, 80], help="of their video and audio stream"
    )
    parser.add_argument("--stream-steps", type=int, default=1000, help="training steps of the streams alone")
    parser.add_argument(
        "--steps", type=int, default=600, help="training steps of each variant on these streams"
    )
    parser.add_argument("--batch", type=int, default=16, help="clips per training step")
    parser.add_argument(
        "--clips", type=int, default=3000, help="training clips to encode where there are none"
    )
    parser.add_argument("--frames", type=int, default=33, help="4k + 1, of training and evaluation")
    parser.add_argument(
        "--evaluation-clips", type=int, default=24, help="held-out captions per run, or clips of --attention"
    )
    parser.add_argument("--guidance", nargs="+", default=["cfg", "ucg_joint"])
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="gives encoders, VAEs and sizes")
    parser.add_argument("--summarise", action="store_true", help="only draw anew from method.json")
    parser.add_argument(
        "--attention", action="store_true", help="only draw the attention maps of --checkpoint"
    )
    parser.add_argument("--sigma", type=float, default=0.5, help="noise of the clip whose attention is drawn")
    options = parser.parse_args(arguments)
    counts = ("stream_steps", "steps", "batch", "clips", "evaluation_clips")
    low = [name for name in counts if getattr(options, name) < 1]
    if low:
        parser.error(f"--{low[0].replace('_', '-')} must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Train and measure, then collect, draw and write the tables."""
    options = parse(arguments)
    reexec()
    load_pack(pytorch_attention=True)
    check_frames(options.frames)
    guidance_modes(options.guidance)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.attention:
        # It needs torch, which the Python that reads the options may not have.
        from ccl_bench import ablation_attention

        ablation_attention.draw(options)
        return
    if not options.summarise:
        choose_variants(options)
        run(options)
        collect(options)
    summarise(options.out)
    say(f"Written: {options.out}")


if __name__ == "__main__":
    exit_on_script_error(main)
