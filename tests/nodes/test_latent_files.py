"""CCLSaveAVLatent and CCLLoadAVLatent: what was saved comes back to the bit, and other files are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_lt import LTXVSeparateAVLatent
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ccl_pack.ccl_core.host.media.latent_file import ENDING, MARK
from ccl_pack.ccl_core.host.media.source import Source
from ccl_pack.nodes.latent_files import CCLLoadAVLatent, CCLSaveAVLatent, latent_files
from ccl_pack.nodes.tasks import CCLMaskAV
from nodes import LoadLatent, SaveLatent, common_ksampler
from support.av_models import AV_LATENTS, LTX_FPS, h3_latent, ltx_latent, own_latent
from support.tiny import av_latent, conditioning, dual_conditioning, other_model, packed_model, patcher

Latent = dict[str, Any]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> Iterator[Path]:
    before = folder_paths.get_output_directory(), folder_paths.get_input_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    folder_paths.set_input_directory(str(tmp_path / "input"))
    for name in ("output", "input"):
        (tmp_path / name).mkdir()
    with torch.inference_mode():
        yield tmp_path
    folder_paths.set_output_directory(before[0])
    folder_paths.set_input_directory(before[1])


def save(latent: Latent, prefix: str = "latents/av") -> str:
    """Save a latent; the choice of the loader that it became."""
    output = CCLSaveAVLatent.execute(latent, prefix)
    assert output[0] is latent
    (file,) = output.ui["latents"]
    assert file["type"] == "output"
    return f"{file['subfolder']}/{file['filename']} [output]"


def load(choice: str) -> Latent:
    assert choice in latent_files()
    return CCLLoadAVLatent.execute(choice)[0]


def require_equal(found: Any, wanted: Any) -> None:
    if isinstance(wanted, Tensor):
        assert isinstance(found, Tensor) and (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert torch.equal(found.view(torch.uint8), wanted.contiguous().view(torch.uint8))
    elif isinstance(wanted, NestedTensor):
        assert isinstance(found, NestedTensor)
        for one, other in zip(found.unbind(), wanted.unbind(), strict=True):
            require_equal(one, other)
    else:
        assert found == wanted and type(found) is type(wanted)


def require_same(found: Latent, wanted: Latent) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        require_equal(found[name], value)


LTX_TEXTS = [[[torch.cat([text, text], dim=-1), {}]] for ((text, _),) in (conditioning(1), conditioning(2))]
SAMPLED = {
    "ours": (patcher, av_latent, [dual_conditioning(1, 9), conditioning(2)]),
    "LTX-2": (other_model, ltx_latent, LTX_TEXTS),
    "H3": (packed_model, h3_latent, [conditioning(1), conditioning(2)]),
}


@pytest.mark.parametrize("model", SAMPLED)
def test_what_a_sampler_made_comes_back_to_the_bit_and_samples_on_as_before(model: str) -> None:
    build, make, texts = SAMPLED[model]
    loaded = build()
    fps = LTX_FPS if model == "LTX-2" else 0.0
    latent = CCLMaskAV.execute(make(), "renew", "both", 0.0, 0.3, 0.8, fps=fps)[0]
    made = common_ksampler(loaded, 1, 2, 1.0, "euler", "normal", *texts, latent)[0]
    back = load(save(made))
    require_same(back, made)
    again = [
        common_ksampler(loaded, 2, 2, 1.0, "euler", "normal", *texts, start, denoise=0.5)[0]
        for start in (made, back)
    ]
    require_same(again[1], again[0])


@pytest.mark.parametrize("model", AV_LATENTS)
@pytest.mark.parametrize("stream", ["video", "audio"])
def test_one_stream_alone_comes_back_too(model: str, stream: str) -> None:
    latent = LTXVSeparateAVLatent.execute(AV_LATENTS[model]())[("video", "audio").index(stream)]
    require_same(load(save(latent)), latent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_every_dtype_and_entry_is_kept(dtype: torch.dtype) -> None:
    streams = [stream.to(dtype) for stream in own_latent()["samples"].unbind()]
    latent = {
        "samples": NestedTensor(streams),
        # Expanded, so that many values are one in memory.
        "noise_mask": NestedTensor([torch.ones(1, 1, 1, 1, 1).expand(1, 1, 5, 4, 4), torch.zeros(1, 1, 34)]),
        "fps": 23.976,
        "audio_rate": 32,
        "task": "i2av",
        "type": "audio",
        "batch_index": [0, 3],
        "extra": torch.arange(3),
        "note": None,
    }
    require_same(load(save(latent)), latent)


def test_values_that_are_not_numbers_come_back_too() -> None:
    latent = own_latent()
    latent["samples"].unbind()[0][0, 0, 0, 0] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    require_same(load(save(latent)), latent)


def test_files_are_numbered_and_say_what_they_are(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    choices = [save(ltx_latent(), "films/dog"), save(own_latent(), "films/dog"), save(h3_latent(), "cat")]
    assert choices[:2] == [f"films/dog_0000{n}_{ENDING} [output]" for n in (1, 2)]
    assert sorted(latent_files()) == sorted([*choices[:2], f"cat_00001_{ENDING} [output]"])
    assert "Saved films/dog_00002_" in caplog.text
    with safe_open(folders / "output" / "films" / f"dog_00001_{ENDING}", framework="pt") as file:
        metadata = file.metadata()
        assert sorted(file.keys()) == ["samples/0", "samples/1"]
    assert metadata["about"].startswith("LTX-2: video and audio\nvideo: (1, 128, 5, 2, 2) float32")
    assert json.loads(metadata[MARK])["pairs"] == {"samples": 2}
    assert not list((folders / "output").rglob("*.part"))


def test_a_file_of_the_input_folder_is_offered_as_the_host_offers_its_own(folders: Path) -> None:
    saved = save(h3_latent())
    path = folders / "output" / saved.removesuffix(" [output]")
    path.rename(folders / "input" / f"mine{ENDING}")
    (folders / "input" / "picture.png").write_bytes(b"")
    assert latent_files() == [f"mine{ENDING}"]
    require_same(load(f"mine{ENDING}"), h3_latent())
    # The host's own loader does not offer what it cannot read.
    assert LoadLatent.INPUT_TYPES()["required"]["latent"][0] == []


def test_a_changed_file_is_read_again(folders: Path) -> None:
    choice = save(own_latent())
    before = CCLLoadAVLatent.fingerprint_inputs(choice)
    assert CCLLoadAVLatent.fingerprint_inputs(choice) == before
    path = folders / "output" / choice.removesuffix(" [output]")
    path.write_bytes(path.read_bytes() + b" ")
    assert CCLLoadAVLatent.fingerprint_inputs(choice) != before


def test_originals_that_no_file_holds_are_told(caplog: pytest.LogCaptureFixture) -> None:
    latent = {**own_latent(), "source": Source(sound={"waveform": torch.zeros(1, 1, 9), "sample_rate": 9})}
    back = load(save(latent))
    assert back.keys() == latent.keys() - {"source"}
    assert "source is not in the file" in caplog.text and "comes back decoded" in caplog.text


def test_the_node_of_the_host_cannot_save_a_pair() -> None:
    with pytest.raises(AttributeError, match="'NestedTensor' object has no attribute 'contiguous'"):
        SaveLatent().save(ltx_latent())


# ---- other files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no latent" * 20)


def of_the_host(path: Path) -> None:
    save_file({"latent_tensor": torch.zeros(1, 4, 8, 8), "latent_format_version_0": torch.tensor([])}, path)


def of_a_model(path: Path) -> None:
    save_file({"blocks.0.weight": torch.zeros(3)}, path, metadata={"format": "pt"})


def changed(**fields: Any) -> Any:
    def change(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            metadata = file.metadata()
        contents = json.loads(metadata[MARK]) | fields
        save_file(tensors, path, metadata={**metadata, MARK: json.dumps(contents)})

    return change


def without_metadata_of_a_latent(path: Path) -> None:
    save_file({"samples": torch.zeros(3)}, path, metadata={MARK: "[1, 2"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "cannot be read as safetensors .* damaged, cut off .* copy it again, or save the latent again"),
        (garbage, "cannot be read as safetensors"),
        (of_the_host, r"holds latent_format_version_0, latent_tensor and no .* for which LoadLatent is made"),
        (of_a_model, r"holds blocks\.0\.weight and no ccl_av_latent; wanted: a file of CCLSaveAVLatent"),
        (changed(version=2), "is of version 2 of ccl_av_latent, this pack reads 1: update the pack"),
        (changed(pairs={"samples": 3}), "which its tensors do not fit: it is damaged"),
        (changed(values=[1]), "which its tensors do not fit"),
        (changed(pairs=7), "which its tensors do not fit"),
        (without_metadata_of_a_latent, "which its tensors do not fit"),
        (Path.unlink, "is gone from .*: refresh the node list and choose the file again"),
    ],
)
def test_another_file_is_refused_by_its_name(folders: Path, change: Any, message: str) -> None:
    choice = save(own_latent())
    change(folders / "output" / choice.removesuffix(" [output]"))
    with pytest.raises(ValueError, match=rf"^av_00001_\.latent\.safetensors (?s:.*){message}"):
        CCLLoadAVLatent.execute(choice)


@pytest.mark.parametrize("name", [f"../outside{ENDING}", f"../outside{ENDING} [output]"])
def test_no_name_leads_out_of_the_folders(name: str) -> None:
    with pytest.raises(ValueError, match="Invalid file path"):
        CCLLoadAVLatent.execute(name)


def test_a_file_that_the_disk_does_not_take_is_named(folders: Path) -> None:
    # No file system here takes names of more than 255 bytes.
    with pytest.raises(ValueError, match=r"^aaa.* cannot be written in .*films .* another filename_prefix"):
        save(own_latent(), f"films/{'a' * 240}")
    assert list((folders / "output" / "films").iterdir()) == []


def test_a_picture_is_no_latent_to_save() -> None:
    with pytest.raises(ValueError, match="wanted a video latent"):
        CCLSaveAVLatent.execute({"samples": torch.zeros(1, 4, 8, 8)}, "latents/av")
