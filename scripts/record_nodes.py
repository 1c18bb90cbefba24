"""Record what saved workflows rely on of every node, and the list of nodes that Manager searches.

    python scripts/record_nodes.py

Writes tests/fixtures/nodes.json (inputs in their order, with types, choices and defaults, and outputs) and
node_list.json (descriptions by node id). CONTRIBUTING.md, "After a release", says which changes are safe.
"""

from __future__ import annotations

import argparse
import json

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec
from ccl_tools.node_record import LISTED, RECORD, listed, recorded


def main() -> None:
    load_pack()
    from ccl_pack.nodes import NODES

    infos = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in NODES}
    for name, content in ((RECORD, recorded(infos)), (LISTED, listed(infos))):
        (ROOT / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        say(str(ROOT / name))


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    reexec()
    exit_on_script_error(main)
