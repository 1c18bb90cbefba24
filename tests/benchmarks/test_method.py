"""benchmarks/method.py at toy size: a run is trained, cut, resumed, measured and drawn; the tables count
right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from safetensors.torch import load_file, save_file

from ccl_bench import ablation, ablation_settings, charts
from ccl_bench import ablation_attention as attention
from ccl_bench import ablation_report as report
from ccl_bench import ablation_training as training
from ccl_bench.ablation_data import Mixture
from ccl_bench.ablation_trainer import Recipe, Trainer
from ccl_bench.tiny_options import CHECKPOINT
from ccl_pack.ccl_core.attention_maps import AttentionMap
from ccl_pack.ccl_core.model.interactions import INTERACTIONS
from ccl_pack.ccl_core.training.flow import SEPARATE
from ccl_pack.ccl_core.training.tiny.ablations import VARIANTS, configuration, register
from ccl_pack.ccl_core.training.world.evaluate import draw_clips
from ccl_tools.console import ScriptError
from support.commands import load
from support.tiny import CONFIG, latents

command = load("benchmarks/method.py")


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(comfy.model_management, "in_training", False)
    shipped, threads = dict(INTERACTIONS), torch.get_num_threads()
    yield
    INTERACTIONS.clear()
    INTERACTIONS.update(shipped)
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path) -> Mixture:
    video, audio = latents(batch=6)
    text = torch.randn(6, 5, 24, generator=torch.Generator().manual_seed(0))
    tensors = {"video": video, "audio": audio, "text": text, "no_text": torch.zeros(1, 5, 24)}
    save_file({name: value.half() for name, value in tensors.items()}, tmp_path / "data-9-0.safetensors")
    return Mixture(tmp_path)


RECIPE = Recipe(steps=6, batch=2, warmup=1, threads=1)


def ignore(step: int) -> None:
    """A progress bar that shows nothing."""


@pytest.mark.parametrize("variant", ["ccl", "gated"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    variant: str, data: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    config = configuration(variant, CONFIG)
    whole, cut = training.Job(variant, 0, tmp_path), training.Job(f"{variant}-cut", 0, tmp_path)
    training.train(config, data, RECIPE, whole, ignore)

    def kill(step: int) -> None:
        if step == 3:
            monkeypatch.setattr(training, "SAVE_SECONDS", 1e9)
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        training.train(config, data, RECIPE, cut, kill)
    assert cut.state.exists() and not cut.weights.exists()
    steps = []
    training.train(config, data, RECIPE, cut, steps.append)
    assert steps == [3, 4, 5, 6], "the state of step 2 was the last that was saved"
    assert cut.log.read_text() == whole.log.read_text()
    assert [json.loads(text)["step"] for text in cut.log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    first, second = load_file(whole.weights), load_file(cut.weights)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not cut.state.exists()


def test_two_variants_from_data_to_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--stream-steps 1 --steps 2 --batch 2 --clips 4 --frames 17 --evaluation-clips 1 --sampling-steps 1"
    )
    arguments += " --seeds 0 --threads 1 --guidance cfg --variants ccl gated"
    options = command.parse(arguments.split())
    options.work, options.out = tmp_path / "work", tmp_path / "out"
    options.out.mkdir()
    ablation.choose_variants(options)
    ablation.run(options)
    report.collect(options)
    report.summarise(options.out)

    found = json.loads((options.out / "method.json").read_text())
    assert [run["variant"] for run in found["runs"]] == ["ccl", "gated"]
    for run in found["runs"]:
        assert {"t2av/cfg", "v2a/cfg"} <= set(run)
        assert len(run["gates"]) == (8 if run["variant"] == "gated" else 0)
    sizes = [run["parameters"] for run in found["runs"]]
    assert abs(sizes[1] - sizes[0]) <= 0.03 * sizes[0]
    page = (options.out / "README.md").read_text()
    assert page.count("| tanh-gated cross-attention |") == 3 and page.count("| CCL |") == 3
    assert len(list(options.work.glob("streams-*.safetensors"))) == 1, (
        "both variants begin from the same streams"
    )
    for name in ("loss", "sync"):
        assert (options.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (options.out / f"{name}.svg").read_text()[:500]

    def refuse(*_: Any) -> None:
        raise AssertionError("a finished run was started again")

    monkeypatch.setattr(ablation, "train", refuse)
    monkeypatch.setattr(ablation, "evaluate", refuse)
    ablation.run(options)
    assert "2 of 2 runs are done" in capsys.readouterr().out
    options.steps = 3
    with pytest.raises(ScriptError, match="holds runs with other settings"):
        ablation.run(options)

    options.steps, options.work = 2, tmp_path / "empty"
    options.work.mkdir()
    (tmp_path / "work" / "data-17-7000.safetensors").rename(options.work / "data-17-7000.safetensors")
    ablation.run(options)
    report.collect(options)
    assert json.loads((options.out / "method.json").read_text()) == found
    assert report.recorded(command.parse(["--steps", "3"])) == []


def test_a_run_that_was_cut_is_neither_collected_nor_taken_for_recorded(tmp_path: Path) -> None:
    options = command.parse(["--guidance", "cfg"])
    options.work = options.out = tmp_path
    runs = [run_of("ccl", 0, 0.9), run_of("ccl", 1, 0.9)]
    del runs[1]["v2a/cfg"]
    (tmp_path / "method.json").write_text(
        json.dumps({"settings": ablation_settings.shared_settings(options), "runs": runs})
    )
    assert [run["seed"] for run in report.recorded(options)] == [0]
    for run in runs:
        (tmp_path / f"ccl-{run['seed']}.json").write_text(json.dumps(run))
        (tmp_path / f"ccl-{run['seed']}.jsonl").write_text('{"step": 1, "task": "joint", "video": 1.0}\n')
    report.collect(options)
    assert [run["seed"] for run in json.loads((tmp_path / "method.json").read_text())["runs"]] == [0]


def test_a_variant_begins_from_its_trained_streams(data: Mixture, tmp_path: Path) -> None:
    register()
    jobs = {}
    for name in VARIANTS:
        config = configuration(name, CONFIG)
        alone, jobs[name] = training.streams_job(config, tmp_path)
        if not jobs[name].weights.exists():
            training.train(alone, data, replace(RECIPE, tasks={SEPARATE: 1.0}), jobs[name], ignore)
        start = load_file(jobs[name].weights)
        assert not any(key.startswith("interaction.") for key in start)
        model = Trainer(config, RECIPE, start).model
        assert all(torch.equal(model.get_parameter(key), value) for key, value in start.items())
    own = {"no_rope", "fusion"}
    assert len(set(jobs.values())) == 3 and len({jobs[name] for name in set(VARIANTS) - own}) == 1


def run_of(
    variant: str,
    seed: int,
    share: float | None,
    median: float | None = 20.0,
    onsets: int = 10,
    spurious: int = 2,
) -> dict[str, Any]:
    contacts = 10 if share is not None else 0
    totals = {
        "matched_62ms_share": share,
        "sync_error_ms_median": median,
        "onsets": onsets,
        "contacts": contacts,
    }
    totals |= {"matched_62ms": round(contacts * (share or 0))}
    totals |= {"spurious_onsets": spurious, "chance_62ms_share": 0.2}
    totals |= dict.fromkeys(("colour_right", "motion_right", "sound_right"), 1.0)
    curve = [[1, 2.0], [2, 1.0]]
    return {"variant": variant, "seed": seed, "parameters": 4_200_000, "gates": []} | {
        "losses": {
            "joint": {"curve": curve, "final": 1.0 + seed},
            "v2a": {"curve": [], "final": None},
            "a2v": {"curve": curve, "final": 0.5},
        },
        "t2av/cfg": totals,
        "v2a/cfg": totals,
    }


def test_the_tables_by_hand(tmp_path: Path) -> None:
    settings = {
        "stream_steps": 1,
        "steps": 2,
        "batch": 16,
        "frames": 33,
        "evaluation_clips": 32,
        "guidance": ["cfg"],
    }
    runs = [
        run_of("ccl", 0, 0.8),
        run_of("ccl", 1, 0.9),
        run_of("gated", 0, 0.5),
        run_of("gated", 1, None, None, 0, 0),
    ]
    titles = {"ccl": "CCL", "gated": "Gate", "fusion": "Fusion"}
    (tmp_path / "method.json").write_text(json.dumps({"settings": settings, "titles": titles, "runs": runs}))
    (tmp_path / "README.md").write_text(f"Before\n{report.BEGIN}\nold\n{report.END}\nAfter\n")
    report.summarise(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert (
        page.startswith("Before\n")
        and page.endswith("After\n")
        and "old" not in page
        and "Fusion" not in page
    )
    assert (
        "| CCL | 85% (80% to 90%) | 20% (20% to 20%) | 0.85 (0.80 to 0.90) | 20 ms (20 ms to 20 ms) |" in page
    )
    assert "| Gate | 50% | 20% | 0.50 | 20 ms |" in page
    assert "| +35 points, more than the seeds' spread of 10 |" in page
    assert "| chance | 20% (20% to 20%) | | 0.20 (0.20 to 0.20) | | | | | |" in page
    assert "| CCL | 4.200 M | 1.500 (1.000 to 2.000) | - | 0.500 (0.500 to 0.500) |" in page
    again = (tmp_path / "loss.svg").read_bytes()
    report.summarise(tmp_path)
    assert (tmp_path / "README.md").read_text() == page and (tmp_path / "loss.svg").read_bytes() == again


def test_a_lead_within_the_spread_is_called_less() -> None:
    assert report.margin([0.8, 0.9], [0.75, 0.85]) == "+5 points, less than the seeds' spread of 10"
    assert report.margin([0.5], []) == "-"


def test_curves_are_thinned_to_means_and_end_in_the_last_fifth() -> None:
    curve = [(step, float(step)) for step in range(1, 401)]
    assert report.thinned(curve)[:2] == [(2, 1.5), (4, 3.5)] and len(report.thinned(curve)) == 200
    assert report.final(curve) == pytest.approx(360.5)
    assert report.final([]) is None


def test_curves_of_a_log_are_sums_of_the_streams_a_task_generates(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "task": "joint", "video": 1.0, "audio": 0.5},
        {"step": 2, "task": "v2a", "audio": 0.25},
        {"step": 3, "task": "t2v + t2a", "video": 1.0, "audio": 1.0},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert report.curves_of(tmp_path / "a.jsonl") == {"joint": [(1, 1.5)], "v2a": [(2, 0.25)], "a2v": []}


def test_smoothing_begins_at_the_plain_mean() -> None:
    assert charts.smoothed([(1, 3.0), (2, 3.0)]) == pytest.approx([3.0, 3.0])


def test_the_foreground_of_a_clip_is_where_it_moves_and_sounds() -> None:
    (clip,) = draw_clips(3, 1, 33, 16)
    video, audio = attention.foreground(clip, "a2v", 144), attention.foreground(clip, "v2a", 66)
    assert video.shape == (9 * 16,) and audio.shape == (66,)
    assert 0 < video.float().mean() < 0.5
    for contact in clip.contacts:
        assert audio[min(65, int(contact * 32) + 1)]


def test_shares_of_a_map_by_hand() -> None:
    (clip,) = draw_clips(3, 1, 33, 16)
    mask = attention.foreground(clip, "a2v", 144)
    weights = torch.where(mask[:, None], torch.tensor([0.1, 0.9]), torch.tensor([0.7, 0.3]))
    found = AttentionMap(0, "a2v", 1, weights[None, None])
    assert attention.share_of(found, clip) == pytest.approx((0.7, 0.1))


def test_maps_of_ccl_tiny_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = command.parse(["--evaluation-clips", "1", "--frames", "17", "--attention"])
    options.out = tmp_path
    attention.draw(options)
    shares = json.loads((tmp_path / "attention.json").read_text())["context_share"]
    assert [(row["direction"], row["layer"]) for row in shares] == [
        (d, i) for d in ("a2v", "v2a") for i in range(6)
    ]
    assert all(0 < row[kind] < 1 for row in shares for kind in ("background", "foreground"))
    assert (tmp_path / "attention.png").exists() and "a2v, layer 5" in capsys.readouterr().out


def test_training_without_a_step_is_refused() -> None:
    with pytest.raises(SystemExit):
        command.parse(["--stream-steps", "0"])


def test_an_unknown_variant_is_refused() -> None:
    options = command.parse(["--variants", "ccl", "better"])
    with pytest.raises(ScriptError, match="unknown variants"):
        ablation.choose_variants(options)


def test_the_base_is_the_shipped_model_at_another_size() -> None:
    shipped = ablation.base_config(CHECKPOINT)
    small = training.sized(shipped, 4, (128, 80))
    assert (small.interaction.kind, small.clock, small.audio_shift) == ("cca", "causal", None)
    assert small.interaction.layers == (0, 1, 2, 3) and small.interaction.options.context_tokens == 16
    assert [(s.dim, s.ffn_dim, s.num_layers) for s in (small.video, small.audio)] == [
        (128, 384, 4),
        (80, 240, 4),
    ]
    assert replace(
        small, video=shipped.video, audio=shipped.audio, interaction=shipped.interaction
    ) == replace(shipped, audio_shift=None)
