"""What a server in use goes through: interrupts in every phase, many clients at once, LoRAs in turns.

After each of it the same prompt gives the same bytes.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import psutil
import pytest

from ccl_tools.server import ComfyServer, Event, Prompt
from support.by_hand import NAME, SOURCES, write_files

CLIENTS = 20
WARM, USED = (
    30,
    60,
)  # prompts until the allocators have what they want, and prompts of which memory is looked at
# Phases by the node that is interrupted, and by how often it has told of its progress.
PHASES = {
    "sampling": ("20", 1),
    "later sampling": ("20", 4),
    "text": ("3", 0),
    "decode": ("21", 0),
    "save": ("22", 0),
}


@pytest.fixture(scope="module")
def prepared(server: ComfyServer) -> ComfyServer:
    write_files(server.base / "models")
    return server


def clip(seed: int, lora: float | None = None, steps: int = 2) -> Prompt:
    """A prompt of ccl-tiny that saves its frames and its sound."""
    prompt = copy.deepcopy(SOURCES)
    model: list[Any] = ["1", 0]
    if lora is not None:
        strengths = {f"strength_{name}": lora for name in ("video", "audio", "coupling")}
        prompt["19"] = _node("CCLLoraLoader", model=model, lora_name=NAME, **strengths)
        model = ["19", 0]
    sampled = {"positive": ["3", 0], "negative": ["3", 0], "latent_image": ["2", 0], "seed": seed}
    schedule = {"steps": steps, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    prompt["20"] = _node("CCLJointSampler", model=model, mode="from model", **sampled, **schedule)
    vaes = {"video_vae": ["1", 2], "audio_vae": ["1", 3]}
    prompt["21"] = _node("CCLDecodeAV", latent=["20", 0], tiling="off", **vaes)
    prompt["22"] = _node("SaveImage", images=["21", 0], filename_prefix="use")
    prompt["23"] = _node("SaveAudio", audio=["21", 1], filename_prefix="use")
    return prompt


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def made(server: ComfyServer, prompt: Prompt) -> bytes:
    run = server.run(prompt)
    assert run.status == "success", run.error
    files = [*run.files(".png"), *run.files(".flac")]
    assert len(files) == 6
    return b"".join(decoded(server.view(file)) for file in files)


def decoded(data: bytes) -> bytes:
    """The pixels or samples of a file, which holds its prompt too."""
    with av.open(io.BytesIO(data)) as container:
        return b"".join(frame.to_ndarray().tobytes() for frame in container.decode(container.streams[0]))


def interrupting(server: ComfyServer, node: str, progress: int) -> Callable[[Event], None]:
    """Interrupts once, when the node has begun and told of this much progress."""
    seen: list[int] = []

    def act(event: Event) -> None:
        begins = event.kind == "executing" and progress == 0
        steps = event.kind == "progress" and event.data["value"] >= progress > 0
        if event.data.get("node") == node and (begins or steps) and not seen:
            seen.append(1)
            server.post("/interrupt", {})

    return act


@pytest.mark.parametrize(
    "phase", [pytest.param(name, marks=[pytest.mark.long] * (name != "decode")) for name in PHASES]
)
def test_after_an_interrupt_the_same_prompt_gives_the_same_bytes(prepared: ComfyServer, phase: str) -> None:
    before = made(prepared, clip(7))
    run = prepared.run(clip(100 + len(phase), steps=8), interrupting(prepared, *PHASES[phase]))
    # A node that takes no time may have ended before the interrupt came.
    assert run.status in ("interrupted", "success")
    if "sampling" in phase:
        assert run.status == "interrupted"
    made(prepared, clip(8))
    assert made(prepared, clip(7)) == before


@pytest.mark.long
def test_twenty_clients_at_once_get_what_one_gets(prepared: ComfyServer) -> None:
    alone = {seed: made(prepared, clip(seed)) for seed in range(4)}
    seeds = [number % 4 for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        together = list(clients.map(lambda seed: made(prepared, clip(seed)), seeds))
    assert [alone[seed] == data for seed, data in zip(seeds, together, strict=True)] == [True] * CLIENTS


def test_models_with_and_without_a_lora_in_turns_keep_their_bytes(prepared: ComfyServer) -> None:
    strengths = (None, 1.0, -0.5, None, 1.0, -0.5, 0.0)
    data = [made(prepared, clip(7, lora)) for lora in strengths]
    assert data[0] == data[3] == data[6] and data[1] == data[4] and data[2] == data[5]
    assert len(set(data[:3])) == 3


@pytest.mark.long
def test_the_memory_of_a_server_in_use_stays(prepared: ComfyServer) -> None:
    process = psutil.Process(prepared.process.pid)
    sizes = []
    for seed in range(WARM + USED):
        made(prepared, clip(seed, (None, 1.0, -0.5)[seed % 3]))
        sizes.append(process.memory_info().rss)
    # Measured: one step of 14 MB in 240 prompts. A model that stayed behind would be 10 MB for each prompt.
    assert min(sizes[-10:]) - min(sizes[WARM - 10 : WARM]) < 40e6
