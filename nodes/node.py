"""CCLNode: what every node of the pack does before it runs, for prompts that were written by hand."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .notices import clear_node

# What the JSON of a prompt can hold in the place of a link. No socket takes any of it.
LITERALS = (str, int, float, bool)


class CCLNode(io.ComfyNode):
    """The host checks a prompt's widgets and the types of its links; this checks what it lets through."""

    @classmethod
    def check_lazy_status(cls, **inputs: Any) -> list[str]:
        """The host calls it with all inputs right before `execute`, to hear of lazy ones; we have none."""
        clear_node()
        schema = cls.define_schema()
        known = [entry.id for entry in schema.inputs]
        unknown = [name for name in inputs if name not in known]
        if unknown:
            raise ValueError(
                f"{schema.node_id} has no input {', '.join(unknown)}: take the link away; it has "
                f"{', '.join(known)}"
            )
        for entry in schema.inputs:
            if not isinstance(entry, (io.WidgetInput, io.DynamicCombo.Input)):
                require_linked(entry, inputs.get(entry.id))
        return []


def require_linked(socket: io.Input, value: Any) -> None:
    """ValueError where a socket holds nothing, or a value that no node gave."""
    if is_literal(value) or (value is None and not socket.optional):
        raise ValueError(
            f"{socket.id} holds {value!r}: link it to an output of the type {socket.io_type} that holds one"
        )


def is_literal(value: Any) -> bool:
    """Whether a value comes from the JSON of a prompt."""
    if isinstance(value, dict):
        return all(entry is None or is_literal(entry) for entry in value.values())
    return isinstance(value, LITERALS)


def known_choices(node: type[io.ComfyNode], **inputs: Any) -> bool | str:
    """For `validate_inputs`: True, or a sentence with the options of each dynamic choice that has none.

    Where the host does not know the option of a dynamic choice, it leaves the choice out without a word
    (`DynamicCombo._expand_schema_for_dynamic`). It shows a sentence at the inputs that `validate_inputs`
    names and the prompt has, so that one has to name a required input beside the choices.
    """
    faults = []
    for entry in node.define_schema().inputs:
        if isinstance(entry, io.DynamicCombo.Input) and inputs[entry.id] is None:
            options = ", ".join(option.key for option in entry.options)
            faults.append(f"{entry.id} is missing or is no option of it: choose one of {options}")
    return "; ".join(faults) or True
