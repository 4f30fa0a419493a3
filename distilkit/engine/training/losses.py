"""Losses: pure functions of logits, and `DistillationLoss`, which weighs them by alpha.

All take logits `[..., N, C]`: one student's are `[N, C]`, those of K students trained as one `[K, N, C]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilkit.data.encoding import leave_out_full_mask
from distilkit.errors import MAX_NAMES

Batch = dict[str, Tensor]


class Losses(NamedTuple):
    """Losses of a batch or a step: scalars, or `[K]` for K students. A part that was not computed is `None`.

    `layers` compares layers (`layer_losses`), before any weight.
    """

    total: Tensor
    hard: Tensor | None
    soft: Tensor | None
    layers: Tensor | None = None


def hard_loss(
    student_logits: Tensor,
    labels: Tensor,
    labelled_share: float = 1.0,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Compute the cross-entropy with the labels, mean over the rows that have one.

    `sum over labelled rows of CE / (N * labelled_share)`. The divisor is the labelled share of all training
    rows, not of this batch: every labelled row counts the same, parts of a batch add up, and a batch without
    labels gives 0.

    Args:
        student_logits: float `[..., N, C]`.
        labels: int64 `[..., N]`; -100 marks a row without a label.
        labelled_share: share of the training rows that have a label, in `(0, 1]`.
        class_weights: what a row of each class counts, by id, where they do not all count 1. Unlike torch's
            weighted mean, their sum over the batch is no divisor.

    Returns:
        `[...]`: a scalar for one student.

    Raises:
        ValueError: when the shapes do not fit or the share is out of range.
    """
    if student_logits.ndim < 2 or labels.shape != student_logits.shape[:-1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit logits {tuple(student_logits.shape)}: "
            "want [..., N] and [..., N, C]"
        )
    if not 0 < labelled_share <= 1:
        raise ValueError(f"labelled_share must lie in (0, 1], got {labelled_share}: is any row labelled?")
    logits = student_logits.float().reshape(-1, student_logits.shape[-1])
    weights = None if class_weights is None else logits.new_tensor(class_weights)
    row_losses = F.cross_entropy(logits, labels.reshape(-1), weights, reduction="none")
    return row_losses.view(labels.shape).sum(dim=-1) / (labels.shape[-1] * labelled_share)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the mean squared error of the raw logits, mean over rows **and** classes.

    Tang et al. 2019, section 3.2: `MSE = sum((student - teacher)^2) / (N * C)`, as
    `torch.nn.functional.mse_loss`. Tools that sum over the classes give this term C times the weight at the
    same alpha.

    Args:
        student_logits: float `[..., N, C]`.
        teacher_logits: float `[..., N, C]`, without gradient.

    Returns:
        `[...]`: a scalar for one student.

    Raises:
        ValueError: when the shapes differ.
    """
    _check_same_shape(student_logits, teacher_logits)
    if student_logits.ndim == 2:  # one kernel; the other branch rounds its gradients differently
        return F.mse_loss(student_logits.float(), teacher_logits.float())
    squares = F.mse_loss(student_logits.float(), teacher_logits.float(), reduction="none")
    return squares.mean(dim=(-2, -1))


def kl_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute the Kullback-Leibler divergence of the softened distributions, mean over rows.

    Hinton et al. 2015, section 2: `T^2 * sum over rows and classes of p * (log p - log q) / N` with
    `p = softmax(teacher / T)` and `q = softmax(student / T)`. It sums over classes: a mean over them, torch's
    default, would halve the teacher's weight for two classes. Gradients shrink with `1 / T^2`, so `T^2` keeps
    the meaning of alpha.

    Args:
        student_logits: float `[..., N, C]`.
        teacher_logits: float `[..., N, C]`, without gradient.
        temperature: T, above 0.

    Returns:
        `[...]`: a scalar for one student.

    Raises:
        ValueError: when the shapes differ or the temperature is not above 0.
    """
    _check_same_shape(student_logits, teacher_logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    row_losses = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return (temperature**2 * row_losses).mean(dim=-1)


@dataclass(frozen=True, kw_only=True)
class DistillationLoss:
    """Weigh labels against a teacher: `alpha * CE(student, labels) + (1 - alpha) * MSE(student, teacher)`.

    Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", section 3.2.
    With a `temperature`, `kl_loss` replaces the MSE. At `alpha=1` teacher logits are not read, at `alpha=0`
    labels are not. With an `alpha_end` alpha moves linearly, `(1 - progress) * alpha + progress * alpha_end`,
    and both parts are computed if either is ever weighed.

    Attributes:
        alpha: weight of the hard loss, in `[0, 1]`; `[K]` for K students (`stack_losses`).
        alpha_end: its weight at the last step; `None` where it stays.
        temperature: T of `kl_loss`; `None` for the MSE.
        has_probabilities: whether the teacher gave probabilities, and `teacher_logits` are their logarithms.
        labelled_share: as `hard_loss`, like `class_weights`.

    Raises:
        ValueError: when alpha is out of range.
    """

    alpha: float | Tensor
    alpha_end: float | Tensor | None = None
    temperature: float | None = None
    labelled_share: float = 1.0
    has_probabilities: bool = False
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for alpha in (self.alpha, self.alpha if self.alpha_end is None else self.alpha_end):
            if isinstance(alpha, float | int) and not 0 <= alpha <= 1:
                raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
        if self.has_probabilities and self.temperature is None and self.reads_teacher:
            raise ValueError("the MSE compares logits, and probabilities have none: give a temperature")

    @cached_property
    def alpha_range(self) -> tuple[float, float]:
        """Return the least and the greatest weight that the hard loss ever has."""
        values = [self.alpha] if self.alpha_end is None else [self.alpha, self.alpha_end]
        joined = torch.cat(
            [torch.as_tensor(value, dtype=torch.float64).reshape(-1).cpu() for value in values]
        )
        return float(joined.min()), float(joined.max())

    @property
    def reads_labels(self) -> bool:
        """Return whether any label is ever weighed."""
        return self.alpha_range[1] > 0

    @property
    def reads_teacher(self) -> bool:
        """Return whether any teacher logit is ever weighed."""
        return self.alpha_range[0] < 1

    @property
    def unweighed_parts(self) -> frozenset[str]:
        """Return the names of the loss parts that alpha leaves out from the first step to the last."""
        parts = {"hard_loss": self.reads_labels, "soft_loss": self.reads_teacher}
        return frozenset(name for name, is_read in parts.items() if not is_read)

    def alpha_at(self, progress: float) -> float | Tensor:
        """Return alpha at a point of training, from 0 at the first step to 1 at the last."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in [0, 1], got {progress}")
        if self.alpha_end is None or self.alpha is self.alpha_end:
            return self.alpha
        if isinstance(self.alpha, float | int) and self.alpha == self.alpha_end:
            return self.alpha
        return (1 - progress) * self.alpha + progress * self.alpha_end

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run `model` on the inputs of `batch`; return its logits, float32 `[N, C]`."""
        logits: Tensor = model(**leave_out_full_mask(model, model_inputs(batch))).logits
        return logits.float()

    def __call__(self, logits: Tensor, batch: Batch, progress: float = 0.0) -> Losses:
        """Return the losses of a batch.

        Args:
            logits: the student's, float `[..., N, C]`.
            batch: with `labels` `[..., N]` and `teacher_logits` `[..., N, C]`, each where alpha weighs it.
            progress: how far training is, in `[0, 1]`.

        Raises:
            ValueError: when a tensor that alpha weighs is missing or has another shape.
        """
        labels, teacher_logits = batch.get("labels"), batch.get("teacher_logits")
        low, high = self.alpha_range
        alpha = self.alpha_at(progress)
        hard = soft = None
        if self.reads_labels:
            if labels is None:
                raise ValueError(f"alpha {high:g} weighs the labels, but the batch has none")
            hard = hard_loss(logits, labels, self.labelled_share, self.class_weights)
        if self.reads_teacher:
            if teacher_logits is None:
                raise ValueError(f"alpha {low:g} weighs the teacher, but the batch has no teacher_logits")
            if self.temperature is None:
                soft = soft_loss(logits, teacher_logits)
            else:
                soft = kl_loss(logits, teacher_logits, self.temperature)
        if hard is None:
            assert soft is not None
            return Losses(soft, None, soft)
        if soft is None:
            return Losses(hard, hard, None)
        return Losses(alpha * hard + (1 - alpha) * soft, hard, soft)

    @property
    def formula(self) -> str:
        """Return the loss with its numbers, as every run prints and saves it."""
        assert not isinstance(self.alpha, Tensor)
        hard, soft = "CE(student, labels)", "MSE(student_logits, teacher_logits)"
        if self.class_weights is not None:
            weights = ", ".join(f"{weight:.3g}" for weight in self.class_weights[:MAX_NAMES])
            more = ", ..." if len(self.class_weights) > MAX_NAMES else ""
            hard = f"CE(student, labels, class weights [{weights}{more}])"
        if self.labelled_share < 1:
            hard += f" over labelled rows ({self.labelled_share:.1%} of all)"
        if self.temperature is not None:
            divisor = "" if self.temperature == 1 else f" / {self.temperature:g}"
            factor = "" if self.temperature == 1 else f"{self.temperature**2:g} * "
            teacher = f"softmax(teacher_logits{divisor})"
            if self.has_probabilities:
                teacher = (
                    f"softmax(log(teacher_probabilities){divisor})" if divisor else "teacher_probabilities"
                )
            soft = f"{factor}KL({teacher} || softmax(student_logits{divisor}))"
        if self.alpha_end is not None and self.alpha_end != self.alpha:
            schedule = f"alpha from {self.alpha:g} to {self.alpha_end:g} over the steps"
            return f"{schedule}, loss = alpha * {hard} + (1 - alpha) * {soft}"
        if self.alpha == 1:
            return f"loss = {hard}"
        if self.alpha == 0:
            return f"loss = {soft}"
        return f"loss = {self.alpha:g} * {hard} + {1 - self.alpha:.12g} * {soft}"


def stack_losses(losses: Sequence[DistillationLoss], device: torch.device) -> DistillationLoss:
    """Return the loss of K students as one: alphas as tensors `[K]`; they share all else."""
    starts = [loss.alpha for loss in losses]
    ends = [loss.alpha if loss.alpha_end is None else loss.alpha_end for loss in losses]
    alpha = torch.tensor(starts, dtype=torch.float32, device=device)
    alpha_end = None if starts == ends else torch.tensor(ends, dtype=torch.float32, device=device)
    return DistillationLoss(
        alpha=alpha,
        alpha_end=alpha_end,
        temperature=losses[0].temperature,
        labelled_share=max(loss.labelled_share for loss in losses),
        has_probabilities=losses[0].has_probabilities,
        class_weights=losses[0].class_weights,
    )


def model_inputs(batch: Batch) -> Batch:
    """Return what the model reads of a batch: never the labels, so that only the loss computes a loss."""
    return {name: values for name, values in batch.items() if name not in ("labels", "teacher_logits")}


def _check_same_shape(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.ndim < 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits {tuple(teacher_logits.shape)} and student_logits {tuple(student_logits.shape)} "
            "differ in shape; broadcasting them would hide a mistake"
        )
