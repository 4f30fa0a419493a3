"""Models are compared on the same rows, and described with no more certainty than the tests give."""

import numpy as np
import pytest

from distilkit.scores.comparison import coverage, describe_pair
from distilkit.scores.statistics import Answers, Interval, McNemar


@pytest.mark.parametrize(
    ("low", "high", "p_value", "verdict"),
    [
        (0.01, 0.05, 0.01, "b is better than a"),
        (-0.01, 0.05, 0.2, "no evidence of a difference"),
        (0.001, 0.05, 0.06, "inconclusive"),
        (0.0, 0.05, 0.04, "inconclusive"),
    ],
)
def test_a_sentence_claims_what_both_the_test_and_the_interval_show(
    low: float, high: float, p_value: float, verdict: str
) -> None:
    sentence = describe_pair("a", "b", 400, Interval(0.03, low, high), McNemar(300, 10, 22, p_value))
    assert verdict in sentence and "+3.0 points" in sentence


def test_rows_of_equal_confidence_are_one_point_of_the_coverage() -> None:
    """Otherwise the table would repeat the same row six times."""
    labels = np.asarray([0, 1, 1, 0])
    answers = Answers(labels, labels, np.full(4, 0.7), None, 2)
    assert answers.confidence is not None
    assert [point.coverage for point in coverage(answers, answers.confidence)] == [1.0]
