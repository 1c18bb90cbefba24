"""CCLDualPrompt: one conditioning that carries a text for the video stream and another for the audio stream."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


def dual_prompt(video: list[list[Any]], audio: list[list[Any]]) -> list[list[Any]]:
    """The video conditioning, each entry with the audio text `audio_cross_attn` (b, tokens, d) beside its own."""
    for name, conditioning in (("video", video), ("audio", audio)):
        if not conditioning:
            raise ValueError(f"{name} holds no conditioning: connect a text encoder, an empty prompt will do")
    if len(audio) not in (1, len(video)):
        raise ValueError(
            f"audio has {len(audio)} entries, video {len(video)}: use one audio prompt or as many as video"
        )
    texts = audio * len(video) if len(audio) == 1 else audio
    pairs = zip(video, texts, strict=True)
    return [[tokens, {**extra, "audio_cross_attn": text[0]}] for (tokens, extra), text in pairs]


class CCLDualPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLDualPrompt",
            display_name="Dual Prompt (CCL)",
            category="CCL",
            description="Gives the audio stream a text of its own. Without it both streams read the same prompt.",
            search_aliases=["audio prompt", "separate audio text", "negative prompt per stream"],
            inputs=[
                io.Conditioning.Input("video", tooltip="Text of the video stream; its images and hooks are kept."),
                io.Conditioning.Input("audio", tooltip="Text of the audio stream. Only its text is used."),
            ],
            outputs=[io.Conditioning.Output("conditioning", tooltip="For positive or negative of a sampler.")],
        )

    @classmethod
    def execute(cls, video: list, audio: list) -> io.NodeOutput:
        return io.NodeOutput(dual_prompt(video, audio))
