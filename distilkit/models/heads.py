"""Classification heads: class names, and their order."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from distilkit.data.labels import canonical, match_labels
from distilkit.errors import UserError


def reorder_head(model: PreTrainedModel, trained_names: Sequence[str], names: Sequence[str]) -> None:
    """Move the rows of a head trained on `trained_names` to where `names` has the same classes.

    Without it a model that is merely renamed would start out meaning the opposite. Heads of other classes, or
    without class names, stay as they are.
    """
    if {canonical(name) for name in trained_names} != {canonical(name) for name in names}:
        return
    columns, _ = match_labels(trained_names, names, "the head")
    if columns == list(range(len(names))):
        return
    inner = {id(module) for module in model.base_model.modules()}
    heads = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
        and id(module) not in inner
        and module.out_features == len(names)
    ]
    if not heads:
        raise UserError(
            f"its classes are {', '.join(trained_names)}, the data's {', '.join(names)}, and the head of a "
            f"{type(model).__name__} cannot be put into another order. Use a model without a head."
        )
    with torch.no_grad():
        for parameter in heads[-1].parameters():
            parameter.copy_(parameter[columns].clone())


def label_config(config: Any, names: Sequence[str]) -> Any:
    """`config` with these classes as `id2label` and `label2id`."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    return config


def model_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the class names of a model, by id."""
    id2label: Any = model.config.id2label
    return tuple(str(id2label[index]) for index in range(len(id2label)))
