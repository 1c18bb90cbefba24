"""Object patches of one model, moved to another of the same structure: the two video experts of a MODEL.

An object patch puts a value in the place of a module or of a module's method. What popular packs put there is
bound to a module of the model they saw: a method, a function that closes over a module, a partial, or a
module around another.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

Modules = Mapping[int, nn.Module]  # by the id of a module of the source, its counterpart


def moved_patches(source: ModelPatcher, target: ModelPatcher) -> dict[str, Any]:
    """The object patches of `source` with every module of its model replaced by the same one of `target`'s.

    ValueError names a patch that holds a module of the source where it cannot be replaced.
    """
    modules = counterparts(source, target)
    made = {}
    for key, value in source.object_patches.items():
        try:
            made[key] = moved(value, modules)
        except TypeError as error:
            raise ValueError(
                f"the object patch on {key} holds a module of the high-noise expert in {error}, "
                "and so cannot act on the low-noise one: this model has two video experts. "
                "Remove the node that patches it, or use one that patches a method or wraps a function"
            ) from error
    return made


def counterparts(source: ModelPatcher, target: ModelPatcher) -> dict[int, nn.Module]:
    """By the id of each module of the source, also of one that a patch took out, the target's of its name."""
    theirs = _named(target)
    return {id(module): theirs[name] for name, module in _named(source).items() if name in theirs}


def _named(patcher: ModelPatcher) -> dict[str, nn.Module]:
    named = dict(patcher.model.named_modules())
    for key, value in patcher.object_patches_backup.items():
        if isinstance(value, nn.Module):
            named |= {f"{key}.{name}".rstrip("."): module for name, module in value.named_modules()}
    return named


def moved(value: Any, modules: Modules) -> Any:
    """The value for the target; TypeError says in what kind of object a module of the source stays."""
    if id(value) in modules:
        return modules[id(value)]
    for kind, move in MOVES.items():
        if isinstance(value, kind):
            return move(value, modules)
    if any(id(held) in modules for held in getattr(value, "__dict__", {}).values()):
        raise TypeError(f"an object of the class {type(value).__name__}")
    return value


def _method(value: types.MethodType, modules: Modules) -> types.MethodType:
    return types.MethodType(moved(value.__func__, modules), moved(value.__self__, modules))


def _function(value: types.FunctionType, modules: Modules) -> types.FunctionType:
    cells = [_content(cell) for cell in value.__closure__ or ()]
    # A function that calls itself closes over itself.
    contents = [content if content is value else moved(content, modules) for content in cells]
    if all(new is old for new, old in zip(contents, cells, strict=True)):
        return value
    closure = tuple(map(types.CellType, contents))
    made = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, closure)
    made.__kwdefaults__ = value.__kwdefaults__
    return made


def _content(cell: types.CellType) -> Any:
    """What a function closes over; None where that is not set yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _partial(value: functools.partial, modules: Modules) -> functools.partial:
    arguments = [moved(argument, modules) for argument in value.args]
    named = {name: moved(argument, modules) for name, argument in value.keywords.items()}
    return functools.partial(moved(value.func, modules), *arguments, **named)


def _sequence(value: list | tuple, modules: Modules) -> list | tuple:
    made = [moved(item, modules) for item in value]
    return value if all(new is old for new, old in zip(made, value, strict=True)) else type(value)(made)


def _mapping(value: dict, modules: Modules) -> dict:
    made = {key: moved(item, modules) for key, item in value.items()}
    return value if all(made[key] is item for key, item in value.items()) else made


def _module(value: nn.Module, modules: Modules) -> nn.Module:
    """A module of somebody else's, which may stand around one of ours."""
    held = {name: child for name, child in value.named_modules() if id(child) in modules}
    if not held:
        return value
    # A compiled module has its hooks and its cache: the target's gets new ones with the same settings.
    if isinstance(value, torch._dynamo.OptimizedModule):
        return torch._dynamo.OptimizedModule(moved(value._orig_mod, modules), value.dynamo_ctx)
    # A shallow copy, so that its own parameters are shared and only its children are replaced.
    made = copy.copy(value)
    made._modules = {name: moved(child, modules) for name, child in value._modules.items()}
    return made


MOVES: dict[type, Callable[[Any, Modules], Any]] = {
    types.MethodType: _method,
    types.FunctionType: _function,
    functools.partial: _partial,
    list: _sequence,
    tuple: _sequence,
    dict: _mapping,
    nn.Module: _module,
}
