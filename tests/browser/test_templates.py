"""One template for each job in the real page: it opens readable, runs with progress and preview, gives a
result, and is saved and opened without a change. Its node is found by the words that people type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ccl_tools.server import PACK_FOLDER, ComfyServer
from support import template_page as on
from support import templates
from support.page import Page

STEPS = 3


@pytest.fixture(scope="module")
def ready(page: Page, server: ComfyServer) -> Iterator[Page]:
    """The page, and files of a person under the names that the templates begin with."""
    templates.give(server.base / "input")
    page.ask("app.refreshComboInNodes()")
    on.listen(page)
    yield page


def test_four_clicks_bring_the_first_result_from_nothing(ready: Page) -> None:
    ready.ask(on.FORGET)
    for text in ("Templates", PACK_FOLDER, templates.FIRST):
        ready.click(*ready.wait_for(on.middle_of(text)))
    ready.wait_for(f"app.graph.nodes.some(node => node.title === {json.dumps(templates.FIRST)})")
    on.set_inside(ready, "CCLJointSampler", "steps", STEPS)
    ready.click(*ready.wait_for(on.middle_of("Run")))
    assert ready.wait_for("window.seen.end") == ["execution_success", ""]


@pytest.mark.parametrize("name", templates.TINY)
def test_a_template_is_readable_runs_and_keeps_its_values(ready: Page, name: str) -> None:
    on.open_template(ready, name)
    on.check_layout(ready, vue=False)
    on.set_inside(ready, "CCLJointSampler", "steps", STEPS)
    on.check_run(ready, name, STEPS)
    on.check_saving(ready)
    assert on.faults(ready) == []


def test_each_run_takes_another_seed_until_a_person_keeps_one(ready: Page) -> None:
    """The first run makes the clip of the card."""
    on.open_template(ready, templates.FIRST)
    on.set_inside(ready, "CCLJointSampler", "steps", 1)
    on.check_seed(ready, templates.SEED, vue=False)
    assert on.faults(ready) == []


@pytest.mark.parametrize(
    "words",
    [
        *("dub", "foley", "soundtrack", "add sound", "sound for video"),
        *("text to video with sound", "wan audio", "ovi", "mova", "prism"),
    ],
)
def test_the_search_shows_a_blueprint_among_its_first_three(page: Page, words: str) -> None:
    found = page.search(words)[:3]
    assert set(found) & set(templates.BLUEPRINTS), found
