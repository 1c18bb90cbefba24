"""The routing table of DCR (CCL, arXiv 2603.18600), row by row."""

from __future__ import annotations

import pytest

from ccl_pack.ccl_core.tasks import TASKS, State, task_of

ROUTES = {
    "joint": (True, True),
    "a2v": (True, False),
    "v2a": (False, True),
    "t2v": (False, False),
    "t2a": (False, False),
}


@pytest.mark.parametrize("name", ROUTES)
def test_routes_of_each_task(name: str) -> None:
    assert (TASKS[name].a2v_open, TASKS[name].v2a_open) == ROUTES[name]


def test_every_task_is_found_by_its_states() -> None:
    assert all(task_of(task.video, task.audio) is task for task in TASKS.values())
    assert set(TASKS) == set(ROUTES)


def test_nothing_to_generate_is_refused() -> None:
    with pytest.raises(ValueError, match="video is given and audio is absent"):
        task_of(State.GIVEN, State.ABSENT)
