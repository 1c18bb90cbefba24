"""From a prompt to a video with sound: runs the pack's template in a real ComfyUI on this machine's CPU.

Sets everything up on the first call. Writes video.mp4 and report.json into the output folder.

    python scripts/demo.py --prompt "a red ball bounces, drum" --seed 7 --output output
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ccl_tools.console import ScriptError, Ticker, exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec
from ccl_tools.prompt import nodes_with, passes_per_step, set_everywhere, set_text
from ccl_tools.report import measure, read_clip
from ccl_tools.workflow import Prompt, to_prompt

PROMPT = "a green square blinks, horn, and a yellow ball slides, click"
TEMPLATE = "Text to Video with Sound (tiny)"
# Seconds between the ends of picture and sound, a third of a frame at 16 fps.
LONGEST_DIFFERENCE = 0.02
MODEL_INPUTS = ("ckpt_name", "unet_name")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", default=PROMPT, help=f"what to see and hear (default: {PROMPT!r})")
    parser.add_argument("--seed", type=int, default=7, help="seed of the noise (default: 7)")
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder to write to (default: output)"
    )
    parser.add_argument("--steps", type=int, help="denoising steps (default: those of the template)")
    parser.add_argument("--seconds", type=float, help="length of the clip (default: that of the template)")
    parser.add_argument("--workflow", type=Path, help="another workflow in the format the frontend saves")
    parser.add_argument("--port", type=int, help="port of the server (default: a free one)")
    parser.add_argument("--keep-server", action="store_true", help="leave the server running for a browser")
    return parser.parse_args()


def template(chosen: Path | None) -> Path:
    path = chosen or ROOT / "workflows" / f"{TEMPLATE}.json"
    if not path.is_file():
        raise ScriptError(
            f"{path} is not there", "name a workflow with --workflow, or fetch the repository again"
        )
    return path


def fill_in(prompt: Prompt, options: argparse.Namespace) -> None:
    set_text(prompt, options.prompt)
    set_everywhere(prompt, "seed", options.seed)
    for name in ("steps", "seconds"):
        if getattr(options, name) is not None:
            set_everywhere(prompt, name, getattr(options, name))


def follow(prompt: Prompt, ticker: Ticker) -> Any:
    """What to do with each message of the server: show the node and how far it is."""
    node_title = ["queued"]

    def on_event(event: Any) -> None:
        if event.kind == "executing" and event.data.get("node") in prompt:
            node_title[0] = prompt[event.data["node"]]["_meta"]["title"]
        progress = f"{event.data['value']}/{event.data['max']}" if event.kind == "progress" else ""
        ticker.tick(f"{node_title[0]} {progress}")

    return on_event


def report(options: argparse.Namespace, server: Any, prompt: Prompt, run: Any, path: Path) -> dict[str, Any]:
    clip = read_clip(path)
    if abs(clip["video_seconds"] - clip["audio_seconds"]) > LONGEST_DIFFERENCE:
        raise ScriptError(
            f"{path}: the video lasts {clip['video_seconds']:.3f} s "
            f"and the sound {clip['audio_seconds']:.3f} s",
            f"they may differ by {LONGEST_DIFFERENCE} s: "
            "look at the node of the workflow that decodes the sound",
        )
    models = [
        node["inputs"][name] for node in prompt.values() for name in MODEL_INPUTS if name in node["inputs"]
    ]
    return {
        "prompt": options.prompt,
        "seed": options.seed,
        "model": models[0] if models else None,
        "workflow": template(options.workflow).name,
        "comfyui_version": server.get("/system_stats")["system"]["comfyui_version"],
        "file": path.name,
        "frames": len(clip["frames"]),
        "fps": clip["fps"],
        "video_seconds": round(clip["video_seconds"], 4),
        "audio_seconds": round(clip["audio_seconds"], 4),
        **measure(clip, options.prompt),
        "seconds_sample": round(run.seconds_in(nodes_with(prompt, "Sampler")), 2),
        "seconds_decode": round(run.seconds_in(nodes_with(prompt, "Decode")), 2),
        "passes_per_step": passes_per_step(prompt),
    }


def read_prompt(options: argparse.Namespace, server: Any) -> Prompt:
    """The workflow as a prompt, with what was asked for filled in."""
    path = template(options.workflow)
    try:
        prompt = to_prompt(json.loads(path.read_text()), server.get("/object_info"))
    except (ValueError, KeyError) as error:
        raise ScriptError(
            f"{path} is no workflow this script can read: {error!r}",
            "save it in the frontend with Save, not Export (API)",
        ) from error
    fill_in(prompt, options)
    return prompt


def generate(options: argparse.Namespace, server: Any) -> None:
    """One clip: queue the workflow, fetch the file, measure it."""
    from ccl_tools.server import PromptRejected

    prompt = read_prompt(options, server)
    ticker = Ticker(f"generating {options.prompt!r}")
    try:
        run = server.run(prompt, follow(prompt, ticker))
    except PromptRejected as error:
        raise ScriptError(
            f"ComfyUI refuses the prompt: {error.summary}", "correct the value it names"
        ) from error
    if run.status != "success":
        raise ScriptError(
            f"node {run.error.get('node_type')} says: {run.error.get('exception_message', run.status)}",
            f"read the server's log: {server.log}",
        )
    ticker.done()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "video.mp4"
    path.write_bytes(server.view(run.files(".mp4")[0]))
    facts = report(options, server, prompt, run, path)
    (options.output / "report.json").write_text(json.dumps(facts, indent=2) + "\n")
    say(json.dumps(facts, indent=2))
    say(f"{path}\n{options.output / 'report.json'}")


def main(options: argparse.Namespace) -> None:
    from ccl_tools.server import ComfyServer

    load_pack()
    with (
        tempfile.TemporaryDirectory(prefix="ccl-demo-") as base,
        ComfyServer(Path(base), port=options.port) as server,
    ):
        generate(options, server)
        if options.keep_server:
            say(f"ComfyUI runs at {server.address} (Ctrl-C ends it)")
            while server.alive():
                time.sleep(1)


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
    sys.exit(0)
