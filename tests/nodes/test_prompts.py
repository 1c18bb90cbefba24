"""CCLPrompt and CCLPromptTags: the texts of each family, encoded by a real text encoder, and their
options.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.host.files.build import load_checkpoint
from ccl_pack.ccl_core.host.files.identify import stated_config
from ccl_pack.ccl_core.host.files.read import read
from ccl_pack.ccl_core.host.texts import of_streams
from ccl_pack.ccl_core.model.speech_text import bytes_of
from ccl_pack.ccl_core.prompts import styles
from ccl_pack.ccl_core.training.finetune.beside import beside_of
from ccl_pack.ccl_core.training.finetune.cache import EncodedClip, padded
from ccl_pack.ccl_core.training.finetune.encoders import Encoders
from ccl_pack.ccl_core.training.finetune.settings import EncoderSettings
from ccl_pack.nodes import CHECKPOINTS
from ccl_pack.nodes.prompts import CCLPrompt, CCLPromptTags
from support import tiny

PROMPT = 'She says "Good morning."'


def run(variant: str, **options: bool) -> str:
    return CCLPromptTags.execute(
        prompt=PROMPT, sound="A kettle", variant={"variant": variant, **options}
    ).result[0]


def variant_input() -> object:
    return next(entry for entry in CCLPromptTags.define_schema().inputs if entry.id == "variant")


def test_every_variant_can_be_chosen() -> None:
    assert [option.key for option in variant_input().options] == list(styles())


@pytest.mark.parametrize("variant", styles())
def test_text_of_each_variant(variant: str) -> None:
    assert (
        run(variant)
        == {
            "Ovi 1.0 (720, 5 s)": "She says <S>Good morning.<E> <AUDCAP>A kettle<ENDAUDCAP>",
            "Ovi 1.1 (960)": "She says <S>Good morning.<E> Audio: A kettle",
            "MOVA": f"This video has no subtitles.\n\n{PROMPT}\n\nThe audio shows A kettle",
            "Prism": "Continuous <sfx>A kettle</sfx>. She says <speech>Good morning.</speech>",
        }[variant]
    )


def test_subtitles_sentence_can_be_left_out() -> None:
    assert run("MOVA", lead=False) == f"{PROMPT}\n\nThe audio shows A kettle"


def test_output_is_a_string_for_the_text_encoder() -> None:
    schema = CCLPromptTags.define_schema()
    assert [output.get_io_type() for output in schema.outputs] == ["STRING"]
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])


def test_subtitles_sentence_stands_where_a_prompt_leaves_the_choice_out() -> None:
    """The host hands an optional input of a dynamic choice out as None."""
    assert run("MOVA", lead=None) == run("MOVA")


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return load_checkpoint(str(CHECKPOINTS / "ccl-tiny.safetensors"))[1]


def encoded(clip: CLIP, text: str) -> torch.Tensor:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def texts(conditioning: list) -> tuple[torch.Tensor, torch.Tensor | None]:
    ((text, _),) = conditioning
    return of_streams(text)


def of_family(name: str) -> ModelPatcher:
    return tiny.patcher(family=name)


WORDS = {"prompt": "A woman waves.", "sound": "rain on glass", "speech": "Hello there."}
POSITIVE = {
    "ccl": 'A woman waves. "Hello there.", rain on glass',
    "ovi": "A woman waves. <S>Hello there.<E> Audio: rain on glass",
    "mova": 'This video has no subtitles.\n\nA woman waves. "Hello there."\n\nThe audio shows rain on glass',
    "prism": "Continuous <sfx>rain on glass</sfx>. A woman waves. <speech>Hello there.</speech>",
}


@pytest.mark.parametrize("name", POSITIVE)
def test_prompt_encodes_the_text_of_the_family_for_both_streams(clip: CLIP, name: str) -> None:
    positive, _ = CCLPrompt.execute(of_family(name), clip, **WORDS).args
    video, audio = texts(positive)
    assert torch.equal(video, encoded(clip, POSITIVE[name])) and audio is None


def test_another_version_of_a_model_can_be_chosen(clip: CLIP) -> None:
    positive, _ = CCLPrompt.execute(of_family("ovi"), clip, **WORDS, variant="Ovi 1.0 (720, 5 s)").args
    wanted = "A woman waves. <S>Hello there.<E> <AUDCAP>rain on glass<ENDAUDCAP>"
    assert torch.equal(texts(positive)[0], encoded(clip, wanted))


@pytest.mark.parametrize("name", POSITIVE)
def test_an_empty_negative_prompt_is_the_published_one(clip: CLIP, name: str) -> None:
    published = FAMILIES[name].sampling
    _, negative = CCLPrompt.execute(of_family(name), clip, "a dog").args
    video, audio = texts(negative)
    assert torch.equal(video, encoded(clip, published.negative))
    if published.audio_negative is None:
        assert audio is None
    else:
        assert torch.equal(audio, encoded(clip, published.audio_negative))


def test_negative_prompts_of_ones_own_take_the_place_of_the_published_ones(clip: CLIP) -> None:
    _, negative = CCLPrompt.execute(
        of_family("mova"), clip, "a dog", negative_prompt="blur", negative_sound="hum"
    ).args
    video, audio = texts(negative)
    assert torch.equal(video, encoded(clip, "blur")) and torch.equal(audio, encoded(clip, "hum"))


def test_a_family_whose_sound_reads_a_text_of_its_own_gets_two(
    clip: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "ccl", replace(FAMILIES["ccl"], audio_text=True))
    video, audio = texts(CCLPrompt.execute(of_family("ccl"), clip, **WORDS).args[0])
    assert torch.equal(video, encoded(clip, 'A woman waves. "Hello there."'))
    assert torch.equal(audio, encoded(clip, '"Hello there.", rain on glass'))


def test_prompt_says_what_is_missing(clip: CLIP) -> None:
    with pytest.raises(ValueError, match="clip holds no text encoder"):
        CCLPrompt.execute(of_family("ccl"), None, "a dog")
    with pytest.raises(
        ValueError, match=r"this pack knows no prompts of: load a joint model \(CCL, Ovi, MOVA"
    ):
        CCLPrompt.execute(tiny.other_model(), clip, "a dog")


def test_prompt_offers_every_variant_and_the_one_of_the_model_first() -> None:
    (variant,) = (entry for entry in CCLPrompt.define_schema().inputs if entry.id == "variant")
    assert variant.options == ["from model", *styles()]


def talking() -> ModelPatcher:
    return tiny.patcher(audio=replace(tiny.CONFIG.audio, speech_blocks=2), family="uniavgen")


@pytest.mark.parametrize("words", [{"speech": "kama sulo"}, {"prompt": 'A ball slides. "kama sulo"'}])
def test_a_sound_that_reads_words_gets_their_bytes_and_the_video_the_rest(
    clip: CLIP, words: dict[str, str]
) -> None:
    positive, negative = CCLPrompt.execute(talking(), clip, **{"prompt": "A ball slides."} | words).args
    for conditioning, caption, said in (
        (positive, "A ball slides.", "kama sulo"),
        (negative, "", ""),
    ):
        video, audio = texts(conditioning)
        assert torch.equal(video, encoded(clip, caption)) and torch.equal(audio, bytes_of(said))


def test_it_gets_what_training_gives_it(clip: CLIP, caplog: pytest.LogCaptureFixture) -> None:
    """The caption and words of a clip, and the empty forms of both where training drops them."""
    positive, negative = CCLPrompt.execute(talking(), clip, "A ball slides.", speech="kama sulo").args
    file = str(CHECKPOINTS / "ccl-tiny.safetensors")
    encoders = Encoders(EncoderSettings(checkpoint=file), stated_config(read(file)))
    said = {"speech": bytes_of("kama sulo")[0]}
    clip_of = EncodedClip("a", torch.zeros(0), torch.zeros(0), encoders.encode_text("A ball slides."), said)
    rows = len(clip_of.text)
    wanted = {False: clip_of.text, True: padded(encoders.encode_text("")[:rows], rows)}
    stream = talking().model.diffusion_model.audio
    for conditioning, dropped in ((positive, False), (negative, True)):
        video, audio = texts(conditioning)
        trained = beside_of([clip_of], [dropped])["speech"]
        # Zeros behind a text say nothing, in the video's as in the sound's.
        short = min(video.shape[1], rows)
        assert torch.equal(video[0, :short], wanted[dropped][:short])
        assert not video[0, short:].any() and not wanted[dropped][short:].any()
        count = audio.shape[1]
        assert torch.equal(audio, trained[:, :count]) and not trained[:, count:].any()
        torch.testing.assert_close(stream.embed_text(trained)[0][:, :count], stream.embed_text(audio)[0])
    assert not caplog.records


@pytest.mark.parametrize(
    ("texts_of", "message"),
    [
        ({"sound": "rain"}, "sound is left out ('rain')"),
        ({"negative_sound": "hum"}, "negative_sound is left out ('hum')"),
        ({"prompt": 'A ball slides. "kama"', "speech": "sulo"}, "'kama' in prompt is not said"),
    ],
)
def test_what_such_a_sound_cannot_read_is_told(
    clip: CLIP, caplog: pytest.LogCaptureFixture, texts_of: dict[str, str], message: str
) -> None:
    CCLPrompt.execute(talking(), clip, **{"prompt": "A ball slides."} | texts_of)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.getMessage().startswith(message)
    caplog.clear()
    CCLPrompt.execute(talking(), clip, "A ball slides.", negative_sound=" ")
    assert not caplog.records


def test_words_beyond_the_longest_speech_of_a_model_are_told(
    clip: CLIP, caplog: pytest.LogCaptureFixture
) -> None:
    audio = replace(tiny.CONFIG.audio, speech_blocks=2, text_len=9)
    model = tiny.patcher(audio=audio, family="uniavgen")
    CCLPrompt.execute(model, clip, "", speech=" kama sulo\n")
    assert not caplog.records
    CCLPrompt.execute(model, clip, "", speech="kama sulos")
    assert "speech has 10 letters with spaces, this model was made for 9 at most" in caplog.text
