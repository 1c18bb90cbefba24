"""CCLPrompt: both conditionings of a joint model from plain words. CCLPromptTags: its marks, as a text."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy_api.latest import io

from ..ccl_core.families.base import Family, PromptStyle
from ..ccl_core.host.out_of_memory import advising
from ..ccl_core.host.published import family_of
from ..ccl_core.model.speech_text import bytes_of
from ..ccl_core.notices import notice
from ..ccl_core.prompts import (
    PLAIN,
    read_prompt,
    style_named,
    styles,
    write_apart,
    write_prompt,
    write_texts,
)
from .conditioning import Conditioning, dual_prompt
from .inputs import FROM_MODEL, model_input, phrases, titles
from .node import CCLNode, known_choices

PROMPT_TOOLTIP = (
    'What is seen, and what is said in double quotes: She smiles: "Good morning." The marks of any model are '
    "understood too."
)


def text_input(name: str, tooltip: str, optional: bool = False) -> io.String.Input:
    return io.String.Input(
        name, multiline=True, dynamic_prompts=True, default="", optional=optional, tooltip=tooltip
    )


def variant_input() -> io.Combo.Input:
    return io.Combo.Input(
        "variant",
        options=[FROM_MODEL, *styles()],
        default=FROM_MODEL,
        optional=True,
        advanced=True,
        tooltip="Marks of another version than the usual one: some versions have files of the same form.",
    )


class CCLPrompt(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        own = "Empty: the one the model was published with. A space: none."
        return io.Schema(
            node_id="CCLPrompt",
            display_name="Prompt for Video with Sound (CCL)",
            category="CCL/conditioning",
            description="Writes what is seen, heard and said as the model was trained on it, and encodes it "
            "together with the negative prompts.",
            search_aliases=[
                *(
                    "video with sound prompt",
                    "prompt with speech",
                    "audio video prompt",
                    "dialogue",
                    "negative prompt",
                    "clip text encode with sound",
                    "talking prompt",
                ),
                *phrases("{model} prompt", "{model} text encode"),
            ],
            inputs=[
                model_input("The joint model the text is for"),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                text_input("prompt", PROMPT_TOOLTIP),
                text_input("sound", "What is heard: voices, noises, music.", optional=True),
                text_input("speech", "What is said, a line for each sentence.", optional=True),
                text_input("negative_prompt", f"What the video should not show. {own}", optional=True),
                text_input("negative_sound", f"What the sound should not have. {own}", optional=True),
                variant_input(),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="For positive of a sampler."),
                io.Conditioning.Output("negative", tooltip="For negative of a sampler."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        clip: CLIP,
        prompt: str,
        sound: str = "",
        speech: str = "",
        negative_prompt: str = "",
        negative_sound: str = "",
        variant: str = FROM_MODEL,
    ) -> io.NodeOutput:
        family = _require_family(model)
        # Files of some versions cannot be told apart, so a family's first style stands for the usual one.
        usual = family.prompts[0] if family.prompts else PLAIN
        style = usual if variant == FROM_MODEL else style_named(variant)
        # An empty text means the published one; " " is true and so stands for no text at all.
        published = family.sampling
        avoided = negative_prompt or published.negative
        if _reads_words(model):
            positive = _with_words(clip, style, prompt, sound, speech, model.model.ccl_config.audio.text_len)
            _tell_unheard("negative_sound", negative_sound.strip())
            return io.NodeOutput(positive, _beside(_encode(clip, avoided), ""))
        positive = _encode(clip, *write_texts(family, style, prompt, sound, speech))
        negative = _encode(clip, avoided, negative_sound or published.audio_negative)
        return io.NodeOutput(positive, negative)


def _require_family(model: ModelPatcher) -> Family:
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"model: got {type(model.model).__name__}, which this pack knows no prompts of: load a joint "
            f"model ({titles(', ')}), or use CLIPTextEncode"
        )
    return family


def _reads_words(model: ModelPatcher) -> bool:
    """Whether the audio stream reads the words of a speech and no other text."""
    config = getattr(model.model, "ccl_config", None)
    return config is not None and config.audio.speech_blocks > 0


def _with_words(
    clip: CLIP, style: PromptStyle, prompt: str, sound: str, speech: str, longest: int | None
) -> Conditioning:
    """The caption for the video, the words for the sound; what neither has is told.

    longest: bytes of the longest speech that the model was made for, None where it says none.
    """
    texts = write_apart(style, prompt, sound, speech)
    _tell_unheard("sound", texts.unheard)
    if texts.unsaid:
        notice(
            f"{texts.unsaid!r} in prompt is not said, as speech has words: write all of them there, or leave "
            "speech empty"
        )
    _tell_of_length(texts.words, longest)
    return _beside(_encode(clip, texts.caption), texts.words)


def _tell_of_length(words: str, longest: int | None) -> None:
    count = len(words.strip().encode("utf-8"))
    if longest is not None and count > longest:
        notice(
            f"speech has {count} letters with spaces, this model was made for {longest} at most: say less, "
            "or make several clips"
        )


def _tell_unheard(name: str, text: str) -> None:
    if text:
        notice(
            f"{name} is left out ({text!r}): the sound of this model reads the words in speech and no "
            "description. A voice of one's own comes from CCLReferences"
        )


def _beside(video: Conditioning, words: str) -> Conditioning:
    return dual_prompt(video, [[bytes_of(words), {}]])


def _encode(clip: CLIP, text: str, audio_text: str | None = None) -> Conditioning:
    """One text for both streams, or one for each."""
    if clip is None:
        raise ValueError(
            "clip holds no text encoder: connect that of the checkpoint, or Load CLIP (type wan)"
        )
    with advising(
        "encoding a prompt",
        lambda: "Choose a smaller text encoder (fp8 or GGUF), or in Load CLIP the device cpu",
    ):
        video = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        if not audio_text:
            return video
        return dual_prompt(video, clip.encode_from_tokens_scheduled(clip.tokenize(audio_text)))


def _variant_option(title: str) -> io.DynamicCombo.Option:
    lead = style_named(title).lead
    if not lead:
        return io.DynamicCombo.Option(title, [])
    begin = io.Boolean.Input(
        "lead", default=True, tooltip=f'Begin with "{lead}", as the prompts the model was trained on do.'
    )
    return io.DynamicCombo.Option(title, [begin])


class CCLPromptTags(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLPromptTags",
            display_name="Prompt Tags (CCL)",
            category="CCL/conditioning",
            description="Writes a text with the marks for speech and sound that a model expects, for graphs "
            "with text encoders of their own. Prompt for Video with Sound (CCL) does that and encodes it.",
            search_aliases=[
                "speech tags",
                "prompt tags",
                "audcap",
                "audio caption",
                *phrases("{model} prompt tags"),
            ],
            inputs=[
                text_input("prompt", PROMPT_TOOLTIP),
                text_input(
                    "sound",
                    "What is heard: voices, noises, music. May stay empty, also if the prompt holds it "
                    "already (<AUDCAP>...<ENDAUDCAP>, Audio: ..., The audio shows ...).",
                ),
                io.DynamicCombo.Input(
                    "variant",
                    options=[_variant_option(title) for title in styles()],
                    tooltip="The model the text is for. Some versions have files of the same form: only the "
                    "name tells them apart.",
                ),
            ],
            outputs=[io.String.Output("text", tooltip="For the text input of CLIPTextEncode.")],
        )

    @classmethod
    def validate_inputs(cls, prompt: Any = None, variant: Any = None) -> bool | str:
        return known_choices(cls, prompt=prompt, variant=variant)

    @classmethod
    def execute(cls, prompt: str, sound: str, variant: dict[str, Any]) -> io.NodeOutput:
        style = style_named(variant["variant"])
        # None where a prompt of the API leaves the input out, and absent where the style has no lead.
        lead = variant.get("lead") is not False
        return io.NodeOutput(write_prompt(read_prompt(prompt, sound), style, lead))
