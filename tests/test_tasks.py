"""The routing table of DCR (CCL, arXiv 2603.18600), row by row."""

from __future__ import annotations

import pytest

from ccl_pack.ccl_core.tasks import TASKS, State, routes_of

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


def test_every_task_has_its_row() -> None:
    assert set(TASKS) == set(ROUTES)


def test_a_given_stream_reads_nothing_where_nothing_is_generated() -> None:
    assert routes_of(State.GIVEN, State.GIVEN) == (False, False)
    assert routes_of(State.GIVEN, State.ABSENT) == (False, False)
