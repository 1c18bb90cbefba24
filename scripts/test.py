"""Run the tests: sets up a ComfyUI on the first call, then hands every argument to pytest.

python scripts/test.py                       all tests but the matrices: at most 15 minutes on two idle cores
python scripts/test.py --long                the matrices too: at most an hour
python scripts/test.py --without-browser     without the tests that need Chromium
python scripts/test.py tests/alignment/test_tarp.py    one file
python scripts/test.py -k windows -x         any option of pytest

The 15 minutes have shares: units and server 8, other packs (tests/compat) 2, the page in a browser
(tests/browser) 3, damaged files (tests/fuzz) 2. The last lines say what each took, and what was left out.
"""

from __future__ import annotations

import os
import subprocess
import sys

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import ROOT, ensure, held_locks
from ccl_tools.virtual_environment import CLEAN

HELP = f"{__doc__}\nThe environment: CCL_ENV names its folder, COMFYUI_PATH an existing ComfyUI."


def run_tests(arguments: list[str]) -> int:
    """The exit code of pytest."""
    env = ensure()
    pytest = env.python.with_name("pytest" + env.python.suffix)
    if not pytest.exists():
        raise ScriptError(f"{pytest} is not there", f"{CLEAN} {env.venv.name}, then start again")
    # The tests' tensors are tiny: several threads wait for each other longer than they compute.
    variables = {"OMP_NUM_THREADS": "1", **os.environ, "COMFYUI_PATH": str(env.comfyui)}
    command = [str(pytest), *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, pass_fds=held_locks(), check=False).returncode


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        say(HELP)
    else:
        exit_on_script_error(lambda: sys.exit(run_tests(sys.argv[1:])))
