"""Golden fixtures: numbers of a public reference implementation, with their weights and inputs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WILDCARDS = {r"\{\*\}": ".*", r"\{N\}": r"\d+"}


class Unreadable(ValueError):
    """The file is no golden fixture, or one that this script does not know."""


@dataclass(frozen=True)
class Fixture:
    """A read golden fixture: its tensors by kind, its configuration and the bounds of its outputs."""

    name: str
    case: str
    config: dict[str, Any]
    bounds: dict[str, float]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def bound(self, output: str) -> float:
        """What the longest pattern that fits this output allows."""
        fitting = [pattern for pattern in self.bounds if matches(pattern, f"outputs/{output}")]
        if not fitting:
            raise Unreadable(f"{self.name} states no bound (tolerance.max_abs) for outputs/{output}")
        return float(self.bounds[max(fitting, key=len)])


def matches(pattern: str, key: str) -> bool:
    """`{N}` stands for one index, `{*}` for any rest."""
    expression = re.escape(pattern)
    for wildcard, meaning in WILDCARDS.items():
        expression = expression.replace(wildcard, meaning)
    return re.fullmatch(expression, key) is not None


def below(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one kind, without it in their names."""
    prefix = f"{kind}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def read(path: Path) -> Fixture:
    """Unreadable says what is wrong with the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise Unreadable(f"{path} cannot be read as safetensors: {error}") from error
    try:
        info = json.loads(metadata["info"])
        case = info["case"]
        config = info["config"]
        bounds = info["tolerance"]["max_abs"]
        if not isinstance(config, dict) or not isinstance(bounds, dict):
            raise TypeError("config and tolerance.max_abs are to be objects")
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(
            f"{path} is no golden fixture: its metadata wants an entry info, a JSON with case, config and "
            f"tolerance.max_abs ({type(error).__name__}: {error})"
        ) from error
    parts = {kind: below(kind, tensors) for kind in ("weights", "inputs", "outputs")}
    if not parts["outputs"]:
        raise Unreadable(f"{path} holds no outputs/*: there is nothing to compare")
    return Fixture(path.name, case, config, bounds, **parts)
