"""Saved workflows go on loading: ids, inputs, places and defaults of nodes are those that were recorded."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from ccl_pack.nodes import NODES
from ccl_tools.environment import ROOT
from ccl_tools.node_record import LISTED, PICTURED, RECORD, digest, listed, recorded

ADVICE = (
    "Saved workflows hold values of inputs by place and links by name. If nothing that was there is gone, "
    "moved or of another kind, run python scripts/record_nodes.py and commit what it writes. Else see "
    "CONTRIBUTING.md, 'After a release'."
)


def infos() -> dict[str, Any]:
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in NODES}


def read(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its place; what has a name is called by its name and its number in the list."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, f"{path}/{key}")
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            name = entry["name"] if isinstance(entry, dict) else ""
            yield from leaves(entry, f"{path}/{number} {name}".rstrip())
    else:
        yield path, value


def changes(before: Any, after: Any) -> list[str]:
    old, new = dict(leaves(before)), dict(leaves(after))
    paths = [path for path in {**old, **new} if old.get(path, "absent") != new.get(path, "absent")]
    return [f"{path}: {old.get(path, 'absent')} -> {new.get(path, 'absent')}" for path in paths]


def test_nodes_are_as_saved_workflows_know_them() -> None:
    found = changes(read(RECORD), json.loads(json.dumps(recorded(infos()))))
    assert not found, "\n".join([*found, ADVICE])


def test_manager_is_told_of_every_node() -> None:
    assert read(LISTED) == listed(infos()), f"{LISTED} is old: run python scripts/record_nodes.py"


def test_pictures_of_the_help_pages_show_the_nodes_as_they_are() -> None:
    shown = {node_id: digest(node) for node_id, node in recorded(infos()).items()}
    old = sorted(node_id for node_id, value in shown.items() if read(PICTURED).get(node_id) != value)
    assert not old, f"run python scripts/help_pictures.py {' '.join(old)}"
    for node_id in shown:
        text = (ROOT / "js" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        assert f"({node_id}.webp)" in text, f"{node_id}.md shows no picture of the node"


def test_a_moved_input_and_another_default_are_changes() -> None:
    before = read(RECORD)
    after = copy.deepcopy(before)
    inputs = after["CCLStreamShift"]["inputs"]
    inputs[1], inputs[2] = inputs[2], inputs[1]
    after["CCLTrimAV"]["inputs"][-1]["default"] = 7
    found = changes(before, after)
    assert any(line.startswith("/CCLStreamShift/inputs/1 audio_shift/name: absent ->") for line in found)
    assert [line for line in found if "CCLTrimAV" in line and line.endswith("-> 7")]
    assert changes(before, before) == []
