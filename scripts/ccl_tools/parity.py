"""The outputs of our modules beside those of a golden fixture, each within the bound of the fixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ccl_tools.golden_fixture import Fixture, Unreadable

if TYPE_CHECKING:
    from torch import Tensor


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


def compare(fixture: Fixture) -> list[Comparison]:
    """Every output of the file, also those that this script does not know how to compute."""
    from ccl_tools.parity_cases import CASES

    if fixture.case not in CASES:
        raise Unreadable(f"{fixture.name} is of the case {fixture.case!r}, known are {', '.join(CASES)}")
    bounds = {output: fixture.bound(output) for output in fixture.outputs}
    try:
        found = CASES[fixture.case](fixture)
    except KeyError as error:
        raise Unreadable(f"{fixture.name} lacks the entry {error}, which its case needs") from error
    return [
        _compared(output, bounds[output], wanted, found.get(output))
        for output, wanted in fixture.outputs.items()
    ]


def _compared(output: str, bound: float, wanted: Tensor, found: Tensor | None) -> Comparison:
    if found is None:
        return Comparison(output, bound, None, "this script does not know how to compute it")
    if found.shape != wanted.shape:
        return Comparison(
            output, bound, None, f"ours has shape {tuple(found.shape)}, wanted {tuple(wanted.shape)}"
        )
    return Comparison(
        output, bound, float((found.double() - wanted.double()).abs().max()) if wanted.numel() else 0.0
    )
