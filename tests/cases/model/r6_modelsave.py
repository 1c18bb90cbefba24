"""What the host's ModelSave writes of a joint model has to load as it was, with both experts."""

from __future__ import annotations

from small_models import FOLDER, ModelPatcher, ccl, low_noise_of, mova

# isort: split
# The host's modules are there once the models are.
import folder_paths
from comfy_extras.nodes_model_merging import ModelSave

from ccl_pack.ccl_core.host.files.build import load_model


def saved_and_loaded(name: str, model: ModelPatcher) -> str:
    """What became of the model."""
    ModelSave().save(model, name)
    (path,) = FOLDER.glob(f"{name}_0*.safetensors")
    try:
        loaded = load_model(str(path), {})
    except Exception as error:
        return f"FAULT: {type(error).__name__}: {error}"
    lost = low_noise_of(model) is not None and low_noise_of(loaded) is None
    return "FAULT: loads, without its low-noise expert" if lost else "ok: loads"


folder_paths.set_output_directory(str(FOLDER))
for title, make in (("ccl", ccl), ("mova", mova)):
    print(title, saved_and_loaded(title, make()))
