"""Layers of a teacher, copied into a student."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DistilBertConfig, PreTrainedModel

from distilkit.config import DistillConfig
from distilkit.errors import UserError
from distilkit.models.architectures import PRETRAINED, build_model, student_tokenizer
from distilkit.models.classifier import Classifier, Student
from distilkit.models.heads import label_config, reorder_head
from distilkit.models.loading import load_config
from distilkit.models.locating import find_model


def student_from_teacher(config: DistillConfig, names: Sequence[str], teacher: Classifier) -> Student:
    """Make a student of evenly spaced layers of the teacher, with its embeddings.

    Raises:
        UserError: when the student cannot take layers of this teacher.
    """
    teacher_config = teacher.model.config
    who = teacher.name
    own_layers = getattr(teacher_config, "num_hidden_layers", None)
    if own_layers is None or teacher_config.model_type == "bilstm":
        raise UserError(
            f"--init teacher: {who} is a {teacher_config.model_type}, without layers to take. "
            "Use --init random."
        )
    layers = config.layers or own_layers
    if layers > own_layers:
        raise UserError(f"--layers {layers}: the teacher {who} has only {own_layers}. Use fewer.")
    model_config = _shape_of_teacher(config, teacher_config, who)
    model_config.num_hidden_layers = layers
    student = build_model(label_config(model_config, names))
    copied_layers = evenly_spaced(own_layers, layers)
    new = copy_layers(teacher.model, student, copied_layers)
    if not any(name.startswith("classifier") for name in new):
        reorder_head(student, teacher.class_names, names)
    layer_numbers = ", ".join(str(index + 1) for index in copied_layers)
    origin = f"embeddings and layers {layer_numbers} (of {own_layers}) of {who}"
    tokenizer = student_tokenizer(teacher.tokenizer, model_config, who)
    origin += f"; new: {', '.join(new)}" if new else ""
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


def evenly_spaced(teacher_layers: int, student_layers: int) -> list[int]:
    """Choose the teacher's layers, from 0, that a student takes: first, last, and evenly between.

    6 of 12 gives 0, 2, 4, 7, 9, 11, the choice of DistilBERT (Sanh et al. 2019, `scripts/extract.py`).
    """
    if student_layers == 1:
        return [0]
    step = (teacher_layers - 1) / (student_layers - 1)
    return [round(index * step) for index in range(student_layers)]


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
