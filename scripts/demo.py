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
from ccl_tools.workflow import Prompt, to_prompt

PROMPT = "a green square blinks, horn, and a yellow ball slides, click"
TEMPLATE = "Text to Video with Sound"
LONGEST_DIFFERENCE = 0.02
MODEL_INPUTS = ("ckpt_name", "unet_name")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default=PROMPT, help=f"what to see and hear (default: {PROMPT!r})")
    parser.add_argument("--seed", type=int, default=7, help="seed of the noise (default: 7)")
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to (default: output)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: those of the template)")
    parser.add_argument("--seconds", type=float, help="length of the clip (default: that of the template)")
    parser.add_argument("--workflow", type=Path, help="another workflow in the format the frontend saves")
    parser.add_argument("--port", type=int, help="port of the server (default: a free one)")
    parser.add_argument("--keep-server", action="store_true", help="leave the server running for a browser")
    return parser.parse_args()


def template(chosen: Path | None) -> Path:
    path = chosen or ROOT / "workflows" / f"{TEMPLATE}.json"
    if not path.is_file():
        raise ScriptError(f"{path} is not there", "name a workflow with --workflow, or fetch the repository again")
    return path


def upstream(prompt: Prompt, node: str) -> list[str]:
    """The node and everything that feeds it, nearest first."""
    found = [node]
    for current in found:
        links = [value for value in prompt[current]["inputs"].values() if isinstance(value, list) and len(value) == 2]
        found += [str(link[0]) for link in links if str(link[0]) in prompt and str(link[0]) not in found]
    return found


def guided_node(prompt: Prompt) -> str:
    """The sampler or guider that the prompt texts go to."""
    for node, entry in prompt.items():
        if isinstance(entry["inputs"].get("positive"), list):
            return node
    raise ScriptError("the workflow has no node with a linked input named positive", "use a workflow with a sampler")


def set_text(prompt: Prompt, text: str) -> None:
    """Into every text encoder behind the sampler's positive input, but not those it shares with the negative one.

    A node with an input `prompt` has inputs of its own for the negative text.
    """
    inputs = prompt[guided_node(prompt)]["inputs"]
    negative = upstream(prompt, inputs["negative"][0]) if isinstance(inputs.get("negative"), list) else []
    for node in upstream(prompt, inputs["positive"][0]):
        texts = prompt[node]["inputs"]
        if "prompt" in texts:
            texts["prompt"] = text
        elif "text" in texts and node not in negative:
            texts["text"] = text


def set_everywhere(prompt: Prompt, name: str, value: Any) -> None:
    """Set the inputs of this name, those inside a dynamic choice included."""
    slots = [(node["inputs"], key) for node in prompt.values() for key in node["inputs"] if key.split(".")[-1] == name]
    if not slots:
        raise ScriptError(
            f"no node of the workflow has an input {name}", f"leave --{name} out, or use another workflow"
        )
    for inputs, key in slots:
        inputs[key] = value


def fill_in(prompt: Prompt, options: argparse.Namespace) -> None:
    set_text(prompt, options.prompt)
    set_everywhere(prompt, "seed", options.seed)
    for name in ("steps", "seconds"):
        if getattr(options, name) is not None:
            set_everywhere(prompt, name, getattr(options, name))


def nodes_with(prompt: Prompt, *words: str) -> set[str]:
    return {node for node, entry in prompt.items() if any(word in entry["class_type"] for word in words)}


def passes_per_step(prompt: Prompt) -> int:
    """Branches with a weight under the guidance the workflow asks for."""
    from ccl_pack.ccl_core.families import FAMILIES
    from ccl_pack.ccl_core.guidance import MODES, SCALE_NAMES, TermScale, branch_weights

    inputs = next((node["inputs"] for node in prompt.values() if "mode" in node["inputs"]), None)
    if inputs is None:
        cfg = next((node["inputs"]["cfg"] for node in prompt.values() if "cfg" in node["inputs"]), 1.0)
        return 1 if cfg == 1.0 else 2
    if inputs["mode"] not in MODES:  # "from model", and the server of this script has no model but ccl-tiny
        published = FAMILIES["ccl"].sampling
        return len(branch_weights(published.mode, published.settings))
    scales = {}
    for term in MODES[inputs["mode"]].terms:
        video, audio = (inputs[f"mode.{stream}_{SCALE_NAMES[term]}"] for stream in ("video", "audio"))
        scales[term] = TermScale(video, audio)
    return len(branch_weights(inputs["mode"], scales))


def follow(prompt: Prompt, ticker: Ticker) -> Any:
    """What to do with each message of the server: show the node and how far it is."""
    node_title = ["queued"]

    def on_event(event: Any) -> None:
        if event.kind == "executing" and event.data.get("node") in prompt:
            node_title[0] = prompt[event.data["node"]]["_meta"]["title"]
        progress = f"{event.data['value']}/{event.data['max']}" if event.kind == "progress" else ""
        ticker.tick(f"{node_title[0]} {progress}")

    return on_event


def read_clip(path: Path) -> dict[str, Any]:
    """Frames, sound and lengths of the file as a player would find them."""
    import av
    import numpy
    import torch

    with av.open(str(path)) as container:
        if not (container.streams.video and container.streams.audio):
            raise ScriptError(f"{path} lacks a video or an audio stream", "look at what the workflow saves")
        video, audio = container.streams.video[0], container.streams.audio[0]
        lengths = [float(stream.duration * stream.time_base) for stream in (video, audio)]
        fps, rate = video.average_rate, audio.rate
        frames = numpy.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video)])
        container.seek(0)
        sound = numpy.concatenate([frame.to_ndarray() for frame in container.decode(audio)], axis=-1)
    samples = round(lengths[1] * rate)
    return {
        "frames": torch.from_numpy(frames).float() / 255,  # (f, h, w, 3)
        "waveform": torch.from_numpy(sound).float().mean(0)[:samples],  # (n,)
        "fps": float(fps),
        "sample_rate": rate,
        "video_seconds": lengths[0],
        "audio_seconds": lengths[1],
    }


def asked_objects(prompt: str) -> list[Any]:
    """What the prompt states of each object, if it is a caption of ccl-tiny's world that leaves nothing open."""
    from ccl_pack.ccl_core.training.world.scene import read_caption

    asked = list(read_caption(prompt))
    complete = all(None not in thing.values()[1:] for thing in asked)
    return asked if complete and len({thing.colour for thing in asked}) == len(asked) else []


def measure(clip: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Visible contacts, audible onsets and how far they are apart; for objects the prompt names, each one's own."""
    from ccl_pack.ccl_core.training.world.judge import judge_clip

    asked = asked_objects(prompt)
    judged = judge_clip(clip["frames"], clip["fps"], clip["waveform"], clip["sample_rate"], asked)
    sync = judged.sync
    objects = [
        {
            "asked": f"{thing.colour} {thing.shape} {thing.motion}, {thing.sound}",
            "colour": seen.colour,
            "motion": seen.motion,
            "sound": sound,
            "contacts_s": [round(contact, 4) for contact in seen.contacts],
        }
        for thing, seen, sound in zip(asked, judged.seen, judged.sounds, strict=False)
    ]
    return {
        **({"objects": objects} if objects else {}),
        "contacts_s": [round(contact, 4) for contact in judged.contacts],
        "onsets_s": [round(onset, 4) for onset in judged.onsets],
        "matched_125ms": sync.matched_125ms,
        "sync_error_ms_median": None if sync.median_error_ms is None else round(sync.median_error_ms, 2),
    }


def report(options: argparse.Namespace, server: Any, prompt: Prompt, run: Any, path: Path) -> dict[str, Any]:
    clip = read_clip(path)
    if abs(clip["video_seconds"] - clip["audio_seconds"]) > LONGEST_DIFFERENCE:
        raise ScriptError(
            f"{path}: the video lasts {clip['video_seconds']:.3f} s and the sound {clip['audio_seconds']:.3f} s",
            f"they may differ by {LONGEST_DIFFERENCE} s: look at the node of the workflow that decodes the sound",
        )
    models = [node["inputs"][name] for node in prompt.values() for name in MODEL_INPUTS if name in node["inputs"]]
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
        raise ScriptError(f"ComfyUI refuses the prompt: {error.summary}", "correct the value it names") from error
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
    with tempfile.TemporaryDirectory(prefix="ccl-demo-") as base, ComfyServer(Path(base), port=options.port) as server:
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
