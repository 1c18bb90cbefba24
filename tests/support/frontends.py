"""The frontend that a host pins, and the newest one that pip installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ccl_tools.environment import default_root

PACKAGE = "comfyui-frontend-package"


def newest() -> Path:
    """The folder of the newest frontend, for --front-end-root; fetched again in each call."""
    target = default_root() / "newest-frontend"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target"]
    subprocess.run([*command, str(target), PACKAGE], check=True)
    return target / PACKAGE.replace("-", "_") / "static"
