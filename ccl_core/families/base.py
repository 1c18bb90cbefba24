"""What a model is by name only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A published model: its title for people and the kind of its coupling."""

    title: str
    coupling: str
