"""Every node of the host that takes a LATENT, MODEL, CONDITIONING or GUIDER does what docs/host-nodes.md
says.
"""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest

from ccl_tools.environment import ROOT
from support.sweep import Row, page_lines, sweep, verdicts_of

PAGE = (ROOT / "docs" / "host-nodes.md").read_text(encoding="utf-8")


def test_the_page_is_read_as_it_is_written() -> None:
    rows = [
        Row("A", "same"),
        Row("B b", "raw", "IndexError: no (such) place, but 3"),
        Row("C", "differs", "1e-1"),
    ]
    page = "\n".join(["# Title", "", *page_lines(rows)])
    assert verdicts_of(page) == {"A": "same", "C": "differs", "B b": "raw"}


def test_the_page_names_the_verdicts() -> None:
    stated = verdicts_of(PAGE)
    assert len(stated) > 150
    assert stated["KSampler"] == stated["ConditioningSetMask"] == "same" and stated["LatentUpscale"] == "says"


@pytest.mark.long
def test_each_node_does_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    found = {row.node: row.verdict for row in sweep()}
    stated = verdicts_of(PAGE)
    # Another version of the host has other nodes.
    both = stated.keys() & found.keys()
    assert len(both) > 150
    assert {name: found[name] for name in both} == {name: stated[name] for name in both}
