"""Models are compared on the same rows, and described with no more certainty than the tests give."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from distilkit.scores.comparison import (
    constant_answer,
    coverage,
    describe_lack_of_skill,
    describe_pair,
    majority,
)
from distilkit.scores.statistics import Answers, Interval, McNemar


@pytest.mark.parametrize(
    ("low", "high", "p_value", "verdict"),
    [
        (0.01, 0.05, 0.01, "b is 3.0 points more accurate than a (95 % CI 1.0 to 5.0; McNemar p = 0.010; "),
        (-0.01, 0.05, 0.2, "b against a: no evidence of a difference in accuracy (+3.0 points, 95 % CI -1.0"),
        (0.001, 0.05, 0.06, "inconclusive on accuracy, as interval and test disagree (+3.0 points"),
        (0.0, 0.05, 0.04, "inconclusive on accuracy, as interval and test disagree (+3.0 points"),
    ],
)
def test_a_sentence_claims_what_both_the_test_and_the_interval_show(
    low: float, high: float, p_value: float, verdict: str
) -> None:
    sentence = describe_pair("a", "b", 400, Interval(0.03, low, high), McNemar(300, 10, 22, p_value))
    assert verdict in sentence and "400 rows" in sentence


def test_a_less_accurate_model_is_described_without_signs() -> None:
    """Of "-10.4 points (-15.7 to -5.4)" a reader has to work out who is better."""
    sentence = describe_pair("a", "b", 299, Interval(-0.104, -0.157, -0.054), McNemar(200, 50, 19, 0.0001))
    assert sentence == (
        "b is 10.4 points less accurate than a (95 % CI 5.4 to 15.7; McNemar p < 0.001; 299 rows)."
    )


# --- the least that a model has to beat ---------------------------------------------------------------------

LABELS = np.array([1, 1, 1, 0])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ([1, 1, 1, 1], "m answers `yes` to every row: no better than the most frequent class (75.0 %)."),
        (
            [0, 0, 0, 0],
            "m answers `no` to every row and is right in 25.0 %: worse than always answering `yes`",
        ),
        ([0, 1, 1, 1], "m is right in 50.0 % of the rows: no better than always answering `yes`"),
        ([0, 1, 1, 0], "m is right in 75.0 % of the rows: no better than always answering `yes`"),
        ([1, 1, 1, 0], None),
    ],
)
def test_a_model_without_skill_is_named(answer: list[int], sentence: str | None) -> None:
    """Where most rows have one class, a model that has learned nothing has an accuracy to be proud of."""
    answers = np.array(answer)
    reference = majority(LABELS, ["no", "yes"])
    accuracy = float((answers == LABELS).mean())
    constant = constant_answer(answers, ["no", "yes"])
    described = describe_lack_of_skill("m", accuracy, constant, len(LABELS), reference)
    assert described is None if sentence is None else (described or "").startswith(sentence)


def test_a_constant_answer_of_the_same_accuracy_is_not_called_worse() -> None:
    """Of two classes with the same number of rows, either answer is right in 50.0 %."""
    labels = np.array([0, 1, 0, 1])
    reference = majority(labels, ["no", "yes"])
    assert (
        describe_lack_of_skill("m", 0.5, "yes", 4, reference)
        == "m answers `yes` to every row and is right in 50.0 %: "
        "no better than always answering `no`, the most frequent class (50.0 %)."
    )
    nearly = majority(np.array([0] * 5001 + [1] * 4999), ["no", "yes"])  # both are 50.0 % as they are shown
    assert "no better than" in (describe_lack_of_skill("m", 0.4999, "yes", 10_000, nearly) or "")


def test_nothing_is_said_of_a_constant_answer_where_all_labels_are_the_same() -> None:
    reference = majority(np.zeros(3, np.int64), ["no", "yes"])
    assert describe_lack_of_skill("m", 1.0, "no", 3, reference) is None
    assert constant_answer(np.array([1]), ["no", "yes"]) is None, "of a single row nothing can be told"


def test_the_reference_has_the_figures_of_scikit_learn() -> None:
    """It stands in a table with the models: its macro F1 and MCC must be counted in the same way."""
    labels = np.array([2, 2, 0, 1, 2, 0])
    reference = majority(labels, ["a", "b", "c"])
    answer = np.full(6, 2)
    assert (reference.class_name, reference.rows) == ("c", 3)
    assert reference.metrics["accuracy"] == 0.5 and reference.metrics["mcc"] == 0
    assert reference.metrics["f1_macro"] == pytest.approx(
        f1_score(labels, answer, average="macro", zero_division=0)
    )


def test_rows_of_equal_confidence_are_one_point_of_the_coverage() -> None:
    """Otherwise the table would repeat the same row six times."""
    labels = np.asarray([0, 1, 1, 0])
    answers = Answers(labels, labels, np.full(4, 0.7), None, 2)
    assert answers.confidence is not None
    assert [point.coverage for point in coverage(answers, answers.confidence)] == [1.0]
