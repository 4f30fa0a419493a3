"""Numbers of a teacher's file: what they are taken for, and what they become."""

from typing import Any

import numpy as np
import pytest

from distilkit.data.targets import TargetTable, detect_kind, soften, softmax
from distilkit.errors import UserError

CLASSES = ("a", "b", "c")


def numbers(values: list[list[float | None]]) -> TargetTable:
    """Numbers of as many classes as a row has; `None` where none is given."""
    cells = np.array([[0.0 if value is None else value for value in row] for row in values])
    is_given = np.array([[value is not None for value in row] for row in values])
    return TargetTable(cells, is_given, CLASSES[: cells.shape[1]], "a.csv")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[1.5, -2.0], [0.2, 0.9]], "logits"),
        ([[-1.5, -2.0], [-0.2, -0.9]], "logits"),
        ([[0.0, 0.0], [-1.0, 2.5]], "logits"),
        ([[0.25, 0.75], [1.0, 0.0]], "probabilities"),
        ([[0.33, 0.33, 0.33]], "probabilities"),  # rounded to two decimals
        ([[0.7, None, None], [0.5, 0.4, None]], "probabilities"),
        ([[0.9, 0.9], [0.2, 0.1]], "probabilities"),  # and then refused
        (np.log([[0.25, 0.75], [0.5, 0.5]]).tolist(), "log-probabilities"),
        ([[-0.4, None, None], [-0.1, -5.0, None]], "log-probabilities"),
        ([[4, 1], [0, 5]], "votes"),
        ([[1, 0], [0, 1]], "probabilities"),  # one vote a row: the same
    ],
)
def test_the_kind_is_the_strictest_that_fits(values: Any, kind: str) -> None:
    """Logits taken for probabilities, or the reverse, would train a student on other targets."""
    assert detect_kind(numbers(values)) == kind


def test_most_rows_decide_the_kind_so_that_a_faulty_row_is_refused_and_not_learned() -> None:
    """One row of logits would otherwise make logits of a file of probabilities."""
    mixed = numbers([[0.25, 0.75]] * 9 + [[-3.0, 4.0]])
    assert detect_kind(mixed) == "probabilities"
    with pytest.raises(UserError, match=r"a\.csv, row 10, class a: -3 is no probability"):
        soften(mixed, "probabilities")


def test_positive_fractions_above_one_may_be_two_things() -> None:
    with pytest.raises(UserError, match=r"row 2: 2\.5 for b .*--targets logits, or --targets votes"):
        detect_kind(numbers([[0.5, 0.7], [0.25, 2.5]]))


def test_logits_stay_what_they_are_to_the_bit() -> None:
    values = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    assert np.array_equal(soften(numbers(values.tolist()), "logits").logits, values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("probabilities", [[0.2, 0.8], [1.0, 0.0]]),
        ("log-probabilities", [[np.log(0.2), np.log(0.8)], [0.0, -200.0]]),
        ("votes", [[1, 4], [5, 0]]),
    ],
)
def test_all_kinds_of_the_same_beliefs_become_the_same_probabilities(kind: Any, values: Any) -> None:
    """A share of 0 has no logarithm: what stands for it is finite, and 0 in any sum."""
    soft = soften(numbers(values), kind)
    assert np.isfinite(soft.logits).all() and soft.logits.dtype == np.float32
    assert softmax(soft.logits) == pytest.approx(np.array([[0.2, 0.8], [1.0, 0.0]]), abs=1e-7)
    assert soft.truncated == 0


@pytest.mark.parametrize("kind", ["probabilities", "log-probabilities"])
def test_the_rest_of_a_truncated_row_is_spread_over_the_other_classes(kind: Any) -> None:
    """Otherwise the classes beyond the first k would have a probability of 0, or of e to the 0."""
    values: list[list[float | None]] = [[0.7, None, None], [0.5, 0.4, None], [0.2, 0.3, 0.5]]
    if kind == "log-probabilities":
        values = [[None if value is None else float(np.log(value)) for value in row] for row in values]
    soft = soften(numbers(values), kind)
    expected = [[0.7, 0.15, 0.15], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5]]
    assert softmax(soft.logits) == pytest.approx(np.array(expected), abs=1e-6)
    assert (soft.truncated, soft.spread) == (2, pytest.approx(0.2))


def test_a_class_without_a_vote_is_not_truncated() -> None:
    soft = soften(numbers([[3, None, 1]]), "votes")
    assert softmax(soft.logits) == pytest.approx(np.array([[0.75, 0, 0.25]]))
    assert soft.truncated == 0


def test_rounded_probabilities_are_divided_by_their_sum() -> None:
    soft = soften(numbers([[0.33, 0.33, 0.33]]), "probabilities")
    assert softmax(soft.logits) == pytest.approx(np.full((1, 3), 1 / 3))


def test_a_row_without_a_target_keeps_the_others_from_nothing() -> None:
    soft = soften(numbers([[None, None], [0.2, 0.8]]), "probabilities")
    assert soft.logits[0].tolist() == [0, 0] and softmax(soft.logits)[1, 1] == pytest.approx(0.8)
