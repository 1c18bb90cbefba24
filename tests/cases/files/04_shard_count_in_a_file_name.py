"""A number of shards that only a file's name states has to cost neither time nor megabytes of message."""

from __future__ import annotations

import time

from checkpoint import FOLDER

# isort: split
# The host's modules are there once the pack is loaded.
from ccl_pack.ccl_core.host.files.read import shards

LONGEST = 1000  # letters of a message that goes to the browser
path = FOLDER / "m-00001-of-99999.safetensors"
path.write_bytes(b"x" * 100)
start = time.perf_counter()
try:
    shards(str(path))
except ValueError as error:
    verdict = "FAULT" if len(str(error)) > LONGEST else "ok"
    print(f"{verdict}: a message of {len(str(error))} letters after {time.perf_counter() - start:.1f} s")
