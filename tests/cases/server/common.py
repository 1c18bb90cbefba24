"""What the cases of this folder share: a real server, a graph of ccl-tiny that grows, and the verdict."""

from __future__ import annotations

import io
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from ccl_tools.environment import reexec
from ccl_tools.server import ComfyServer, PromptRejected, Run

reexec()

Link = list
# Of CCLJointSampler in its mode cfg.
CFG = {
    "mode": "cfg",
    "mode.video_cfg": 3.0,
    "mode.audio_cfg": 3.0,
    "mode.cfg_start_percent": 0.0,
    "mode.cfg_end_percent": 1.0,
}


class Graph(dict[str, dict[str, Any]]):
    """A prompt as the server takes it."""

    def add(self, kind: str, **inputs: Any) -> Link:
        """The first output of a new node."""
        key = str(len(self) + 1)
        self[key] = {"class_type": kind, "inputs": inputs}
        return [key, 0]


@dataclass(frozen=True)
class Parts:
    """Outputs that a sampler and a decoder take."""

    model: Link
    clip: Link
    video_vae: Link
    audio_vae: Link
    positive: Link
    negative: Link
    latent: Link

    def but(self, **changed: Link) -> Parts:
        return replace(self, **changed)


@dataclass(frozen=True)
class Result:
    """What became of a prompt: "success" or what the server says, and the run where it came to one."""

    status: str
    error: str
    run: Run | None


def output(node: Link, slot: int) -> Link:
    return [node[0], slot]


def ccl_tiny(graph: Graph, frames: int = 9) -> Parts:
    """The embedded model with a prompt, an empty negative one and an empty latent."""
    checkpoint = graph.add("CCLCheckpointLoader", ckpt_name="ccl-tiny.safetensors")
    clip = output(checkpoint, 1)
    texts = [graph.add("CLIPTextEncode", clip=clip, text=text) for text in ("a red ball bounces, drum", "")]
    length = {"length": "frames", "length.frames": frames}
    latent = graph.add("CCLEmptyAVLatent", model=checkpoint, size="from model", batch_size=1, **length)
    return Parts(checkpoint, clip, output(checkpoint, 2), output(checkpoint, 3), *texts, latent)


def sampled(graph: Graph, kind: str, parts: Parts, **inputs: Any) -> Link:
    sockets = {
        "model": parts.model,
        "positive": parts.positive,
        "negative": parts.negative,
        "latent_image": parts.latent,
    }
    settings = {"seed": 1, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return graph.add(kind, **sockets, **(settings | inputs))


def ksampler(graph: Graph, parts: Parts, steps: int = 2) -> Link:
    return sampled(graph, "KSampler", parts, steps=steps, cfg=3.0)


def joint_sampler(graph: Graph, parts: Parts, steps: int = 3, **mode: Any) -> Link:
    return sampled(graph, "CCLJointSampler", parts, steps=steps, **(mode or CFG))


def decoded(graph: Graph, parts: Parts, latent: Link, fps: float = 0.0) -> Link:
    """Its outputs are images, sound and video."""
    vaes = {"video_vae": parts.video_vae, "audio_vae": parts.audio_vae}
    return graph.add("CCLDecodeAV", latent=latent, tiling="off", fps=fps, **vaes)


def with_sound_saved(graph: Graph, parts: Parts, latent: Link, fps: float = 0.0) -> Graph:
    graph.add("SaveAudio", audio=output(decoded(graph, parts, latent, fps), 1), filename_prefix="case")
    return graph


def with_images_saved(graph: Graph, parts: Parts, latent: Link) -> Graph:
    graph.add("SaveImage", images=decoded(graph, parts, latent), filename_prefix="case")
    return graph


def server() -> ComfyServer:
    return ComfyServer(Path(tempfile.mkdtemp(prefix="cases-")))


def run(running: ComfyServer, graph: Graph) -> Result:
    try:
        made = running.run(dict(graph))
    except PromptRejected as error:
        return Result("rejected", error.summary, None)
    error = made.error
    said = (
        f"{error['node_type']}: {error['exception_type']}: {error['exception_message']}".strip()
        if error
        else ""
    )
    return Result(made.status, said, made)


def samples_of(running: ComfyServer, made: Run) -> Any:
    """The samples of the first sound that a run saved."""
    import av
    import numpy

    with av.open(io.BytesIO(running.view(made.files(".flac")[0]))) as sound:
        return numpy.concatenate([frame.to_ndarray().reshape(-1) for frame in sound.decode(audio=0)])


def images_of(running: ComfyServer, made: Run) -> Any:
    """The images that a run saved (f, h, w, 3)."""
    import av
    import numpy

    files = [av.open(io.BytesIO(running.view(file))) for file in made.files(".png")]
    return numpy.stack([next(file.decode(video=0)).to_ndarray(format="rgb24") for file in files])


def log_of(running: ComfyServer) -> str:
    return running.log.read_text(encoding="utf-8", errors="replace")


def verdict(fault: bool, text: str) -> NoReturn:
    """Exit code 1 where the fault is still there."""
    print(("FAULT: " if fault else "ok: ") + text)
    sys.exit(1 if fault else 0)
