"""The host's bypass LoRAs (LoraLoaderBypass), which wrap modules of the model they saw, on the other expert.

A bypass leaves the weights alone: a `BypassInjectionManager` puts its own forward into the modules, at the
load of the patcher that holds it as an injection.
"""

from __future__ import annotations

from collections.abc import Iterable

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from comfy.weight_adapter import BypassInjectionManager

Injections = dict[str, list[PatcherInjection]]


def shared_bypasses(high: ModelPatcher, low: ModelPatcher, shared: tuple[str, ...]) -> Injections:
    """Injections that wrap the modules of `low` as those of `high` are, of keys that begin as in `shared`."""
    made = {}
    for name, injections in high.injections.items():
        managers = _managers(injections)
        if managers:
            made[name] = [injection for manager in managers for injection in _like(manager, low, shared)]
    return made


def _managers(injections: Iterable[PatcherInjection]) -> list[BypassInjectionManager]:
    """The managers behind injections, which only the functions of an injection hold."""
    cells = [cell for injection in injections for cell in injection.inject.__closure__ or ()]
    held = [cell.cell_contents for cell in cells]
    return [value for value in held if isinstance(value, BypassInjectionManager)]


def _like(
    manager: BypassInjectionManager, patcher: ModelPatcher, shared: tuple[str, ...]
) -> list[PatcherInjection]:
    made = BypassInjectionManager()
    for key, (adapter, strength) in manager.adapters.items():
        if key.startswith(shared):
            made.add_adapter(key, adapter, strength)
    return made.create_injections(patcher.model)
