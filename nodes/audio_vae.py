"""CCLAudioVAELoader: the audio VAE of a joint model from its own file."""

from __future__ import annotations

from comfy_api.latest import io

from ..ccl_core.host.vae.audio import load_audio_vae_file
from .files import path_of, safetensors_in
from .inputs import files_of_families, phrases, titles
from .node import CCLNode

NO_VOCODER = "none"


class CCLAudioVAELoader(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = safetensors_in("vae")
        return io.Schema(
            node_id="CCLAudioVAELoader",
            display_name=f"Load Audio VAE ({titles()})",
            category="CCL/loaders",
            # The licence of MMAudio's weights holds in every repack, and the files do not state it.
            description="Loads the audio VAE of a joint model: mel + Vocos, MMAudio, DAC, or any audio VAE "
            "ComfyUI knows. The MMAudio weights are licensed CC-BY-NC-4.0: no commercial use.",
            search_aliases=[
                *("load audio vae", "vocos", "vocoder", "mel", "bigvgan", "dac"),
                *("mmaudio", "load mmaudio", "mmaudio vae"),
                *phrases("{model} audio vae", "{model} vae"),
            ],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=files,
                    tooltip=f"A safetensors file in models/vae. {files_of_families('vae_name')}",
                ),
                io.Combo.Input(
                    "vocoder_name",
                    options=[NO_VOCODER, *files],
                    default=NO_VOCODER,
                    optional=True,
                    tooltip="Second file of a release that ships the vocoder separately; its keys are added. "
                    + files_of_families("vocoder_name"),
                ),
            ],
            outputs=[
                io.Vae.Output(
                    display_name="audio_vae", tooltip="For VAE Encode Audio, VAE Decode Audio, CCL nodes."
                )
            ],
        )

    @classmethod
    def execute(cls, vae_name: str, vocoder_name: str = NO_VOCODER) -> io.NodeOutput:
        path = path_of("vae", vae_name)
        vocoder = None if vocoder_name == NO_VOCODER else path_of("vae", vocoder_name)
        return io.NodeOutput(load_audio_vae_file(path, vocoder))
