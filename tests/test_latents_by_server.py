"""Latents as files through a real server: sampled, saved, offered, loaded, described and decoded."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.torch import load_file

from ccl_pack.ccl_core.host.media.latent_file import ENDING
from ccl_tools.server import ComfyServer, Prompt

# Three latent frames at 16 fps, 18 tokens at 32 a second.
SIZE = {"size": "custom", "size.width": 64, "size.height": 64, "length": "frames", "length.frames": 9}


def entry(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def making(prefix: str) -> Prompt:
    """An empty latent of which a part is kept, saved."""
    return {
        "1": entry("CCLCheckpointLoader", ckpt_name="ccl-tiny.safetensors"),
        "2": entry("CCLEmptyAVLatent", model=["1", 0], batch_size=1, **SIZE),
        "3": entry("CCLSetTask", latent=["2", 0], task="t2av"),
        "4": entry("CCLSaveAVLatent", latent=["3", 0], filename_prefix=prefix),
    }


@pytest.fixture(scope="module")
def saved(server: ComfyServer) -> str:
    """The choice of the loader that was saved."""
    run = server.run(making("latents/server"))
    assert run.status == "success", run.error
    return f"latents/server_00001_{ENDING} [output]"


def test_a_saved_latent_is_offered_loaded_and_described(server: ComfyServer, saved: str) -> None:
    options = server.get("/object_info")["CCLLoadAVLatent"]["input"]["required"]["latent_name"]
    assert saved in str(options)
    run = server.run(
        {
            "1": entry("CCLLoadAVLatent", latent_name=saved),
            "2": entry("CCLInspectAV", latent=["1", 0]),
            "3": entry("CCLSaveAVLatent", latent=["1", 0], filename_prefix="again"),
        }
    )
    assert run.status == "success", run.error
    (text,) = run.outputs["2"]["text"]
    lines = text.split("\n")
    assert lines[0] == "Wan: video and audio" and lines[4] == "task: t2av"
    assert "3 latent frames, 9 frames, 0.562 s at 16 fps; empty (zeros)" in lines[1]
    assert "18 tokens, 0.562 s at 32 tokens a second; empty (zeros)" in lines[2]
    assert run.outputs["3"]["latents"] == [
        {"filename": f"again_00001_{ENDING}", "subfolder": "", "type": "output"}
    ]
    first, second = (
        load_file(server.base / "output" / name)
        for name in (saved.removesuffix(" [output]"), f"again_00001_{ENDING}")
    )
    assert first.keys() == second.keys() == {"samples/0", "samples/1", "noise_mask/0", "noise_mask/1"}
    assert all(first[name].equal(second[name]) for name in first)


def test_the_file_holds_the_graph_that_made_it(server: ComfyServer, saved: str) -> None:
    name = saved.split("/")[1].removesuffix(" [output]")
    data = server.view({"filename": name, "subfolder": "latents", "type": "output"})
    assert b"CCLEmptyAVLatent" in data[:20000]


def test_a_broken_file_stops_the_run_in_words(server: ComfyServer, saved: str) -> None:
    whole = server.base / "output" / saved.removesuffix(" [output]")
    (server.base / "input" / f"broken{ENDING}").write_bytes(whole.read_bytes()[:-50])
    run = server.run(
        {
            "1": entry("CCLLoadAVLatent", latent_name=f"broken{ENDING}"),
            "2": entry("CCLInspectAV", latent=["1", 0]),
        }
    )
    assert run.status == "error" and f"broken{ENDING} cannot be read as safetensors" in str(run.error)
