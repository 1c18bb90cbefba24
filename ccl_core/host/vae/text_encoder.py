"""Build the host's CLIP from a umT5 encoder of any size whose vocabulary travels in the same file."""

import json
from pathlib import Path

import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.t5
import comfy.text_encoders.wan
import comfy.utils
import sentencepiece
import torch

from ..files.values import fault_of_type
from .taught_words import taught_words, tokenizer_class

# Before the keys of Wan's text encoder in the host, whatever its size.
TRANSFORMER_PREFIX = "umt5xxl.transformer."
# Of a T5's config.json. The host reads them for its T5 class.
SHAPE_KEYS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")
# The greatest sizes that are built: umT5-XXL has 24 layers and 256,384 pieces.
LARGEST = 1_000_000
MOST = {"num_layers": 1000, "num_heads": 1024, "min_length": 65536}
# Of those the host's class knows.
CHOICES: dict[str, tuple[object, ...]] = {
    "dense_act_fn": tuple(comfy.text_encoders.t5.activations),
    "is_gated_act": (True, False),
    "model_type": ("umt5", "t5"),
}
LISTED = 6


def load_text_encoder(
    sd: dict[str, torch.Tensor], config: dict | None, embedding_directory: str | None = None
) -> comfy.sd.CLIP:
    """The CLIP of a state dict in the host's umT5 names with a vocabulary (`spiece_model`) in it.

    config: None for Wan's own umT5-XXL, which the host's CheckpointSave writes too.
    """
    weights = _strip_prefix(sd)
    if config is None and comfy.sd.detect_te_model(weights) is comfy.sd.TEModel.T5_XXL:
        _require_wan_encoder(weights)
        kind = comfy.sd.CLIPType.WAN
        return comfy.sd.load_text_encoder_state_dicts([weights], embedding_directory, clip_type=kind)
    vocabulary = _vocabulary(weights)
    model_config = _model_config(config or {})
    _check_weights(weights, model_config)
    _check_vocabulary(vocabulary, model_config)
    target = comfy.supported_models_base.ClipTarget(
        tokenizer_class(taught_words(config)),
        comfy.text_encoders.wan.te(dtype_t5=weights["shared.weight"].dtype),
    )
    # Options whose names begin with umt5xxl reach the host's classes of Wan's tokenizer and encoder.
    return comfy.sd.CLIP(
        target,
        embedding_directory=embedding_directory,
        tokenizer_data={"spiece_model": vocabulary, "umt5xxl_min_length": _min_length(config)},
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        model_options={"umt5xxl_model_config": model_config},
    )


def _require_wan_encoder(weights: dict[str, torch.Tensor]) -> None:
    """ValueError for an umT5-XXL with weights missing: the host's loader would leave them random."""
    config = Path(comfy.text_encoders.wan.__file__).with_name("umt5_config_xxl.json")
    wanted = [*_wanted_shapes(json.loads(config.read_text())), "spiece_model"]
    missing = [key for key in wanted if key not in weights]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise ValueError(
            f"The text encoder, umT5-XXL, has no {', '.join(missing[:LISTED])}{more}: the file was cut, or "
            "saved without them. Get it again, or load a separate text encoder with CLIPLoader (type wan)."
        )


def _strip_prefix(sd: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(TRANSFORMER_PREFIX): value
        for key, value in sd.items()
        if key != "umt5xxl.logit_scale"
    }


def _vocabulary(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    vocabulary = weights.pop("spiece_model", None)
    if vocabulary is None:
        raise ValueError(
            "The text encoder has no vocabulary: key 'spiece_model' (a SentencePiece model as uint8) is "
            "missing. Use a checkpoint that embeds it, or load a separate text encoder with the host's "
            "CLIPLoader (type wan)."
        )
    if vocabulary.dtype != torch.uint8 or vocabulary.ndim != 1:
        raise ValueError(
            f"Text encoder key 'spiece_model' must be a 1-D uint8 tensor, got {vocabulary.dtype} "
            f"of shape {tuple(vocabulary.shape)}. Save the checkpoint with the bytes of the .model file "
            "unchanged."
        )
    return vocabulary.cpu()


def _model_config(config: dict) -> dict:
    model_config = config.get("umt5xxl_model_config")
    if not isinstance(model_config, dict):
        raise ValueError(
            "The text encoder's configuration must hold 'umt5xxl_model_config', a dictionary with "
            f"{', '.join(SHAPE_KEYS)}; got {type(model_config).__name__}. Save the checkpoint again with it."
        )
    # For an absent size the host would take that of umT5-XXL: ten gigabytes instead of an error.
    absent = [key for key in SHAPE_KEYS if not _is_count(model_config.get(key), MOST.get(key, LARGEST))]
    if absent:
        raise ValueError(
            f"The text encoder's 'umt5xxl_model_config' needs positive integers for: {', '.join(absent)}; "
            "none far larger than those of umT5-XXL. Save the checkpoint again with them."
        )
    defaults = {"dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "umt5"}
    whole = {**defaults, **model_config}
    for key, known in CHOICES.items():
        if whole[key] not in known:
            raise ValueError(
                f"The text encoder's '{key}' is {whole[key]!r}, known are {', '.join(map(str, known))}: "
                "save the checkpoint again with one of them."
            )
    return whole


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _min_length(config: dict) -> int:
    # In tokens. Wan pads its texts to 512 and attends to the padding.
    min_length = config.get("min_length", 512)
    if not _is_count(min_length, MOST["min_length"]):
        raise ValueError(
            f"The text encoder's 'min_length' must be a positive number of tokens, got {min_length!r}, "
            f"wanted at most {MOST['min_length']}: save the checkpoint again with it."
        )
    return min_length


def _check_weights(weights: dict[str, torch.Tensor], model_config: dict) -> None:
    wanted = _wanted_shapes(model_config)
    wrong = [f"'{key}' is missing (wanted {shape})" for key, shape in wanted.items() if key not in weights]
    wrong += [
        f"'{key}' has shape {tuple(weights[key].shape)}, wanted {shape}"
        for key, shape in wanted.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    wrong += [f"'{key}' is not part of a umT5 encoder" for key in weights if key not in wanted]
    wrong += [fault for key in weights if (fault := fault_of_type(key, weights[key])) is not None]
    if wrong:
        more = f"; and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise ValueError(
            f"The text encoder does not fit its configuration: {'; '.join(wrong[:LISTED])}{more}. "
            "Check that the file is complete and that 'umt5xxl_model_config' in its metadata describes it."
        )


def _wanted_shapes(model_config: dict) -> dict[str, tuple[int, ...]]:
    model = comfy.text_encoders.t5.T5(model_config, torch.float32, "meta", comfy.ops.manual_cast)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _check_vocabulary(vocabulary: torch.Tensor, model_config: dict) -> None:
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.numpy().tobytes())
    except RuntimeError as error:
        raise ValueError(
            "Text encoder key 'spiece_model' is no SentencePiece model: the file is damaged. Fetch or save "
            "it again."
        ) from error
    pieces = processor.get_piece_size()
    rows = model_config["vocab_size"]
    # Fewer is right: umT5's table has more rows than its vocabulary has pieces.
    if pieces > rows:
        raise ValueError(
            f"The vocabulary has {pieces} pieces but 'shared.weight' only {rows} rows: "
            "the file mixes two text encoders. Use the vocabulary that was saved with these weights."
        )
