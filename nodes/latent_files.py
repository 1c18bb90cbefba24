"""CCLSaveAVLatent and CCLLoadAVLatent: latents of video and sound as files."""

from __future__ import annotations

import json
import os
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui

from ..ccl_core.host.media.describe import describe
from ..ccl_core.host.media.latent_file import ENDING, load, save
from ..ccl_core.host.media.latents import read
from ..ccl_core.host.media.source import KEY
from ..ccl_core.notices import notice, told
from .inputs import any_latent_tooltip
from .node import CCLNode

CATEGORY = "CCL/latent"
# As the host marks names of files that do not lie in its input folder.
IN_OUTPUT = " [output]"
# Under this name the host lists its output folder, and again only what changed in it.
SAVED = "ccl_latents"


class CCLSaveAVLatent(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLSaveAVLatent",
            display_name="Save Audio-Video Latent (CCL)",
            category=CATEGORY,
            description="Saves a latent of video and sound, of any model, as it is: every bit, with its "
            "masks, rates and task.",
            search_aliases=[
                *("save latent", "save av latent", "save latent with sound", "save audio latent"),
                *("export latent", "keep latent", "store latent", "write latent to file", "save ltx latent"),
            ],
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip=any_latent_tooltip()),
                io.String.Input(
                    "filename_prefix",
                    default="latents/av",
                    tooltip="Where in ComfyUI's output folder, and how the names begin; a number follows.",
                ),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The latent as it came.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], filename_prefix: str) -> io.NodeOutput:
        about = describe(read(latent))
        output = folder_paths.get_output_directory()
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, output)
        file = f"{name}_{counter:05}_{ENDING}"
        path = os.path.join(folder, file)
        left_out = save(path, latent, {"about": about, **_workflow(cls)})
        told(f"Saved {os.path.join(subfolder, file)} ({os.path.getsize(path) / 1e6:.3g} MB)")
        if left_out:
            advice = (
                "What Encode Audio-Video (CCL) was given comes back decoded then; keep the material itself"
            )
            notice(
                f"{', '.join(left_out)} is not in the file, which holds tensors, numbers and texts"
                + (f". {advice}" if KEY in left_out else "")
            )
        saved = ui.SavedResult(file, subfolder, io.FolderType.output)
        return io.NodeOutput(latent, ui={"latents": [saved]})


def _workflow(node: type[CCLNode]) -> dict[str, str]:
    """The graph as the host's SaveLatent writes it, unless ComfyUI was started with --disable-metadata."""
    if args.disable_metadata or not node.hidden:
        return {}
    more = node.hidden.extra_pnginfo or {}
    found = {"prompt": node.hidden.prompt, **more}
    return {name: json.dumps(value) for name, value in found.items() if value is not None}


class CCLLoadAVLatent(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLLoadAVLatent",
            display_name="Load Audio-Video Latent (CCL)",
            category=CATEGORY,
            description="Loads a latent that Save Audio-Video Latent (CCL) wrote, as it was.",
            search_aliases=[
                *("load latent", "load av latent", "load latent with sound", "load audio latent"),
                *("import latent", "open latent", "read latent from file", "load ltx latent"),
            ],
            inputs=[
                io.Combo.Input(
                    "latent_name",
                    options=latent_files(),
                    tooltip="A file in ComfyUI's input folder, or in its output folder where it was saved.",
                )
            ],
            outputs=[io.Latent.Output("latent", tooltip="The latent, with its masks, rates and task.")],
        )

    @classmethod
    def fingerprint_inputs(cls, latent_name: str) -> str:
        state = os.stat(folder_paths.get_annotated_filepath(latent_name))
        return f"{state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(cls, latent_name: str) -> io.NodeOutput:
        return io.NodeOutput(load(folder_paths.get_annotated_filepath(latent_name)))


def latent_files() -> list[str]:
    """The files to choose from: as the host's LoadLatent those of the input folder, then those saved."""
    folder_paths.folder_names_and_paths[SAVED] = ([folder_paths.get_output_directory()], {".safetensors"})
    given = sorted(os.listdir(folder_paths.get_input_directory()))
    saved = [f"{name}{IN_OUTPUT}" for name in folder_paths.get_filename_list(SAVED)]
    return [name for name in (*given, *saved) if name.removesuffix(IN_OUTPUT).endswith(ENDING)]
