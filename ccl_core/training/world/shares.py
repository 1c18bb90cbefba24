"""How hard the procedural world is: how often each of its difficulties is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Shares of the clips unless something else is said.

    pairs: two objects. Of the pairs: same_motion, both move alike (of four motions drawn alone, a quarter
    do); close, their contacts may come as close as chance has it; silent, one object is silent. silent_alone:
    of the clips of one object, it is silent. offscreen: one more sound, which nothing in the picture makes.
    bed: soft noise under the whole clip. irregular: each period of the objects is drawn anew (of off-screen
    sounds it is always a half).
    """

    pairs: float = 0.4
    same_motion: float = 0.25
    close: float = 0.0
    silent: float = 0.0
    silent_alone: float = 0.0
    offscreen: float = 0.0
    bed: float = 0.0
    irregular: float = 0.0


# The world of version 0.2.0.
EASY = World()
HARD = World(
    same_motion=0.5, close=2 / 3, silent=0.2, silent_alone=0.08, offscreen=0.25, bed=0.35, irregular=0.3
)
WORLDS = {"easy": EASY, "hard": HARD}
