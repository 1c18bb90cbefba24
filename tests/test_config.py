"""The configuration of a joint model."""

from __future__ import annotations

import pytest

from ccl_pack.ccl_core.config import CCAOptions, FusionOptions, InteractionConfig


def test_an_interaction_wants_the_options_of_its_kind() -> None:
    with pytest.raises(ValueError, match="'cca' has options of the type FusionOptions, wanted CCAOptions"):
        InteractionConfig("cca", (0,), FusionOptions())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="the kind 'telepathy', known are cca"):
        InteractionConfig("telepathy", (0,), CCAOptions())
