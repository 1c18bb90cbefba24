"""A real ComfyUI on this machine's CPU with the pack in its custom nodes, and the client to talk to it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ccl_tools.console import ScriptError, Ticker, last_line, tail
from ccl_tools.environment import ROOT, held_locks, locate

PACK_FOLDER = "ccl-audio-video"
# The first start on a busy machine compiles and imports for minutes.
START_SECONDS = 600
# Longer than any template takes on two cores.
RUN_SECONDS = 1800
MODEL_FOLDERS = ("checkpoints", "diffusion_models", "vae", "text_encoders")
VIEW_FIELDS = ("filename", "subfolder", "type")
LAST_EVENTS = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}

Prompt = dict[str, dict[str, Any]]


class PromptRejected(RuntimeError):
    """The server refused a prompt; node_errors says which input of which node."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.node_errors = answer.get("node_errors", {})
        super().__init__(json.dumps(answer, indent=1))

    @property
    def summary(self) -> str:
        """Each error in a line: node, message, details."""
        nodes = self.node_errors.values() if self.node_errors else ()
        rows = [(node["class_type"], error) for node in nodes for error in node["errors"]]
        return "; ".join(f"{name}: {error['message']} ({error['details']})" for name, error in rows) or str(
            self
        )


@dataclass(frozen=True)
class Event:
    """One message of the websocket and when it came."""

    seconds: float
    kind: str
    data: dict[str, Any]


@dataclass
class Run:
    """What became of one prompt."""

    prompt_id: str
    status: str = "running"
    events: list[Event] = field(default_factory=list)
    previews: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> dict[str, Any]:
        """The data of the execution_error, empty when there was none."""
        return next((event.data for event in self.events if event.kind == "execution_error"), {})

    def seconds_in(self, nodes: set[str]) -> float:
        """Time between the start of each of these nodes and the start of the next one."""
        starts = [event for event in self.events if event.kind == "executing"]
        # The end of the run ends its last node.
        starts += [event for event in self.events if event.kind in LAST_EVENTS]
        return sum(
            after.seconds - start.seconds
            for start, after in pairwise(starts)
            if start.data.get("node") in nodes
        )

    def files(self, suffix: str) -> list[dict[str, str]]:
        """The saved files of this kind, as /view wants them."""
        lists = (
            value for output in self.outputs.values() for value in output.values() if isinstance(value, list)
        )
        files = (entry for entries in lists for entry in entries if isinstance(entry, dict))
        return [entry for entry in files if str(entry.get("filename", "")).endswith(suffix)]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        # Port 0 lets the system choose.
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def need_free_port(port: int) -> None:
    """Stop with the remedy where the port is taken."""
    with socket.socket() as probe:
        # Else a port that a server has just left would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ScriptError(
                f"port {port} is taken: {error}", "choose another with --port, or leave it out"
            ) from error


class ComfyServer:
    """Starts the server on entering the context and ends it on leaving."""

    def __init__(
        self,
        base: Path,
        *,
        port: int | None = None,
        pack: Path | None = ROOT,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.base = base
        self.port = port or free_port()
        self.pack = pack
        self.arguments = arguments
        self.log = base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ComfyServer:
        need_free_port(self.port)
        for folder in MODEL_FOLDERS:
            (self.base / "models" / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("custom_nodes", "input"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        if self.pack is not None:
            link_folder(self.pack, self.base / "custom_nodes" / PACK_FOLDER)
        env = locate()
        command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += [
            "--base-directory",
            str(self.base),
            "--database-url",
            "sqlite:///:memory:",
            "--disable-api-nodes",
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                cwd=env.comfyui,
                stdout=out,
                stderr=subprocess.STDOUT,
                # The server may outlive this process and then still uses the environment.
                pass_fds=held_locks(),
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server, by force if it does not go."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _wait_until_ready(self) -> None:
        ticker = Ticker("starting ComfyUI on the CPU")
        while ticker.seconds < START_SECONDS:
            if not self.alive():
                break
            try:
                self.get("/system_stats")
            except OSError:
                time.sleep(0.2)
                ticker.tick(last_line(self.log))
                continue
            ticker.done()
            return
        what = f"did not answer within {START_SECONDS} s" if self.alive() else "ended while it started"
        raise ScriptError(f"ComfyUI {what}:\n{tail(self.log)}", "the last lines above name the cause")

    def get(self, path: str) -> Any:
        """The JSON answer of a route."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(
            self.address + urllib.parse.quote(path, safe="/?&=%"), timeout=60
        ) as answer:
            return answer.read()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer of a route, None where it has none; a refused prompt raises PromptRejected."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            # The host's answer to a prompt that it does not accept.
            if error.code == 400:
                raise PromptRejected(json.loads(error.read())) from error
            raise
        return json.loads(text) if text else None

    def view(self, file: dict[str, str]) -> bytes:
        """A saved file."""
        query = urllib.parse.urlencode({name: file.get(name, "") for name in VIEW_FIELDS})
        return self.get_bytes(f"/view?{query}")

    def run(self, prompt: Prompt, on_event: Callable[[Event], None] | None = None) -> Run:
        """Queue a prompt and follow it on the websocket to its end."""
        return asyncio.run(asyncio.wait_for(self._run(prompt, on_event or (lambda _: None)), RUN_SECONDS))

    async def _run(self, prompt: Prompt, on_event: Callable[[Event], None]) -> Run:
        import aiohttp

        client = uuid.uuid4().hex
        start = time.monotonic()
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.address}/ws?clientId={client}", max_msg_size=0) as socket_,
        ):
            run = Run(self.post("/prompt", {"prompt": prompt, "client_id": client})["prompt_id"])
            async for message in socket_:
                # Binary messages are the pictures of a preview.
                if message.type is aiohttp.WSMsgType.BINARY:
                    run.previews += 1
                    continue
                body = json.loads(message.data)
                event = Event(time.monotonic() - start, body["type"], body.get("data") or {})
                # The socket also tells of the queue and of other prompts.
                if event.data.get("prompt_id") != run.prompt_id:
                    continue
                run.events.append(event)
                on_event(event)
                if event.kind in LAST_EVENTS:
                    run.status = LAST_EVENTS[event.kind]
                    break
        if run.status == "running":
            raise ConnectionError(
                f"the server closed the connection in the middle of a prompt; see {self.log}"
            )
        run.outputs = self._outputs(run.prompt_id)
        return run

    def _outputs(self, prompt_id: str) -> dict[str, Any]:
        """From the history, which is written a moment after the last message."""
        for _ in range(50):
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]["outputs"]
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} ended and never came into the history")


def link_folder(source: Path, target: Path) -> None:
    """A link, or a copy where the system does not let us link."""
    try:
        os.symlink(source, target, target_is_directory=True)
    except OSError:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".git", "__pycache__"))
