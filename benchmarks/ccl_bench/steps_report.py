"""What is said of the counted steps: ratios, their bars, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccl_bench.steps import Count

# The most that each ratio may be.
BARS = {
    "v2a_over_joint_14b": 0.05,
    "v2a_over_joint_cpu": 0.05,
    "v2a_over_joint_tiny": 0.4,
    "a2v_over_joint_14b": 1.0,
    "sound_only_guidance_passes": 1.05,
    "joint_over_wan_14b": 1.08,
    "t2v_over_wan_14b": 1.05,
    "audio_substep_over_video_step_14b": 0.03,
    "ovi_traffic_over_upstream_t2v": 0.60,
    "ovi_traffic_over_upstream_i2v": 0.62,
}


def figures(found: dict[str, dict[str, Count]], wan: Count, traffic: dict[str, float]) -> dict[str, float]:
    """What the bars are of. A step of cfg is two passes of equal cost."""
    made = {}
    for name, runs in found.items():
        made[f"v2a_over_joint_{name}"] = runs["v2a"].later / runs["joint"].later
    large = found["14b"]
    made["a2v_over_joint_14b"] = large["a2v"].later / large["joint"].later
    made["sound_only_guidance_passes"] = large["sound_guided"].later / (large["joint"].later / 2)
    made["joint_over_wan_14b"] = large["joint"].later / wan.later
    made["t2v_over_wan_14b"] = large["t2v"].later / wan.later
    # Two sub-steps are between a run with 2 and one with 4 in a step.
    substep = (large["substeps_4"].later - large["substeps_2"].later) / 2
    made["audio_substep_over_video_step_14b"] = substep / large["joint"].later
    return made | traffic


def missed(found: dict[str, float]) -> list[str]:
    """The bars that a figure is above."""
    return [name for name, most in BARS.items() if found[name] > most]


def teraflops(runs: dict[str, Count], wan: Count) -> dict[str, dict[str, float]]:
    """Of the pass that fills, of the first step beside it, and of a later one."""
    every = {**runs, "wan": wan}
    return {
        task: {"fill": run.fill / 1e12, "first": run.steps[0] / 1e12, "step": run.later / 1e12}
        for task, run in every.items()
    }


def table(
    found: dict[str, dict[str, Count]], wan: dict[str, Count], seconds_of_tiny: dict[str, float]
) -> str:
    lines = ["size  task             fill TFLOP     step TFLOP  / joint   seconds a step"]
    for name, runs in found.items():
        for task, run in {**runs, "wan": wan[name]}.items():
            taken = seconds_of_tiny.get(task) if name == "tiny" else None
            timed = "" if taken is None else f"{taken:.3f}"
            line = f"{name:<5} {task:<13} {run.fill / 1e12:>13.5f}  {run.later / 1e12:>13.5f}  "
            lines.append(f"{line}{run.later / runs['joint'].later:>7.4f}   {timed}".rstrip())
    return "\n".join(lines)


def table_of_bars(found: dict[str, float]) -> str:
    lines = ["ratio                                 found      bar"]
    for name, most in BARS.items():
        lines.append(
            f"{name:<34} {found[name]:>8.4f} {most:>8.2f}{'' if found[name] <= most else '   MISSED'}"
        )
    return "\n".join(lines)
