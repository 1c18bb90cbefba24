"""Two processes that train the tiny model under FSDP2, and how far they are from one process with the whole
model.

The host has to be loaded before its modules are named, so each function imports what it needs of it.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes

from ccl_tools.environment import load_pack

KINDS = ("cca", "fusion", "bridge", "asymmetric")
LOSSES = {"both": (True, True), "video": (True, False), "audio": (False, True)}
PROCESSES = 2


def run(folder: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """What the first process found, by kind of coupling and loss. TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    found = folder / "found.json"
    # A file as their meeting point: a free port may be taken before they listen on it.
    arguments = (str(folder / "meeting"), str(found))
    context = start_processes(_work, arguments, PROCESSES, join=False, start_method="spawn")
    while not context.join(timeout=1.0):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{PROCESSES} processes under FSDP2 took longer than {seconds} s")
    return json.loads(found.read_text())


def _work(rank: int, meeting: str, found: str) -> None:
    torch.set_num_threads(1)
    load_pack()
    import comfy.model_management

    comfy.model_management.in_training = True  # the host's rotary kernel has no gradient
    store = dist.FileStore(meeting, PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    results = {f"{kind} {loss}": compared(kind, loss, rank) for kind in KINDS for loss in LOSSES}
    if rank == 0:
        Path(found).write_text(json.dumps(results))
    dist.destroy_process_group()


def compared(kind: str, loss: str, rank: int) -> dict[str, Any]:
    """The loss of this process and the gradients of all, sharded, against the whole model on each one's
    batch.
    """
    whole = model_of(kind)
    many = shard(copy.deepcopy(whole))
    own = loss_of(many, rank, loss)
    own.backward()
    losses = [loss_of(whole, other, loss) for other in range(PROCESSES)]
    (sum(losses) / PROCESSES).backward()
    wanted = {name: parameter.grad for name, parameter in whole.named_parameters()}
    gathered = {name: full(parameter.grad) for name, parameter in many.named_parameters()}
    return {
        "loss": [own.item(), losses[rank].item()],
        "reached": [name for name, gradient in gathered.items() if gradient is not None],
        "wanted": [name for name, gradient in wanted.items() if gradient is not None],
        "difference": max(differences(wanted, gathered)),
    }


def full(gradient: Any) -> Tensor | None:
    """The whole of a gradient of which each process holds a part."""
    return None if gradient is None else gradient.full_tensor()


def differences(wanted: dict[str, Tensor | None], found: dict[str, Tensor | None]) -> Iterator[float]:
    """Of each gradient, as a share of the largest value of them all."""
    largest = max(gradient.abs().max().item() for gradient in wanted.values() if gradient is not None)
    for name, gradient in wanted.items():
        if gradient is not None and found[name] is not None:
            yield (gradient - found[name]).abs().max().item() / largest


def model_of(kind: str) -> torch.nn.Module:
    import comfy.ops

    from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
    from ccl_pack.ccl_core.model.interactions import INTERACTIONS
    from ccl_pack.ccl_core.model.joint import JointModel
    from ccl_pack.ccl_core.training.finetune.load import give_rope_a_gradient
    from support.tiny import config, state_dict

    if INTERACTIONS[kind].rotates_halves:
        give_rope_a_gradient()
    chosen = config(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]()))
    model = JointModel(chosen, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(state_dict(chosen))
    return model


def shard(model: Any) -> Any:
    """Each layer's modules as a group, which works since each is entered once a pass, and one root over
    all.
    """
    for i, block in enumerate(model.blocks):
        parts = [block, *model.audio.blocks[i : i + 1]]
        parts += [model.interaction[str(i)]] if str(i) in model.interaction else []
        fully_shard(parts)
    return fully_shard(model)


def loss_of(model: torch.nn.Module, seed: int, loss: str) -> Tensor:
    """Mean square of the velocities that count, of this seed's batch."""
    from support.tiny import latents

    generator = torch.Generator().manual_seed(seed)
    text, times = torch.randn(1, 5, 24, generator=generator), torch.rand(2, 1, generator=generator) * 1000
    made = model([*latents(seed)], tuple(times), text, transformer_options={})
    return sum(
        velocity.square().mean() for velocity, counts in zip(made, LOSSES[loss], strict=True) if counts
    )
