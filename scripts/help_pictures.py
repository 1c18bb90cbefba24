"""Take the pictures of the help pages: every node of the pack in a real page, with its values as it is added.

    python scripts/help_pictures.py                 writes js/docs/<node id>.webp, for every node
    python scripts/help_pictures.py CCLGuider       for one
    python scripts/help_pictures.py template        writes docs/template.webp, a template for the README

Needs Chromium (apt-get install chromium).
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec, with_tests_on_path
from ccl_tools.node_record import PICTURED, digest, recorded

if TYPE_CHECKING:
    from support.page import Page

FOLDER = ROOT / "js" / "docs"
# Empty files, for the lists of the loaders: folder in models, name.
FILES = (
    ("diffusion_models", "Wan2_2-5B-Ovi_960x960_10s_fp8_e4m3fn_scaled_KJ.safetensors"),
    ("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
    ("vae", "mmaudio_vae_16k_fp32.safetensors"),
    ("vae", "mmaudio_vocoder_bigvgan_best_netG_fp32.safetensors"),
    ("vae", "wan2.2_vae.safetensors"),
    ("loras", "my_lora.safetensors"),
    ("../input", "clip_00001_.latent.safetensors"),
)
CORNER = (320, 130)  # of the picture in the window, clear of the menus, pixels
MARGIN = 10
SHARPNESS = 1.5  # pixels of the picture for one of the page
QUALITY = 80
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
SETTINGS |= {"Comfy.Minimap.Visible": False}
TEMPLATE, PICTURE_OF_TEMPLATE = "Ovi 1.1 Text to Video with Sound", ROOT / "docs" / "template.webp"
ADD = """
(() => {{
    app.graph.clear();
    const node = LiteGraph.createNode({name});
    app.graph.add(node);
    node.pos = [0, 0];
    const [wide, high] = node.computeSize();
    // The title is cut where it is wider than the node: 8 pixels a letter, 60 for the dot and the edges.
    node.setSize([Math.max(wide, 300, 8 * node.title.length + 60), high]);
}})()
"""
FOLDER_OF_TEMPLATES = "/api/workflow_templates/ccl-audio-video/"
OPEN = f"app.loadGraphData(await (await fetch('{FOLDER_OF_TEMPLATES}' + {{name}} + '.json')).json())"
# Left, top, width and height of all nodes, which are brought into the corner of the window.
PLACE = """
(() => {{
    const boxes = app.graph.nodes.map(node => Array.from(node.getBounding()));
    const least = side => Math.min(...boxes.map(box => box[side]));
    const most = side => Math.max(...boxes.map(box => box[side] + box[side + 2]));
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [{x} - least(0), {y} - least(1)];
    app.canvas.deselectAll();
    app.canvas.setDirty(true, true);
    return [most(0) - least(0), most(1) - least(1)];
}})()
"""


def place_files(models: Path) -> None:
    for folder, name in FILES:
        (models / folder).mkdir(parents=True, exist_ok=True)
        (models / folder / name).touch()


def picture(page: Page, show: str, name: str) -> bytes:
    """What an expression brings into the graph, as WebP."""
    page.ask(show.format(name=json.dumps(name)))
    x, y = CORNER
    # A node knows its box once it is drawn, and widgets of HTML, such as a text box, come a moment later.
    for _ in range(2):
        wide, high = page.ask(PLACE.format(x=x, y=y))
        time.sleep(0.6)
    clip = {"x": x - MARGIN, "y": y - MARGIN, "width": wide + 2 * MARGIN, "height": high + 2 * MARGIN}
    clip |= {"scale": SHARPNESS}
    shot = page.send("Page.captureScreenshot", format="webp", quality=QUALITY, clip=clip)
    return base64.b64decode(shot["data"])


def note(node_id: str) -> None:
    """Write down what the picture shows, so that a test tells when it is old."""
    from ccl_pack.nodes import NODES

    [node] = [node for node in NODES if node.GET_SCHEMA().node_id == node_id]
    record = recorded({node_id: node.GET_NODE_INFO_V1()})[node_id]
    path = ROOT / PICTURED
    noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    noted |= {node_id: digest(record)}
    path.write_text(json.dumps(dict(sorted(noted.items())), indent=1) + "\n", encoding="utf-8")


def take(names: Iterable[str]) -> None:
    from ccl_tools.server import ComfyServer
    from support.page import Page
    from support.shares import INSTALL, chromium

    program = chromium()
    if program is None:
        raise ScriptError("Chromium is not there", INSTALL)
    with tempfile.TemporaryDirectory(prefix="ccl-help-") as base:
        place_files(Path(base) / "models")
        with ComfyServer(Path(base)) as server, Page(program, Path(base) / "chromium") as page:
            server.post("/settings", SETTINGS)
            page.open(server.address)
            page.wait_for("window.app?.graph?.nodes.length > 0 && document.readyState === 'complete'")
            for name in names:
                path = save(page, name)
                say(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def save(page: Page, name: str) -> Path:
    if name == "template":
        PICTURE_OF_TEMPLATE.write_bytes(picture(page, OPEN, TEMPLATE))
        return PICTURE_OF_TEMPLATE
    path = FOLDER / f"{name}.webp"
    path.write_bytes(picture(page, ADD, name))
    note(name)
    return path


def main(chosen: list[str]) -> None:
    load_pack()
    with_tests_on_path()
    from ccl_pack.nodes import NODES

    take(chosen or ["template", *(node.GET_SCHEMA().node_id for node in NODES)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="node ids (default: all)")
    chosen = parser.parse_args().nodes
    reexec()
    exit_on_script_error(lambda: main(chosen))
