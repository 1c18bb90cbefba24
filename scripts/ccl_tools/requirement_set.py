"""What a virtual environment holds, as calls of pip, and the name that tells one set from another."""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
# Pinned, since records and tests compare bits, and kernels differ between versions.
TORCH = {"torch": "2.11.0", "torchvision": "0.26.0", "torchaudio": "2.11.0"}
TOOLS = ["pytest>=8.3,<10", "ruff==0.17.5", "matplotlib>=3.9,<4"]
IMPORTS = {
    "torch": "torch, torchvision, torchaudio",
    "requirements": "aiohttp, av, safetensors, sentencepiece, transformers, torchsde, comfy_kitchen",
    "tools": "pytest, ruff, matplotlib",
}


@dataclass(frozen=True)
class Step:
    """One call of pip."""

    name: str
    title: str
    packages: tuple[str, ...]  # arguments of pip install
    imports: str  # modules that can be imported when it worked
    stamp: str  # tells what was installed from what is wanted


def steps_for(comfyui: Path) -> tuple[Step, ...]:
    """Torch, then what the host and this pack ask for, then the tools of the tests."""
    files = [path for path in (comfyui / "requirements.txt", REQUIREMENTS) if path.is_file()]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    pins = tuple(f"{name}=={version}" for name, version in TORCH.items())
    named = tuple(argument for path in files for argument in ("-r", str(path)))
    return (
        Step("torch", "torch", pins, IMPORTS["torch"], json.dumps(TORCH)),
        Step("requirements", "what ComfyUI needs", (*pins, *named), IMPORTS["requirements"], digest),
        Step("tools", "pytest, ruff and matplotlib", tuple(TOOLS), IMPORTS["tools"], json.dumps(TOOLS)),
    )


def name_of(steps: tuple[Step, ...]) -> str:
    """The folder's name: the same for the same packages, Python and kind of machine."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    text = json.dumps([python, sysconfig.get_platform(), *(step.stamp for step in steps)])
    return f"{python}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
