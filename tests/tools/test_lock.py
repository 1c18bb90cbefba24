"""Locks between programs."""

from __future__ import annotations

from pathlib import Path

from ccl_tools import lock


def test_one_holder_alone_keeps_every_other_out(tmp_path: Path) -> None:
    with lock.only_one(tmp_path), (tmp_path / ".lock").open("a+") as second:
        assert not lock.try_lock(second.fileno())
        assert not lock.try_lock(second.fileno(), shared=True)
    with (tmp_path / ".lock").open("a+") as third:
        assert lock.try_lock(third.fileno())


def test_holders_beside_each_other_keep_out_who_wants_to_be_alone(tmp_path: Path) -> None:
    with lock.share(tmp_path / "users", "waiting"):
        lock.share(tmp_path / "users", "waiting").close()
        with lock.if_unused(tmp_path / "users") as unused:
            assert unused is None
    with lock.if_unused(tmp_path / "users") as unused:
        assert unused is not None
