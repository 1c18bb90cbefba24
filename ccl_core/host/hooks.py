"""CFG-step hooks of other nodes, such as APG and RescaleCFG, called once for each stream of a pair.

The host packs both streams into one row (b, 1, n) and shows that to a hook. A norm, a mean or a projection
over it mixes picture and sound, and a hook that wants channels finds none. Here a hook sees the video as on
plain Wan, (b, c, t, h, w), and then the sound as a video of one column, (b, c, a, 1, 1).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.context_windows
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

Hook = Callable[[dict[str, Any]], Any]
Shapes = Sequence[Sequence[int]]
# Model options that hold a list of hooks, or one.
LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
SINGLE = "sampler_cfg_function"
# Under which the host looks for what runs a pass in windows, before anything else.
HANDLER = "context_handler"


def separate(options: dict[str, Any], shapes: Shapes) -> None:
    """Put in place of each hook in these model options one that is called for each stream."""
    if len(shapes) < 2:
        return
    for name in LISTS:
        if name in options:
            options[name] = [_separated(hook, shapes) for hook in options[name]]
    if SINGLE in options:
        options[SINGLE] = _separated(options[SINGLE], shapes)


def for_stream(options: dict[str, Any], stream: int) -> dict[str, Any]:
    """The model options of a pass that is for one stream: hooks of the other one are not called."""
    made = dict(options)
    for name in LISTS:
        if name in options:
            made[name] = [_only(hook, stream) for hook in options[name]]
    if SINGLE in options:
        made[SINGLE] = _only(options[SINGLE], stream)
    return made


def without_hooks(options: dict[str, Any]) -> dict[str, Any]:
    """The model options of a pass whose prediction nobody reads."""
    return {name: value for name, value in options.items() if name not in (*LISTS, SINGLE)}


def _only(hook: Hook, stream: int) -> Hook:
    # What a sampler adds in a step sees the packed latent.
    return replace(hook, only=stream) if isinstance(hook, PerStream) else hook


def _separated(hook: Hook, shapes: Shapes) -> PerStream:
    if isinstance(hook, PerStream):
        return hook
    # The video has the hook itself, so what it keeps between runs stays where its node finds it.
    further = [with_own_state(hook) for _ in shapes[1:]]
    return PerStream([hook, *further], [tuple(shape) for shape in shapes])


@dataclass
class PerStream:
    """A hook for each stream, each with a state of its own, in the place of one.

    only: the stream that a pass is for; those of the others are not called, and nobody reads what is theirs.
    """

    hooks: list[Hook]
    shapes: list[tuple[int, ...]]
    only: int | None = None

    def __call__(self, args: dict[str, Any]) -> Any:
        passes = Passes(args["model"], args["input"], self.shapes, args["model_options"])
        asked = {
            stream: hook(self._of_stream(args, stream, passes.of_stream(stream)))
            for stream, hook in enumerate(self.hooks)
            if self.only in (None, stream)
        }
        made = [asked.get(stream, self._nothing(stream, asked)) for stream in range(len(self.hooks))]
        if torch.is_tensor(made[0]):
            return comfy.utils.pack_latents(made)[0]
        # A hook before the formula gives the predictions of all passes.
        return [
            None if pair[0] is None else comfy.utils.pack_latents(pair)[0] for pair in zip(*made, strict=True)
        ]

    def _nothing(self, stream: int, asked: dict[int, Any]) -> Any:
        """Zeros for a stream that was not asked, in the form of the answer of the other one."""
        like = next(iter(asked.values()))
        if not torch.is_tensor(like):
            return [None if entry is None else self._zeros(stream, entry) for entry in like]
        return self._zeros(stream, like)

    def _zeros(self, stream: int, like: Tensor) -> Tensor:
        return like.new_zeros(like.shape[0], *self.shapes[stream][1:])

    def _of_stream(self, args: dict[str, Any], stream: int, handler: Any) -> dict[str, Any]:
        own = {name: self._cut(value, stream) for name, value in args.items()}
        own["model_options"] = {**args["model_options"], HANDLER: handler}
        return own

    def _cut(self, value: Any, stream: int) -> Any:
        """One stream of what is packed; anything else as it is."""
        if isinstance(value, list) and any(self._is_packed(entry) for entry in value):
            return [entry if entry is None else self._cut(entry, stream) for entry in value]
        return streams_of(value, self.shapes)[stream] if self._is_packed(value) else value

    def _is_packed(self, value: Any) -> bool:
        numbers = sum(torch.Size(shape[1:]).numel() for shape in self.shapes)
        return torch.is_tensor(value) and value.ndim == 3 and value.shape[1:] == (1, numbers)


def streams_of(packed: Tensor, shapes: Shapes) -> list[Tensor]:
    """The streams of a packed latent (b, 1, n), a one-dimensional sound as a video of one column."""
    streams = comfy.utils.unpack_latents(packed, shapes)
    return [stream[..., None, None] if stream.ndim == 3 else stream for stream in streams]


@dataclass
class Passes:
    """The passes of the model that a hook asks for: run on both streams, and once for all of them."""

    model: Any
    packed: Tensor
    shapes: list[tuple[int, ...]]
    options: dict[str, Any]
    done: list[tuple[list[Any], Tensor, list[Tensor | None]]] = field(default_factory=list)

    def of_stream(self, stream: int) -> OneStream:
        return OneStream(self, stream)

    def run(
        self, number: int, conds: list[Any], x: Tensor, timestep: Tensor, options: dict[str, Any]
    ) -> list[Any]:
        """The predictions of pass `number` of a hook, which it may have asked for with another stream."""
        if number < len(self.done):
            known, seen, outputs = self.done[number]
            same = len(known) == len(conds) and all(
                one is other for one, other in zip(known, conds, strict=True)
            )
            if same and torch.equal(seen, x):
                return outputs
        options = {name: value for name, value in options.items() if name != HANDLER}
        if HANDLER in self.options:
            options[HANDLER] = self.options[HANDLER]
        outputs = comfy.samplers.calc_cond_batch(self.model, conds, x, timestep, options)
        self.done[number:] = [(list(conds), x, outputs)]
        return outputs


class OneStream(comfy.context_windows.ContextHandlerABC):
    """In the place of context windows: takes a hook's pass and runs it with the other streams beside."""

    def __init__(self, passes: Passes, stream: int) -> None:
        self.passes = passes
        self.stream = stream
        self.count = 0

    def should_use_context(self, *_: Any, **__: Any) -> bool:
        return True

    def get_resized_cond(self, *_: Any, **__: Any) -> list[Any]:
        """Nothing is cut here."""
        return []

    def execute(
        self,
        calc_cond_batch: Any,  # noqa: ARG002 - the host's signature
        model: Any,  # noqa: ARG002
        conds: list[Any],
        x_in: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
        *_: Any,
        **__: Any,
    ) -> list[Tensor | None]:
        streams = streams_of(self.passes.packed, self.passes.shapes)
        streams[self.stream] = x_in
        packed = comfy.utils.pack_latents(streams)[0]
        outputs = self.passes.run(self.count, conds, packed, timestep, model_options)
        self.count += 1
        return [
            None if output is None else streams_of(output, self.passes.shapes)[self.stream]
            for output in outputs
        ]


def with_own_state(hook: Any, known: dict[int, Any] | None = None) -> Any:
    """A copy of a hook that keeps what it remembers between steps apart from the original.

    Of functions their enclosed variables and attributes, of methods and callable objects the object, of
    partials all of it, each with what it holds in turn. Modules and patchers are shared: they are no memory.
    """
    known = {} if known is None else known
    if id(hook) in known:
        return known[id(hook)]
    if isinstance(hook, types.FunctionType):
        return _function_with_own_state(hook, known) if hook.__closure__ or vars(hook) else hook
    if isinstance(hook, types.MethodType):
        return types.MethodType(hook.__func__, _remembered(hook.__self__, known))
    if isinstance(hook, functools.partial):
        parts = [_remembered(value, known) for value in hook.args]
        named = {name: _remembered(value, known) for name, value in hook.keywords.items()}
        return functools.partial(with_own_state(hook.func, known), *parts, **named)
    return hook if isinstance(hook, types.BuiltinFunctionType) else _remembered(hook, known)


def _function_with_own_state(hook: types.FunctionType, known: dict[int, Any]) -> types.FunctionType:
    originals = hook.__closure__ or ()
    cells = tuple(known.setdefault(id(cell), types.CellType()) for cell in originals)
    made = types.FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, cells)
    made.__kwdefaults__ = hook.__kwdefaults__
    known[id(hook)] = made
    for cell, original in zip(cells, originals, strict=True):
        # A variable that is not set yet leaves its cell empty.
        with contextlib.suppress(ValueError):
            cell.cell_contents = _remembered(original.cell_contents, known)
    for name, value in vars(hook).items():
        setattr(made, name, _remembered(value, known))
    return made


def _remembered(value: Any, known: dict[int, Any]) -> Any:
    """A copy of what a hook holds, and of what that holds."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
        return with_own_state(value, known)
    if torch.is_tensor(value):
        return known.setdefault(id(value), value.clone())
    if isinstance(value, torch.nn.Module | type) or hasattr(value, "model_options"):
        return value
    if type(value) is tuple:
        return tuple(_remembered(entry, known) for entry in value)
    try:
        made = known[id(value)] = copy.copy(value)
    except TypeError:
        # A lock, a file or a module of Python has no copy.
        return value
    if made is not value:
        _fill(made, value, known)
    return made


def _fill(made: Any, value: Any, known: dict[int, Any]) -> None:
    """Give a shallow copy its own entries and attributes."""
    if isinstance(value, dict):
        made.update({key: _remembered(entry, known) for key, entry in value.items()})
    elif isinstance(value, list):
        made[:] = [_remembered(entry, known) for entry in value]
    for name, attribute in getattr(value, "__dict__", {}).items():
        # Past __setattr__, which a frozen dataclass forbids.
        made.__dict__[name] = _remembered(attribute, known)
