"""Layers of a teacher, copied into a student."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DistilBertConfig, PreTrainedModel

from distilkit.config import DistillConfig
from distilkit.config.student import WORD_STUDENTS
from distilkit.errors import UserError, list_names
from distilkit.models.architectures import (
    PRETRAINED,
    build_model,
    evenly_spaced,
    layer_settings,
    resize_layers,
    student_tokenizer,
)
from distilkit.models.classifier import Classifier, Student
from distilkit.models.heads import label_config, reorder_head
from distilkit.models.loading import load_config
from distilkit.runs.locating import find_model


def student_from_teacher(config: DistillConfig, names: Sequence[str], teacher: Classifier) -> Student:
    """Make a student of evenly spaced layers of the teacher, with its embeddings.

    Raises:
        UserError: when the student cannot take layers of this teacher.
    """
    teacher_config = teacher.model.config
    who = teacher.name
    own_layers = getattr(teacher_config, "num_hidden_layers", None)
    if own_layers is None or teacher_config.model_type in WORD_STUDENTS:
        raise UserError(
            f"--init teacher: {who} is a {teacher_config.model_type}, without layers to take. "
            "Use --init random."
        )
    layers = config.layers or own_layers
    if layers > own_layers:
        raise UserError(f"--layers {layers}: the teacher {who} has only {own_layers}. Use fewer.")
    if getattr(teacher_config, "is_encoder_decoder", False):
        raise UserError(
            f"--init teacher: {who} is a {teacher_config.model_type}, an encoder with a decoder, of which "
            "layers cannot be taken. Use --init random."
        )
    copied_layers = evenly_spaced(own_layers, layers)
    model_config = _shape_of_teacher(config, teacher_config, who)
    resize_layers(model_config, layers, who)
    for key, values in layer_settings(teacher_config).items():
        if hasattr(model_config, key):  # each copy keeps the settings of its layer
            setattr(model_config, key, [values[layer] for layer in copied_layers])
    student = build_model(label_config(model_config, names))
    new = copy_layers(teacher.model, student, copied_layers)
    if not any(name.startswith("classifier") for name in new):
        reorder_head(student, teacher.class_names, names)
    layer_numbers = ", ".join(str(index + 1) for index in copied_layers)
    origin = f"embeddings and layers {layer_numbers} (of {own_layers}) of {who}"
    tokenizer = student_tokenizer(teacher.tokenizer, model_config, who)
    origin += f"; new: {list_names(new)}" if new else ""
    return Student(config.student, tokenizer, student, origin=origin, copied_layers=tuple(copied_layers))


def _shape_of_teacher(config: DistillConfig, teacher_config: Any, who: str) -> Any:
    """Return the config of a student that takes layers of a teacher with `teacher_config`."""
    if config.student == "distilbert" and teacher_config.model_type == "bert":
        return DistilBertConfig(
            vocab_size=teacher_config.vocab_size,
            max_position_embeddings=teacher_config.max_position_embeddings,
            n_heads=teacher_config.num_attention_heads,
            dim=teacher_config.hidden_size,
            hidden_dim=teacher_config.intermediate_size,
            activation=teacher_config.hidden_act,
            pad_token_id=teacher_config.pad_token_id,
        )
    if config.student in PRETRAINED:
        if teacher_config.model_type != ("bert" if config.student == "tinybert" else "distilbert"):
            raise UserError(
                f"--student {config.student} cannot take layers of {who}, a {teacher_config.model_type}. "
                f"Use --student {who} --layers N --init teacher, or --init random."
            )
        return copy.deepcopy(teacher_config)
    model_config = load_config(find_model(config.student))
    if model_config.model_type != teacher_config.model_type:
        raise UserError(
            f"--init teacher: layers of {who} ({teacher_config.model_type}) do not fit a "
            f"{model_config.model_type} ({config.student}). Use --init pretrained or --init random."
        )
    model_config.vocab_size = teacher_config.vocab_size
    return model_config


# BERT's names for DistilBERT's modules.
_DISTILBERT_NAMES = (
    (r"^distilbert\.embeddings\.", "bert.embeddings."),
    (r"^distilbert\.transformer\.layer\.", "bert.encoder.layer."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
)


LAYER = re.compile(r"\.(layers?)\.(\d+)\.")


def _numbers_can_be_chosen(teacher: PreTrainedModel, student: PreTrainedModel) -> bool:
    """Return whether parameter names tell the layer, or all layers share their weights (as ALBERT's)."""
    names = [name for name, _ in student.named_parameters()]
    return any(map(LAYER.search, names)) or len(names) == len([*teacher.named_parameters()])


def copy_layers(
    teacher: PreTrainedModel, student: PreTrainedModel, copied_layers: Sequence[int]
) -> list[str]:
    """Fill `student` with the teacher's embeddings, its `copied_layers` and what else has the same name.

    The student may be of the teacher's architecture, or a DistilBERT of a BERT's sizes: its layout has no
    segment embeddings, so the teacher's for the first segment are added to the position embeddings, which
    gives single texts the same input vectors.

    Returns:
        The names of the student's parameters that the teacher has nothing for.

    Raises:
        UserError: when a width differs.
    """
    teacher_weights = teacher.state_dict()
    distil = student.config.model_type == "distilbert" and teacher.config.model_type == "bert"
    if list(copied_layers) != list(range(len(copied_layers))) and not _numbers_can_be_chosen(
        teacher, student
    ):
        raise UserError(
            f"--init teacher: which layers are taken cannot be chosen for {student.config.model_type}, "
            "whose parameters are named in another way. Use --init random."
        )
    new = []
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            theirs = name
            for pattern, replacement in _DISTILBERT_NAMES if distil else ():
                theirs = re.sub(pattern, replacement, theirs)
            theirs = LAYER.sub(
                lambda match: f".{match[1]}.{copied_layers[int(match[2])]}.",
                theirs,
                count=1,
            )
            behind_another_layer = distil and name.startswith("classifier.")
            if theirs not in teacher_weights or behind_another_layer:
                if LAYER.search(name):
                    raise UserError(f"--init teacher: the teacher has nothing for {name}. Use --init random.")
                new.append(name)
                continue
            value = teacher_weights[theirs]
            if distil and name == "distilbert.embeddings.position_embeddings.weight":
                value = value + teacher_weights["bert.embeddings.token_type_embeddings.weight"][0]
            if value.shape != parameter.shape:
                if name.startswith("classifier"):
                    new.append(name)
                    continue
                raise UserError(
                    f"--init teacher: the student's {name} is {tuple(parameter.shape)}, the teacher's "
                    f"{tuple(value.shape)}. Widths must match; use --init random."
                )
            parameter.copy_(value)
    return new
