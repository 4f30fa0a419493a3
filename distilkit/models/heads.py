"""Classification heads: class names, and their order."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from distilkit.data.labels import canonical, list_classes, match_labels
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
            f"its classes are {list_classes(trained_names)}, the data's {list_classes(names)}, and the head "
            f"of a {type(model).__name__} cannot be put into another order. Use a model without a head."
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


def config_names(config: Any, who: str) -> tuple[str, ...]:
    """Return the class names in a model's config, by id.

    Raises:
        UserError: when their ids do not count from 0, as the outputs do.
    """
    id2label: dict[int, str] = config.id2label
    if sorted(id2label) != list(range(len(id2label))):
        ids = list_classes([str(class_id) for class_id in sorted(id2label)])
        raise UserError(
            f"{who}: id2label in its config.json has the ids {ids}, and outputs count from 0. "
            'Number its classes {"0": …, "1": …} in the order of the outputs.'
        )
    return tuple(str(id2label[index]) for index in range(len(id2label)))


def model_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the class names of a model, by id. Raises `UserError` as `config_names`."""
    return config_names(model.config, model.name_or_path or type(model).__name__)
