"""Losses: pure functions of logits, each with its formula and its shapes."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Losses(NamedTuple):
    """Scalars, or `[K]` of K students trained together. A part that was not computed is `None`.

    `layers` is what `engine.layers` compares, before any weight.
    """

    total: Tensor
    hard: Tensor | None
    soft: Tensor | None
    layers: Tensor | None = None


def hard_loss(student_logits: Tensor, labels: Tensor, labelled_share: float = 1.0) -> Tensor:
    """Cross-entropy with the labels, mean over the rows that have one.

    `sum over labelled rows of CE / (N * labelled_share)`. It divides by what is labelled of all rows trained
    on, not by what happens to be labelled in this batch: so every labelled row counts the same, parts of a
    batch add up, and one without any label gives 0.

    Args:
        student_logits: float `[N, C]`.
        labels: int64 `[N]`; -100 where there is none.
        labelled_share: share of the training rows that have a label, in `(0, 1]`.
    """
    if student_logits.ndim != 2 or labels.shape != student_logits.shape[:1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit logits {tuple(student_logits.shape)}: want [N], [N, C]"
        )
    _check_share(labelled_share)
    return F.cross_entropy(student_logits.float(), labels, reduction="sum") / (len(labels) * labelled_share)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared error of the raw logits, mean over rows **and** classes (Tang et al. 2019, section 3.2).

    `MSE = sum((student - teacher)^2) / (N * C)`, as `torch.nn.functional.mse_loss`. Tools that sum over the
    classes give this term C times the weight at the same alpha.

    Args:
        student_logits: float `[N, C]`.
        teacher_logits: float `[N, C]`, without gradient.
    """
    _check_teacher(student_logits, teacher_logits)
    return F.mse_loss(student_logits.float(), teacher_logits.float())


def kl_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened answers, mean over rows (Hinton et al. 2015, section 2).

    `T^2 * sum over rows and classes of p * (log p - log q) / N` with `p = softmax(teacher / T)` and
    `q = softmax(student / T)`. It is a sum over classes: a mean over them, torch's default, would halve the
    teacher's weight for two classes. Gradients shrink with `1 / T^2`, so `T^2` keeps alpha's meaning.

    Args:
        student_logits: float `[N, C]`.
        teacher_logits: float `[N, C]`, without gradient.
        temperature: T, above 0.
    """
    _check_teacher(student_logits, teacher_logits)
    return _kl_of_rows(student_logits, teacher_logits, temperature).mean()


def distillation_loss(
    student_logits: Tensor,
    labels: Tensor | None,
    teacher_logits: Tensor | None,
    alpha: float,
    *,
    alpha_end: float | None = None,
    progress: float = 0.0,
    temperature: float | None = None,
    labelled_share: float = 1.0,
) -> Losses:
    """`alpha * CE(student, labels) + (1 - alpha) * MSE(student_logits, teacher_logits)`.

    Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", section 3.2.
    With a `temperature`, `kl_loss` is in the place of the MSE. With `alpha=1` the teacher's logits are not
    looked at, with `alpha=0` the labels are not. With an `alpha_end` alpha is
    `(1 - progress) * alpha + progress * alpha_end`, and both parts are computed where either is ever weighed.

    Args:
        student_logits: float `[N, C]`.
        labels: int64 `[N]`, -100 where there is none; may be `None` when `alpha` is 0 throughout.
        teacher_logits: float `[N, C]`; may be `None` when `alpha` is 1 throughout.
        alpha: weight of the hard loss, in `[0, 1]`.
        alpha_end: its weight at the end of training; `None` where it stays.
        progress: how far training is, in `[0, 1]`.
        temperature: of the soft loss, as `kl_loss`; `None` for the MSE.
        labelled_share: as `hard_loss`.

    Raises:
        ValueError: when a tensor that `alpha` weighs is missing or has another shape.
    """
    start, end = alpha, alpha if alpha_end is None else alpha_end
    for value in (start, end):
        if not 0 <= value <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {value}")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress}")
    now = alpha if start == end else (1 - progress) * start + progress * end
    hard = soft = None
    if max(start, end) > 0:
        if labels is None:
            raise ValueError(f"alpha {max(start, end):g} weighs the labels, but the batch has none")
        hard = hard_loss(student_logits, labels, labelled_share)
    if min(start, end) < 1:
        if teacher_logits is None:
            raise ValueError(
                f"alpha {min(start, end):g} weighs the teacher, but the batch has no teacher_logits"
            )
        if temperature is None:
            soft = soft_loss(student_logits, teacher_logits)
        else:
            soft = kl_loss(student_logits, teacher_logits, temperature)
    if hard is None:
        assert soft is not None
        return Losses(soft, None, soft)
    if soft is None:
        return Losses(hard, hard, None)
    return Losses(now * hard + (1 - now) * soft, hard, soft)


def distillation_losses(
    student_logits: Tensor,
    labels: Tensor | None,
    teacher_logits: Tensor | None,
    alphas: Tensor,
    *,
    temperature: float | None = None,
    labelled_share: float = 1.0,
) -> Losses:
    """`distillation_loss` of K students at once, each with its own alpha.

    Args:
        student_logits: float `[K, N, C]`.
        labels: int64 `[K, N]`, -100 where there is none; may be `None` when every alpha is 0.
        teacher_logits: float `[K, N, C]`; may be `None` when every alpha is 1.
        alphas: float `[K]`, each in `[0, 1]`, on the device of the logits.
        temperature: of the soft loss of all, as `distillation_loss`.
        labelled_share: as `hard_loss`; they all learn from the same rows.

    Returns:
        Losses `[K]`. A part that a student's alpha leaves out has no weight in its total.

    Raises:
        ValueError: when both are missing or a tensor has another shape.
    """
    students, rows, _ = student_logits.shape
    hard = soft = None
    if labels is not None:
        if labels.shape != (students, rows):
            raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(student_logits.shape)}")
        _check_share(labelled_share)
        each = F.cross_entropy(student_logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        hard = each.view(students, rows).mean(dim=1) / labelled_share
    if teacher_logits is not None:
        if teacher_logits.shape != student_logits.shape:
            raise ValueError(
                f"teacher_logits {tuple(teacher_logits.shape)} and student_logits "
                f"{tuple(student_logits.shape)} differ in shape"
            )
        if temperature is None:
            squares = F.mse_loss(student_logits.float(), teacher_logits.float(), reduction="none")
            soft = squares.mean(dim=(1, 2))
        else:
            soft = _kl_of_rows(student_logits, teacher_logits, temperature).mean(dim=1)
    if hard is None and soft is None:
        raise ValueError("there are neither labels nor teacher_logits to learn from")
    if hard is None or soft is None:
        only = soft if hard is None else hard
        assert only is not None
        return Losses(only, hard, soft)
    return Losses(alphas * hard + (1 - alphas) * soft, hard, soft)


def formula(
    alpha: float,
    *,
    alpha_end: float | None = None,
    temperature: float | None = None,
    labelled_share: float = 1.0,
) -> str:
    """The loss with its numbers in it, as every run prints and saves it."""
    hard, soft = "CE(student, labels)", "MSE(student_logits, teacher_logits)"
    if labelled_share < 1:
        hard += f" over labelled rows ({labelled_share:.1%} of all)"
    if temperature is not None:
        by = "" if temperature == 1 else f" / {temperature:g}"
        squared = "" if temperature == 1 else f"{temperature**2:g} * "
        soft = f"{squared}KL(softmax(teacher_logits{by}) || softmax(student_logits{by}))"
    if alpha_end is not None and alpha_end != alpha:
        moving = f"alpha from {alpha:g} to {alpha_end:g} over the steps"
        return f"{moving}, loss = alpha * {hard} + (1 - alpha) * {soft}"
    if alpha == 1:
        return f"loss = {hard}"
    if alpha == 0:
        return f"loss = {soft}"
    return f"loss = {alpha:g} * {hard} + {1 - alpha:.12g} * {soft}"


def _kl_of_rows(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """`T^2 * KL` of each row, float32: `[..., C]` to `[...]`."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    ours = F.log_softmax(student_logits.float() / temperature, dim=-1)
    theirs = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)


def _check_teacher(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits {tuple(teacher_logits.shape)} and student_logits {tuple(student_logits.shape)} "
            "differ in shape; broadcasting them would hide a mistake"
        )


def _check_share(labelled_share: float) -> None:
    if not 0 < labelled_share <= 1:
        raise ValueError(f"labelled_share must lie in (0, 1], got {labelled_share}: is any row labelled?")
