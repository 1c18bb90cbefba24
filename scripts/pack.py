"""Write the archive that the registry would get, checked and packed by comfy-cli, and list what is in it.

    python scripts/pack.py node.zip

Publishing does the same from a clean checkout: comfy node publish.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import reexec
from ccl_tools.packer import packed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path, nargs="?", default=Path("node.zip"), help="default: node.zip")
    return parser.parse_args()


def main(target: Path) -> None:
    say(packed(target).strip())
    with zipfile.ZipFile(target) as archive:
        entries = archive.infolist()
    for entry in entries:
        say(f"{entry.file_size:>9}  {entry.filename}")
    say(f"{target}: {len(entries)} files, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen.target))
