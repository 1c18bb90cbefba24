"""A template on a page of the real frontend, opened as a person does it: its layout, a run, what is saved."""

from __future__ import annotations

import itertools
import json
import re
import urllib.parse
from dataclasses import dataclass
from typing import Any

from ccl_tools.server import PACK_FOLDER, Prompt
from support.page import Page

# What the frontend and the host complain of without any pack: files that a new user lacks, and addresses of
# models, which it asks for their size and which no test may reach.
OF_THE_HOST = re.compile(r"user\.css|userdata|huggingface\.co|Content Security Policy")
# Letters of 14 pixels on a node, 10 in a note.
LEAST_ZOOM = 0.8
LISTEN = """(() => {
  window.seen = { progress: [], previews: 0, end: null };
  const seen = window.seen;
  app.api.addEventListener('progress', event => seen.progress.push(event.detail.value));
  app.api.addEventListener('b_preview', () => { seen.previews += 1; });
  for (const kind of ['execution_success', 'execution_error'])
    app.api.addEventListener(kind, event => { seen.end = [kind, event.detail.exception_message ?? '']; });
})()"""
FORGET = "Object.assign(window.seen, { progress: [], previews: 0, end: null })"
# In pixels of the graph: the title belongs to the node in Nodes 2.0, and stands above it on the canvas.
BOXES = """(() => {
  const { scale } = app.canvas.ds;
  return app.graph.nodes.map(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const drawn = element?.getBoundingClientRect();
    const height = drawn ? drawn.height / scale : node.size[1] + 30;
    const width = drawn ? drawn.width / scale : node.size[0];
    return [node.id, node.pos[0], node.pos[1] - 30, node.pos[0] + width, node.pos[1] - 30 + height];
  });
})()"""
WINDOW = """(() => {
  const { scale, offset } = app.canvas.ds;
  const [width, height] = [app.canvas.canvas.clientWidth, app.canvas.canvas.clientHeight];
  return [-offset[0], -offset[1], width / scale - offset[0], height / scale - offset[1]];
})()"""
WIRES = "[...app.graph.links.values()].map(link => [String(link.origin_id), String(link.target_id)])"
# Of the first element that shows this text, whose hyphens the frontend places.
MIDDLE = """(text => {
  const reads = element => element.innerText?.replaceAll('\\u00ad', '').trim() === text;
  const seen = element => element.getBoundingClientRect().width > 0;
  const shown = [...document.querySelectorAll('button, h3, span')].find(one => reads(one) && seen(one));
  shown?.scrollIntoView({ block: 'center' });
  const place = shown?.getBoundingClientRect();
  return place && [place.x + place.width / 2, place.y + place.height / 2];
})"""
# Without those that are not saved, such as the player of a result.
WIDGETS = """app.graph.nodes.map(node => [node.type, (node.widgets ?? [])
  .filter(widget => widget.serialize !== false && widget.options?.serialize !== false)
  .map(widget => [widget.name, widget.value])])"""
PLAYERS = "[...document.querySelectorAll('video, audio')].map(player => player.currentSrc || player.src)"
# The prompts that the server got, the oldest first.
QUEUED = """Object.values(await (await fetch('/api/history')).json()).map(row => row.prompt)
  .sort((one, other) => one[0] - other[0]).map(prompt => prompt[2])"""
# Where to click, in pixels of the window: the title of the node of the job, the button in a seed (Nodes 2.0),
# an entry of a menu of either renderer.
JOB_TITLE = """(() => {
  const { pos } = app.graph.nodes.find(node => node.subgraph);
  const [left, top] = app.canvas.ds.convertOffsetToCanvas([pos[0] + 150, pos[1] - 12]);
  const canvas = app.canvas.canvas.getBoundingClientRect();
  return [left + canvas.x, top + canvas.y];
})()"""
MIDDLE_OF = """(element => {
  const place = element?.getBoundingClientRect();
  return place && [place.x + place.width / 2, place.y + place.height / 2];
})"""
SEED_BUTTON = f"{MIDDLE_OF}(document.querySelector('[data-testid=value-control]'))"
ENTRIES = "[...document.querySelectorAll('.litemenu-entry, label')]"
QUARANTINED = "app.graph.nodes.filter(node => node.properties.proxyWidgetErrorQuarantine).length"


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def inside(self, other: Box) -> bool:
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


@dataclass(frozen=True)
class Seen:
    """What came of a run: progress values, pictures of a preview, how it ended."""

    progress: list[int]
    previews: int
    end: tuple[str, str]


def middle_of(text: str) -> str:
    """An expression for where to click, in pixels of the window; undefined while there is no such text."""
    return f"{MIDDLE}({json.dumps(text)})"


def listen(page: Page) -> None:
    page.ask(LISTEN)


def open_template(page: Page, name: str) -> None:
    """As the browser of templates does it."""
    address = f"/api/workflow_templates/{PACK_FOLDER}/{urllib.parse.quote(name)}.json"
    options = json.dumps({"openSource": "template"})
    graph = f"await (await fetch({json.dumps(address)})).json()"
    page.ask(f"app.loadGraphData({graph}, true, true, {json.dumps(name)}, {options})")
    page.wait_for("app.graph.nodes.some(node => node.subgraph)")


def drawn(page: Page, vue: bool) -> None:
    """Wait until the nodes have their sizes."""
    if vue:
        page.wait_for("document.querySelectorAll('[data-node-id]').length === app.graph.nodes.length")
    page.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def prompt(page: Page) -> Prompt:
    """As the page queues it."""
    return without_player(page.ask("(await app.graphToPrompt()).output"))


def without_player(made: Prompt) -> Prompt:
    """Without the player of a result, which the host counts among the inputs."""
    for node in made.values():
        node["inputs"].pop("video-preview", None)
    return made


def boxes(page: Page) -> dict[str, Box]:
    return {str(key): Box(*sides) for key, *sides in page.ask(BOXES)}


def window(page: Page) -> Box:
    """The part of the graph that is seen."""
    return Box(*page.ask(WINDOW))


def zoom(page: Page) -> float:
    return page.ask("app.canvas.ds.scale")


def wires(page: Page) -> list[tuple[str, str]]:
    return [tuple(ends) for ends in page.ask(WIRES)]


def set_inside(page: Page, kind: str, widget: str, value: Any) -> None:
    """A widget of the nodes of this type inside the subgraph."""
    page.ask(f"""app.graph.nodes.filter(node => node.subgraph).flatMap(node => node.subgraph.nodes)
      .filter(node => node.type === '{kind}').flatMap(node => node.widgets)
      .filter(one => one.name === '{widget}').forEach(one => {{ one.value = {json.dumps(value)}; }})""")


def entry(text: str) -> str:
    """An expression for where the entry is that begins so; undefined while there is none."""
    return f"{MIDDLE_OF}({ENTRIES}.find(one => one.innerText.trim().startsWith({json.dumps(text)})))"


def keep_seed(page: Page, *, vue: bool) -> None:
    """Choose *fixed* for the seed of the job, as a person does it."""
    if vue:
        page.click(*page.wait_for(SEED_BUTTON))
        page.click(*page.wait_for(entry("Fixed")))
        page.press("Escape")
    else:
        page.point(*page.ask(JOB_TITLE))
        page.click(*page.ask(JOB_TITLE), button="right")
        page.click(*page.wait_for(entry("seed between runs: randomize")))
        page.click(*page.wait_for(entry("fixed")))


def run(page: Page) -> Seen:
    page.ask(FORGET)
    page.ask("app.queuePrompt(0)")
    page.wait_for("window.seen.end")
    seen = page.ask("window.seen")
    return Seen(seen["progress"], seen["previews"], tuple(seen["end"]))


def save_and_open(page: Page) -> None:
    """As Save does it, and opening the file."""
    saved = page.ask("app.graph.serialize()")
    page.ask(f"app.loadGraphData({json.dumps(saved)})")
    page.wait_for("app.graph.nodes.some(node => node.subgraph)")


def faults(page: Page) -> list[str]:
    return [fault for fault in page.faults if not OF_THE_HOST.search(fault)]


def check_layout(page: Page, *, vue: bool) -> None:
    """No node covers another, all are seen, wires meet nothing on their way, letters can be read."""
    drawn(page, vue)
    placed = boxes(page)
    order = sorted(placed, key=lambda key: placed[key].left)
    for one, other in itertools.pairwise(order):
        assert placed[one].right < placed[other].left
    for origin, target in wires(page):
        assert order.index(target) == order.index(origin) + 1
    assert zoom(page) >= LEAST_ZOOM
    assert [key for key, box in placed.items() if not box.inside(window(page))] == []


def check_saving(page: Page) -> None:
    widgets, queued = page.ask(WIDGETS), prompt(page)
    assert page.ask(QUARANTINED) == 0
    save_and_open(page)
    assert page.ask(WIDGETS) == widgets
    assert prompt(page) == queued


def queue(page: Page, times: int) -> list[Prompt]:
    """The prompts that the server got of as many runs."""
    count = page.ask(f"({QUEUED}).length") + times
    for _ in range(times):
        assert run(page).end == ("execution_success", "")
    made = page.wait_for(f"({QUEUED}).length === {count} && {QUEUED}")
    return [without_player(one) for one in made[-times:]]


def with_seed(prompt: Prompt, seed: int) -> Prompt:
    made = json.loads(json.dumps(prompt))
    for node in made.values():
        if node["class_type"] == "CCLJointSampler":
            node["inputs"]["seed"] = seed
    return made


def seed_of(prompt: Prompt) -> int:
    (seed,) = [node["inputs"]["seed"] for node in prompt.values() if node["class_type"] == "CCLJointSampler"]
    return seed


def check_seed(page: Page, first_seed: int, *, vue: bool) -> None:
    """A second run takes another seed, else nothing new; one that is kept stays, also in a saved workflow."""
    first, second = queue(page, 2)
    assert seed_of(first) == first_seed != seed_of(second)
    assert second == with_seed(first, seed_of(second))
    keep_seed(page, vue=vue)
    kept, again = queue(page, 2)
    assert kept == again == with_seed(first, seed_of(kept))
    check_saving(page)
    assert queue(page, 1) == [kept]


def check_run(page: Page, name: str, steps: int) -> None:
    seen = run(page)
    assert seen.end == ("execution_success", "")
    assert steps in seen.progress
    # Of a sound alone no picture is to be seen.
    assert seen.previews >= steps or name == "Text to Sound (tiny)"
    stem = re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")
    assert page.wait_for(f"{PLAYERS}.some(address => address.includes('{stem}'))")
