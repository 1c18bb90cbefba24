"""Training of real models: what is trained, that gradients do not depend on memory saving, that runs go
on exactly.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.quant_ops
import pytest
import torch
from safetensors.torch import load_file

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig, StreamConfig
from ccl_pack.ccl_core.host.files.build import load_files, load_model
from ccl_pack.ccl_core.host.files.lora import Strengths, apply_lora
from ccl_pack.ccl_core.host.files.read import ModelPaths
from ccl_pack.ccl_core.metadata import write_config
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.rotary import axis_table
from ccl_pack.ccl_core.model.speech_text import bytes_of
from ccl_pack.ccl_core.training.finetune.cache import Cache
from ccl_pack.ccl_core.training.finetune.course import Course, check_validations
from ccl_pack.ccl_core.training.finetune.load import give_rope_a_gradient, part_of, read_model
from ccl_pack.ccl_core.training.finetune.order import Order, generator_of, split_validation, stratified
from ccl_pack.ccl_core.training.finetune.run import Save, cut, finetune, overview, validate, validations
from ccl_pack.ccl_core.training.finetune.saves import new_save, saves
from ccl_pack.ccl_core.training.finetune.settings import Settings
from ccl_pack.ccl_core.training.finetune.settings_file import read_settings
from ccl_pack.ccl_core.training.finetune.trainer import FineTuner
from ccl_pack.ccl_core.training.flow import FACE, STREAMS
from support.tiny import CONFIG, latents, write
from support.tiny_runs import configuration, log_lines, saved, settings

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_management, "in_training", True)


def trainer_of(chosen: Settings) -> FineTuner:
    return FineTuner(chosen, *read_model(chosen.model), CPU)


def forward(model: JointModel, **more: Any) -> list[torch.Tensor]:
    video, audio = latents(9)
    time, text = torch.full((1,), 600.0), torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return model([video, audio], (time, time), text, transformer_options={}, **more)


def test_a_run_writes_what_it_is_told_to_measure(tmp_path: Path) -> None:
    chosen = settings(tmp_path, train={"steps": 3, "validate_every": 2}, held_out=1)

    def measure(trainer: FineTuner) -> dict[str, Any]:
        return {"validation": {"joint/video": 1.0}, "doubled": 2 * trainer.step}

    finetune(chosen, *read_model(chosen.model), CPU, measure=measure)
    lines = [line for line in log_lines(tmp_path / "out" / "log.jsonl") if "validation" in line]
    assert [(line["step"], line["doubled"]) for line in lines] == [(0, 0), (2, 4), (3, 6)]
    assert validations(tmp_path / "out" / "log.jsonl") == {0: 1.0, 2: 1.0, 3: 1.0}


@pytest.mark.parametrize(
    ("how", "moved"),
    [
        ({}, {"a2v", "v2a"}),
        ({"audio": "full"}, {"a2v", "v2a", "audio"}),
        ({"interaction": "frozen", "video": "full"}, {"video"}),
        ({"interaction": "lora", "audio": "lora", "video": "lora"}, set()),
    ],
)
def test_only_the_chosen_parts_change(tmp_path: Path, how: dict[str, str], moved: set[str]) -> None:
    from ccl_pack.ccl_core.host.files.identify import section

    chosen = settings(tmp_path, train=how)
    trainer = trainer_of(chosen)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    for _ in range(6):
        trainer.update()
    after = trainer.model.state_dict()
    assert {section(key) for key in before if not torch.equal(before[key], after[key])} == moved
    if moved:
        still = [key for key in before if section(key) in moved and torch.equal(before[key], after[key])]
        assert still == []


def test_each_part_has_its_rate_and_norms_do_not_decay(tmp_path: Path) -> None:
    trainer = trainer_of(settings(tmp_path, train={"audio": "lora", "weight_decay": 0.5}))
    rates = {(group["lr"], group["weight_decay"]) for group in trainer.groups()}
    assert rates == {(3e-3, 0.5), (3e-3, 0.0), (1e-3, 0.5)}
    assert all("blocks." in name for name in trainer.adapters)


def test_layers_computed_again_give_the_same_gradient(tmp_path: Path) -> None:
    gradients = []
    for saving in (True, False):
        trainer = trainer_of(
            settings(tmp_path, train={"checkpointing": saving, "audio": "full", "video": "lora"})
        )
        clips = [entry.load() for entry in trainer.order.batch(0)]
        found = trainer.losses(clips, ["joint"] * len(clips), torch.full((len(clips),), 0.5), generator_of(1))
        sum(found.values()).backward()
        gradients.append({name: value.grad for name, value in trainer.trained.items()})
    assert all(value is not None for name, value in gradients[0].items() if not name.endswith("down"))
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name])


def test_half_precision_is_close(tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(settings(tmp_path, train={"precision": precision}))
        losses.append([sum(trainer.update()["loss"].values()) for _ in range(4)])
        assert {value.dtype for value in trainer.trained.values()} == {torch.float32}
    assert losses[0] == pytest.approx(losses[1], rel=0.03) and losses[0] != losses[1]


@pytest.mark.parametrize("kind", ["fusion", "bridge"])
def test_published_couplings_train(tmp_path: Path, kind: str) -> None:
    chosen = settings(
        tmp_path, train={"steps": 8}, held_out=1, interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]())
    )
    trainer = trainer_of(chosen)
    before = validate(trainer)
    for _ in range(8):
        line = trainer.update()
        assert len({name.split("/")[0] for name in line["loss"]}) == 1
    assert validate(trainer) != before


def test_the_gradient_of_the_host_rope_is_that_of_its_matrices() -> None:
    give_rope_a_gradient()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 2, 8, generator=generator, dtype=torch.float32, requires_grad=True)
    freqs = axis_table(torch.arange(3), 8)
    out = comfy.quant_ops.ck.apply_rope_split_half1(x, freqs)
    upstream = torch.randn(out.shape, generator=generator)
    (found,) = torch.autograd.grad(out, x, upstream)
    first, second = x.detach().chunk(2, dim=-1)
    pairs = torch.stack([first, second], dim=-1).requires_grad_(True)  # (b, n, h, d / 2, 2)
    turned = (freqs @ pairs[..., None])[..., 0]
    by_hand = torch.cat(turned.unbind(-1), dim=-1)
    torch.testing.assert_close(by_hand, out)
    (wanted,) = torch.autograd.grad(by_hand, pairs, upstream)
    torch.testing.assert_close(found, torch.cat(wanted.unbind(-1), dim=-1))


def test_image_to_video_trains(tmp_path: Path) -> None:
    video = StreamConfig(**(vars(CONFIG.video) | {"in_dim": 36}))
    trainer = trainer_of(settings(tmp_path, video=video))
    assert trainer.update()["norm"] > 0


def test_an_epoch_takes_each_clip_once_and_no_batch_mixes_shapes(tmp_path: Path) -> None:
    trainer = trainer_of(settings(tmp_path))
    order = trainer.order
    for epoch in range(3):
        batches = [order.batch(epoch * order.count + i) for i in range(order.count)]
        assert Counter(entry.name for batch in batches for entry in batch) == Counter(
            f"clip-{i}.mp4" for i in range(5)
        )
        for batch in batches:
            assert len({entry.shapes for entry in batch}) == 1
    entries = [entry for group in order.groups for entry in group]
    again = Order(entries, 2, seed=0)
    assert [again.batch(i) for i in range(9)] == [order.batch(i) for i in range(9)]
    chosen, others = split_validation(entries, 2)
    assert (
        split_validation([entry for entry in entries if entry in chosen or entry == others[0]], 2)[0]
        == chosen
    )
    with pytest.raises(ValueError, match="leave some to train on"):
        split_validation(entries, 5)


def test_times_keep_to_the_levels_that_are_trained(tmp_path: Path) -> None:
    trainer = trainer_of(settings(tmp_path, train={"times": [0.9, 1.0], "shift": 5.0}))
    uniform = stratified(1000, generator_of(0))
    assert sorted((uniform * 1000).int().tolist()) == list(range(1000))
    video, _ = trainer.times(uniform)
    assert 0.9 - 1e-6 <= video.min() < 0.901 and 0.999 < video.max() <= 1
    trainer.config = replace(trainer.config, audio_shift=1.0)
    assert trainer.times(uniform)[1].min() == pytest.approx(0.9 / (0.9 + 5 * 0.1), abs=1e-3)


RECIPES = {
    "lora": {"video": "lora", "ema": 0.9, "accumulate": 2, "text_drop": 0.3},
    "muon": {
        "video": "lora",
        "audio": "full",
        "optimiser": "muon",
        "audio_lag": [0.5, 4],
        "loss_weights": {"motion": 3, "loudness": 1},
    },
}


@pytest.mark.parametrize("how", RECIPES.values(), ids=RECIPES)
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, how: dict[str, Any]) -> None:
    whole = trainer_of(settings(tmp_path, train=how))
    expected = [whole.update()["loss"] for _ in range(6)]
    first = trainer_of(settings(tmp_path, train=how))
    assert [first.update()["loss"] for _ in range(3)] == expected[:3]
    first.save(tmp_path / "state.pt")
    second = trainer_of(settings(tmp_path, train=how))
    second.resume(tmp_path / "state.pt")
    assert [second.update()["loss"] for _ in range(3)] == expected[3:]
    for name, value in whole.trained.items():
        assert torch.equal(second.trained[name], value)
        assert whole.average is None or torch.equal(second.average[name], whole.average[name])
    assert second.course == whole.course
    other = trainer_of(settings(tmp_path, train=how | {"lora_rank": 2}))
    with pytest.raises(ValueError, match=r"train\.lora_rank was 4 and is 2"):
        other.resume(tmp_path / "state.pt")


def test_all_parts_of_a_configuration_start_at_random_and_train(tmp_path: Path) -> None:
    all_full = dict.fromkeys(("interaction", "audio", "video"), "full")
    how = all_full | {"optimiser": "muon", "muon_rates": dict.fromkeys(all_full, 0.02)}
    chosen = settings(tmp_path, train=how, model={"video": None, "config": "tiny.json"})
    first, second = trainer_of(chosen), trainer_of(chosen)
    before = {name: value.clone() for name, value in first.model.state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in second.model.state_dict().items())
    assert not before["head.head.weight"].any() and before["blocks.0.self_attn.q.weight"].std() > 0.01
    for _ in range(12):
        first.update()
    still = [name for name, value in first.model.state_dict().items() if torch.equal(value, before[name])]
    assert still == []
    finetune(chosen, *read_model(chosen.model), CPU)
    loaded = load_model(str(saved(tmp_path) / "model.safetensors"))
    assert loaded.model.ccl_config == CONFIG


def test_fresh_parts_are_new_and_the_others_as_in_the_files(tmp_path: Path) -> None:
    chosen = settings(tmp_path, train={"audio": "full"}, model={"fresh": ["audio"]})
    files = load_file(tmp_path / "tiny.safetensors")
    changed = {
        part_of(name)
        for name, value in trainer_of(chosen).model.state_dict().items()
        if not torch.equal(value, files[name])
    }
    assert changed == {"audio"}


def test_clips_of_one_stream_train_it_alone(tmp_path: Path) -> None:
    how = {"audio": "full", "video": "full", "loss_weights": {"motion": 3, "loudness": 1}}
    trainer = trainer_of(settings(tmp_path, train=how, lone=True))
    seen = {}
    for index in range(trainer.order.count):
        entries = trainer.order.batch(index)
        clips = [entry.load() for entry in entries]
        tasks = trainer.draw_tasks(clips, generator_of(0, index))
        assert len({clip.only_task for clip in clips}) == 1
        if clips[0].only_task is not None:
            assert set(tasks) == {clips[0].only_task}
            found = trainer.losses(clips, tasks, torch.full((len(clips),), 0.5), generator_of(1))
            seen |= dict.fromkeys(found, tuple(sorted(entry.name for entry in entries)))
            sum(found.values()).backward()
            parts = {part_of(name) for name, value in trainer.trained.items() if value.grad is not None}
            assert parts == {"interaction", "audio" if tasks[0] == "t2a" else "video"}
            for optimiser in trainer.optimisers:
                optimiser.zero_grad(set_to_none=True)
    assert set(seen) == {"t2a/audio", "t2v/video"}
    assert seen["t2a/audio"] == ("lone-0", "lone-1") and seen["t2v/video"] == ("lone-2",)


def test_a_pass_has_one_task_where_that_is_asked(tmp_path: Path) -> None:
    trainer = trainer_of(settings(tmp_path, train={"task_of": "pass"}))
    clips = [entry.load() for entry in trainer.order.batch(0)] * 8
    drawn = [trainer.draw_tasks(clips, generator_of(i)) for i in range(20)]
    assert all(tasks == tasks[:1] * len(clips) for tasks in drawn)
    assert len({tasks[0] for tasks in drawn}) > 2


def test_the_last_saves_and_the_best_are_kept(tmp_path: Path) -> None:
    how = {"steps": 8, "save_every": 2, "keep": 2, "rates": {"interaction": 0.3}}
    finetune(chosen := settings(tmp_path, train=how, held_out=1), *read_model(chosen.model), CPU)
    out = tmp_path / "out"
    losses = validations(out / "log.jsonl")
    best = min((step for step in losses if step), key=losses.get)
    assert list(saves(out)) == sorted({6, 8, best})
    for folder in saves(out).values():
        load_model(str(folder / "model.safetensors"))


def test_a_save_that_fails_leaves_those_before_it(tmp_path: Path) -> None:
    with new_save(tmp_path, 1) as folder:
        (folder / "state.pt").touch()
    with pytest.raises(ValueError, match=r"step-000002 could not be written \(the disk is full\)"):
        write_half(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "step-000001"], "the half is gone"


def write_half(out: Path) -> None:
    with new_save(out, 2) as folder:
        (folder / "state.pt").touch()
        raise OSError("the disk is full")


def test_a_run_that_leaves_its_course_stops_and_saves_nothing(tmp_path: Path) -> None:
    how = {"steps": 60, "save_every": 1, "keep": 1, "clip": 1e9, "warmup": 2}
    chosen = settings(tmp_path, train=how | {"audio": "full", "rates": {"interaction": 30.0, "audio": 30.0}})
    with pytest.raises(ValueError, match=r"step \d+: the (loss has left its bounds|gradient is not finite)"):
        finetune(chosen, *read_model(chosen.model), CPU)
    stopped = log_lines(tmp_path / "out" / "log.jsonl")[-1]["step"]
    assert list(saves(tmp_path / "out")) == [stopped]


def test_the_bounds_by_hand() -> None:
    course = Course()
    for _ in range(5):
        course = course.after(1.0, warm=True)
    course.check(5)
    assert course == Course(1.0, 1.0, 1.0)
    for _ in range(200):
        course = course.after(4.0, warm=True)
    with pytest.raises(ValueError, match="step 205: the loss has left its bounds"):
        course.check(205)
    warming = Course()
    for loss in (1.0, *[25.0] * 199):
        warming = warming.after(loss, warm=False)
    warming.check(200)
    with pytest.raises(ValueError, match=r"step 201: the loss has left its bounds, .* and was 1\."):
        warming.after(1e6, warm=False).check(201)
    check_validations([1.0, 1.3, 0.9, 1.3], 40)
    with pytest.raises(ValueError, match="at two validations in a row"):
        check_validations([1.0, 1.3, 1.3], 20)
    with pytest.raises(ValueError, match="validation clips is nan"):
        check_validations([1.0, float("nan")], 10)


def test_samples_do_not_change_the_training(tmp_path: Path) -> None:
    logs = {}
    for name in ("plain", "sampled"):
        (tmp_path / name).mkdir()
        chosen = settings(tmp_path / name, train={"steps": 4, "save_every": 1})
        seen = []

        def sample(save: Save, seen: list[int] = seen) -> None:
            assert not comfy.model_management.in_training and torch.is_inference_mode_enabled()
            loaded = load_files(save.files)
            forward(loaded.model.diffusion_model)
            torch.manual_seed(save.step)
            seen.append(save.step)
            if save.step == 2:
                raise RuntimeError("no memory")

        finetune(chosen, *read_model(chosen.model), CPU, sample if name == "sampled" else None)
        logs[name] = log_lines(tmp_path / name / "out" / "log.jsonl")
    assert seen == [1, 2, 3, 4], "a sample that fails does not stop the run"
    assert logs["plain"] == logs["sampled"] and comfy.model_management.in_training


def test_the_overview_names_the_rates_of_the_settings_also_where_a_run_goes_on(tmp_path: Path) -> None:
    chosen = settings(tmp_path, train={"steps": 2, "warmup": 100})
    begun = overview(trainer_of(chosen))
    again = finetune(chosen, *read_model(chosen.model), CPU)
    again.resume(saves(tmp_path / "out")[2] / "state.pt")
    assert " at 0.003;" in begun and overview(again) == begun.replace("step 0", "step 2")


def test_a_damaged_checkpoint_is_named_with_its_remedy(tmp_path: Path) -> None:
    trainer = trainer_of(settings(tmp_path))
    path = tmp_path / "state.pt"
    trainer.save(path)
    whole = path.read_bytes()
    for damage in (b"", b"x", whole[:100], whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(damage)
        with pytest.raises(
            ValueError, match=r"state\.pt cannot be read \(.*\): put a copy of it back, or delete its folder"
        ):
            trainer.resume(path)
    for other in ({"step": 1}, [1, 2], torch.ones(2)):
        torch.save(other, path)
        with pytest.raises(ValueError, match=r"state\.pt (lacks deciding|cannot be read)"):
            trainer.resume(path)
    path.write_bytes(whole)
    trainer.resume(path)


def test_the_average_follows_the_weights_and_is_what_is_exported(tmp_path: Path) -> None:
    chosen = settings(tmp_path, train={"ema": 0.5, "steps": 3})
    trainer = trainer_of(chosen)
    name = "interaction.0.a2v.o.weight"
    average = trainer.trained[name].detach().clone()
    for _ in range(3):
        trainer.update()
        average = 0.5 * average + 0.5 * trainer.trained[name].detach()
    torch.testing.assert_close(trainer.average[name], average)
    finetune(chosen, *read_model(chosen.model), CPU)
    torch.testing.assert_close(load_file(saved(tmp_path) / "model.safetensors")[name], average)


def test_the_whole_model_loads_as_it_was_trained(tmp_path: Path) -> None:
    chosen = settings(tmp_path, train={"audio": "full"}, held_out=1)
    trainer = finetune(chosen, *read_model(chosen.model), CPU)
    loaded = load_model(str(saved(tmp_path) / "model.safetensors"), {"dtype": torch.float32})
    for made, wanted in zip(forward(loaded.model.diffusion_model), forward(trainer.model), strict=True):
        torch.testing.assert_close(made, wanted)
    lines = log_lines(tmp_path / "out" / "log.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert set(lines[0]["validation"]) == set(lines[-1]["validation"]) and lines[0] != lines[-1]


def test_parts_of_their_own_are_exported_alone(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = configuration(tmp_path, model={"video": "video.safetensors"})
    sd, config = load_file(tmp_path / "tiny.safetensors"), write_config(CONFIG)
    parts = {
        "audio": {key: value for key, value in sd.items() if key.startswith("audio.")},
        "interaction": {key: value for key, value in sd.items() if key.startswith("interaction.")},
    }
    parts["video"] = {key: sd[key] for key in sd.keys() - parts["audio"].keys() - parts["interaction"].keys()}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata={"ccl_config": config})
    path = configuration(
        tmp_path, model={name: f"{name}.safetensors" for name in parts} | {"fresh": ["interaction"]}
    )
    chosen = read_settings(path)
    trainer = trainer_of(chosen)
    assert not trainer.model.interaction["0"].a2v.o.weight.any()
    trainer = finetune(chosen, *read_model(chosen.model), CPU)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["log.jsonl", "step-000006"]
    files = sorted(file.name for file in saved(tmp_path).iterdir())
    assert files == ["interaction.safetensors", "state.pt"]
    files = ModelPaths(
        str(tmp_path / "video.safetensors"),
        str(tmp_path / "audio.safetensors"),
        str(saved(tmp_path) / "interaction.safetensors"),
    )
    loaded = load_files(files, {"dtype": torch.float32})
    for made, wanted in zip(forward(loaded.model.diffusion_model), forward(trainer.model), strict=True):
        torch.testing.assert_close(made, wanted)


def test_a_lora_gives_the_loaded_model_what_was_trained(tmp_path: Path) -> None:
    how = {"interaction": "lora", "audio": "lora", "video": "lora"}
    chosen = settings(tmp_path, train=how)
    before = forward(trainer_of(chosen).model)
    trainer = finetune(chosen, *read_model(chosen.model), CPU)
    wanted = forward(trainer.model)
    assert not torch.allclose(wanted[0], before[0], atol=1e-3) and not torch.allclose(
        wanted[1], before[1], atol=1e-3
    )
    plain = load_model(str(tmp_path / "tiny.safetensors"), {"dtype": torch.float32})
    patched = apply_lora(plain, str(saved(tmp_path) / "lora.safetensors"), Strengths())
    patched.patch_model()
    for made, value in zip(forward(patched.model.diffusion_model), wanted, strict=True):
        torch.testing.assert_close(made, value, atol=1e-4, rtol=1e-4)


def test_numbers_that_are_not_finite_stop_the_run_with_the_clip_named(tmp_path: Path) -> None:
    trainer = trainer_of(settings(tmp_path, train={"rates": {"interaction": 1e-3}}))
    with torch.no_grad():
        trainer.trained["interaction.0.a2v.o.weight"].fill_(float("nan"))
    with pytest.raises(ValueError, match=r"step 1: the gradient is not finite, on clip-\d"):
        trainer.update()


def test_quantised_files_are_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    assembly, config = read_model(chosen.model)
    key = "blocks.0.ffn.0.weight"
    assembly.sd[key] = assembly.sd[key].to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"tiny\.safetensors is quantised"):
        FineTuner(chosen, assembly, config, CPU)


def test_lines_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    cut(path, 3)
    path.write_text('{"step": 0}\n{"step": 3}\n{"step": 4}\n{"ste')
    cut(path, 3)
    assert path.read_text() == '{"step": 0}\n{"step": 3}\n'
    path.write_text('{"step": 1}\n{"st')
    cut(path, 3)
    assert path.read_text() == '{"step": 1}\n'
    for line in ("{}", "nothing", "[1]", "\0\0"):
        path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
        with pytest.raises(ValueError, match=r"log\.jsonl has the damaged line"):
            cut(path, 3)


def talking(folder: Path, train: dict[str, Any]) -> FineTuner:
    """A run on clips with references, words and faces, every other one without a voice."""
    streams = {
        "video": replace(CONFIG.video, references=True),
        "audio": replace(CONFIG.audio, references=True, speech_blocks=1, text_len=8),
    }
    interaction = InteractionConfig("asymmetric", (0, 1), OPTIONS["asymmetric"](1, "latents"))
    chosen = settings(folder, train=train, interaction=interaction, audio=streams["audio"])
    path = folder / "tiny.safetensors"
    path.unlink()
    write(path, interaction=interaction, **streams)
    cache, files = Cache(folder / "cache"), []
    for i in range(4):
        video, audio = latents(i)
        generator = torch.Generator().manual_seed(i)
        tensors = {
            "video": video[0],
            "audio": audio[0],
            "text": torch.randn(5, 24, generator=generator),
            "reference": video[0, :, 0],
            "speech": bytes_of("kama" * (i + 1))[0],
            "face": torch.rand(3, 2, 3, generator=generator),
        }
        files.append(cache.write(f"clip-{i}", tensors | ({"voice": audio[0, :, :4]} if i % 2 else {}), {}))
    cache.index(files)
    return trainer_of(chosen)


def test_a_talking_model_trains_in_its_five_tasks(tmp_path: Path) -> None:
    tasks = {"joint": 4, "reference": 1, "continuation": 1, "v2a": 2, "a2v": 2}
    trainer = talking(tmp_path, {"steps": 24, "batch": 2, "tasks": tasks, "audio": "full"})
    before = {name: value.detach().clone() for name, value in trainer.trained.items()}
    logged = [trainer.update()["loss"] for _ in range(24)]
    names = {name for line in logged for name in line}
    both = {f"{task}/{stream}" for task, stream in product(("joint", "reference", "continuation"), STREAMS)}
    assert names == both | {"v2a/audio", "a2v/video", FACE}
    still = [name for name, value in before.items() if torch.equal(value, trainer.trained[name])]
    assert not [name for name in still if name.startswith("interaction") or "speech_text" in name]


def test_clips_without_a_voice_draw_the_joint_task(tmp_path: Path) -> None:
    trainer = talking(tmp_path, {"tasks": {"reference": 1.0}})
    clips = [entry.load() for group in trainer.order.groups for entry in group]
    for clip in clips:
        assert trainer.draw_tasks([clip], generator_of(1)) == [
            "reference" if "voice" in clip.beside else "joint"
        ]
    assert len(clips) == 4 and len(trainer.order.groups) == 2


def test_the_weight_of_the_masks_falls_to_its_end(tmp_path: Path) -> None:
    trainer = talking(tmp_path, {"steps": 4, "face_weight": [0.1, 0.02]})
    weights = []
    for _ in range(4):
        weights.append(trainer.face_weight())
        trainer.update()
    assert weights == pytest.approx([0.1, 0.08, 0.06, 0.04])
