"""How hard the procedural world is: how often each of its difficulties is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Shares of the clips unless something else is said."""

    pairs: float = 0.4  # two objects
    same_motion: float = 0.25  # of the pairs, both move alike; of four motions drawn alone, a quarter do
    close: float = (
        0.0  # of the pairs, contacts of one may come as close to those of the other as chance has it
    )
    silent: float = 0.0  # of the pairs, one object is silent
    silent_alone: float = 0.0  # of the clips of one object, it is silent
    offscreen: float = 0.0  # one more sound, which nothing in the picture makes
    bed: float = 0.0  # soft noise under the whole clip
    irregular: float = 0.0  # each period drawn anew, of objects; of off-screen sounds it is always a half


# The world of version 0.2.0.
EASY = World()
HARD = World(
    same_motion=0.5, close=2 / 3, silent=0.2, silent_alone=0.08, offscreen=0.25, bed=0.35, irregular=0.3
)
