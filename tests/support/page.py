"""A page of the real frontend in Chromium, driven over the DevTools protocol: open, ask, type, click."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 60  # seconds, on a busy machine
EMPTY_PLACE = (900, 700)  # pixels; a double click there opens the search
OPTIONS = "[...document.querySelectorAll('[role=option]')].map(option => option.innerText.split('\\n')[0])"
PORT_FILE = "DevToolsActivePort"
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--window-size=1600,950",
)


class Page:
    """One tab; entering the context starts the browser with a folder of its own, leaving it ends the
    browser.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.faults: list[str] = []
        command = [program, *ARGUMENTS, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Page:
        self._run(self._connect())
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self.session.close())
        self.loop.close()
        self.process.terminate()
        self.process.wait(PATIENCE)

    def _run(self, task: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(task, PATIENCE))

    async def _connect(self) -> None:
        """To the tab that the browser begins with."""
        port_file = self.folder / PORT_FILE
        while not port_file.is_file() or not port_file.read_text():
            await asyncio.sleep(0.1)
        port = port_file.read_text().split()[0]
        self.session, self.number = aiohttp.ClientSession(), 0
        async with self.session.get(f"http://127.0.0.1:{port}/json") as answer:
            [tab] = [tab for tab in await answer.json() if tab["type"] == "page"]
        self.socket = await self.session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of the browser to one command."""
        return self._run(self._send(method, parameters))

    async def _send(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        async for message in self.socket:
            body = json.loads(message.data)
            if body.get("id") == self.number:
                if "error" in body:
                    raise RuntimeError(f"{method}: {body['error']['message']}")
                return body["result"]
            self._note(body)
        raise ConnectionError(f"the browser closed the page before it answered {method}")

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what the page complains of."""
        if event["method"] == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description", details["text"]))
        if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            entry = event["params"]["entry"]
            self.faults.append(f"{entry['text']} {entry.get('url', '')}".strip())

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, also of one that takes its time."""
        wrapped = f"(async () => ({expression}))()"
        answer = self.send("Runtime.evaluate", expression=wrapped, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def wait_for(self, expression: str, act: Callable[[], None] | None = None, pause: float = 0.1) -> Any:
        """The first value of the expression that is true; `act` comes before each look, `pause` after it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if act is not None:
                act()
            time.sleep(pause)
            if found := self.ask(expression):
                return found
        raise TimeoutError(f"within {PATIENCE} s the page did not come to {expression}")

    def click(self, x: float, y: float, count: int = 1, button: str = "left") -> None:
        """Press and release a button of the mouse, `count` times at one place."""
        for number in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=number)

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def type(self, text: str) -> None:
        """Into the element that has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """One key, by its name."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def search(self, words: str, sign: str = "CCL", *, choose: bool = False) -> list[str]:
        """The titles that the search for nodes shows for the words, best first, once one has the sign in it.

        choose: put the first one on the page.
        """
        # Again where the page was still busy with its start.
        self.wait_for(
            "document.activeElement.placeholder === 'Add a node...'",
            lambda: self.click(*EMPTY_PLACE, count=2),
            pause=1,
        )
        self.type(words)
        self.wait_for(f"{OPTIONS}.some(title => title.includes({json.dumps(sign)}))")
        titles = self.ask(OPTIONS)
        self.press("Enter" if choose else "Escape")
        self.wait_for("!document.querySelector('[placeholder=\"Add a node...\"]')")
        return titles
