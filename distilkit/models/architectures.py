"""Sizes of students by name, and models built to a size."""

from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from distilkit.config import DistillConfig
from distilkit.data.encoding import Tokenizer
from distilkit.errors import UserError, pluralize
from distilkit.models.loading import hushed

# Hub weights of the named students, by number of layers.
PRETRAINED = {
    "tinybert": {4: "huawei-noah/TinyBERT_General_4L_312D", 6: "huawei-noah/TinyBERT_General_6L_768D"},
    "distilbert": {6: "distilbert/distilbert-base-uncased"},
}


# (hidden size, feed-forward size) of a random student, by its layers (Jiao et al. 2020; Sanh et al. 2019).
WIDTHS = {"tinybert": {4: (312, 1200), 6: (768, 3072)}, "distilbert": {6: (768, 3072)}}


HEADS = 12


NOT_PER_LAYER = frozenset(("architectures",))  # lists in configs that say nothing of a layer


def resize_config(model_config: Any, config: DistillConfig, name: str) -> Any:
    """Set the layers and the width that were asked for in the config of model `name`.

    Raises:
        UserError: when the architecture cannot be resized, or the width does not suit its heads.
    """
    if config.layers is not None:
        resize_layers(model_config, config.layers, name)
    if config.hidden_size is not None:
        feed_forward = "hidden_dim" if model_config.model_type == "distilbert" else "intermediate_size"
        if not hasattr(model_config, feed_forward):
            raise UserError(
                f"--hidden-size: a {model_config.model_type} ({name}) cannot be resized. Leave it out."
            )
        ratio = getattr(model_config, feed_forward) / model_config.hidden_size
        if config.hidden_size % model_config.num_attention_heads:
            raise UserError(
                f"--hidden-size {config.hidden_size} cannot be split between the "
                f"{model_config.num_attention_heads} attention heads of {name}. Use a multiple."
            )
        model_config.hidden_size = config.hidden_size
        setattr(model_config, feed_forward, round(ratio * config.hidden_size))
    return model_config


def resize_layers(model_config: Any, layers: int, name: str) -> None:
    """Set the number of layers in the config of model `name`, and of the values in its lists for each layer.

    Raises:
        UserError: when the architecture cannot have another number of layers.
    """
    before, settings = getattr(model_config, "num_hidden_layers", None), layer_settings(model_config)
    if layers == before:
        return
    try:
        model_config.num_hidden_layers = layers
    except (NotImplementedError, AttributeError):
        raise UserError(
            f"--layers {layers}: a {model_config.model_type} ({name}) cannot have another number of layers. "
            "Leave it out."
        ) from None
    if not before:
        return
    spread = evenly_spaced(before, layers) if layers <= before else [i % before for i in range(layers)]
    for key, values in settings.items():
        setattr(model_config, key, [values[layer] for layer in spread])


def layer_settings(model_config: Any) -> dict[str, list[Any]]:
    """Return the lists of a config that have a value per layer, such as `layer_types`."""
    layers = getattr(model_config, "num_hidden_layers", None)
    return {
        key: list(values)
        for key, values in vars(model_config).items()
        if isinstance(values, list | tuple)
        and len(values) == layers
        and key not in NOT_PER_LAYER
        and not key.startswith("_")
    }


def evenly_spaced(teacher_layers: int, student_layers: int) -> list[int]:
    """Choose the teacher's layers, from 0, that a student takes: first, last, and evenly between.

    6 of 12 gives 0, 2, 4, 7, 9, 11, the choice of DistilBERT (Sanh et al. 2019, `scripts/extract.py`).
    """
    if student_layers == 1:
        return [0]
    step = (teacher_layers - 1) / (student_layers - 1)
    return [round(index * step) for index in range(student_layers)]


def named_config(config: DistillConfig, tokenizer: Tokenizer) -> Any:
    """Return the config of a random TinyBERT or DistilBERT that reads `tokenizer`'s tokens.

    Raises:
        UserError: when the width cannot be split between the attention heads.
    """
    assert config.layers is not None
    widths = WIDTHS[config.student]
    hidden, feed_forward = widths.get(config.layers, widths[min(widths)])
    if config.hidden_size is not None and config.hidden_size != hidden:
        hidden, feed_forward = config.hidden_size, 4 * config.hidden_size
    if hidden % HEADS:
        raise UserError(
            f"--hidden-size {hidden} cannot be split between {HEADS} attention heads. "
            f"Use a multiple of {HEADS}."
        )
    vocabulary, pad = len(tokenizer), tokenizer.pad_token_id
    if config.student == "distilbert":
        return DistilBertConfig(
            vocab_size=vocabulary,
            n_layers=config.layers,
            n_heads=HEADS,
            dim=hidden,
            hidden_dim=feed_forward,
            pad_token_id=pad,
        )
    return BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=config.layers,
        num_attention_heads=HEADS,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        pad_token_id=pad,
    )


def build_model(model_config: object) -> PreTrainedModel:
    """Build a classifier with random weights in float32.

    Raises:
        UserError: when transformers refuses the sizes.
    """
    try:
        with hushed():
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
                model_config, dtype=torch.float32, trust_remote_code=False
            )
    # Each architecture checks its sizes in its own way, and most by an assertion.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        kind = getattr(model_config, "model_type", type(model_config).__name__)
        raise UserError(
            f"a {kind} of these sizes cannot be made: {reason}. Use other --layers or --hidden-size."
        ) from None
    return model


def student_tokenizer(tokenizer: Tokenizer, model_config: Any, who: str) -> Tokenizer:
    """Return the same tokenizer, with only the outputs that the student reads."""
    if model_config.model_type != "distilbert":
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"the tokenizer of {who} cannot be taken over by a distilbert. Use --student tinybert."
        )
    same = PreTrainedTokenizerFast(
        tokenizer_object=type(backend).from_str(backend.to_str()),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=tokenizer.model_max_length,
        **{
            name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
        },
    )
    same.truncation_side = tokenizer.truncation_side
    return same


def describe_size(model: PreTrainedModel) -> str:
    """Return layers and width in words, such as `4 layers x 312`."""
    config = model.config
    return f"{pluralize(config.num_hidden_layers, 'layer')} x {config.hidden_size}"
