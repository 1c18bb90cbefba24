"""EasyCache in a guided step of several calls: either all branches come from its cache, or none."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension

Options = dict[str, Any]


def skips(options: Options) -> bool:
    """Whether the host's EasyCache took the passes so far of this step from its cache."""
    return getattr(options.get("transformer_options", {}).get("easycache"), "skip_current_step", False)


def in_same_step(options: Options, skipping: bool) -> Options:
    """The options of a further call in one step, in which EasyCache goes on as in the first one.

    It forgets with each call. One branch from the cache and another one fresh differ by the error of the
    cache, which a scale multiplies.
    """
    holder = options.get("transformer_options", {}).get("easycache")
    if not hasattr(holder, "skip_current_step"):
        return options

    def go_on(executor: Any, *args: Any, **kwargs: Any) -> Any:
        holder.skip_current_step = skipping
        return executor(*args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
    transformer = dict(options["transformer_options"])
    wrappers = dict(transformer.get("wrappers", {}))
    # Behind EasyCache's own wrapper, which stands there under its own name.
    wrappers[kind] = {**wrappers.get(kind, {}), "ccl_same_step": [go_on]}
    return {**options, "transformer_options": {**transformer, "wrappers": wrappers}}
