"""Prompts of one node each whose inputs are random, on a real server: legal values, illegal ones, links of
other kinds, inputs left out and added. Each runs or is refused in a sentence, and the server goes on as if
nothing had been.

Seeds are fixed, so that a fault comes back. --long tries 500.
"""

from __future__ import annotations

import copy
import math
import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from ccl_tools.server import ComfyServer, Prompt, Run
from support.by_hand import (
    CHOICE,
    LINKS,
    NODE,
    SOURCES,
    Answer,
    Input,
    ask,
    children,
    inputs_of,
    prompt_of,
    write_files,
)

SHORT, LONG, GROUP = 30, 500, 10  # prompts, and prompts between two looks at the server
FIRST_SEED = 1000  # of clients beside each other, behind those of one client
CLIENTS = 2
# What the page asks for while prompts run, /object_info with the lists of files.
ROUTES = ("/object_info", "/queue", "/history", "/system_stats", "/extensions")
SENTENCES = {"success", "rejected", "ValueError", "FileNotFoundError"}
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 1e308, "", "x", "1e999", "\x00", [], {}, {"a": 1}),
    *([0], ["1", 99], ["nowhere", 0], ["1", 0, 0], [NODE, 0], "from model", "custom", "none"),
)
LONGEST = {"steps": 3, "batch_size": 2, "width": 128, "height": 128, "frames": 17, "seconds": 1}


@pytest.fixture(scope="module")
def nodes(server: ComfyServer) -> dict[str, Any]:
    write_files(server.base / "models")
    return server.get("/object_info")


def legal(chance: random.Random, entry: Input) -> Any:
    """A value that the widget would take, of sizes that run in a moment."""
    options = entry.options
    if entry.kind in ("INT", "FLOAT") and "min" in options:
        most = min(options["max"], LONGEST.get(entry.name.split(".")[-1], math.inf))
        least = min(options["min"], most)
        return chance.randint(least, most) if entry.kind == "INT" else chance.uniform(least, most)
    if entry.kind == "BOOLEAN":
        return chance.random() < 0.5
    if entry.kind == "STRING":
        return chance.choice(["", "a blue square blinks, horn", "7", "<S>Hello<E>", "\N{SNOWMAN}" * 30])
    return entry.value


def changed(chance: random.Random, node_id: str, info: dict[str, Any]) -> Prompt:
    """A prompt of the node, with all inputs or the required ones, in which some are not as they should be."""
    options = {}
    entries = inputs_of(info)
    for choice in [entry for entry in entries if entry.kind == CHOICE]:
        options[choice.name] = chance.choice(choice.options["options"])["key"]
        entries = [*entries, *children(choice, options[choice.name])]
    prompt = prompt_of(node_id, info, optional=chance.random() < 0.5, **options)
    values = prompt[NODE]["inputs"]
    for entry in entries:
        if entry.kind != CHOICE and not entry.is_socket and chance.random() < 0.5:
            values[entry.name] = legal(chance, entry)
    for entry in chance.sample(entries, chance.randint(0, min(2, len(entries)))):
        act = chance.choice(("strange", "link", "gone", "extra"))
        if act == "gone":
            values.pop(entry.name, None)
        else:
            name = f"{entry.name}_" if act == "extra" else entry.name
            values[name] = chance.choice(STRANGE if act == "strange" else [*LINKS.values()])
    return prompt


def good(server: ComfyServer, seed: int) -> bytes:
    """The frames of a clip; with a seed of its own the server does not answer from its cache."""
    prompt = copy.deepcopy(SOURCES)
    conds = {"model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0]}
    schedule = {"steps": 1, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "cfg": 3.0}
    sampled = {**conds, **schedule, "latent_image": ["2", 0], "seed": seed}
    prompt["20"] = {"class_type": "KSampler", "inputs": sampled}
    decoded = {"latent": ["20", 0], "video_vae": ["1", 2], "audio_vae": ["1", 3], "tiling": "off"}
    prompt["21"] = {"class_type": "CCLDecodeAV", "inputs": decoded}
    prompt["22"] = {"class_type": "SaveImage", "inputs": {"images": ["21", 0], "filename_prefix": "fuzz"}}
    run: Run = server.run(prompt)
    assert run.status == "success", run.error
    return b"".join(server.view(file) for file in run.files(".png"))


def asked(server: ComfyServer, nodes: dict[str, Any], seed: int, count: int) -> list[tuple[Any, Answer]]:
    """What one client's prompts end in that is no sentence."""
    chance = random.Random(seed)
    ours = sorted(name for name in nodes if name.startswith("CCL"))
    faults = []
    for _ in range(count):
        node_id = chance.choice(ours)
        prompt = changed(chance, node_id, nodes[node_id])
        answer = ask(server, prompt)
        if answer.how not in SENTENCES:
            faults.append((prompt[NODE], answer))
    return faults


def groups() -> list[Any]:
    count = LONG // GROUP
    short = SHORT // GROUP
    return [pytest.param(i, marks=[pytest.mark.long] * (i >= short)) for i in range(count)]


@pytest.mark.parametrize("group", groups())
def test_random_prompts_run_or_are_refused_in_a_sentence(
    server: ComfyServer, nodes: dict[str, Any], group: int
) -> None:
    before = good(server, 1)
    faults = asked(server, nodes, group, GROUP)
    assert server.alive() and faults == []
    # Another prompt in between, since the server keeps the results of the last one.
    good(server, 2 + group)
    assert good(server, 1) == before


def browsed(server: ComfyServer, stop: Event) -> int:
    """How often the routes were asked until somebody stopped it; an error of one is raised."""
    count = 0
    while not stop.is_set():
        server.get(ROUTES[count % len(ROUTES)])
        count += 1
    return count


@pytest.mark.parametrize("count", [GROUP, pytest.param(LONG // CLIENTS, marks=pytest.mark.long)])
def test_two_clients_and_a_page_at_once_leave_the_server_as_it_was(
    server: ComfyServer, nodes: dict[str, Any], count: int
) -> None:
    before = good(server, 1)
    stop = Event()
    with ThreadPoolExecutor(CLIENTS + 1) as threads:
        page = threads.submit(browsed, server, stop)
        clients = [
            threads.submit(asked, server, nodes, FIRST_SEED + client, count) for client in range(CLIENTS)
        ]
        try:
            faults = [fault for client in clients for fault in client.result()]
        finally:
            stop.set()
    assert server.alive() and faults == []
    assert page.result() > len(ROUTES)
    good(server, 2 + count)
    assert good(server, 1) == before
