"""Tasks of the joint model, and dynamic context routing (DCR, CCL, arXiv 2603.18600) of each direction."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """What a task does with a stream: denoise it, read it clean, or leave it out."""

    GENERATED = "generated"
    GIVEN = "given"
    ABSENT = "absent"


@dataclass(frozen=True)
class Task:
    """One row of the routing table.

    An open direction sees the context tokens and the other stream, a closed one the context tokens alone.
    """

    name: str
    video: State
    audio: State

    @property
    def a2v_open(self) -> bool:
        return routes_of(self.video, self.audio)[0]

    @property
    def v2a_open(self) -> bool:
        return routes_of(self.video, self.audio)[1]


def routes_of(video: State, audio: State) -> tuple[bool, bool]:
    """DCR: whether a2v and v2a are open."""
    # A given stream stays clean, so nothing may flow into it. An absent one has nothing to read.
    a2v = video is State.GENERATED and audio is not State.ABSENT
    v2a = audio is State.GENERATED and video is not State.ABSENT
    return a2v, v2a


TASKS = {
    task.name: task
    for task in (
        Task("joint", State.GENERATED, State.GENERATED),
        Task("a2v", State.GENERATED, State.GIVEN),
        Task("v2a", State.GIVEN, State.GENERATED),
        Task("t2v", State.GENERATED, State.ABSENT),
        Task("t2a", State.ABSENT, State.GENERATED),
    )
}

# What a node offers, by the words people know: a row of the table, of which parts may be kept.
CHOICES = {
    "t2av": TASKS["joint"],
    "i2av": TASKS["joint"],
    "a2v": TASKS["a2v"],
    "v2a": TASKS["v2a"],
    "continuation": TASKS["joint"],
    "t2v": TASKS["t2v"],
    "i2v": TASKS["t2v"],
    "t2a": TASKS["t2a"],
}
