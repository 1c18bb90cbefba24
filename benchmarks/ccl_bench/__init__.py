"""What the benchmarks do; the commands beside this folder parse, call and say."""

import sys
from pathlib import Path

# ccl_tools lies there, which the scripts find beside them.
sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
