"""A checkpoint's weights held against those of the model that reads them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from distilkit.data.labels import list_classes
from distilkit.errors import UserError, list_names

# What wrappers put before the names of the weights, and how the model in them is reached.
WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DataParallel"}
PEFT_PREFIX, PEFT_LAYER = "base_model.model.", ".base_layer."
MERGE = "as PEFT leaves them. Save the merged model: model.merge_and_unload().save_pretrained(FOLDER)"

# Heads that may look like those of text classifiers, as the names of transformers' classes end.
OTHER_TASKS = {
    "ForTokenClassification": "classifying tokens",
    "ForQuestionAnswering": "finding answers in a text",
    "ForMultipleChoice": "choosing between texts",
    "ForNextSentencePrediction": "telling whether a text follows another",
}


class LoadedModel(NamedTuple):
    """A model, which of its weights are new, and which weights of the checkpoint it does not use."""

    model: PreTrainedModel
    new: list[str]
    unused: list[str]

    @property
    def remarks(self) -> str:
        """Return new and unused weights in words, to follow the name of the model."""
        new = f"; new: {list_names(self.new)}" if self.new else ""
        return new + (f"; weights it does not use: {list_names(self.unused)}" if self.unused else "")


def compare_with_checkpoint(name: str, model: PreTrainedModel, report: Mapping[str, Any]) -> LoadedModel:
    """Refuse a checkpoint that does not hold all of the encoder, and list what it has too little or too much.

    Args:
        name: what the user calls the model.
        report: `output_loading_info` of `from_pretrained`, with `ignore_mismatched_sizes=True`.

    Raises:
        UserError: when weights of the encoder are missing or of another shape: they would be noise.
    """
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = {
        key: (tuple(stored), tuple(expected)) for key, stored, expected in report["mismatched_keys"]
    }
    for key, (stored, expected) in sorted(mismatched.items()):
        if is_encoder_weight(key, model):
            raise UserError(
                f"{name}: its weights and its config.json are of different models: {key} is "
                f"{_describe_shape(stored)} in the weights and {_describe_shape(expected)} by the config."
            )
    lacking = [key for key in missing if is_encoder_weight(key, model)]
    if lacking:
        raise UserError(
            f"{name}: its checkpoint lacks {len(lacking):,} weights of the encoder "
            f"({list_names(lacking)}), which would be random. "
            + _explain_missing(lacking, unexpected, model.base_model_prefix)
        )
    unused = [key for key in unexpected if is_encoder_weight(key, model) or _is_of_a_layer(key)]
    return LoadedModel(model, sorted({*missing, *mismatched}), unused)


def check_head(name: str, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Raise `UserError` where a trained head has another number of outputs than config.json has classes."""
    for key, stored, _ in sorted(report["mismatched_keys"]):
        names = [str(label) for label in (model.config.id2label or {}).values()]
        raise UserError(
            f"{name}: its head ({key}) has {stored[0]} outputs, but its config.json names {len(names)} "
            f"classes ({list_classes(names)}). Name {stored[0]} in id2label and "
            "label2id, and remove num_labels."
        )


def check_finite(name: str, model: PreTrainedModel) -> None:
    """Raise `UserError` where weights are NaN or infinite: no learning rate mends them."""
    broken = [key for key, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        raise UserError(
            f"{name}: {len(broken):,} of its weights hold NaN or infinite numbers ({list_names(broken)}), so "
            "that it cannot be trained. Use an earlier checkpoint of it, or its base model."
        )


def check_task(name: str, config: Any) -> None:
    """Raise `UserError` where config.json says that the head was trained for another task.

    The weights of some of these heads have the names and shapes of a classifier's, and would be scored.
    """
    for architecture in getattr(config, "architectures", None) or ():
        for task, title in OTHER_TASKS.items():
            if isinstance(architecture, str) and architecture.endswith(task):
                raise UserError(
                    f"{name}: its head is for {title} ({architecture} in its config.json), not for "
                    f"classifying texts. Fine-tune it first: distilkit train --model {name}"
                )


def is_encoder_weight(key: str, model: PreTrainedModel) -> bool:
    """Return whether a weight belongs to the encoder: not to a head, nor to a pooler, which is part of it."""
    return key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key


def find_prefix(missing: Sequence[str], unexpected: Sequence[str], base: str) -> str | None:
    """Return what the checkpoint has before the names of missing weights; `None` where that is not the fault.

    Args:
        base: the model's `base_model_prefix`, which a checkpoint of an encoder alone does without.
    """
    endings = {*missing, *(key.removeprefix(f"{base}.") for key in missing)}
    for key in unexpected:
        parts = key.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in endings:
                return ".".join(parts[:i]) + "."
    return None


def _explain_missing(missing: Sequence[str], unexpected: Sequence[str], base: str) -> str:
    if any(PEFT_LAYER in key for key in unexpected):
        return f"Others have {PEFT_LAYER!r} in their names, {MERGE}"
    prefix = find_prefix(missing, unexpected, base)
    if prefix is None:
        return "Put the config.json and the weights of one model together."
    if prefix == PEFT_PREFIX:
        return f"Its names begin with {prefix!r}, {MERGE}"
    wrapper = next((WRAPPERS[name] for name in WRAPPERS if prefix.startswith(name)), None)
    if wrapper is None:
        return f"Its names begin with {prefix!r}: take that away in the weights file."
    return (
        f"Its names begin with {prefix!r}, as {wrapper} leaves them. Save the model inside: "
        f"model.{prefix}save_pretrained(FOLDER)"
    )


def _is_of_a_layer(key: str) -> bool:
    return any(part.isdecimal() for part in key.split("."))


def _describe_shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
