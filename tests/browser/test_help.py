"""The help page of every node, in the panel of the page: with its picture, and no table is cut off."""

from __future__ import annotations

from ccl_pack.nodes import NODES
from support.page import Page

CORNER = (500, 200)
ADD = """
(() => {
    const node = LiteGraph.createNode('NODE');
    app.graph.clear();
    app.graph.add(node);
    node.pos = [500, 200];
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
    return true;
})()
"""
SELECTED = "app.canvas.selectedItems.size === 1"
# What opens the panel, else its tab with the page; the tab stays chosen.
OPEN = """
(() => {
    const tab = [...document.querySelectorAll('button')].find(button => button.innerText.trim() === 'Info');
    (tab ?? document.querySelector('button[aria-label="Node Info"]'))?.click();
    return true;
})()
"""
PICTURE = "[...document.images].some(image => image.src.endsWith('/docs/NODE.webp') && image.naturalWidth)"
# Heads of tables that are wider than the panel, which cuts them off.
WIDE = """
[...document.querySelectorAll('table')]
    .filter(table => table.scrollWidth > table.parentElement.clientWidth)
    .map(table => table.rows[0].innerText)
"""


def test_the_panel_shows_every_help_page_with_its_picture_and_whole_tables(page: Page) -> None:
    cut = {}
    for node in NODES:
        node_id = node.GET_SCHEMA().node_id
        show(page, node_id)
        if wide := page.ask(WIDE):
            cut[node_id] = wide
    page.ask("app.graph.clear()")
    assert cut == {}


def show(page: Page, node_id: str) -> None:
    page.ask(ADD.replace("NODE", node_id))
    page.wait_for(SELECTED, lambda: click(page), pause=0.3)
    page.wait_for(PICTURE.replace("NODE", node_id), lambda: page.ask(OPEN), pause=0.3)


def click(page: Page) -> None:
    """On the title; the canvas knows what is below the pointer once that has moved."""
    x, y = CORNER[0] + 120, CORNER[1] - 15
    page.point(x, y)
    page.click(x, y)
