"""CCLMemoryPlan as the host calls it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import io
from server import PromptServer

from ccl_pack.ccl_core.guidance import MODES
from ccl_pack.nodes.memory import CCLMemoryPlan
from support import tiny

model = cache(tiny.patcher)


@pytest.fixture(scope="module", autouse=True)
def model_of_this_file() -> Iterator[None]:
    yield
    model.cache_clear()


def test_schema_names_the_parameters_of_execute_and_explains_them() -> None:
    schema = CCLMemoryPlan.GET_SCHEMA()
    parameters = CCLMemoryPlan.execute.__func__.__code__.co_varnames[1:4]
    assert [part.id for part in schema.inputs] == list(parameters)
    assert all(part.tooltip for part in [*schema.inputs, *schema.outputs])
    assert schema.is_output_node
    assert schema.search_aliases
    assert schema.inputs[2].options == ["from model", *MODES]


@pytest.mark.parametrize("mode", MODES)
def test_the_report_is_output_and_shown(mode: str) -> None:
    result = CCLMemoryPlan.execute(model=model(), latent_image=tiny.av_latent(), mode=mode)
    (text,) = result.args
    assert result.ui.as_dict() == {"text": (text,)}
    assert f"Guidance {mode}" in text
    assert "Verdict: fits whole in RAM" in text


class Listener:
    """Takes what the server would send to the browser."""

    def __init__(self) -> None:
        self.sent = []

    def send_progress_text(self, text: str, node_id: str) -> None:
        self.sent.append((text, node_id))


def test_the_report_stands_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    monkeypatch.setattr(PromptServer, "instance", listener, raising=False)
    node = CCLMemoryPlan.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "7"}})
    result = node.execute(model=model(), latent_image=tiny.av_latent(), mode="cfg")
    assert listener.sent == [(result.args[0], "7")]


def test_the_plan_is_made_anew_in_each_run() -> None:
    first, second = (CCLMemoryPlan.fingerprint_inputs(mode="cfg") for _ in range(2))
    assert first != second


def other_audio() -> dict:
    video, audio = tiny.latents()
    return {"samples": NestedTensor([video, audio[:, :5]])}


@pytest.mark.parametrize(
    "latent, message",
    [
        (tiny.av_latent(channels=48), "video latent has the shape .1, 48, 3, 4, 6."),
        (other_audio(), "audio latent has the shape .1, 5, 18."),
        ({"samples": torch.full((1, 16, 3, 4, 6), torch.nan)}, "NaN"),
    ],
)
def test_a_latent_of_another_model_is_refused(latent: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CCLMemoryPlan.execute(model=model(), latent_image=latent, mode="cfg")


def test_from_model_is_the_mode_the_model_was_published_with() -> None:
    chosen, published = (
        CCLMemoryPlan.execute(model=model(), latent_image=tiny.av_latent(), mode=mode).result[0]
        for mode in ("from model", "ucg_joint")
    )
    assert "Guidance ucg_joint" in chosen and "Guidance ucg_joint" in published
