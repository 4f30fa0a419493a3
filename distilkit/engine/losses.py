"""Losses: pure functions of logits, each with its formula and its shapes."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Losses(NamedTuple):
    """Scalars. A part that was not computed is `None`."""

    total: Tensor
    hard: Tensor | None
    soft: Tensor | None


def hard_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, mean over rows.

    Args:
        student_logits: float `[N, C]`.
        labels: int64 `[N]`.
    """
    if student_logits.ndim != 2 or labels.shape != student_logits.shape[:1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit logits {tuple(student_logits.shape)}: want [N], [N, C]"
        )
    return F.cross_entropy(student_logits.float(), labels)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared error of the raw logits, mean over rows **and** classes (Tang et al. 2019, section 3.2).

    `MSE = sum((student - teacher)^2) / (N * C)`, as `torch.nn.functional.mse_loss`. Tools that sum over the
    classes give this term C times the weight at the same alpha.

    Args:
        student_logits: float `[N, C]`.
        teacher_logits: float `[N, C]`, without gradient.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits {tuple(teacher_logits.shape)} and student_logits {tuple(student_logits.shape)} "
            "differ in shape; broadcasting them would hide a mistake"
        )
    return F.mse_loss(student_logits.float(), teacher_logits.float())


def distillation_loss(
    student_logits: Tensor, labels: Tensor | None, teacher_logits: Tensor | None, alpha: float
) -> Losses:
    """`alpha * CE(student, labels) + (1 - alpha) * MSE(student_logits, teacher_logits)`.

    Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", section 3.2.
    With `alpha=1` the teacher's logits are not looked at, with `alpha=0` the labels are not.

    Args:
        student_logits: float `[N, C]`.
        labels: int64 `[N]`; may be `None` when `alpha` is 0.
        teacher_logits: float `[N, C]`; may be `None` when `alpha` is 1.
        alpha: weight of the hard loss, in `[0, 1]`.

    Raises:
        ValueError: when a tensor that `alpha` weighs is missing or has another shape.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    hard = soft = None
    if alpha > 0:
        if labels is None:
            raise ValueError(f"alpha {alpha:g} weighs the labels, but the batch has none")
        hard = hard_loss(student_logits, labels)
    if alpha < 1:
        if teacher_logits is None:
            raise ValueError(f"alpha {alpha:g} weighs the teacher, but the batch has no teacher_logits")
        soft = soft_loss(student_logits, teacher_logits)
    if hard is None:
        assert soft is not None
        return Losses(soft, None, soft)
    if soft is None:
        return Losses(hard, hard, None)
    return Losses(alpha * hard + (1 - alpha) * soft, hard, soft)


def formula(alpha: float) -> str:
    """The loss with its numbers in it, as every run prints and saves it."""
    hard, soft = "CE(student, labels)", "MSE(student_logits, teacher_logits)"
    if alpha == 1:
        return f"loss = {hard}"
    if alpha == 0:
        return f"loss = {soft}"
    return f"loss = {alpha:g} * {hard} + {1 - alpha:.12g} * {soft}"
