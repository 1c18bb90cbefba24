"""What the host's ModelSave, CheckpointSave and VAESave write of ccl-tiny has to load in the pack."""

from __future__ import annotations

from common import Graph, Link, ccl_tiny, ksampler, run, server, verdict, with_sound_saved

# Of each saved file: the node that reads it, with its inputs, and what of the graph comes from it then.
LOADERS = {
    "ModelSave": (
        "model",
        "CCLModelLoader",
        {"unet_name": "m_00001_.safetensors", "weight_dtype": "default"},
    ),
    "CheckpointSave": ("model", "CCLCheckpointLoader", {"ckpt_name": "c_00001_.safetensors"}),
    "VAESave": (
        "audio_vae",
        "CCLAudioVAELoader",
        {"vae_name": "a_00001_.safetensors", "vocoder_name": "none"},
    ),
}


def saving() -> Graph:
    graph = Graph()
    parts = ccl_tiny(graph)
    graph.add("ModelSave", model=parts.model, filename_prefix="diffusion_models/m")
    vae: dict[str, Link] = {"clip": parts.clip, "vae": parts.video_vae}
    graph.add("CheckpointSave", model=parts.model, filename_prefix="checkpoints/c", **vae)
    graph.add("VAESave", vae=parts.audio_vae, filename_prefix="vae/a")
    return graph


def loading(part: str, loader: str, inputs: dict[str, str]) -> Graph:
    graph = Graph()
    parts = ccl_tiny(graph)
    parts = parts.but(**{part: graph.add(loader, **inputs)})
    return with_sound_saved(graph, parts, ksampler(graph, parts))


bad = []
with server() as running:
    print("saving:", run(running, saving()).status)
    for name, (part, loader, inputs) in LOADERS.items():
        result = run(running, loading(part, loader, inputs))
        print(name, "->", loader, result.status, result.error[:200])
        bad += [] if result.status == "success" else [name]
verdict(bool(bad), f"not loaded: {bad}")
