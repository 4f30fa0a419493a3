"""Losses between layers of a student and of a teacher."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distilkit.errors import UserError, pluralize


class Layers(NamedTuple):
    """A forward pass of an encoder, seen from inside.

    `states` are the embeddings' output and that of every layer, float `[N, L, W]` each; `scores` those of
    every layer's attention before the softmax and before any mask, float `[N, H, L, L]`, empty where they
    were not asked for. `logits` is `None` where the model has no head.
    """

    states: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    logits: Tensor | None


class LayerLosses(NamedTuple):
    """Scalars: the embeddings' part, and the sums over mapped layers of the other two."""

    embedding: Tensor
    hidden: Tensor
    attention: Tensor

    @property
    def total(self) -> Tensor:
        """Return their sum, each with weight 1 as in the paper."""
        return self.embedding + self.hidden + self.attention


# --- losses ------------------------------------------------------------------------------------------------


def hidden_loss(student_states: Tensor, teacher_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the mean squared error of the states of a layer, or of the embeddings' output.

    `MSE(H_student W_h, H_teacher)`, Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language
    Understanding", equations 8 (layers) and 9 (embeddings); `W_h` has been applied already (`Projected`).
    The mean is taken over width, then over the real tokens of a row, then over rows.

    Args:
        student_states: float `[N, L, W]`.
        teacher_states: float `[N, L, W]`, without gradient.
        attention_mask: `[N, L]`, 1 for real tokens; each row has one at least.
    """
    _check_same_shape("states", student_states, teacher_states, 3)
    mask = attention_mask.bool()
    if mask.shape != student_states.shape[:2]:
        raise ValueError(f"attention_mask {tuple(mask.shape)} does not fit {tuple(student_states.shape)}")
    squares = (student_states.float() - teacher_states.float()).square().mean(dim=2)
    return (squares.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1)).mean()


def attention_loss(student_scores: Tensor, teacher_scores: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the mean squared error of a layer's attention scores, before the softmax.

    `1/h * sum over heads of MSE(A_student, A_teacher)`, Jiao et al. 2020, equation 7. Mean over heads, over
    the pairs of a real query and a real key of a row, over rows.

    Args:
        student_scores: float `[N, H, L, L]`.
        teacher_scores: float `[N, H, L, L]`, without gradient; as many heads.
        attention_mask: `[N, L]`, 1 for real tokens; each row has one at least.
    """
    _check_same_shape("scores", student_scores, teacher_scores, 4)
    mask = attention_mask.bool()
    if mask.shape != student_scores.shape[::2] or mask.shape[1] != student_scores.shape[3]:
        raise ValueError(f"attention_mask {tuple(mask.shape)} does not fit {tuple(student_scores.shape)}")
    squares = (student_scores.float() - teacher_scores.float()).square().mean(dim=1)
    squares = squares.masked_fill(~(mask[:, :, None] & mask[:, None, :]), 0)
    return (squares.sum(dim=(1, 2)) / mask.sum(dim=1).square()).mean()


def patient_loss(student_states: Sequence[Tensor], teacher_states: Sequence[Tensor]) -> Tensor:
    """Compute the mean squared error of the normalised [CLS] states of the mapped layers.

    `mean of (h_student / ||h_student|| - h_teacher / ||h_teacher||)^2`, Sun et al. 2019, "Patient Knowledge
    Distillation for BERT Model Compression", equation 7. Mean over rows, layers **and** width, as in the
    paper's code, whose `beta` of 10 to 1000 is meant for it: a row's squared distance is at most 4, and is
    divided by the width.

    Args:
        student_states: of each mapped layer, float `[N, L, W]`; [CLS] is the first of the L tokens.
        teacher_states: of as many layers, float `[N, L, W]`, without gradient.
    """
    student, teacher = (
        F.normalize(torch.stack([states[:, 0] for states in layers]).float(), dim=-1)
        for layers in (student_states, teacher_states)
    )
    _check_same_shape("[CLS] states", student, teacher, 3)
    return F.mse_loss(student, teacher)


def layer_losses(
    student: Layers, teacher: Layers, attention_mask: Tensor, layer_map: Sequence[int]
) -> LayerLosses:
    """Compute the losses of TinyBERT's first stage: embeddings, and every student layer with its teacher's.

    Args:
        student: with states of the teacher's width.
        attention_mask: `[N, L]`, 1 for real tokens.
        layer_map: per layer of the student the number, from 1, of the teacher's.
    """
    hidden = [
        hidden_loss(student.states[student_layer], teacher.states[teacher_layer], attention_mask)
        for student_layer, teacher_layer in enumerate(layer_map, start=1)
    ]
    attention = [
        attention_loss(scores, teacher.scores[teacher_layer - 1], attention_mask)
        for scores, teacher_layer in zip(student.scores, layer_map, strict=True)
    ]
    return LayerLosses(
        embedding=hidden_loss(student.states[0], teacher.states[0], attention_mask),
        hidden=torch.stack(hidden).sum(),
        attention=torch.stack(attention).sum(),
    )


def _check_same_shape(what: str, student: Tensor, teacher: Tensor, dimensions: int) -> None:
    if student.ndim != dimensions or student.shape != teacher.shape:
        raise ValueError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} differ in "
            "shape; broadcasting them would hide a mistake"
        )


# --- which layer is matched with which ---------------------------------------------------------------------


def layer_map(
    teacher_layers: int, student_layers: int, copied_layers: Sequence[int] | None = None
) -> list[int]:
    """Return, per layer of the student, the number from 1 of the teacher's layer it is matched with.

    They are evenly spaced, the last with the last: 4 of 12 gives 3, 6, 9, 12 (Jiao et al. 2020,
    `g(m) = 3m`). Where the counts do not divide, `m * teacher_layers / student_layers` is rounded.

    A student copied from the teacher's layers has their attention heads, which are unrelated to those of
    other layers. So each of its layers is matched with the layer it was copied from, except the last, which
    is matched with the teacher's last: its output has to serve the head.

    Args:
        picked: the teacher's layers, from 0, that the student's were copied from.

    Raises:
        UserError: when the student has more layers than the teacher.
    """
    if student_layers > teacher_layers:
        raise UserError(
            f"the student has {pluralize(student_layers, 'layer')}, its teacher only {teacher_layers}, so "
            "they cannot be matched. Use --layers or another --student, or --method logits."
        )
    if copied_layers is not None:
        return [layer + 1 for layer in copied_layers[:-1]] + [teacher_layers]
    return [round(layer * teacher_layers / student_layers) for layer in range(1, student_layers + 1)]
