"""Files that belong together and files that do not; every refusal names the file, what it is and what was
wanted.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ccl_tools import published as p
from support.model_files import file, mova, refused


@pytest.mark.parametrize(
    ("role", "other", "words"),
    [
        ("video", "audio", r"audio\.safetensors, chosen as video_model, is an audio stream\. Wanted: a file"),
        (
            "audio",
            "video",
            r"high\.safetensors, chosen as audio_stream, is a Wan model without an audio stream",
        ),
        ("interaction", "audio", r"audio\.safetensors, chosen as interaction, is an audio stream"),
        (
            "low_noise",
            "interaction",
            r"bridge\.safetensors, chosen as low_noise_model, is the bridge of MOVA",
        ),
    ],
)
def test_files_in_each_others_place(role: str, other: str, words: str) -> None:
    files = mova()
    refused(files | {role: files[other]}, words)


def test_missing_parts_are_named_with_what_is_there() -> None:
    files = mova()
    refused(
        {"video": files["video"]},
        r"no audio and no interaction.*high\.safetensors is a Wan model without an audio",
    )
    refused({"video": files["video"], "audio": files["audio"]}, r"hold no interaction")


def test_audio_of_ovi_needs_the_video_of_ovi() -> None:
    audio = file(
        p.prefixed("audio_model.", p.ovi_audio(p.TINY_OVI_AUDIO, p.TINY_OVI_VIDEO, 64)), "audio.safetensors"
    )
    video = file(p.wan(replace(p.TINY_OVI_VIDEO)), "wan.safetensors")
    refused(
        {"video": video, "audio": audio},
        r"hold no interaction \(a2v\).*audio\.safetensors is the audio part of Ovi",
    )


def test_a_part_given_twice() -> None:
    whole = file(p.ovi(*p.TINY_OVI), "ovi.safetensors")
    audio = file(
        p.prefixed("audio_model.", p.ovi_audio(p.TINY_OVI_AUDIO, p.TINY_OVI_VIDEO, 64)), "audio.safetensors"
    )
    refused({"video": whole, "audio": audio}, r"audio\.safetensors, chosen as audio_stream, both hold audio")


def test_ovi_and_mova_mixed_up() -> None:
    files = mova()
    ovi = file(p.ovi_video(*p.TINY_OVI[:2]), "ovi.safetensors")
    refused({"video": ovi, "audio": files["audio"]}, r"hold no interaction \(v2a\).*the video part of Ovi")
    refused(
        {"video": ovi, "audio": files["audio"], "interaction": files["interaction"]},
        r"both hold interaction\.0\.a2v",
    )
