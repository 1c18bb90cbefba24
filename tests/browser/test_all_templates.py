"""Every template and every blueprint in the real page, on the canvas and in Nodes 2.0, in the frontend that
the host pins and in the newest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ccl_tools.server import ComfyServer
from ccl_tools.workflow import to_prompt
from support import frontends, templates, tiny_published
from support import template_page as on
from support.page import Page
from support.shares import chromium

pytestmark = pytest.mark.long
STEPS = 3
SETTING = "Comfy.VueNodes.Enabled"


@dataclass(frozen=True)
class Opened:
    page: Page
    nodes: dict[str, Any]
    vue: bool


@pytest.fixture(scope="module", params=["pinned", "newest"])
def frontend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with files under all names that the templates have."""
    root = () if request.param == "pinned" else ("--front-end-root", str(frontends.newest()))
    base = tmp_path_factory.mktemp(request.param)
    with ComfyServer(base, arguments=("--preview-method", "latent2rgb", *root)) as server:
        tiny_published.write_all(base / "models")
        templates.give(base / "input")
        server.post("/settings", {"Comfy.TutorialCompleted": True})
        yield server


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def opened(
    request: pytest.FixtureRequest, frontend: ComfyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    vue = request.param == "nodes 2.0"
    frontend.post("/settings", {SETTING: vue})
    folder: Path = tmp_path_factory.mktemp("chromium")
    with Page(chromium(), folder) as page:
        page.open(frontend.address)
        page.wait_for("window.app?.graph?.nodes.length > 0 && document.readyState === 'complete'")
        on.listen(page)
        yield Opened(page, frontend.get("/object_info"), vue)


@pytest.mark.parametrize("name", templates.NAMES)
def test_a_template_is_readable_and_keeps_its_values(opened: Opened, name: str) -> None:
    on.open_template(opened.page, name)
    on.check_layout(opened.page, vue=opened.vue)
    assert on.prompt(opened.page).keys() == to_prompt(templates.read(name), opened.nodes).keys()
    on.check_saving(opened.page)
    assert on.faults(opened.page) == []


@pytest.mark.parametrize("name", templates.TINY)
def test_a_template_runs_to_a_result(opened: Opened, name: str) -> None:
    on.open_template(opened.page, name)
    on.drawn(opened.page, opened.vue)
    # The server answers a prompt that it has run before from its cache.
    opened.page.ask(f"""app.graph.nodes.filter(node => node.subgraph)
      .forEach(node => {{ node.widgets.find(one => one.name === 'seed').value = {100 + opened.vue}; }})""")
    on.set_inside(opened.page, "CCLJointSampler", "steps", STEPS)
    on.check_run(opened.page, name, STEPS)
    on.check_saving(opened.page)
    assert on.faults(opened.page) == []


def test_each_run_takes_another_seed_until_a_person_keeps_one(opened: Opened) -> None:
    on.open_template(opened.page, templates.FIRST)
    on.drawn(opened.page, opened.vue)
    on.set_inside(opened.page, "CCLJointSampler", "steps", 1)
    on.check_seed(opened.page, templates.SEED, vue=opened.vue)
    assert on.faults(opened.page) == []


@pytest.mark.parametrize("name", templates.BLUEPRINTS)
def test_a_blueprint_is_found_and_placed(opened: Opened, name: str) -> None:
    """With the values that its template has. What stands in brackets may be too far behind to be found."""
    page = opened.page
    page.ask("app.graph.clear()")
    assert page.search(name.split(" (")[0], name, choose=True)[0] == name
    page.wait_for("app.graph.nodes.length === 1 && !!app.graph.nodes[0].subgraph")
    shown = dict(page.ask(on.WIDGETS)[0][1])
    (job,) = templates.read(name, "subgraphs")["nodes"]
    names = [slot["name"] for slot in job["inputs"] if "widget" in slot]
    assert shown == dict(zip(names, job["widgets_values"], strict=True))
    assert on.faults(page) == []
