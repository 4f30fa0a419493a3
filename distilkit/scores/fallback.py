"""Choose how sure a student must be to answer by itself, while a teacher answers the other rows.

An answer *differs* where the student gives it and the teacher would give another: the teacher's own answers
never do. The share of answers that differ falls as the threshold rises.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distilkit.scores.statistics import CONFIDENCE, Floats, Integers

STEPS = 1_000_000  # a threshold is a multiple of 1 / STEPS, so that it can be printed and typed

Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class ThresholdChoice:
    """Hold a threshold, and what it was chosen by.

    Attributes:
        threshold: the student answers where its greatest probability is at least this.
        coverage: the share of the rows that the student answers.
        agreement: the share of the rows that get the teacher's answer.
        agreement_bound: in all traffic that share is at least this, with `confidence`.
        rows: how many rows the threshold was chosen on.
    """

    threshold: float
    coverage: float
    agreement: float
    agreement_bound: float
    min_agreement: float
    confidence: float
    rows: int


@dataclass(frozen=True)
class FallbackPoint:
    """Hold what a service does when the student answers where it is at least so sure.

    Attributes:
        coverage: the share of the rows that the student answers, the others are the teacher's.
        agreement_bound: the lower Clopper-Pearson bound of `agreement`, for this threshold alone.
        accuracy: of the answers of both.
    """

    threshold: float
    coverage: float
    agreement: float
    agreement_bound: float
    accuracy: float


def bound_agreement(differing: int, rows: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided lower bound of Clopper and Pearson (1934) of the share of rows that agree."""
    if differing >= rows:
        return 0.0
    return float(stats.beta.ppf(1 - confidence, rows - differing, differing + 1))


def count_allowed(rows: int, min_agreement: float, confidence: float = CONFIDENCE) -> int | None:
    """Return how many rows may differ so that the bound is met; `None` where not even zero may."""
    counts = np.arange(int((1 - min_agreement) * rows) + 1)
    bounds = stats.beta.ppf(1 - confidence, rows - counts, counts + 1)
    allowed = np.flatnonzero(bounds >= min_agreement)
    return int(allowed[-1]) if len(allowed) else None


def count_rows_needed(min_agreement: float, confidence: float = CONFIDENCE) -> int:
    """Return the fewest rows on which the bound can be met, when no row differs: 0.98 needs 149."""
    return int(np.ceil(np.log(1 - confidence) / np.log(min_agreement)))


def choose_threshold(
    probabilities: Floats, same: Booleans, min_agreement: float, confidence: float = CONFIDENCE
) -> ThresholdChoice | None:
    """Return the lowest threshold with which at least `min_agreement` of the answers are the teacher's.

    The rows are a random sample of the traffic. Whatever the models are, the agreement in all traffic is
    below `agreement_bound` for at most `1 - confidence` of such samples, although the threshold was chosen on
    the same rows. For let p be the share of differing answers that the bound allows, and t the threshold
    below which more than p differ in all traffic. A threshold that is too low is below t, so the rows that
    it counts include all that t counts, and those are too few: the event of a single Clopper-Pearson
    bound, that of t, which no row decides. This is Bates et al. 2021, "Distribution-free, risk-controlling
    prediction sets", theorem 1, and the fixed-sequence test of Angelopoulos et al. 2021, "Learn then test",
    along a risk that only falls: no factor for several thresholds is due.

    Args:
        probabilities: the student's greatest probability of each row, float64 `[N]`.
        same: whether the teacher's answer is the same, `[N]`.

    Returns:
        `None` where there are too few rows for any threshold (`count_rows_needed`).
    """
    rows = len(probabilities)
    allowed = count_allowed(rows, min_agreement, confidence)
    if allowed is None:
        return None
    differing = np.sort(probabilities[~same])[::-1]
    threshold = 0.0
    if len(differing) > allowed:  # above the first row that is one too many
        threshold = (np.floor(differing[allowed] * STEPS) + 1) / STEPS
    answered = probabilities >= threshold
    return ThresholdChoice(
        threshold=float(threshold),
        coverage=float(answered.mean()),
        agreement=float((same | ~answered).mean()),
        # Of the bound that was aimed at: the one of the rows that do differ would have been chosen too.
        agreement_bound=bound_agreement(allowed, rows, confidence),
        min_agreement=min_agreement,
        confidence=confidence,
        rows=rows,
    )


def trace_fallback(
    probabilities: Floats, answers: Integers, teacher_answers: Integers, labels: Integers, points: int = 200
) -> list[FallbackPoint]:
    """Return what each threshold would do, from all rows answered by the teacher to none.

    Rows of equal probability are answered by the same model. Thresholds are spread evenly over the rows.
    """
    order = np.argsort(-probabilities, kind="stable")
    ordered, rows = probabilities[order], len(order)
    counts = np.append(np.flatnonzero(np.diff(ordered)) + 1, rows)  # rows that a threshold can separate
    counts = counts[np.unique(np.linspace(0, len(counts) - 1, min(points, len(counts))).round().astype(int))]
    differing = np.cumsum((answers != teacher_answers)[order])
    gained = np.cumsum(((answers == labels).astype(int) - (teacher_answers == labels))[order])
    right = int((teacher_answers == labels).sum())
    traced = [FallbackPoint(1.0, 0.0, 1.0, bound_agreement(0, rows), right / rows)]
    for count in counts.tolist():
        wrong = int(differing[count - 1])
        traced.append(
            FallbackPoint(
                threshold=float(ordered[count - 1]),
                coverage=count / rows,
                agreement=1 - wrong / rows,
                agreement_bound=bound_agreement(wrong, rows),
                accuracy=(right + int(gained[count - 1])) / rows,
            )
        )
    return traced
