"""Several threads at once: each load, run and encode gives what it gives alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_execution.utils import CurrentNodeContext
from safetensors.torch import save_file
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import TermScale
from ccl_pack.ccl_core.host.files.build import load_model
from ccl_pack.ccl_core.host.files.lora import read_lora
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.notices import notice
from ccl_pack.nodes import notices
from support.tiny import conditioning, latents, patcher, write
from support.tiny_vaes import audio_vae, video_vae

KINDS = ("cca", "fusion", "bridge")
THREADS = 4
TIMES = 3


def together(calls: list[Callable[[], Any]]) -> list[list[Any]]:
    """The results of calls that run at once, each several times in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: [call() for _ in range(TIMES)], calls))


def interaction(kind: str) -> InteractionConfig:
    return InteractionConfig(kind, (0, 1), OPTIONS[kind]())


def weights(path: Path) -> dict[str, Tensor]:
    return load_model(str(path)).model.diffusion_model.state_dict()


def sampled(model: ModelPatcher) -> list[Tensor]:
    """Video and audio of a run, with noise of its own: the host's comes from one generator of all threads."""
    guider = AVGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_guidance("cfg", {"text": TermScale(3.0, 2.0)})
    latent, noise = NestedTensor(latents(2)), NestedTensor(latents(5))
    sigmas = torch.tensor([1.0, 0.8, 0.4, 0.0])
    euler = comfy.samplers.sampler_object("euler")
    return list(guider.sample(noise, latent, euler, sigmas, disable_pbar=True, seed=5).unbind())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def equal(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


def test_files_that_are_loaded_at_once_have_their_own_weights(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{kind}.safetensors", seed, interaction=interaction(kind))
        for seed, kind in enumerate(KINDS)
    ]
    wanted = [weights(path) for path in paths]
    made = together([partial(weights, path) for path in paths])
    for found, alone in zip(made, wanted, strict=True):
        assert [same(each, alone) for each in found] == [True] * TIMES


def test_one_file_that_several_threads_load_is_whole_in_each(tmp_path: Path) -> None:
    path = write(tmp_path / "one.safetensors")
    wanted = weights(path)
    for found in together([partial(weights, path)] * THREADS):
        assert [same(each, wanted) for each in found] == [True] * TIMES


def test_loras_that_are_read_at_once_have_their_own_tensors(tmp_path: Path) -> None:
    # More files than the cache holds.
    files = [str(tmp_path / f"{number}.safetensors") for number in range(THREADS)]
    for number, file in enumerate(files):
        save_file({"x": torch.full((8,), float(number))}, file)
    for number, found in enumerate(together([partial(read_lora, file) for file in files])):
        assert [tensors["x"].unique().tolist() for tensors, _ in found] == [[number]] * TIMES


def test_models_that_run_at_once_make_what_each_makes_alone() -> None:
    # One model in two threads is beyond the host: a run that ends takes the other's patcher away.
    models = [patcher(seed, interaction=interaction(kind)) for seed, kind in enumerate(KINDS)]
    wanted = [sampled(model) for model in models]
    made = together([partial(sampled, model) for model in models])
    for found, alone in zip(made, wanted, strict=True):
        assert [equal(each, alone) for each in found] == [True] * TIMES


def test_clips_that_are_encoded_at_once_are_what_each_is_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    clips = [torch.rand(5, 32, 48, 3, generator=generator) for _ in range(THREADS)]
    sounds = [torch.rand(1, 8000, 1, generator=generator) - 0.5 for _ in range(THREADS)]
    vaes = [video_vae()] * THREADS + [audio_vae()] * THREADS
    calls = [partial(vae.encode, given) for vae, given in zip(vaes, clips + sounds, strict=True)]
    wanted = [call() for call in calls]
    for found, alone in zip(together(calls), wanted, strict=True):
        assert [torch.equal(each, alone) for each in found] == [True] * TIMES


def test_a_notice_goes_to_the_node_of_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "shown", {})

    def of_node(number: int) -> None:
        with CurrentNodeContext("run", str(number), 0):
            notice(f"of node {number}")

    together([partial(of_node, number) for number in range(THREADS)])
    assert notices.shown == {str(number): ("run", [f"of node {number}"]) for number in range(THREADS)}
