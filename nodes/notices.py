"""Notices of the pack on the node that runs: a text below it, and a message of the page (js/notices.js)."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..ccl_core.notices import CLEARS, LOGGER

EVENT = "ccl_notice"
# By node the prompt that it ran in, and its texts: in another prompt a node begins without.
shown: dict[str, tuple[str, list[str]]] = {}


class OnNode(logging.Handler):
    """Shows what the pack tells while a node runs; of a warning the page shows a message too."""

    def emit(self, record: logging.LogRecord) -> None:
        context = get_executing_context()
        if context is not None:
            show(
                context.node_id,
                context.prompt_id,
                record.getMessage(),
                message=record.levelno >= logging.WARNING,
            )


def show(node_id: str, prompt_id: str, text: str, message: bool = True) -> None:
    """Below the other notices of this run of the node, and as a message of the page."""
    if node_id not in shown or shown[node_id][0] != prompt_id:
        shown[node_id] = (prompt_id, [])
    texts = shown[node_id][1]
    if text in texts:
        return
    texts.append(text)
    server = running_server()
    if server is not None:
        server.send_progress_text("\n\n".join(texts), node_id)
        if message:
            server.send_sync(EVENT, {"node": node_id, "prompt_id": prompt_id, "text": text}, server.client_id)


def clear_node() -> None:
    """Take the notices of an earlier prompt off the node that runs now."""
    context = get_executing_context()
    if context is None or shown.get(context.node_id, (context.prompt_id,))[0] == context.prompt_id:
        return
    del shown[context.node_id]
    if running_server() is not None:
        # The page takes no empty text.
        running_server().send_progress_text(" ", context.node_id)


def running_server() -> PromptServer | None:
    """None in tests and scripts that call nodes without a server."""
    return getattr(PromptServer, "instance", None)


if not any(isinstance(handler, OnNode) for handler in LOGGER.handlers):
    LOGGER.addHandler(OnNode(logging.INFO))
    CLEARS.append(clear_node)
