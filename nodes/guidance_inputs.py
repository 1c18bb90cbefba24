"""The inputs of guidance: a mode with its scales and ranges, and what the widgets say as settings."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ccl_core.guidance import MODES, SCALE_NAMES, TermScale, branch_weights, default_settings
from ..ccl_core.host.kept_parts import CHOICES as KEPT_CHOICES
from .inputs import FROM_MODEL, given

SCALE_TOOLTIPS = {
    "text": "How far the {stream} follows the prompt instead of the negative prompt. 1 = no guidance.",
    "cross": "How far the {stream} follows the other stream instead of the anchor (no coupling). 1 = no "
    "guidance.",
    "joint": "How far the {stream} follows prompt and other stream together instead of neither. 1 = no "
    "guidance.",
}
RANGE_TOOLTIPS = {
    "start": "Part of the run at which this guidance starts: 0 = first step. Before it the scale is 1.",
    "end": "Part of the run at which this guidance ends: 1 = last step. After it the scale is 1.",
}
# What the widget of the lowest sigma shows where a mode decides.
OF_MODE = -1.0
SKIP_LAYERS_TOOLTIP = (
    "Numbers of the joint layers to leave out in the passes with negative text, such as 11 or 7, 8, 9. "
    "Empty: none. Joint models of this pack only."
)


def mode_tooltip() -> str:
    """What each mode does, with its passes of the model per step."""
    rows = [
        f"{name} ({len(branch_weights(name, default_settings(name)))}): {MODES[name].about}."
        for name in MODES
    ]
    start = (
        f"What each step moves away from, with the passes of the model it takes. {FROM_MODEL}: the mode, "
        "scales and skipped layers it was published with; a model this pack does not know gets cfg."
    )
    return " ".join([start, *rows, "A scale of 1 is no guidance, and its passes are not run."])


def scale_widget(stream: str, term: str) -> str:
    return f"{stream}_{SCALE_NAMES[term]}"


def range_widget(term: str, bound: str) -> str:
    return f"{SCALE_NAMES[term]}_{bound}_percent"


def _scale_input(stream: str, term: str, default: float) -> io.Float.Input:
    return io.Float.Input(
        scale_widget(stream, term),
        default=default,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip=SCALE_TOOLTIPS[term].format(stream=stream),
    )


def _range_input(term: str, bound: str, default: float) -> io.Float.Input:
    return io.Float.Input(
        range_widget(term, bound),
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        optional=True,
        advanced=True,
        tooltip=RANGE_TOOLTIPS[bound],
    )


def _mode_option(name: str) -> io.DynamicCombo.Option:
    """A mode with the inputs of its terms."""
    defaults = default_settings(name)
    scales = []
    ranges = []
    for term, default in defaults.items():
        scales += [_scale_input(stream, term, getattr(default, stream)) for stream in ("video", "audio")]
        ranges += [_range_input(term, bound, getattr(default, bound)) for bound in ("start", "end")]
    # The frontend puts optional inputs (the ranges) behind the required ones in any case.
    return io.DynamicCombo.Option(name, [*scales, *ranges])


def _mode_options() -> list[io.DynamicCombo.Option]:
    return [io.DynamicCombo.Option(FROM_MODEL, []), *(_mode_option(name) for name in MODES)]


def guidance_inputs() -> list[io.Input]:
    return [
        io.DynamicCombo.Input("mode", options=_mode_options(), tooltip=mode_tooltip()),
        io.String.Input("skip_layers", optional=True, default="", tooltip=SKIP_LAYERS_TOOLTIP, advanced=True),
        io.Combo.Input(
            "kept_parts",
            options=[FROM_MODEL, *KEPT_CHOICES],
            default=FROM_MODEL,
            optional=True,
            advanced=True,
            tooltip="How the model sees parts that a mask keeps. clean: as they are, at time 0. noisy: with "
            f"the noise of the step. {FROM_MODEL}: as it was trained. What comes back is the same bits.",
        ),
        # Of every mode, and not among the inputs of one: saved workflows hold values by their place.
        io.Float.Input(
            "lowest_sigma",
            display_name="lowest_sigma (-1: from mode)",
            default=OF_MODE,
            min=OF_MODE,
            max=1000.0,
            step=0.05,
            round=0.001,
            optional=True,
            advanced=True,
            tooltip="Noise level of a step below which every scale is 1. -1: as the mode was published "
            f"({_published_sigmas()}, else 0). 0: guidance in the whole run.",
        ),
    ]


def _published_sigmas() -> str:
    """Modes that end at a noise level, and at which."""
    scales = {name: next(iter(default_settings(name).values())) for name in MODES}
    return ", ".join(f"{name} {scale.least_sigma:g}" for name, scale in scales.items() if scale.least_sigma)


def settings_of(mode: dict[str, Any]) -> dict[str, TermScale]:
    """The scales and ranges that the widgets of a mode say."""
    return {
        term: _term_scale(mode, term, default) for term, default in default_settings(mode["mode"]).items()
    }


def _term_scale(mode: dict[str, Any], term: str, default: TermScale) -> TermScale:
    return TermScale(
        video=mode[scale_widget("video", term)],
        audio=mode[scale_widget("audio", term)],
        # Optional inputs, which a prompt of the API may leave out.
        start=given(mode, range_widget(term, "start"), default.start),
        end=given(mode, range_widget(term, "end"), default.end),
        least_sigma=default.least_sigma,
    )
