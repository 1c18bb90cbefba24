"""Advanced inputs wait until they are asked for, in both renderers; a saved workflow keeps their values."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.page import Page

SETTING = "Comfy.VueNodes.Enabled"
RENDERERS = {"canvas": False, "nodes 2.0": True}
ALL = "Object.keys(LiteGraph.registered_node_types).filter(name => /^CCL[A-Z]/.test(name))"
# What the canvas writes, told by the words themselves.
RECORD = """(() => {
  const draw = CanvasRenderingContext2D.prototype.fillText;
  window.drawn = [];
  CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
    window.drawn.push(String(text));
    return draw.call(this, text, ...rest);
  };
  app.canvas.draw(true, true);
  CanvasRenderingContext2D.prototype.fillText = draw;
  return window.drawn;
})()"""
SHOWN = """[...document.querySelectorAll('[data-node-id]')].flatMap(node => [
  ...node.innerText.split('\\n'), ...[...node.querySelectorAll('input')].map(input => input.value)])"""
# The middle of the button of the first node, in pixels of the window.
TITLE_BUTTON = """(() => {
  app.canvas.draw(true, true);
  const [x, y, width, height] = app.graph.nodes[0].title_buttons[0]._last_area;
  const { pos } = app.graph.nodes[0];
  const [left, top] = app.canvas.ds.convertOffsetToCanvas([pos[0] + x + width / 2, pos[1] + y + height / 2]);
  const canvas = app.canvas.canvas.getBoundingClientRect();
  return width && [left + canvas.x, top + canvas.y];
})()"""
FOOTER_BUTTON = """(() => {
  const buttons = [...document.querySelectorAll('[data-node-id] button')];
  const button = buttons.find((one) => /dvanced/.test(one.innerText));
  const place = button?.getBoundingClientRect();
  const middle = place && [place.x + place.width / 2, place.y + place.height / 2];
  return middle && button.contains(document.elementFromPoint(...middle)) && middle;
})()"""
PLACES = {"canvas": TITLE_BUTTON, "nodes 2.0": FOOTER_BUTTON}
WORDS = {"canvas": RECORD, "nodes 2.0": SHOWN}
# The canvas draws nothing that is outside of the window.
IN_WINDOW = 10
LABELS = {
    "fps (0: from latent)",
    "fps (0: from model)",
    "skip_layers",
    "kept_parts",
    "weight_dtype",
    "expert",
}
VALUES = "app.graph.nodes.map(node => node.widgets.map(widget => [widget.name, widget.value]))"


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request: pytest.FixtureRequest, page: Page) -> Iterator[str]:
    page.ask(f"app.extensionManager.setting.set('{SETTING}', {json.dumps(RENDERERS[request.param])})")
    yield request.param
    page.ask(f"app.extensionManager.setting.set('{SETTING}', false)")


def put(page: Page, names: str) -> None:
    """These nodes alone on the page, one beside the other and large enough to be read."""
    page.ask("app.graph.clear()")
    page.wait_for("!document.querySelector('[data-node-id]')")
    page.ask(f"""(() => {{
      for (const [place, name] of ({names}).entries()) {{
        const node = LiteGraph.createNode(name);
        node.pos = [420 * (place % 5), 520 * Math.floor(place / 5)];
        app.graph.add(node);
      }}
      app.canvas.ds.scale = 0.7;
      app.canvas.ds.offset = [150, 150];
    }})()""")


def words(page: Page, renderer: str, count: int) -> list[str]:
    """What is written on the nodes, once all of them are there."""
    if renderer != "canvas":
        page.wait_for(f"document.querySelectorAll('[data-node-id]').length === {count}")
    return page.wait_for(WORDS[renderer])


def test_no_node_shows_its_advanced_inputs_or_a_rate_of_zero(page: Page, renderer: str) -> None:
    shown: list[str] = []
    count = page.ask(f"{ALL}.length")
    for first in range(0, count, IN_WINDOW):
        put(page, f"{ALL}.slice({first}, {first + IN_WINDOW})")
        shown += words(page, renderer, min(IN_WINDOW, count - first))
    assert {"seed", "sampler_name", "tiling", "strength_video"} <= set(shown)
    assert not LABELS & set(shown)
    assert "0.000" not in shown


def toggle(page: Page, renderer: str) -> None:
    """As a person does it: the button in the title, or the one below the node."""
    page.wait_for(f"!!({PLACES[renderer]})")
    page.click(*page.ask(PLACES[renderer]))


def test_the_button_of_a_node_shows_them_and_hides_them_again(page: Page, renderer: str) -> None:
    put(page, "['CCLJointSampler']")
    assert "skip_layers" not in words(page, renderer, 1)
    for wanted in (True, False):
        toggle(page, renderer)
        page.wait_for(f"{WORDS[renderer]}.includes('kept_parts') === {json.dumps(wanted)}")


def test_the_row_of_a_hidden_input_takes_no_place_on_the_canvas(page: Page) -> None:
    put(page, "['CCLDecodeAV']")
    heights = page.ask("""(() => {
      const [node] = app.graph.nodes;
      const folded = node.computeSize()[1];
      node.showAdvanced = true;
      const open = node.computeSize()[1];
      node.showAdvanced = false;
      return [folded, open, node.getLayoutWidgets().map(widget => widget.name)];
    })()""")
    assert heights[1] - heights[0] == 24
    assert heights[2] == ["tiling", "given"]


def test_an_advanced_input_with_a_link_is_shown(page: Page, renderer: str) -> None:
    put(page, "['CCLDecodeAV', 'PrimitiveFloat']")
    page.ask("""(() => {
      const [node, source] = app.graph.nodes;
      source.connect(0, node, node.inputs.findIndex(input => input.name === 'fps'));
    })()""")
    page.wait_for(f"{WORDS[renderer]}.includes('fps (0: from latent)')")


def test_a_saved_workflow_keeps_the_value_of_each_widget(page: Page, renderer: str) -> None:
    put(page, "['CCLJointSampler', 'CCLDecodeAV', 'CCLEncodeAV', 'CCLGuider']")
    page.ask("""(() => {
      const set = (node, name, value) => { node.widgets.find(widget => widget.name === name).value = value; };
      const [sampler, decode, encode, guider] = app.graph.nodes;
      set(sampler, 'skip_layers', '7'); set(sampler, 'kept_parts', 'noisy'); set(sampler, 'steps', 4);
      set(decode, 'fps', 12.5); set(encode, 'fps', 30); set(encode, 'keep', 'sound');
      set(guider, 'mode', 'ucg'); set(guider, 'mode.cfg_end_percent', 0.5); set(guider, 'skip_layers', '3');
    })()""")
    before = page.ask(VALUES)
    page.ask("app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())))")
    assert page.ask(VALUES) == before
    assert ["skip_layers", "7"] in before[0] and ["fps", 12.5] in before[1]
    assert not LABELS & set(words(page, renderer, 4))


def test_an_opened_node_is_open_after_a_reload(page: Page, renderer: str) -> None:
    put(page, "['CCLDecodeAV']")
    page.ask("app.graph.nodes[0].toggleAdvanced()")
    page.ask("app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())))")
    page.wait_for(f"{WORDS[renderer]}.includes('fps (0: from latent)')")
