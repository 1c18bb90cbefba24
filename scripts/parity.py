"""Compares our modules with the numbers of a public reference implementation, stored in a golden fixture.

Loads the weights of the fixture through the pack's own loading path, computes every output and prints the largest
difference beside the bound that the fixture states. Exit code 0: every output is within its bound; 1: one is not;
2: a file cannot be read.

    python scripts/parity.py tests/fixtures/ovi_dev.safetensors
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec

if TYPE_CHECKING:
    from torch import Tensor

WITHIN, OUTSIDE, UNREADABLE = 0, 1, 2
WILDCARDS = {r"\{\*\}": ".*", r"\{N\}": r"\d+"}


class Unreadable(ValueError):
    """The file is no golden fixture, or one that this script does not know."""


class Entries(dict):
    """What a fixture holds; asked for what is not there, it says so."""

    def __missing__(self, key: str) -> Any:
        there = ", ".join(map(str, self)) or "none"
        raise Unreadable(f"it lacks the entry {key!r}, which its case needs; it has {there}")


@dataclass(frozen=True)
class Fixture:
    """A read golden fixture: its tensors by kind, its configuration and the bounds of its outputs."""

    name: str
    case: str
    config: Entries
    bounds: Entries
    weights: Entries
    inputs: Entries
    outputs: Entries

    def bound(self, output: str) -> float:
        """What the longest pattern that fits this output allows."""
        fitting = [pattern for pattern in self.bounds if matches(pattern, f"outputs/{output}")]
        if not fitting:
            raise Unreadable(f"{self.name} states no bound (tolerance.max_abs) for outputs/{output}")
        return float(self.bounds[max(fitting, key=len)])


@dataclass(frozen=True)
class Comparison:
    """One output: how far ours is from the stored one (None: nothing to compare, `remark` says why)."""

    output: str
    bound: float
    difference: float | None
    remark: str = ""

    @property
    def within(self) -> bool:
        return self.difference is not None and self.difference <= self.bound

    def __str__(self) -> str:
        found = "-" if self.difference is None else f"{self.difference:.2e}"
        verdict = "ok" if self.within else "FAILED"
        return f"  {self.output:<44} {found:>9}  bound {self.bound:.0e}  {verdict} {self.remark}".rstrip()


def matches(pattern: str, key: str) -> bool:
    """`{N}` stands for one index, `{*}` for any rest."""
    expression = re.escape(pattern)
    for wildcard, meaning in WILDCARDS.items():
        expression = expression.replace(wildcard, meaning)
    return re.fullmatch(expression, key) is not None


def read(path: Path) -> Fixture:
    """Unreadable says what is wrong with the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise Unreadable(f"{path} cannot be read as safetensors: {error}") from error
    try:
        info = json.loads(metadata["info"], object_hook=Entries)
        case, config, bounds = info["case"], info["config"], info["tolerance"]["max_abs"]
        if not isinstance(config, dict) or not isinstance(bounds, dict):
            raise TypeError("config and tolerance.max_abs are to be objects")
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(
            f"{path} is no golden fixture: its metadata wants an entry info, a JSON with case, config and "
            f"tolerance.max_abs ({type(error).__name__}: {error})"
        ) from error
    parts = {
        kind: Entries(
            (key.removeprefix(f"{kind}/"), value) for key, value in tensors.items() if key.startswith(f"{kind}/")
        )
        for kind in ("weights", "inputs", "outputs")
    }
    if not parts["outputs"]:
        raise Unreadable(f"{path} holds no outputs/*: there is nothing to compare")
    return Fixture(path.name, case, config, bounds, **parts)


def compare(fixture: Fixture) -> list[Comparison]:
    """Every output of the file, also those that this script does not know how to compute."""
    from ccl_tools.parity_cases import CASES

    if fixture.case not in CASES:
        raise Unreadable(f"{fixture.name} is of the case {fixture.case!r}, known are {', '.join(CASES)}")
    bounds = {output: fixture.bound(output) for output in fixture.outputs}
    found = CASES[fixture.case](fixture)
    return [_compared(output, bounds[output], wanted, found.get(output)) for output, wanted in fixture.outputs.items()]


def _compared(output: str, bound: float, wanted: Tensor, found: Tensor | None) -> Comparison:
    if found is None:
        return Comparison(output, bound, None, "this script does not know how to compute it")
    if found.shape != wanted.shape:
        return Comparison(output, bound, None, f"ours has shape {tuple(found.shape)}, wanted {tuple(wanted.shape)}")
    return Comparison(output, bound, float((found.double() - wanted.double()).abs().max()) if wanted.numel() else 0.0)


def check(path: Path) -> int:
    """Print the comparison of one file; returns the exit code for it."""
    import torch

    try:
        fixture = read(path)
        say(f"{path} ({fixture.case})")
        with torch.no_grad():
            comparisons = compare(fixture)
    except Unreadable as error:
        say(f"  cannot be checked: {error}")
        return UNREADABLE
    except ValueError as error:
        say(f"  FAILED: the pack does not load these weights: {error}")
        return OUTSIDE
    for comparison in comparisons:
        say(str(comparison))
    outside = sum(not comparison.within for comparison in comparisons)
    say(f"  {len(comparisons) - outside} of {len(comparisons)} outputs within their bounds")
    return OUTSIDE if outside else WITHIN


def main(paths: list[Path]) -> int:
    """The worst exit code of all files."""
    load_pack()
    return max(check(path) for path in paths)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", nargs="+", type=Path, metavar="FIXTURE.safetensors", help="golden fixtures")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: sys.exit(main(chosen.fixtures)))
