"""The branches of a guided step as calls of the host: what a call switches off, and whose texts it runs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..guidance import Branch, StreamWeights

Options = dict[str, Any]
Conds = list[dict[str, Any]]
# Of the host's LTXAVModel too, so that the guider serves LTX-2.
ANCHOR = {"a2v_cross_attn": False, "v2a_cross_attn": False}


class Call(NamedTuple):
    """Branches that the host can run as one batch: one of each text, under the same switches of the model."""

    switches: Options
    positive: Branch | None
    negative: Branch | None


def calls(wanted: Mapping[Branch, StreamWeights], skip_layers: tuple[int, ...]) -> list[Call]:
    """As few calls of the host as the switches of these branches allow."""
    # By switches the branch of each text: False the positive one, True the negative one.
    groups: dict[tuple[tuple[str, Any], ...], dict[bool, Branch]] = {}
    for branch in Branch:
        if branch in wanted:
            switches = _switches(branch, wanted[branch], skip_layers)
            groups.setdefault(tuple(switches.items()), {})[branch.negative] = branch
    return [Call(dict(switches), texts.get(False), texts.get(True)) for switches, texts in groups.items()]


def _switches(branch: Branch, weight: StreamWeights, skip_layers: tuple[int, ...]) -> Options:
    skipped: Options = {"skip_layers": skip_layers} if skip_layers and branch.negative else {}
    if not branch.anchor:
        return skipped
    # Neither stream reads the other one here, so one without a weight need not run.
    unread = {"run_vx": weight.video, "run_ax": weight.audio}
    return {**ANCHOR, **{name: False for name, share in unread.items() if not share}, **skipped}


def with_switches(model_options: Options, switches: Options) -> Options:
    """The options with these transformer options; the caller's dicts are not touched."""
    if not switches:
        return model_options
    return {
        **model_options,
        "transformer_options": {**model_options.get("transformer_options", {}), **switches},
    }


def as_other_branch(conds: Conds) -> Conds:
    """The conds of a text for its anchor branch, under uuids of their own."""
    # The host's EasyCache and what a run keeps (given.py) tell passes apart by uuid, the same in every step.
    return [{**cond, "uuid": uuid.uuid5(cond["uuid"], "anchor")} for cond in conds]
