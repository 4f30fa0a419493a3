"""The loss is the formula we print, reduced as documented, and alpha always acts."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilkit.engine.training.losses import DistillationLoss, Losses, hard_loss, kl_loss, soft_loss

STUDENT = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
TEACHER = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 2.0, 1.0]])
LABELS = torch.tensor([0, 2])


def distillation_loss(
    student: Tensor,
    labels: Tensor | None,
    teacher: Tensor | None,
    alpha: float | Tensor,
    *,
    progress: float = 0.0,
    **terms: Any,
) -> Losses:
    """Compute a `DistillationLoss` of these tensors."""
    targets = {"labels": labels, "teacher_logits": teacher}
    batch = {name: values for name, values in targets.items() if values is not None}
    return DistillationLoss(alpha=alpha, **terms)(student, batch, progress)


def formula(alpha: float, **terms: Any) -> str:
    """Return the formula of a `DistillationLoss`."""
    return DistillationLoss(alpha=alpha, **terms).formula


def cross_entropy_by_hand(logits: np.ndarray, labels: np.ndarray) -> float:
    """-log softmax at the label, mean over rows."""
    values = logits.astype(np.float64)
    log_probabilities = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return float(-np.mean(log_probabilities[np.arange(len(labels)), labels]))


def mse_by_hand(student: np.ndarray, teacher: np.ndarray) -> float:
    """Squares summed, divided by rows times classes."""
    return float(((student.astype(np.float64) - teacher) ** 2).sum() / student.size)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_the_total_is_the_formula_worked_out_by_hand(alpha: float) -> None:
    losses = distillation_loss(STUDENT, LABELS, TEACHER, alpha)
    hard = cross_entropy_by_hand(STUDENT.numpy(), LABELS.numpy())
    soft = mse_by_hand(STUDENT.numpy(), TEACHER.numpy())
    assert losses.hard is not None and losses.soft is not None
    assert losses.hard.item() == pytest.approx(hard)
    assert losses.soft.item() == pytest.approx(soft)
    assert losses.total.item() == pytest.approx(alpha * hard + (1 - alpha) * soft)


@given(
    rows=st.integers(1, 8),
    classes=st.integers(2, 7),
    alpha=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_the_gradient_is_that_of_the_documented_reductions(
    rows: int, classes: int, alpha: float, seed: int
) -> None:
    """A mean over other dimensions, or an alpha that never acts, would change this gradient and nothing else.

    d total / d student = alpha * (softmax - onehot) / N + (1 - alpha) * 2 * (student - teacher) / (N * C)
    """
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, classes, generator=random, dtype=torch.float32).requires_grad_()
    teacher = torch.randn(rows, classes, generator=random)
    labels = torch.randint(classes, (rows,), generator=random)
    distillation_loss(student, labels, teacher, alpha).total.backward()  # type: ignore[no-untyped-call]
    values = student.detach()
    onehot = torch.nn.functional.one_hot(labels, classes)
    expected = alpha * (values.softmax(dim=1) - onehot) / rows
    expected += (1 - alpha) * 2 * (values - teacher) / (rows * classes)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=1e-5)


def test_the_soft_loss_is_a_mean_over_classes_too() -> None:
    """A sum over classes would weigh the teacher C times as much at the same alpha."""
    student, teacher = torch.zeros(4, 10), torch.full((4, 10), 3.0)
    assert soft_loss(student, teacher).item() == pytest.approx(9.0)
    assert soft_loss(student[:, :2], teacher[:, :2]).item() == pytest.approx(9.0)


def test_alpha_1_is_cross_entropy_and_looks_at_no_teacher() -> None:
    losses = distillation_loss(STUDENT, LABELS, None, 1.0)
    assert losses.total.item() == pytest.approx(cross_entropy_by_hand(STUDENT.numpy(), LABELS.numpy()))
    assert losses.soft is None
    garbage = torch.full_like(TEACHER, float("nan"))
    assert torch.equal(distillation_loss(STUDENT, LABELS, garbage, 1.0).total, losses.total)


def test_alpha_0_is_mse_and_looks_at_no_label() -> None:
    losses = distillation_loss(STUDENT, None, TEACHER, 0.0)
    assert losses.total.item() == pytest.approx(mse_by_hand(STUDENT.numpy(), TEACHER.numpy()))
    assert losses.hard is None
    hidden = torch.tensor([-1, -1])
    assert torch.equal(distillation_loss(STUDENT, hidden, TEACHER, 0.0).total, losses.total)


def gradient(labels: Tensor, alpha: float) -> Tensor:
    """What the student's logits receive."""
    student = STUDENT.clone().requires_grad_()
    distillation_loss(student, labels, TEACHER, alpha).total.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    return student.grad


def test_alpha_is_not_silently_ignored() -> None:
    gradients = [gradient(LABELS, alpha) for alpha in (0.0, 0.25, 0.5, 1.0)]
    for i, one in enumerate(gradients):
        for other in gradients[i + 1 :]:
            assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.01, 0.5, 1.0])
def test_shuffled_labels_change_the_loss_whenever_alpha_weighs_them(alpha: float) -> None:
    shuffled = LABELS.flip(0)
    before = distillation_loss(STUDENT, LABELS, TEACHER, alpha).total
    after = distillation_loss(STUDENT, shuffled, TEACHER, alpha).total
    assert abs(before.item() - after.item()) > 1e-3
    assert not torch.allclose(gradient(LABELS, alpha), gradient(shuffled, alpha), atol=1e-3)


def test_shuffled_labels_change_nothing_at_alpha_0() -> None:
    shuffled = LABELS.flip(0)
    before = distillation_loss(STUDENT, LABELS, TEACHER, 0.0).total
    assert torch.equal(before, distillation_loss(STUDENT, shuffled, TEACHER, 0.0).total)
    assert torch.equal(gradient(LABELS, 0.0), gradient(shuffled, 0.0))


@pytest.mark.parametrize(
    "teacher",
    [torch.zeros(1, 3), torch.zeros(2, 1), torch.zeros(3), torch.zeros(3, 3), torch.zeros(2, 3, 1)],
    ids=["one row", "one class", "no rows", "another row", "one dimension more"],
)
def test_teacher_logits_of_another_shape_are_refused_and_never_broadcast(teacher: Tensor) -> None:
    with pytest.raises(ValueError, match="teacher_logits"):
        soft_loss(STUDENT, teacher)
    with pytest.raises(ValueError, match="teacher_logits"):
        kl_loss(STUDENT, teacher, 2.0)
    with pytest.raises(ValueError, match="teacher_logits"):
        distillation_loss(STUDENT, LABELS, teacher, 0.5)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0]), torch.tensor([[0], [1]]), torch.tensor([0, 1, 2]), torch.eye(3)[:2]]
)
def test_labels_of_another_shape_are_refused(labels: Tensor) -> None:
    # The last one, one-hot rows, torch would take for class probabilities.
    with pytest.raises(ValueError, match="labels"):
        hard_loss(STUDENT, labels)


def test_a_flat_row_of_logits_is_refused() -> None:
    with pytest.raises(ValueError, match="logits"):
        hard_loss(torch.zeros(3), torch.tensor(1))
    with pytest.raises(ValueError, match="logits"):
        soft_loss(torch.zeros(3), torch.zeros(3))


def test_what_alpha_weighs_must_be_there() -> None:
    with pytest.raises(ValueError, match="labels"):
        distillation_loss(STUDENT, None, TEACHER, 0.5)
    with pytest.raises(ValueError, match="teacher_logits"):
        distillation_loss(STUDENT, LABELS, None, 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        distillation_loss(STUDENT, LABELS, TEACHER, alpha)


def test_half_precision_logits_are_compared_in_float32() -> None:
    """In bf16 a difference of 0.01 at 10 rounds away, and with it most of the soft loss."""
    student = torch.tensor([[10.0, -10.0]], dtype=torch.bfloat16)
    losses = distillation_loss(student, torch.tensor([1]), torch.tensor([[10.01, -10.01]]), 0.5)
    assert losses.total.dtype == torch.float32
    assert losses.soft is not None and losses.soft.item() == pytest.approx(1e-4, rel=0.01)


# --- an alpha that moves -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "alpha"), [(0.0, 0.2), (0.25, 0.35), (1.0, 0.8)])
def test_alpha_goes_in_a_straight_line(progress: float, alpha: float) -> None:
    moving = distillation_loss(STUDENT, LABELS, TEACHER, 0.2, alpha_end=0.8, progress=progress)
    torch.testing.assert_close(moving.total, distillation_loss(STUDENT, LABELS, TEACHER, alpha).total)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_a_part_that_has_no_weight_yet_or_no_longer_is_computed_and_reported(
    ends: tuple[float, float], progress: float
) -> None:
    """Left out of one step, it would be missing from the mean of the epoch."""
    start, end = ends
    losses = distillation_loss(STUDENT, LABELS, TEACHER, start, alpha_end=end, progress=progress)
    assert losses.hard is not None and losses.soft is not None
    with pytest.raises(ValueError, match="labels"):
        distillation_loss(STUDENT, None, TEACHER, start, alpha_end=end, progress=progress)
    with pytest.raises(ValueError, match="teacher_logits"):
        distillation_loss(STUDENT, LABELS, None, start, alpha_end=end, progress=progress)


def test_an_alpha_that_ends_where_it_began_needs_no_more_than_one_that_stays() -> None:
    assert distillation_loss(STUDENT, LABELS, None, 1.0, alpha_end=1.0, progress=0.3).soft is None
    assert distillation_loss(STUDENT, None, TEACHER, 0.0, alpha_end=0.0, progress=0.3).hard is None


@pytest.mark.parametrize(("name", "value"), [("alpha_end", 1.1), ("progress", -0.1), ("progress", 1.1)])
def test_a_line_that_leaves_0_to_1_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name.removesuffix("_end")):
        distillation_loss(STUDENT, LABELS, TEACHER, 0.5, **{name: value})  # type: ignore[arg-type]


# --- KL ----------------------------------------------------------------------------------------------------


def kl_by_hand(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T^2 * sum of p * log(p / q), divided by rows alone."""

    def softened(logits: np.ndarray) -> np.ndarray:
        values = np.exp(logits.astype(np.float64) / temperature)
        return np.asarray(values / values.sum(axis=1, keepdims=True))

    p, q = softened(teacher), softened(student)
    return float(temperature**2 * (p * np.log(p / q)).sum() / len(student))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_the_kl_is_the_formula_worked_out_by_hand(temperature: float) -> None:
    expected = kl_by_hand(STUDENT.numpy(), TEACHER.numpy(), temperature)
    assert kl_loss(STUDENT, TEACHER, temperature).item() == pytest.approx(expected, rel=1e-4)
    losses = distillation_loss(STUDENT, LABELS, TEACHER, 0.3, temperature=temperature)
    assert losses.soft is not None and losses.soft.item() == pytest.approx(expected, rel=1e-4)
    hard = cross_entropy_by_hand(STUDENT.numpy(), LABELS.numpy())
    assert losses.total.item() == pytest.approx(0.3 * hard + 0.7 * expected, rel=1e-4)


def test_the_kl_is_a_mean_over_rows_and_a_sum_over_classes() -> None:
    """Torch's default, a mean over both, halves the teacher's weight for two classes."""
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -1.0]])
    one = kl_loss(student, teacher, 1.0).item()
    p = 1 / (1 + np.exp(-2.0))
    assert one == pytest.approx(p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    assert kl_loss(student.expand(7, 2), teacher.expand(7, 2), 1.0).item() == pytest.approx(one)


def test_the_gradient_of_the_kl_keeps_its_size_at_any_temperature() -> None:
    """Without T^2 it would fade with it, and alpha mean something else at each; for small logits it is
    (student - teacher) / (N * C) for logits of mean 0 (Hinton et al. 2015, section 2.1)."""
    student, teacher = (logits - logits.mean(dim=1, keepdim=True) for logits in (STUDENT, TEACHER))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kl_loss(student, teacher, 1000.0), student)
    torch.testing.assert_close(gradient, (student - teacher).detach() / 6, atol=1e-3, rtol=1e-2)


def test_the_kl_is_zero_and_still_for_a_student_that_answers_as_its_teacher() -> None:
    student = (TEACHER + 3).requires_grad_()  # the same answers: a softmax knows no offset
    loss = kl_loss(student, TEACHER, 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-6 and gradient.abs().max() < 1e-6


def test_the_kl_of_very_sure_answers_is_finite_and_float32() -> None:
    student = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16)
    loss = kl_loss(student, torch.tensor([[-300.0, 300.0]]), 1.0)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(600, rel=0.01)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        kl_loss(STUDENT, TEACHER, temperature)


# --- rows without a label ----------------------------------------------------------------------------------


def partly_labelled(rows: int = 12) -> tuple[Tensor, Tensor, Tensor, float]:
    """Logits, labels of which every third is -100, teacher's logits, and the share that is labelled."""
    random = torch.Generator().manual_seed(5)
    logits, teacher = (torch.randn(rows, 3, generator=random) for _ in range(2))
    labels = torch.randint(3, (rows,), generator=random)
    labels[::3] = -100
    return logits, labels, teacher, float((labels != -100).double().mean())


def test_the_hard_loss_of_all_rows_is_the_mean_over_those_with_a_label() -> None:
    logits, labels, _, share = partly_labelled()
    known = labels != -100
    expected = cross_entropy_by_hand(logits[known].numpy(), labels[known].numpy())
    assert hard_loss(logits, labels, share).item() == pytest.approx(expected)
    assert hard_loss(logits[known], labels[known]).item() == pytest.approx(expected)


@pytest.mark.parametrize("sizes", [(12,), (1,) * 12, (5, 5, 2)])
def test_parts_of_a_step_add_up_whatever_is_labelled_in_each(sizes: tuple[int, ...]) -> None:
    """A mean over what is labelled in a part would weigh its rows by how many others there have no label."""
    logits, labels, teacher, share = partly_labelled()
    whole = distillation_loss(logits, labels, teacher, 0.7, labelled_share=share)
    parts = [
        distillation_loss(*part, 0.7, labelled_share=share)
        for part in zip(logits.split(sizes), labels.split(sizes), teacher.split(sizes), strict=True)
    ]
    for name in ("total", "hard", "soft"):
        summed = sum(getattr(part, name) * size for part, size in zip(parts, sizes, strict=True))
        torch.testing.assert_close(summed / 12, getattr(whole, name))


def test_a_batch_without_any_label_has_no_hard_loss_and_is_finite() -> None:
    """Torch's own mean is 0 / 0 there, and one such batch would end the training."""
    student = STUDENT.clone().requires_grad_()
    losses = distillation_loss(student, torch.tensor([-100, -100]), TEACHER, 0.5, labelled_share=0.1)
    assert losses.hard is not None and losses.hard.item() == 0
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    torch.testing.assert_close(student.grad, 0.5 * 2 * (STUDENT - TEACHER) / 6)


def test_rows_without_a_label_are_taught_by_the_teacher_alone() -> None:
    logits, labels, teacher, share = partly_labelled()
    student = logits.clone().requires_grad_()
    distillation_loss(student, labels, teacher, 1.0, labelled_share=share).total.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert (student.grad[labels == -100] == 0).all() and (student.grad[labels != -100] != 0).all()


def test_class_weights_multiply_the_loss_of_their_rows_and_divide_nothing() -> None:
    """torch's own weighted mean divides by the weights in the batch, so that parts would not add up."""
    weights = (3.0, 1.0, 0.5)
    rows = [cross_entropy_by_hand(STUDENT[[i]].numpy(), LABELS[[i]].numpy()) for i in range(2)]
    expected = (3.0 * rows[0] + 0.5 * rows[1]) / 2
    assert hard_loss(STUDENT, LABELS, class_weights=weights).item() == pytest.approx(expected)
    parts = [hard_loss(STUDENT[[i]], LABELS[[i]], class_weights=weights) for i in range(2)]
    assert torch.stack(parts).mean().item() == pytest.approx(expected)
    stacked = hard_loss(torch.stack([STUDENT, 2 * STUDENT]), torch.stack([LABELS, LABELS]), 0.5, weights)
    assert stacked[0].item() == pytest.approx(2 * expected) and stacked.shape == (2,)
    unlabelled = torch.tensor([0, -100])
    assert hard_loss(STUDENT, unlabelled, class_weights=weights).item() == pytest.approx(3.0 * rows[0] / 2)
    losses = distillation_loss(STUDENT, LABELS, TEACHER, 0.5, class_weights=weights)
    assert losses.hard is not None and losses.hard.item() == pytest.approx(expected)
    shown = formula(1, class_weights=(2.0, 1 / 3))
    assert shown == "loss = CE(student, labels, class weights [2, 0.333])"
    assert formula(1, class_weights=tuple([1.0] * 9)).endswith("1, 1, ...])")


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="labelled_share"):
        hard_loss(STUDENT, LABELS, share)
    with pytest.raises(ValueError, match="labelled_share"):
        distillation_loss(
            STUDENT[None], LABELS[None], TEACHER[None], torch.tensor([0.5]), labelled_share=share
        )


def test_the_formula_says_that_only_labelled_rows_count() -> None:
    text = "loss = 0.5 * CE(student, labels) over labelled rows (12.5% of all) + 0.5 * MSE"
    assert formula(0.5, labelled_share=0.125).startswith(text)
    assert "labelled rows" not in formula(0.5) + formula(0.0, labelled_share=0.125)


def test_the_formula_says_that_the_teacher_gave_probabilities_and_refuses_the_mse() -> None:
    """Their logarithms are not the teacher's logits: a share of 0 has none."""
    student = "softmax(student_logits"
    assert formula(0.0, temperature=1.0, has_probabilities=True) == (
        f"loss = KL(teacher_probabilities || {student}))"
    )
    assert formula(0.0, temperature=2.0, has_probabilities=True) == (
        f"loss = 4 * KL(softmax(log(teacher_probabilities) / 2) || {student} / 2))"
    )
    with pytest.raises(ValueError, match="MSE"):
        DistillationLoss(alpha=0.5, has_probabilities=True)


# --- the formula in words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "text"),
    [
        (1.0, "loss = CE(student, labels)"),
        (0.0, "loss = MSE(student_logits, teacher_logits)"),
        (0.5, "loss = 0.5 * CE(student, labels) + 0.5 * MSE(student_logits, teacher_logits)"),
        (0.9, "loss = 0.9 * CE(student, labels) + 0.1 * MSE(student_logits, teacher_logits)"),
        (0.3, "loss = 0.3 * CE(student, labels) + 0.7 * MSE(student_logits, teacher_logits)"),
    ],
)
def test_the_formula_has_its_numbers_in_it(alpha: float, text: str) -> None:
    assert formula(alpha) == text


def test_the_formula_of_the_kl_has_its_temperature_in_it() -> None:
    text = "loss = 0.5 * CE(student, labels) + 0.5 * 4 * KL(softmax(teacher_logits / 2) || "
    assert formula(0.5, temperature=2.0) == text + "softmax(student_logits / 2))"
    assert formula(0, temperature=1.0) == "loss = KL(softmax(teacher_logits) || softmax(student_logits))"
    assert formula(1, temperature=2.0) == formula(1)


def test_the_formula_says_where_alpha_goes() -> None:
    text = "loss = alpha * CE(student, labels) + (1 - alpha) * MSE(student_logits, teacher_logits)"
    expected = "alpha from 0 to 0.5 over the steps, " + text
    assert formula(0.0, alpha_end=0.5) == expected
    assert formula(0.5, alpha_end=0.5) == formula(0.5)
    assert formula(1.0, alpha_end=0.0).startswith("alpha from 1 to 0 over the steps, ")
