"""Make the pictures of the templates: of ccl-tiny from real runs on the CPU, of the others a card.

    python scripts/make_thumbnails.py             writes workflows/*.jpg
    python scripts/make_thumbnails.py --cards     only those of models that are not run here

What a person gives (film, sound, image) is a clip that the first template makes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec, with_tests_on_path
from ccl_tools.prompt import set_everywhere, set_text

FOLDER = ROOT / "workflows"
GIVEN = "a red ball bounces, drum"
SEED = 7
QUALITY = 88


def save(picture: Any, name: str) -> None:
    path = FOLDER / f"{name}.jpg"
    picture.save(path, quality=QUALITY)
    say(f"{path.relative_to(ROOT)}  {path.stat().st_size // 1000} kB")


def cards() -> None:
    from ccl_tools.releases import TINY
    from ccl_tools.template_table import TABLE
    from ccl_tools.thumbnails import card

    made = [row for row in TABLE if row.release is not TINY]
    for row in made:
        save(card(row), row.name)
    for path in set(FOLDER.glob("*.jpg")) - {FOLDER / f"{row.name}.jpg" for row in TABLE}:
        path.unlink()


def results() -> None:
    """Every template of ccl-tiny through the server."""
    from ccl_tools.server import ComfyServer
    from ccl_tools.thumbnails import of_result

    load_pack()
    with_tests_on_path()
    from support import templates

    with tempfile.TemporaryDirectory(prefix="ccl-pictures-") as base, ComfyServer(Path(base)) as server:
        give(server, templates)
        for name in templates.TINY:
            save(of_result(result(server, templates.read(name))), name)


def give(server: Any, templates: Any) -> None:
    """The files that loaders of the templates name, of a clip by the first template."""
    import torch
    from PIL import Image

    from support.media_files import write_media

    prompt = prompt_of(server, templates.read(templates.FIRST))
    set_text(prompt, GIVEN)
    set_everywhere(prompt, "seed", SEED)
    film = server.base / "input" / templates.VIDEO
    film.write_bytes(made(server, prompt))
    clip = read(film)
    write_media(film.with_name(templates.SOUND), torch.from_numpy(clip.sound)[None], 16000, codec="mp3")
    Image.fromarray(clip.frames[0]).save(film.with_name(templates.IMAGE))


def prompt_of(server: Any, workflow: dict[str, Any]) -> dict[str, Any]:
    from ccl_tools.workflow import to_prompt

    return to_prompt(workflow, server.get("/object_info"))


def made(server: Any, prompt: dict[str, Any]) -> bytes:
    """The file that a prompt saves."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    [file] = [*run.files(".mp4"), *run.files(".flac")]
    return server.view(file)


def result(server: Any, workflow: dict[str, Any]) -> Any:
    path = server.base / "result"
    path.write_bytes(made(server, prompt_of(server, workflow)))
    return read(path)


def read(path: Path) -> Any:
    """Frames and sound of a file, without frames where it has none."""
    import av
    import numpy

    from ccl_tools.thumbnails import Result

    with av.open(str(path)) as container:
        audio = av.AudioResampler(format="fltp", layout="mono")
        frames, sound = [], []
        for frame in container.decode(*container.streams):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(format="rgb24"))
            else:
                sound += [part.to_ndarray()[0] for part in audio.resample(frame)]
    return Result(numpy.stack(frames) if frames else None, numpy.concatenate(sound))


def main(options: argparse.Namespace) -> None:
    cards()
    if not options.cards:
        results()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cards", action="store_true", help="only the cards")
    chosen = parser.parse_args()
    reexec()
    exit_on_script_error(lambda: main(chosen))
