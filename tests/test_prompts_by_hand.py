"""Every node of the pack in prompts that somebody wrote by hand, on a real server: as little as it takes, and
what is wrong. Nodes and inputs are read from the server, so that a new node is in all of it.
"""

from __future__ import annotations

from typing import Any

import pytest
import test_pack

from ccl_tools.server import ComfyServer
from support.by_hand import CHOICE, NODE, Answer, Input, ask, children, inputs_of, prompt_of, write_files

IDS = sorted(test_pack.IDS)
EVERY = pytest.mark.parametrize("node_id", IDS)
# An error of these types is one of our sentences, or of the host's of a file.
SENTENCES = {"ValueError", "FileNotFoundError"}
TOO_LONG = {"steps"}  # whose largest legal value takes minutes


@pytest.fixture(scope="module")
def nodes(server: ComfyServer) -> dict[str, Any]:
    write_files(server.base / "models")
    return server.get("/object_info")


def choices(info: dict[str, Any]) -> list[Input]:
    return [entry for entry in inputs_of(info) if entry.kind == CHOICE]


def keys(choice: Input) -> list[str]:
    return [option["key"] for option in choice.options["options"]]


def is_clear(answer: Answer, name: str) -> bool:
    """Whether a prompt ran, or was refused with the name of the input that it is about."""
    if answer.how == "success":
        return True
    return answer.how in {"rejected", *SENTENCES} and name.split(".")[-1] in answer.said


@EVERY
def test_required_inputs_are_enough(server: ComfyServer, nodes: dict[str, Any], node_id: str) -> None:
    assert ask(server, prompt_of(node_id, nodes[node_id])) == Answer("success")


@EVERY
def test_each_option_needs_its_required_inputs_alone(
    server: ComfyServer, nodes: dict[str, Any], node_id: str
) -> None:
    said = {}
    for choice in choices(nodes[node_id]):
        for option in keys(choice):
            # Sizes for real models are more than ccl-tiny is asked for here.
            short = {"length": "frames", "length.frames": 1} if choice.name == "size" else {}
            changes = {choice.name: option} | short
            said[choice.name, option] = ask(server, prompt_of(node_id, nodes[node_id], **changes))
    # An option that takes what an optional input gives asks for one, by its own name.
    asks = {key for key, answer in said.items() if "connect " in answer.said and is_clear(answer, key[0])}
    assert {key[1] for key in asks} <= {"from material"}
    others = {key: answer for key, answer in said.items() if key not in asks}
    assert {key: answer for key, answer in others.items() if answer.how != "success"} == {}


@EVERY
def test_a_choice_without_a_known_option_is_refused_with_those_it_has(
    server: ComfyServer, nodes: dict[str, Any], node_id: str
) -> None:
    for choice in choices(nodes[node_id]):
        for wrong in ("an option of another version", "", None, 3, ["1", 0]):
            answer = ask(server, prompt_of(node_id, nodes[node_id], **{choice.name: wrong}))
            assert answer.how == "rejected", (choice.name, wrong, answer)
            assert f"{choice.name} is missing or is no option" in answer.said
            assert ", ".join(keys(choice)) in answer.said


@EVERY
def test_a_missing_input_is_refused_by_its_name(
    server: ComfyServer, nodes: dict[str, Any], node_id: str
) -> None:
    for entry in inputs_of(nodes[node_id]):
        prompt = prompt_of(node_id, nodes[node_id])
        if entry.required:
            del prompt[NODE]["inputs"][entry.name]
            answer = ask(server, prompt)
            assert answer.how == "rejected" and entry.name in answer.said, (entry.name, answer)


@EVERY
def test_a_socket_without_a_link_is_refused_by_its_name(
    server: ComfyServer, nodes: dict[str, Any], node_id: str
) -> None:
    for entry in inputs_of(nodes[node_id]):
        # What is optional may be left empty.
        for wrong in [3, "", {}, *([None] if entry.required else [])] if entry.is_socket else []:
            answer = ask(server, prompt_of(node_id, nodes[node_id], **{entry.name: wrong}))
            assert answer.how == "ValueError", (entry.name, wrong, answer)
            assert answer.said.startswith(f"{entry.name} holds {wrong!r}: link it"), answer


@EVERY
def test_a_link_to_no_input_is_refused_and_a_value_is_passed_over(
    server: ComfyServer, nodes: dict[str, Any], node_id: str
) -> None:
    info = nodes[node_id]
    assert ask(server, prompt_of(node_id, info, unknown=3)) == Answer("success")
    answer = ask(server, prompt_of(node_id, info, unknown=["3", 0]))
    assert answer.how == "ValueError" and answer.said.startswith(f"{node_id} has no input unknown"), answer


def strange_values(entry: Input) -> list[Any]:
    """None, the ends of what is legal, and beyond them."""
    values: list[Any] = [None]
    if entry.kind == "STRING":
        values += ["", " ", "a red ball falls, click " * 100, '\x00 \N{SNOWMAN} <S> <E> "']
    for end, step in (("min", -1), ("max", 1)):
        if end in entry.options:
            values += [entry.options[end] + step]
            values += [entry.options[end]] if entry.name not in TOO_LONG else []
    return values


# The sampler runs in each prompt; the widgets that take so long are those of CCLGuider too.
SAMPLES = {"CCLJointSampler"}


@pytest.mark.parametrize(
    "node_id", [pytest.param(name, marks=[pytest.mark.long] * (name in SAMPLES)) for name in IDS]
)
def test_strange_values_of_widgets_work_or_are_refused_by_name(
    server: ComfyServer, nodes: dict[str, Any], node_id: str
) -> None:
    info = nodes[node_id]
    cells = [(entry, {}) for entry in inputs_of(info) if not entry.is_socket and entry.kind != CHOICE]
    for choice in choices(info):
        for option in keys(choice):
            cells += [(child, {choice.name: option}) for child in children(choice, option)]
    faults = {}
    for entry, chosen in cells:
        for value in strange_values(entry):
            answer = ask(server, prompt_of(node_id, info, **chosen, **{entry.name: value}))
            if not is_clear(answer, entry.name):
                faults[entry.name, str(value)[:20]] = answer
    assert faults == {}


@pytest.mark.long
@EVERY
def test_each_optional_input_may_be_left_out(
    server: ComfyServer, nodes: dict[str, Any], node_id: str
) -> None:
    info = nodes[node_id]
    # The two exclude each other, which the node says.
    excluded = {"CCLEncodeAV": "images"}.get(node_id)
    for entry in inputs_of(info):
        prompt = prompt_of(node_id, info, optional=True)
        for name in (excluded, None if entry.required else entry.name):
            prompt[NODE]["inputs"].pop(name, None)
        answer = ask(server, prompt)
        # A VAE is needed by the images or the sound that are there.
        assert answer.how == "success" or (entry.kind == "VAE" and is_clear(answer, entry.name)), answer
