"""The number of a run: the same for the same inputs, another where something changes the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.host.identity import identity
from ccl_pack.ccl_core.host.media.picture import open_film
from support import films, tiny
from support.tiny_vaes import audio_vae

WEIGHT = "diffusion_model.blocks.0.self_attn.q.weight"


def with_patch(strength: float) -> Any:
    model = tiny.patcher().clone()
    model.add_patches({WEIGHT: ("diff", (torch.ones(48, 48),))}, strength)
    return model


def test_equal_inputs_have_one_number() -> None:
    made = [
        identity(tiny.patcher(), tiny.conditioning(), tiny.av_latent(), audio_vae(), {"b": 1.0, "a": None})
        for _ in range(2)
    ]
    assert made[0] == made[1] and len(made[0]) == 24


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        ("1", 1),
        ([1, [2, 3]], [1, [2, 4]]),
        ({"a": 1}, {"a": 2}),
        (tiny.av_latent(2), tiny.av_latent(3)),
        (tiny.conditioning(1), tiny.conditioning(2)),
        (tiny.dual_conditioning(1, 2), tiny.dual_conditioning(1, 3)),
        (torch.ones(2), torch.ones(2, 1)),
    ],
)
def test_other_inputs_have_another(one: Any, other: Any) -> None:
    assert identity(one) != identity(other)


def test_weights_and_patches_count() -> None:
    numbers = {
        identity(tiny.patcher()),
        identity(tiny.patcher(seed=1)),
        identity(with_patch(0.5)),
        identity(with_patch(0.25)),
        identity(tiny.patcher(shift=5.0)),
    }
    assert len(numbers) == 5


def test_a_lora_counts_the_same_once_it_is_in_the_weights() -> None:
    model = with_patch(0.5)
    before = identity(model)
    model.patch_model()
    try:
        assert identity(model) == before
    finally:
        model.unpatch_model()


def test_a_file_that_was_changed_is_another(tmp_path: Path) -> None:
    file = films.write(tmp_path / "film.mp4")
    before = identity(open_film(str(file)))
    assert identity(open_film(str(file))) == before
    assert identity(open_film(str(file), start=1.0)) != before
    films.write(file, films.Recipe(level=0.2))
    assert identity(open_film(str(file))) != before
