"""The pack in the real page: its templates load as they were saved, and its notices are seen."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ccl_tools.environment import ROOT
from ccl_tools.server import ComfyServer
from ccl_tools.workflow import to_prompt
from support.by_hand import SOURCES
from support.page import Page

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_loads_as_it_was_saved(page: Page, server: ComfyServer, name: str) -> None:
    address = f"/api/workflow_templates/ccl-audio-video/{name}.json"
    page.ask(f"app.loadGraphData(await (await fetch({json.dumps(address)})).json())")
    assert page.ask("app.graph.nodes.filter(node => !(node.type in LiteGraph.registered_node_types))") == []
    shown = page.ask("(await app.graphToPrompt()).output")
    saved = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    nodes = server.get("/object_info")
    assert inputs_of(shown, nodes) == inputs_of(to_prompt(saved, nodes), nodes)


def inputs_of(prompt: dict[str, Any], nodes: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Without titles, which the page knows better, and without inputs that the host hides.

    The page gives a hidden input its default (SaveVideo's codec from 0.33 on); the file holds none.
    """
    made = {}
    for key, node in prompt.items():
        hidden = hidden_inputs(nodes[node["class_type"]])
        shown = {name: value for name, value in node["inputs"].items() if name not in hidden}
        made[key] = node["class_type"], shown
    return made


# Up to frontend 1.49 and from 1.58 on.
MESSAGES = ".p-toast-detail, [data-testid=toast]"


def hidden_inputs(node: dict[str, Any]) -> set[str]:
    """The inputs of a node of /object_info that the page does not show."""
    declared = node["input"].get("required", {}) | node["input"].get("optional", {})
    return {name for name, (_, *options) in declared.items() if options and options[0].get("hidden")}


def test_a_notice_is_a_message_of_the_page_and_stands_on_the_node(page: Page) -> None:
    """A silent sound of 2 s for a latent of 5 frames: it is told of twice."""
    page.ask("app.graph.clear()")
    page.ask(f"app.loadApiJson({json.dumps(prompt_with_a_long_sound())}, 'notice.json')")
    page.ask("app.queuePrompt(0)")
    shown = f"[...document.querySelectorAll('{MESSAGES}')].map(message => message.innerText)"
    for words in ("digital silence", "the rest of the sound is cut off"):
        assert page.wait_for(f"{shown}.some(text => text.includes({json.dumps(words)}))")
    texts = "app.graph.nodes.flatMap(node => node.widgets ?? []).map(widget => String(widget.value))"
    assert page.wait_for(f"{texts}.some(text => text.includes('the rest of the sound is cut off'))")


def test_the_text_of_a_node_stands_when_the_run_is_over(page: Page) -> None:
    """Frontends from 1.58 on take texts off then; here the test does, and the node does not run again."""
    preview = "widget.name === '$$node-text-preview'"
    texts = f"app.graph.nodes.flatMap(node => node.widgets ?? []).filter(widget => {preview})"
    page.wait_for(f"{texts}.length > 0")
    page.ask(f"app.graph.nodes.forEach(n => {{ n.widgets = n.widgets?.filter(widget => !({preview})); }})")
    assert page.ask(f"{texts}.length") == 0
    page.ask("app.queuePrompt(0)")
    page.wait_for(f"{texts}.some(widget => widget.value.includes('the rest of the sound is cut off'))")


def test_an_error_of_a_node_is_a_message_with_its_words(page: Page) -> None:
    prompt = prompt_with_a_long_sound()
    prompt["10"]["inputs"]["length_fit"] = "refuse"
    page.ask("app.graph.clear()")
    page.ask(f"app.loadApiJson({json.dumps(prompt)}, 'error.json')")
    page.ask("app.queuePrompt(0)")
    shown = f"[...document.querySelectorAll('{MESSAGES}')].map(message => message.innerText)"
    assert page.wait_for(f"{shown}.some(text => text.includes('audio is 2.000 s long'))")


def prompt_with_a_long_sound() -> dict[str, Any]:
    prompt = copy.deepcopy(SOURCES)
    prompt["5"]["inputs"]["duration"] = 2.0
    given = {"latent": ["2", 0], "audio": ["5", 0], "audio_vae": ["1", 3]}
    fits = {"image_fit": "crop", "length_fit": "pad"}
    prompt["10"] = {"class_type": "CCLEncodeAV", "inputs": given | fits}
    prompt["11"] = {"class_type": "PreviewAny", "inputs": {"source": ["10", 0]}}
    return prompt


def test_the_page_complains_of_nothing_of_ours(page: Page) -> None:
    assert [fault for fault in page.faults if "ccl" in fault.lower()] == []
