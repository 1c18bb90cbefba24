"""The three stages of uniavgen-tiny: voices alone, both streams, five tasks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from ccl_pack.ccl_core.host.files.check import wanted_tensors
from ccl_pack.ccl_core.training.finetune.encoders import Encoders
from ccl_pack.ccl_core.training.finetune.load import read_model
from ccl_pack.ccl_core.training.finetune.settings import Settings
from ccl_pack.ccl_core.training.finetune.settings_file import read_settings
from ccl_pack.ccl_core.training.flow import TRAINED
from support.ccl_tiny import CONFIGS


@pytest.fixture(scope="module")
def stages() -> list[Settings]:
    return [read_settings(CONFIGS / f"uniavgen-tiny-{name}.json") for name in ("voices", "joint", "tasks")]


def test_each_stage_begins_from_the_last_save_of_the_one_before(stages: list[Settings]) -> None:
    for former, later in pairwise(stages):
        last = Path(former.train.out) / f"step-{former.train.steps:06}" / "model.safetensors"
        assert Path(later.model.video) == last and later.encoders == former.encoders


def test_the_model_is_small_enough_to_ship_and_fits_the_encoders_of_ccl_tiny(stages: list[Settings]) -> None:
    _, config = read_model(stages[0].model)
    assert 2 * sum(value.numel() for value in wanted_tensors(config).values()) < 10e6, "bytes in fp16"
    video, audio, _ = Encoders(stages[0].encoders, config).parts
    assert audio.latent_channels == config.audio_latent.channels
    assert video.latent_channels == config.video.in_dim


def test_the_last_stage_has_the_five_tasks_in_the_shares_of_the_paper(stages: list[Settings]) -> None:
    shares = {"joint": 4, "reference": 1, "continuation": 1, "v2a": 2, "a2v": 2}
    assert stages[-1].train.tasks == shares
    # A voice is heard by all clips of a pass, or by none.
    assert TRAINED["reference"].voice and stages[-1].train.task_of == "pass"


def test_the_loss_of_the_face_masks_fades_while_both_streams_learn_and_is_over_then(
    stages: list[Settings],
) -> None:
    assert [stage.train.face_weight for stage in stages[1:]] == [(0.1, 0), (0, 0)]
