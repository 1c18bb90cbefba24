"""Changes of a prompt by the names of inputs, and what a prompt asks for: texts, seeds, passes per step."""

from __future__ import annotations

from typing import Any

from ccl_tools.console import ScriptError
from ccl_tools.workflow import Prompt


def upstream(prompt: Prompt, node: str) -> list[str]:
    """The node and everything that feeds it, nearest first."""
    found = [node]
    for current in found:
        links = [
            value
            for value in prompt[current]["inputs"].values()
            if isinstance(value, list) and len(value) == 2
        ]
        found += [str(link[0]) for link in links if str(link[0]) in prompt and str(link[0]) not in found]
    return found


def guided_node(prompt: Prompt) -> str:
    """The sampler or guider that the prompt texts go to."""
    for node, entry in prompt.items():
        if isinstance(entry["inputs"].get("positive"), list):
            return node
    raise ScriptError(
        "the workflow has no node with a linked input named positive", "use a workflow with a sampler"
    )


def set_text(prompt: Prompt, text: str) -> None:
    """Into every text encoder behind the positive input of the sampler, but for those of the negative one.

    A node with an input `prompt` has inputs of its own for the negative text.
    """
    inputs = prompt[guided_node(prompt)]["inputs"]
    negative = upstream(prompt, inputs["negative"][0]) if isinstance(inputs.get("negative"), list) else []
    for node in upstream(prompt, inputs["positive"][0]):
        texts = prompt[node]["inputs"]
        if "prompt" in texts:
            texts["prompt"] = text
        elif "text" in texts and node not in negative:
            texts["text"] = text


def set_everywhere(prompt: Prompt, name: str, value: Any) -> None:
    """Set the inputs of this name, those inside a dynamic choice included."""
    slots = [
        (node["inputs"], key)
        for node in prompt.values()
        for key in node["inputs"]
        if key.split(".")[-1] == name
    ]
    if not slots:
        raise ScriptError(
            f"no node of the workflow has an input {name}", f"leave --{name} out, or use another workflow"
        )
    for inputs, key in slots:
        inputs[key] = value


def nodes_with(prompt: Prompt, *words: str) -> set[str]:
    """The nodes whose class has one of the words in its name."""
    found = set()
    for node, entry in prompt.items():
        if any(word in entry["class_type"] for word in words):
            found.add(node)
    return found


def passes_per_step(prompt: Prompt) -> int:
    """Branches with a weight under the guidance the workflow asks for."""
    from ccl_pack.ccl_core.families import FAMILIES
    from ccl_pack.ccl_core.guidance import MODES, SCALE_NAMES, TermScale, branch_weights

    inputs = next((node["inputs"] for node in prompt.values() if "mode" in node["inputs"]), None)
    if inputs is None:
        cfg = next((node["inputs"]["cfg"] for node in prompt.values() if "cfg" in node["inputs"]), 1.0)
        # The host skips the negative pass at scale 1.
        return 1 if cfg == 1.0 else 2
    # "from model", and the server of this script has no model but ccl-tiny.
    if inputs["mode"] not in MODES:
        published = FAMILIES["ccl"].sampling
        return len(branch_weights(published.mode, published.settings))
    scales = {}
    for term in MODES[inputs["mode"]].terms:
        video, audio = (inputs[f"mode.{stream}_{SCALE_NAMES[term]}"] for stream in ("video", "audio"))
        scales[term] = TermScale(video, audio)
    return len(branch_weights(inputs["mode"], scales))
