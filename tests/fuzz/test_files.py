"""Damaged files through the loaders: each loads as it did, or is refused in one error that names the file.

Seeds are fixed, so that a fault comes back. --long tries forty times as many.
"""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_model
from support import all_in_one, tiny

LENGTH = 8  # bytes, which state how long the header is
STRANGE: tuple[Any, ...] = (None, -1, 0, 1e30, float("nan"), "", "x", [], {}, True, [0, 10**12], "9" * 400)
Damage = Callable[[random.Random, bytes], bytes]


def split(data: bytes) -> tuple[bytes, bytes]:
    """The header as JSON, and the numbers behind it."""
    end = LENGTH + int.from_bytes(data[:LENGTH], "little")
    return data[LENGTH:end], data[end:]


def joined(header: bytes, numbers: bytes) -> bytes:
    return len(header).to_bytes(LENGTH, "little") + header + numbers


def cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def flip(chance: random.Random, data: bytes) -> bytes:
    """A few bytes of the length and the header are others."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        found[chance.randrange(LENGTH + len(split(data)[0]))] = chance.randrange(256)
    return bytes(found)


def change_a_tensor(chance: random.Random, data: bytes) -> bytes:
    """One entry of the header is gone, has another name, or states something strange."""
    header, numbers = split(data)
    entries = json.loads(header)
    name = chance.choice([name for name in entries if name != "__metadata__"])
    entry = entries.pop(name)
    kind = chance.choice(("gone", "renamed", "dtype", "shape", "data_offsets"))
    if kind == "renamed":
        entries[name[:-1] + chance.choice("abcx.0")] = entry
    elif kind != "gone":
        entries[name] = {**entry, kind: chance.choice(STRANGE)}
    return joined(json.dumps(entries).encode(), numbers)


def change_the_configuration(chance: random.Random, data: bytes) -> bytes:
    """One value of the metadata's ccl_config is gone or strange."""
    header, numbers = split(data)
    entries = json.loads(header)
    config = json.loads(entries["__metadata__"]["ccl_config"])
    place = chance.choice(list(places(config)))
    *outer, last = place
    target = config
    for key in outer:
        target = target[key]
    if chance.random() < 0.2:
        del target[last]
    else:
        target[last] = chance.choice(STRANGE)
    entries["__metadata__"]["ccl_config"] = json.dumps(config)
    return joined(json.dumps(entries).encode(), numbers)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of nested objects and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [above] if above else []
    for key, inner in items:
        found += places(inner, (*above, key))
    return found


def take_tensors_out(chance: random.Random, data: bytes) -> bytes:
    """Some tensors are gone with their numbers, all of one layer or any."""
    header, numbers = split(data)
    entries = json.loads(header)
    names = [name for name in entries if name != "__metadata__"]
    some = chance.choice(names).rpartition(".")[0]
    gone = (
        {name for name in names if name.startswith(some)}
        if chance.random() < 0.5
        else {*chance.sample(names, chance.randint(1, 40))}
    )
    kept = {}
    moved = b""
    for name in names:
        start, end = entries[name]["data_offsets"]
        if name not in gone:
            kept[name] = {**entries[name], "data_offsets": [len(moved), len(moved) + end - start]}
            moved += numbers[start:end]
    return joined(json.dumps({"__metadata__": entries["__metadata__"], **kept}).encode(), moved)


def read_as_another_type(chance: random.Random, data: bytes) -> bytes:
    """The numbers of a tensor are stated to be of another type, in a shape that fits their bytes."""
    header, numbers = split(data)
    entries = json.loads(header)
    name = chance.choice([name for name in entries if name != "__metadata__"])
    start, end = entries[name]["data_offsets"]
    dtype, width = chance.choice((("I8", 1), ("F8_E4M3", 1), ("BOOL", 1), ("F16", 2), ("I64", 8), ("C64", 8)))
    if (end - start) % width:
        dtype, width = "U8", 1
    shape = entries[name]["shape"]
    count = (end - start) // width
    # As many rows, where they hold whole numbers of this width.
    shape = [shape[0], count // shape[0]] if shape and count % shape[0] == 0 else [count]
    entries[name] |= {"dtype": dtype, "shape": shape}
    return joined(json.dumps(entries).encode(), numbers)


DAMAGES: tuple[Damage, ...] = (
    cut,
    flip,
    change_a_tensor,
    change_the_configuration,
    take_tensors_out,
    read_as_another_type,
)
# What can never load.
ALWAYS = (take_tensors_out, read_as_another_type)
# Bytes that loads may take beside the file, for Python and torch; a size that a header lies of is far larger.
ROOM = 300 << 20
SECONDS = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny.write(tmp_path_factory.mktemp("whole") / "whole.safetensors").read_bytes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return all_in_one.write(tmp_path_factory.mktemp("whole") / "whole.safetensors").read_bytes()


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def try_damages(
    damage: Damage, whole: bytes, folder: Path, seeds: range, load: Callable[[str], Any] = load_model
) -> None:
    path = folder / "damaged.safetensors"
    before = peak()
    for seed in seeds:
        path.write_bytes(damage(random.Random(f"{damage.__name__} {seed}"), whole))
        started = time.monotonic()
        try:
            load(str(path))
            assert damage not in ALWAYS, f"seed {seed} of {damage.__name__} loads"
        except ValueError as error:
            assert path.name in str(error), f"seed {seed} of {damage.__name__}: {error}"
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"seed {seed} of {damage.__name__} is no clear error") from error
        assert time.monotonic() - started < SECONDS, f"seed {seed} of {damage.__name__} takes too long"
        assert peak() - before < ROOM, f"seed {seed} of {damage.__name__} takes too much memory"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_refused_by_its_name(damage: Damage, whole: bytes, tmp_path: Path) -> None:
    try_damages(damage, whole, tmp_path, range(25))


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_many_damaged_files_are_refused_by_their_names(damage: Damage, whole: bytes, tmp_path: Path) -> None:
    try_damages(damage, whole, tmp_path, range(25, 1000))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_refused_by_its_name(
    damage: Damage, checkpoint: bytes, tmp_path: Path
) -> None:
    try_damages(damage, checkpoint, tmp_path, range(10), load_checkpoint)


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_many_damaged_checkpoints_are_refused_by_their_names(
    damage: Damage, checkpoint: bytes, tmp_path: Path
) -> None:
    try_damages(damage, checkpoint, tmp_path, range(10, 180), load_checkpoint)
