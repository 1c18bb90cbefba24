"""scripts/convert_model.py: files that load, and are the published model within their format."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor, get_layout_class
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ccl_pack.ccl_core.config import CCLConfig
from ccl_pack.ccl_core.host.experts import low_noise_of
from ccl_pack.ccl_core.host.files.build import load_files, load_model
from ccl_pack.ccl_core.host.files.read import ModelPaths
from ccl_pack.ccl_core.host.files.translate import our_names
from ccl_pack.ccl_core.metadata import read_config
from ccl_tools import published as sizes
from ccl_tools import tensor_file
from ccl_tools.console import ScriptError
from ccl_tools.convert_model import Model, Plan, convert, downloads, understand
from ccl_tools.environment import ROOT
from ccl_tools.model_source import ModelSource
from ccl_tools.quantise import FORMATS
from ccl_tools.tensor_file import Entry, Source
from support import tiny_published, upstream
from support.tiny import state_dict

TEXT = tiny_published.TEXT
FLOAT = {"dtype": torch.float32}
FIRST = "diffusion_pytorch_model.safetensors"
SHARD = "diffusion_pytorch_model-0000{}-of-0000{}.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
EXPERTS_OF_PAGE = ("both", "high", "low")
SOURCES = {"MOVA": str(tiny_published.MOVA_FOLDER), "Prism": tiny_published.PRISM_FILE}
# Of the prediction, relative to its norm. The weights differ by up to 1/16 (fp8) and by half a step of 1/127
# of the largest in a row (int8); errors of single weights are independent and average out.
OUTPUT_ERROR = {"fp8": 1 / 16, "int8": 1 / 32}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    tiny_published.write_mova(folder)
    tiny_published.write_prism(folder)
    tiny_published.write_ovi(folder)
    return folder


@pytest.fixture
def mova(tmp_path: Path) -> Path:
    """A folder of its own, to be damaged."""
    tiny_published.write_mova(tmp_path)
    (tmp_path / tiny_published.MOVA_FILE).unlink()
    return tmp_path / tiny_published.MOVA_FOLDER


def original(published: Path, title: str) -> ModelPatcher:
    """The model as the loaders take it unconverted."""
    path = published / SOURCES[title]
    return load_model(str(path), FLOAT) if path.is_file() else load_files(parts_of(path), FLOAT)


def parts_of(path: Path) -> ModelPaths:
    return ModelPaths(
        video=str(path / "video_dit" / SHARD.format(1, 3)),
        audio=str(path / "audio_dit" / FIRST),
        interaction=str(path / "dual_tower_bridge" / FIRST),
        low_noise=str(path / "video_dit_2" / SHARD.format(1, 3)),
    )


def converted(source: Path, output: Path, experts: str, **options: Any) -> ModelPatcher:
    """The files that the script makes, in the loader for them."""
    made = [plan.path for plan in convert(source, output, experts=experts, **options)]
    if experts == "both":
        return load_model(str(made[0]), FLOAT)
    return load_files(ModelPaths(str(made[0]), low_noise=str(made[1])), FLOAT)


def outputs(patcher: ModelPatcher) -> list[torch.Tensor]:
    """The prediction of both experts for both streams."""
    generator = torch.Generator().manual_seed(9)
    latents = [torch.randn(1, 36, 2, 4, 4, generator=generator), torch.randn(1, 128, 13, generator=generator)]
    text = torch.randn(1, 4, TEXT, generator=generator)
    found: list[torch.Tensor] = []
    for expert in (patcher, low_noise_of(patcher)):
        with torch.no_grad():
            found += expert.model.diffusion_model(
                latents, torch.tensor([300.0]), text, transformer_options={}
            )
    return [value.float() for value in found]


def same(one: ModelPatcher, other: ModelPatcher) -> bool:
    found, wanted = one.model.diffusion_model.state_dict(), other.model.diffusion_model.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("experts", ["both", "each"])
@pytest.mark.parametrize("title", SOURCES)
def test_bf16_is_the_original_bit_for_bit(published: Path, tmp_path: Path, title: str, experts: str) -> None:
    made = converted(published / SOURCES[title], tmp_path / "out" / "model.safetensors", experts)
    wanted = original(published, title)
    assert made.model.ccl_config == wanted.model.ccl_config
    assert made.model.ccl_config.expert_boundary == 0.9
    assert same(made, wanted) and same(low_noise_of(made), low_noise_of(wanted))
    assert not same(made, low_noise_of(made))
    assert all(torch.equal(a, b) for a, b in zip(outputs(made), outputs(wanted), strict=True))


@pytest.mark.parametrize("experts", ["both", "each"])
@pytest.mark.parametrize("form", ["fp8", "int8"])
@pytest.mark.parametrize("title", SOURCES)
def test_the_prediction_of_a_quantised_file_is_that_of_the_original(
    published: Path, tmp_path: Path, title: str, form: str, experts: str
) -> None:
    made = converted(published / SOURCES[title], tmp_path / "model.safetensors", experts, form=form)
    assert made.model.ccl_config == original(published, title).model.ccl_config
    for got, exact in zip(outputs(made), outputs(original(published, title)), strict=True):
        assert 0 < (got - exact).norm() < OUTPUT_ERROR[form] * exact.norm()


def restored(found: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """A matrix of a file as the host's own layout gives it back."""
    state = json.loads(bytes(found[f"{layer}.comfy_quant"].tolist()))
    name = QUANT_ALGOS[state.pop("format")]["comfy_tensor_layout"]
    weight = found[f"{layer}.weight"]
    params = get_layout_class(name).Params(
        scale=found[f"{layer}.weight_scale"],
        orig_dtype=torch.float32,
        orig_shape=tuple(weight.shape),
        **state,
    )
    return QuantizedTensor(weight, name, params).dequantize()


def is_matrix(key: str, value: torch.Tensor) -> bool:
    """Of a block or of the coupling, under Prism's names."""
    places = re.compile(r"(fusion_blocks|remaining_video_blocks|video_dit_2\.blocks)\.\d+\..+\.weight")
    return value.ndim == 2 and places.fullmatch(key) is not None


@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_every_matrix_is_within_half_a_step_and_nothing_else_is_changed(
    published: Path, tmp_path: Path, form: str
) -> None:
    output = tmp_path / "model.safetensors"
    convert(published / SOURCES["Prism"], output, form=form)
    found, wanted = load_file(output), load_file(published / SOURCES["Prism"])
    layers = {key.removesuffix(".comfy_quant") for key in found if key.endswith(".comfy_quant")}
    matrices = {f"{layer}.weight" for layer in layers}
    assert matrices == {key for key, value in wanted.items() if is_matrix(key, value)}
    for layer in layers:
        weight, scale = wanted[f"{layer}.weight"].float(), found[f"{layer}.weight_scale"]
        error = (restored(found, layer) - weight).abs()
        if form == "fp8":
            # 3 bits behind the point: half a step is 1/16 of a number, and 2^-10 where it is subnormal.
            assert (error <= 1.001 * (weight.abs() / 16 + scale * 2**-10)).all()
        else:
            # Half a step of the row's scale in each rotated number; a rotation keeps the norm of a row.
            assert scale.shape == (weight.shape[0], 1)
            assert (error.norm(dim=1) <= 1.001 * 0.5 * scale[:, 0] * weight.shape[1] ** 0.5).all()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted.keys() - matrices)


@pytest.mark.parametrize("form", FORMATS)
def test_a_matrix_of_zeros_stays_one(form: str) -> None:
    made = FORMATS[form].tensors("x.weight", torch.zeros(4, 24, dtype=torch.bfloat16))
    assert all(value.isfinite().all() for value in made.values() if value.dtype != torch.float8_e4m3fn)
    assert not made["x.weight"].float().any()


def test_columns_that_no_group_divides_are_not_rotated() -> None:
    weight = torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    made = FORMATS["int8"].tensors("x.weight", weight)
    assert json.loads(bytes(made["x.comfy_quant"].tolist())) == {"format": "int8_tensorwise"}
    assert ((restored(made, "x") - weight).abs() <= 0.501 * made["x.weight_scale"]).all()


def test_a_model_of_one_expert_is_one_file(published: Path, tmp_path: Path) -> None:
    source = published / tiny_published.OVI_MERGED
    convert(source, tmp_path / "ovi.safetensors")
    assert same(load_model(str(tmp_path / "ovi.safetensors")), load_model(str(source)))
    with pytest.raises(ScriptError, match="one video expert only"):
        convert(source, tmp_path / "each.safetensors", experts="each")


def test_high_alone_is_a_whole_model(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "high.safetensors"
    convert(published / SOURCES["Prism"], output, experts="high")
    assert low_noise_of(load_model(str(output))) is None
    assert same(load_model(str(output)), load_model(str(published / SOURCES["Prism"])))


def test_low_alone_says_that_it_is_a_part(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "low.safetensors"
    convert(published / SOURCES["Prism"], output, experts="low")
    with pytest.raises(ValueError, match="without an audio stream: use Load Diffusion Model, or couple it"):
        load_model(str(output))


def test_float32_is_rounded_once(published: Path, tmp_path: Path) -> None:
    tensors = {key: value.float() * 1.001 for key, value in load_file(published / SOURCES["Prism"]).items()}
    source, output = tmp_path / "wide.safetensors", tmp_path / "model.safetensors"
    save_file(tensors, source)
    convert(source, output)
    found = load_file(output)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], value.bfloat16()) for key, value in tensors.items())


@pytest.mark.parametrize("prefix", ["module.", "model.diffusion_model."])
def test_what_stands_beside_and_before_the_weights_is_no_hindrance(
    published: Path, tmp_path: Path, prefix: str
) -> None:
    """A trainer's wrapper, the host's own prefix, and a preference of attention, which is no weight."""
    plain = load_file(published / SOURCES["Prism"])
    tensors = {prefix + key: value for key, value in plain.items()}
    preference = f"{prefix}fusion_blocks.0.video_block.self_attn.comfy_attention.config"
    save_file(tensors | {preference: torch.zeros(2, dtype=torch.uint8)}, tmp_path / "wrapped.safetensors")
    made = converted(tmp_path / "wrapped.safetensors", tmp_path / "out.safetensors", "each", form="bf16")
    assert same(made, original(published, "Prism")) and made.model.ccl_config.family == "prism"
    assert load_model(str(tmp_path / "wrapped.safetensors")).model.ccl_config.family == "prism"


def test_shards_without_index_are_one_model(published: Path, tmp_path: Path) -> None:
    whole = load_file(published / SOURCES["Prism"])
    for number in (1, 2):
        part = dict(list(whole.items())[number - 1 :: 2])
        save_file(part, tmp_path / SHARD.format(number, 2))
    output = tmp_path / "out" / "model.safetensors"
    convert(tmp_path, output)
    assert load_file(output).keys() == whole.keys()
    (tmp_path / SHARD.format(2, 2)).unlink()
    for source in (tmp_path, tmp_path / SHARD.format(1, 2)):
        with pytest.raises(ScriptError, match=r"missing beside it.*00002-of-00002"):
            convert(source, tmp_path / "other.safetensors")


def test_heads_and_coupling_come_from_config_json(tmp_path: Path) -> None:
    config = upstream.mova_config(64, 32, 16)
    source = tmp_path / "MOVA-odd"
    write_parts(source, config)
    stated = {
        "video_dit": {"num_heads": config.video.num_heads, "eps": 1e-6},
        "audio_dit": {"num_heads": config.audio.num_heads},
        "dual_tower_bridge": {
            "head_dim": config.interaction.options.head_width,
            "apply_first_frame_bias_in_rope": True,
        },
    }
    for part, fields in stated.items():
        (source / part / "config.json").write_text(json.dumps(fields))
    convert(source, tmp_path / "mova.safetensors")
    with safe_open(tmp_path / "mova.safetensors", "pt") as file:
        found = read_config(file.metadata()["ccl_config"])
    assert (found.video, found.audio) == (config.video, config.audio)
    assert found.interaction.options.head_width == config.interaction.options.head_width
    assert found.interaction.options.first_frame_bias is True


def write_parts(path: Path, config: CCLConfig) -> None:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in upstream.mova(state_dict(config)).items():
        part, _, own = key.partition(".")
        parts.setdefault(part, {})[own] = value.bfloat16()
    for part, tensors in parts.items():
        (path / part).mkdir(parents=True)
        save_file(tensors, path / part / FIRST)


def change(path: Path, **tensors: torch.Tensor) -> None:
    save_file(load_file(path) | tensors, path)


def indexed(folder: Path, **places: str) -> None:
    """An index of the folder's shards with other places in it."""
    found: dict[str, Any] = {}
    for file in folder.glob("*.safetensors"):
        found |= dict.fromkeys(load_file(file), file.name)
    (folder / INDEX).write_text(json.dumps({"weight_map": found | places}))


SCALE = "audio_to_video_conditioners.0.condition_scale"
DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: (path / "dual_tower_bridge" / FIRST).unlink(), "dual_tower_bridge holds no safetensors"),
    (lambda path: (path / "video_dit" / SHARD.format(2, 3)).unlink(), "missing beside it: .*00002-of-00003"),
    (lambda path: indexed(path / "video_dit", x=SHARD.format(9, 9)), "lacks .*00009-of-00009.*index.json"),
    (lambda path: indexed(path / "video_dit", x=SHARD.format(1, 3)), "video_dit lacks x, which"),
    (lambda path: indexed(path / "video_dit", x="/etc/passwd"), "names the file '/etc/passwd'"),
    (lambda path: indexed(path / "video_dit", x="../audio_dit/" + FIRST), r"names the file '\.\./audio_dit"),
    (lambda path: indexed(path / "video_dit", x="a/../../b"), r"names the file 'a/\.\./\.\./b'"),
    (lambda path: indexed(path / "video_dit", x="..\\b"), "names the file"),
    (lambda path: indexed(path / "video_dit", x="C:\\b"), "names the file"),
    (lambda path: indexed(path / "video_dit", x=""), "names the file ''"),
    (lambda path: (path / "video_dit" / INDEX).write_text("[]"), "index.json is no JSON.*no object"),
    (lambda path: (path / "video_dit" / INDEX).write_text("{}"), "no weight_map"),
    (lambda path: (path / "audio_dit" / FIRST).write_bytes(b"<html>"), "cannot be read as safetensors"),
    (lambda path: (path / "audio_dit" / "config.json").write_text("{"), "config.json is no JSON"),
    (
        lambda path: save_file({"x": torch.zeros(1)}, path / "audio_dit" / "y.safetensors"),
        "more than one model",
    ),
    (
        lambda path: change(path / "audio_dit" / FIRST, x=torch.zeros(1)),
        "holds 1 unknown keys, the first is audio.x",
    ),
    (lambda path: change(path / "audio_dit" / FIRST, x=torch.zeros(1).char()), "quantised already"),
    (lambda path: change(path / "dual_tower_bridge" / FIRST, **{SCALE: torch.ones(1) / 2}), "wanted 1"),
    (
        lambda path: change(
            path / "audio_dit" / FIRST, **{"head.modulation": torch.full((1, 2, 128), torch.nan)}
        ),
        "head.modulation holds numbers that are not finite",
    ),
]


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_what_is_wrong_with_an_input_is_said(mova: Path, tmp_path: Path, number: int) -> None:
    damage, words = DAMAGE[number]
    damage(mova)
    with pytest.raises(ScriptError, match=words):
        convert(mova, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_neutral_strength_of_the_bridge_is_kept(mova: Path, tmp_path: Path) -> None:
    change(mova / "dual_tower_bridge" / FIRST, **{SCALE: torch.ones(1)})
    convert(mova, tmp_path / "out.safetensors")
    assert same(load_model(str(tmp_path / "out.safetensors")), load_files(parts_of(mova)))


def test_wrong_names_are_said(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="neither a file nor a folder"):
        convert(tmp_path / "gone", tmp_path / "out.safetensors")
    with pytest.raises(ScriptError, match=r"does not end in \.safetensors"):
        convert(published / SOURCES["Prism"], tmp_path / "out.gguf")
    (tmp_path / "preview_alpha").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "preview_alpha" / FIRST)
    with pytest.raises(ScriptError, match=f"below it preview_alpha/{FIRST}"):
        convert(tmp_path, tmp_path / "out.safetensors")


def test_a_list_tells_the_sizes_and_writes_nothing(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = convert(
        published / SOURCES["Prism"],
        tmp_path / "out.safetensors",
        experts="each",
        form="int8",
        only_list=True,
    )
    assert "is Prism, 309 tensors" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    convert(published / SOURCES["Prism"], tmp_path / "out.safetensors", experts="each", form="int8")
    for plan in made:
        stored = sum(value.nbytes for value in load_file(plan.path).values())
        assert sum(plan.sizes().values()) == stored


KILL = """
import os, signal, sys
from pathlib import Path
from ccl_tools.environment import load_pack
load_pack()
from ccl_tools import tensor_file
from ccl_tools.convert_model import convert
write = tensor_file.Writer.write
def counted(self, name, tensor):
    if len(self.entries) - len(self.left) == int(sys.argv[3]):
        self.file.write(b"half a tensor")
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, tensor)
tensor_file.Writer.write = counted
convert(Path(sys.argv[1]), Path(sys.argv[2]), form="int8")
"""


def killed(source: Path, output: Path, count: int) -> None:
    """A conversion in a process of its own, killed after so many tensors."""
    scripts = str(Path(tensor_file.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(source), str(output), str(count)],
        env={**os.environ, "PYTHONPATH": scripts},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output, whole = (
        published / SOURCES["Prism"],
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    )
    convert(source, whole, form="int8")
    killed(source, output, 200)
    assert not output.exists() and (tmp_path / "a.safetensors.part").exists()
    reads: list[str] = []
    read = tensor_file.Source.read
    monkeypatch.setattr(tensor_file.Source, "read", lambda self, key: reads.append(key) or read(self, key))
    understand(ModelSource("x", Source.open([source])))
    outline = len(reads)
    capsys.readouterr()
    convert(source, output, form="int8")
    assert "Going on with a.safetensors.part: 200 of 501" in capsys.readouterr().out
    assert 0 < len(reads) - 2 * outline < 309 - 100
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def interrupted(monkeypatch: pytest.MonkeyPatch, source: Path, output: Path, count: int) -> None:
    """A conversion to int8 that Ctrl-C stops after so many tensors."""
    write = tensor_file.Writer.write

    def counted(self: tensor_file.Writer, name: str, tensor: torch.Tensor) -> None:
        if len(self.entries) - len(self.left) == count:
            raise KeyboardInterrupt
        write(self, name, tensor)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tensor_file.Writer, "write", counted)
        convert(source, output, form="int8")


def test_what_was_lost_of_an_unfinished_file_is_written_again(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output, whole = (
        published / SOURCES["Prism"],
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    )
    convert(source, whole, form="int8")
    interrupted(monkeypatch, source, output, 200)
    part = tmp_path / "a.safetensors.part"
    # As after a loss of power: the length is there, the numbers behind the first half are not.
    data = part.read_bytes()
    part.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    capsys.readouterr()
    convert(source, output, form="int8")
    found = re.search(r"Going on with a\.safetensors\.part: (\d+) of 501", capsys.readouterr().out)
    assert found is not None and 0 < int(found[1]) < 200
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("what", ["options", "input"])
def test_another_input_or_other_options_start_anew(
    published: Path,
    tmp_path: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "prism.safetensors"
    source.write_bytes((published / SOURCES["Prism"]).read_bytes())
    output, whole = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    interrupted(monkeypatch, source, output, 50)
    form = "fp8" if what == "options" else "int8"
    if what == "input":
        save_file({key: value + 1 for key, value in load_file(source).items()}, source)
    capsys.readouterr()
    convert(source, output, form=form)
    assert "starting anew" in capsys.readouterr().out
    convert(source, whole, form=form)
    assert output.read_bytes() == whole.read_bytes()


def test_a_disk_that_fills_up_leaves_what_is_written(published: Path, tmp_path: Path) -> None:
    """A limit of the size of files stands in for the end of a disk: writing fails in the same place."""
    source, output, whole = (
        published / SOURCES["Prism"],
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    )
    convert(source, whole)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(ScriptError, match=r"cannot write .*a\.safetensors\.part stays"):
            convert(source, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not output.exists()
    convert(source, output)
    assert output.read_bytes() == whole.read_bytes()


def test_a_full_disk_is_said_before_anything_is_written(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "SPARE_BYTES", 1 << 60)
    with pytest.raises(ScriptError, match=r"GB free, mova\.safetensors needs .* GB"):
        convert(published / SOURCES["MOVA"], tmp_path / "mova.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_finished_file_is_left_and_another_refused(published: Path, tmp_path: Path) -> None:
    source, output = published / SOURCES["Prism"], tmp_path / "a.safetensors"
    first = convert(source, output, experts="each")[0].path
    stamp = first.stat().st_mtime_ns
    (tmp_path / "a_low.safetensors").unlink()
    convert(source, output, experts="each")
    assert first.stat().st_mtime_ns == stamp and (tmp_path / "a_low.safetensors").exists()
    with pytest.raises(ScriptError, match=r"a_high\.safetensors is there already, and is not what"):
        convert(source, output, experts="each", form="fp8")
    with pytest.raises(ScriptError, match=r"a_high\.safetensors is there already, and is not what"):
        convert(published / SOURCES["MOVA"], output, experts="each")
    output.write_text("mine")
    with pytest.raises(ScriptError):
        convert(source, output)
    assert output.read_text() == "mine"


@pytest.mark.parametrize("form", FORMATS)
def test_one_tensor_of_the_input_is_alive_at_a_time(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    alive: dict[int, int] = {}
    peaks: list[int] = []
    read = tensor_file.Source.read

    def counted(self: tensor_file.Source, name: str) -> torch.Tensor:
        tensor = read(self, name)
        if tensor.nbytes > tensor_file.SMALL_BYTES:
            number = len(peaks)
            alive[number] = tensor.nbytes
            weakref.finalize(tensor, alive.pop, number)
            peaks.append(sum(alive.values()))
        return tensor

    monkeypatch.setattr(tensor_file.Source, "read", counted)
    convert(published / SOURCES["Prism"], tmp_path / "a.safetensors", form=form)
    largest = max(value.nbytes for value in load_file(published / SOURCES["Prism"]).values())
    assert len(peaks) > 200 and max(peaks) == largest


def test_memory_stays_that_of_one_tensor(tmp_path: Path) -> None:
    """160 tensors of 4 MB, 640 MB in all, in a process of its own that may grow by a tenth of that."""
    script = Path(__file__).parents[1] / "support" / "copy_tensors.py"
    variables = {**os.environ, "PYTHONPATH": str(Path(tensor_file.__file__).parents[1])}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64_000_000


def test_what_to_download_is_said_with_names_sizes_and_licences() -> None:
    text = "\n".join(downloads())
    for words in (
        "FrancisRing/Prism, preview_alpha/" + FIRST,
        "OpenMOSS-Team/MOVA-720p, video_dit",
        "65.3 GB",
    ):
        assert words in text
    assert text.count("licence ") == 4


def full_size(shapes: dict[str, tuple[int, ...]]) -> Model:
    entries = {key: Entry("bfloat16", shape) for key, shape in shapes.items()}
    names = our_names({key: entry.empty() for key, entry in entries.items()})
    config = upstream.mova_config(128, 128, 128)
    return Model("full", "full", Source({}, entries, {}), names, config)


@pytest.mark.parametrize("form", FORMATS)
def test_the_page_tells_the_sizes_of_full_size_files(form: str) -> None:
    rows = set()
    for shapes in (sizes.mova(), sizes.prism()):
        model = full_size(shapes)
        made = [Plan(Path(expert), expert, model.pieces(expert), FORMATS[form]) for expert in EXPERTS_OF_PAGE]
        both, high, low = (sum(plan.sizes().values()) / 1e9 for plan in made)
        fits = "yes" if high * 1e9 < 0.9 * 24 * 2**30 else "no"
        rows.add(f"| `{form}` | {both:.1f} GB | {high:.1f} GB | {low:.1f} GB | {fits} |")
    assert len(rows) == 1
    assert rows.pop() in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
