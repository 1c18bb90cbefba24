"""Notices of the pack on the node that runs: a text below it, and a message of the page (js/notices.js)."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..ccl_core.notices import LOGGER

EVENT = "ccl_notice"
# Nodes that show notices, with their texts, by prompt-wide id: each run of the node begins without.
shown: dict[str, list[str]] = {}


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
    texts = shown.setdefault(node_id, [])
    if text in texts:
        return
    texts.append(text)
    server = running_server()
    if server is not None:
        server.send_progress_text("\n\n".join(texts), node_id)
        if message:
            server.send_sync(EVENT, {"node": node_id, "prompt_id": prompt_id, "text": text}, server.client_id)


def clear_node() -> None:
    """Take the notices of an earlier run off the node that runs now."""
    context = get_executing_context()
    if context is not None and shown.pop(context.node_id, None) and running_server() is not None:
        # The page takes no empty text.
        running_server().send_progress_text(" ", context.node_id)


def running_server() -> PromptServer | None:
    """None in tests and scripts that call nodes without a server."""
    return getattr(PromptServer, "instance", None)


if not any(isinstance(handler, OnNode) for handler in LOGGER.handlers):
    LOGGER.addHandler(OnNode(logging.INFO))
