"""CCLPromptTags: its options are the variants of the helper, and its text is what CLIPTextEncode takes."""

import pytest

from ccl_pack.ccl_core.prompts import styles
from ccl_pack.nodes.prompts import CCLPromptTags

PROMPT = 'She says "Good morning."'


def run(variant: str, **options) -> str:
    return CCLPromptTags.execute(
        prompt=PROMPT, audio_description="A kettle", variant={"variant": variant, **options}
    ).result[0]


def variant_input():
    return next(entry for entry in CCLPromptTags.define_schema().inputs if entry.id == "variant")


def test_every_variant_can_be_chosen():
    assert [option.key for option in variant_input().options] == list(styles())


@pytest.mark.parametrize("variant", styles())
def test_text_of_each_variant(variant):
    assert (
        run(variant)
        == {
            "Ovi 1.0 (720, 5 s)": "She says <S>Good morning.<E> <AUDCAP>A kettle<ENDAUDCAP>",
            "Ovi 1.1 (960)": "She says <S>Good morning.<E> Audio: A kettle",
            "MOVA": f"This video has no subtitles.\n\n{PROMPT}\n\nThe audio shows A kettle",
        }[variant]
    )


def test_subtitles_sentence_can_be_left_out():
    assert run("MOVA", no_subtitles=False) == f"{PROMPT}\n\nThe audio shows A kettle"


def test_output_is_a_string_for_the_text_encoder():
    schema = CCLPromptTags.define_schema()
    assert [output.get_io_type() for output in schema.outputs] == ["STRING"]
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
