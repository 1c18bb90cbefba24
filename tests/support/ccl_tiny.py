"""The configuration that ccl-tiny is trained with."""

from __future__ import annotations

from ccl_pack.ccl_core.metadata import read_config
from ccl_tools.environment import ROOT

CONFIGS = ROOT / "scripts" / "configs"
CCL_TINY = read_config((CONFIGS / "ccl-tiny.model.json").read_text())
