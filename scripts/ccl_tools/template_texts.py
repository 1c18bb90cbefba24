"""The notes of templates and the descriptions of blueprints: card, download, result, files, licence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ccl_tools.graphs import File, Node
from ccl_tools.releases import HUB, MOVA_360P, REPOSITORY
from ccl_tools.template_jobs import (
    Job,
    extend_video,
    first_image_to_video,
    image_to_video,
    sound_for_video,
    text_to_sound,
    text_to_video,
    video_for_sound,
    white_image_to_video,
)
from ccl_tools.template_table import Row

# What comes out, and what to do.
RUN = "press *Run*."
DOES: dict[Job, tuple[str, str]] = {
    text_to_video: ("A clip with sound from a text.", f"Write what is seen and heard, {RUN}"),
    white_image_to_video: ("A clip with sound from a text.", f"Write what is seen and heard, {RUN}"),
    image_to_video: (
        "A clip with sound that begins with your image.",
        f"Choose the image, write what happens, {RUN}",
    ),
    first_image_to_video: (
        "A clip with sound that begins with your image.",
        f"Choose the image, write what happens, {RUN}",
    ),
    sound_for_video: (
        "Sound for your video: foley, dub, soundtrack. The picture stays your file's, at its own size and "
        "rate.",
        f"Choose the video (mp4, webm, mov, mkv), write what is seen and is to be heard, {RUN}",
    ),
    video_for_sound: (
        "A picture for your sound, which stays as it is.",
        f"Choose the sound (mp3, wav, or that of a video), write what is to be seen, {RUN}",
    ),
    extend_video: (
        "Your clip with sound and what comes next, without a seam.",
        f"Choose the clip (mp4, webm, mov, mkv), write what comes next, {RUN} Its last *kept_seconds* begin "
        "the *new_seconds*.",
    ),
    text_to_sound: ("A sound alone.", f"Write an object and its sound, {RUN}"),
}


@dataclass(frozen=True)
class Facts:
    """makes: what comes out; sound: that of it which is heard; card and download: what it needs; hints: lines
    about the widgets; short: for its picture.
    """

    makes: str
    sound: str
    card: str
    download: str
    hints: tuple[str, ...]
    short: str
    licence: str = ""


COMPUTED = "computed: no GPU was at hand"
SPEECH = "Speech stands in double quotes, what is heard in the second field."
PUBLISHED = "Sampler, steps and guidance are the published ones; open the node to change them."
OVI_LICENCE = (
    "Ovi, Wan and umT5 Apache-2.0. MMAudio (audio VAE, vocoder) **CC-BY-NC-4.0: no commercial use**."
)
FACTS = {
    "tiny": Facts(
        "2 s, 64x64, 16 kHz, by the toy model inside the pack",
        "a sound of 16 kHz for up to 2 or 3 s, by the toy model inside the pack",
        "none; about 10 s on two CPU cores, measured",
        "none",
        (
            "It knows these words alone: *red orange yellow green cyan blue purple white*, *ball square "
            "triangle*, *bounces falls slides blinks*, *drum bell click beep horn*; *silently*, *a bell "
            "rings off screen*, *over soft noise*.",
            "The templates of Ovi, MOVA and Prism make films.",
        ),
        "no card, no download",
    ),
    "Ovi 1.1": Facts(
        "5 or 10 s, up to .9 megapixels (1280x704, 960x960), 24 fps, with speech",
        "a sound of 16 kHz for 5 or 10 s",
        f"16 GB; 12 GB with *Low Memory*; RAM: 12 GB for its weights ({COMPUTED})",
        "21 GB",
        (SPEECH, f"Sides in steps of 32. {PUBLISHED} 30 steps are enough for many."),
        "16 GB card, 21 GB download",
        OVI_LICENCE,
    ),
    "Ovi 1.0": Facts(
        "5 s, about 720x720, 24 fps, with speech",
        "a sound of 16 kHz for 5 s",
        f"12 GB; RAM: 12 GB for its weights ({COMPUTED})",
        "21 GB",
        (SPEECH, f"Sides in steps of 32. {PUBLISHED}"),
        "12 GB card, 21 GB download",
        OVI_LICENCE,
    ),
    "MOVA": Facts(
        "8 s (193 frames), 640x352, 24 fps, with speech",
        "a sound of 48 kHz for 8 s",
        f"24 GB, and 65 GB of RAM in bf16, 33 GB in fp8 or int8 ({COMPUTED})",
        "73 GB",
        (
            f"{SPEECH} {PUBLISHED} For closer lips: the mode *dual*.",
            f"[MOVA-720p]({HUB}/OpenMOSS-Team/MOVA-720p/tree/main), 1280x720, has the same folders. On "
            "Windows choose the files again: their names have other slashes there.",
        ),
        "24 GB card, 73 GB download",
        "Apache-2.0. The audio VAE descends from HunyuanVideo-Foley's, whose weights have a licence of "
        "their own.",
    ),
    "Prism": Facts(
        "2 to 8.5 s (49 to 205 frames), 848x480 and above, 24 fps, with speech",
        "a sound of 48 kHz for 2 to 8.5 s",
        f"24 GB, and 33 GB of RAM ({COMPUTED})",
        "41 GB",
        (
            f"{SPEECH} A first image is always needed.",
            f"{PUBLISHED} They are those for 480p: *Stream Shift (CCL)* sets the video to 7 at 720p, 9 to "
            "13 at 1080p.",
        ),
        "24 GB card, 41 GB download",
        "Prism MIT, MOVA's parts Apache-2.0; the int8 files are somebody else's conversion.",
    ),
    "CCL on Wan": Facts(
        "5 s, 832x480, 16 fps, once a coupling is trained",
        "a sound for 5 s",
        f"16 GB for Wan 14B in fp8, less for 1.3B ({COMPUTED})",
        "your Wan file, umT5 (6.7 GB), MOVA's audio stream and VAE (4 GB)",
        (
            "**No trained weights were published.** *interaction* is your own file: "
            f"*scripts/new_interaction.py* of the [repository]({REPOSITORY}) makes a fresh one, with which "
            "picture and sound know nothing of each other; *scripts/train.py* trains it.",
            "*video_model*: any Wan 2.1 or 2.2 text-to-video file.",
        ),
        "16 GB card, weights of your own",
        "Wan, umT5 and MOVA Apache-2.0.",
    ),
}
SEED = "Each run takes a new *seed*; *fixed* keeps it (node's menu or its button)."
LOW_MEMORY = "Low memory: text encoder on the CPU, decoding in tiles. Start ComfyUI without *--highvram*."
OF_ROW = {
    "Ovi 1.1 Text to Video with Sound, LoRA": (
        "LoRAs of Ovi or of Wan 2.2 5B, in models/loras; *strength_audio* 0 leaves the sound alone. "
        "Step-distilled LoRAs of Wan work badly here.",
    ),
    "Ovi 1.1 Text to Video with Sound, Low Memory": (
        LOW_MEMORY,
        "For a card of 12 GB: 832x480. By counted operations 5 s take 24 minutes on an RTX 3060 and 10 on an "
        "RTX 4070, 10 s 61 and 26; 30 of the 50 steps take three fifths of that, streamed weights come on "
        "top.",
    ),
    "MOVA Image to Video with Sound, Low Memory": (
        LOW_MEMORY,
        "*model* is one fp8 file (33 GB) that you make of the published folders (73 GB) with the "
        f"[repository of the pack]({REPOSITORY}): "
        "*python scripts/convert_model.py MOVA-360p MOVA-360p_fp8.safetensors --format fp8*",
    ),
    "Prism Image to Video with Sound, LoRA, 8 Steps": (
        "4-step LoRAs of LightX2V for Wan 2.2: 8 steps for 50, one pass in all but the first. Users report "
        "that the sound suffers.",
    ),
    "Ovi 1.1 Add Soundtrack to Video": (
        "Ovi was trained to make both: it keeps your video as an inpainting. Up to 10 s; *Video Slice* "
        "cuts longer ones.",
    ),
    "Ovi 1.1 Video for Sound": (
        "Ovi was trained to make both: it keeps your sound as an inpainting. Up to 10 s.",
    ),
    "MOVA Text to Video with Sound": (
        "MOVA always begins with an image: here a white one, as its authors do it.",
    ),
}
FACTS["Ovi 1.1, low memory"] = replace(
    FACTS["Ovi 1.1"],
    makes="5 or 10 s, 832x480, 24 fps, with speech",
    card=f"12 GB; RAM: 12 GB for its weights ({COMPUTED})",
    short="12 GB card, 21 GB download",
)
# One pattern for the four folders of the model: older and newer `hf` take several in different ways.
MODEL_FOLDERS = "*_[db]*/*"


def made_by(row: Row) -> str:
    """What comes out; of a film that gets a sound, the sound alone."""
    facts = FACTS[row.release.title]
    return facts.sound if row.job is sound_for_video else facts.makes


def description_of(row: Row) -> str:
    """The tip on a blueprint."""
    facts = FACTS[row.release.title]
    return f"{DOES[row.job][0]} Makes {made_by(row)}. Card: {facts.card}. Download: {facts.download}."


def note_of(row: Row) -> str:
    facts = FACTS[row.release.title]
    does, steps = DOES[row.job]
    parts = [
        f"### {does}",
        f"{steps} {SEED}",
        f"**Makes** {made_by(row)}. **Card**: {facts.card}. **Download**: {facts.download}.",
        "\n".join(f"- {hint}" for hint in (*OF_ROW.get(row.name, ()), *facts.hints)),
        files_of(row),
    ]
    if facts.licence:
        parts.append(f"**Licence**: {facts.licence}")
    return "\n\n".join(filter(None, parts))


def files_of(row: Row) -> str:
    """What *Download all* fetches, and by a command what it cannot."""
    links = [(file, link) for node in row.release.loaders for file, link in links_of(node)]
    folders: dict[str, list[str]] = {}
    for file, link in links:
        folders.setdefault(file.directory, []).append(link)
    listed = [f"- models/{folder}: {', '.join(inside)}" for folder, inside in folders.items()]
    if listed:
        listed.append("\nMove what your browser saved into these folders of ComfyUI, then press R.")
    commands = fetched_by_command(row)
    if not commands:
        return "\n".join(listed)
    why = "*Download all* cannot fetch the rest, whose names repeat. In a terminal, in the folder of ComfyUI:"
    return "\n".join([*listed, "", why, "", "```", *commands, "```"])


def links_of(node: Node) -> list[tuple[File, str]]:
    """The files of a loader, each with its link."""
    return [(file, f"[{file.name}]({file.url}) {file.gb:g} GB") for file in node.files]


def fetched_by_command(row: Row) -> list[str]:
    """The parts of MOVA that are loaded from its folders, for each of the folders that loaders look in."""
    values = [getattr(value, "value", None) for node in row.release.loaders for value in node.inputs.values()]
    parts = [Path(value) for value in values if isinstance(value, str) and value.startswith("MOVA-360p/")]
    folders = {part.parts[1] for part in parts}
    of_model = folders - {"audio_vae"}
    pattern = MODEL_FOLDERS if len(of_model) > 1 else f"{''.join(of_model)}/*"
    commands = []
    if of_model:
        commands.append(fetch(pattern, "diffusion_models"))
    if "audio_vae" in folders:
        commands.append(fetch("audio_vae/*", "vae"))
    return commands


def fetch(pattern: str, folder: str) -> str:
    return f'hf download {MOVA_360P} --include "{pattern}" --local-dir models/{folder}/MOVA-360p'
