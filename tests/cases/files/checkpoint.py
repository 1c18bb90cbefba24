"""What the cases of this folder share: the embedded checkpoint, and files that are nearly like it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ccl_tools.environment import ROOT, load_pack, reexec

reexec()
# The host reads the command line of whoever imports it.
sys.argv = sys.argv[:1]
load_pack()

CCL_TINY = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
FOLDER = Path(tempfile.mkdtemp(prefix="cases-"))
