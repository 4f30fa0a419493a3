"""Several models' answers to the same rows: quality, agreement with a teacher, pairs, slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from distilkit.scores.statistics import (
    CONFIDENCE,
    REPLICATES,
    TINY,
    Answers,
    Floats,
    Integers,
    Interval,
    McNemar,
    bootstrap,
    mcnemar,
    quality,
    risk_coverage,
    wilson,
)

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
MISTAKES = 10
SLICES = 4
SIGNIFICANT = 1 - CONFIDENCE


@dataclass(frozen=True)
class Contestant:
    """A name, its answers, and the places (in the list of contestants) of what it is compared with."""

    name: str
    answers: Answers
    teacher: int | None = None
    labels_only: int | None = None


@dataclass(frozen=True)
class Pair:
    """Two models on the same rows: `difference` is second less first, of accuracy."""

    first: str
    second: str
    difference: Interval
    test: McNemar
    sentence: str


def compare(
    contestants: Sequence[Contestant], seed: int, replicates: int = REPLICATES
) -> tuple[list[dict[str, Interval]], list[Pair]]:
    """Every contestant's figures, and every pair's difference, all of the same bootstrap samples.

    Figures are those of `quality`, and for a contestant with a teacher those of `fidelity`. The calibration
    error has no interval: it is a sum of absolute values, which every sample makes larger, so that the
    bootstrap's would lie above the truth.
    """
    rows = len(contestants[0].answers.labels)
    pairs = list(combinations(range(len(contestants)), 2))

    def measure(counts: Floats) -> dict[Any, Floats]:
        found: dict[Any, Floats] = {}
        of_each = [quality(one.answers, counts) for one in contestants]
        for number, (one, own) in enumerate(zip(contestants, of_each, strict=True)):
            if one.teacher is not None:
                own |= fidelity(contestants, number, of_each, counts)
            found |= {(number, name): values for name, values in own.items()}
        for first, second in pairs:
            found[first, second, "difference"] = of_each[second]["accuracy"] - of_each[first]["accuracy"]
        return found

    tables = max(one.answers.classes for one in contestants) ** 2
    intervals = bootstrap(measure, rows, seed, replicates, tables)
    figures: list[dict[str, Interval]] = [{} for _ in contestants]
    for key, interval in intervals.items():
        if len(key) == 2:
            biased = key[1] == "ece"
            figures[key[0]][key[1]] = Interval(interval.value, None, None) if biased else interval
    compared = [
        _pair(contestants[first], contestants[second], intervals[first, second, "difference"])
        for first, second in pairs
    ]
    return figures, compared


def fidelity(
    contestants: Sequence[Contestant], number: int, quality: Sequence[Mapping[str, Floats]], counts: Floats
) -> dict[str, Floats]:
    """How close a student is to its teacher.

    Returns:
        `agreement`, the share of rows with the teacher's answer (Stanton et al. 2021); `kl`, the mean of
        KL(teacher || student) in nats; `accuracy_kept`, of the teacher's; and, where a student of the same
        kind that had labels alone is known, `gap_recovered`: how much of the way from its accuracy to the
        teacher's, NaN where the teacher is no better than that.
    """
    student = contestants[number]
    assert student.teacher is not None
    teacher = contestants[student.teacher]
    total = counts.sum(axis=1)
    same = (student.answers.answer == teacher.answers.answer).astype(np.float64)
    own, best = quality[number]["accuracy"], quality[student.teacher]["accuracy"]
    found = {"agreement": counts @ same / total}
    one, other = student.answers.probabilities, teacher.answers.probabilities
    if one is not None and other is not None:
        divergence = (other * (np.log(other.clip(TINY)) - np.log(one.clip(TINY)))).sum(axis=1)
        found["kl"] = counts @ divergence / total
    with np.errstate(divide="ignore", invalid="ignore"):
        found["accuracy_kept"] = np.where(best > 0, own / best, np.nan)
        if student.labels_only is not None:
            base = quality[student.labels_only]["accuracy"]
            found["gap_recovered"] = np.where(best > base, (own - base) / (best - base), np.nan)
    return found


def _pair(first: Contestant, second: Contestant, difference: Interval) -> Pair:
    test = mcnemar(first.answers.right, second.answers.right)
    rows = len(first.answers.labels)
    return Pair(
        first.name, second.name, difference, test, sentence(first.name, second.name, rows, difference, test)
    )


def sentence(first: str, second: str, rows: int, difference: Interval, test: McNemar) -> str:
    """What the test says, in words that claim no more than it does."""
    assert difference.value is not None and difference.low is not None and difference.high is not None
    points = (100 * value for value in (difference.value, difference.low, difference.high))
    by = "{:+.1f} points of accuracy ({:+.1f} to {:+.1f})".format(*points)
    chance = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    if test.only_first + test.only_second == 0:
        return f"{second} and {first} are right on the same {test.both:,} of {rows:,} rows."
    surely = test.p_value < SIGNIFICANT
    if surely == (difference.low <= 0 <= difference.high):
        return (
            f"{second} against {first}: at the edge of evidence on {rows:,} rows, where interval and test "
            f"disagree; {by}, {chance}."
        )
    if not surely:
        return f"{second} against {first}: no evidence of a difference on {rows:,} rows; {by}, {chance}."
    better, worse = (second, first) if test.only_second > test.only_first else (first, second)
    return f"{better} is better than {worse} on {rows:,} rows; {second} has {by}, {chance}."


# --- where a model is right and where not -----------------------------------------------------------------


def per_class(answers: Answers, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows, precision, recall and F1 of every class."""
    found = []
    for number, name in enumerate(classes):
        labelled, answered = answers.labels == number, answers.answer == number
        hits = int((labelled & answered).sum())
        rows, said = int(labelled.sum()), int(answered.sum())
        found.append(
            {
                "class": name,
                "rows": rows,
                "precision": hits / said if said else None,
                "recall": hits / rows if rows else None,
                "f1": 2 * hits / (rows + said) if rows + said else None,
            }
        )
    return found


def coverage(answers: Answers, confidence: Floats) -> list[dict[str, float]]:
    """Accuracy on the surest rows: what is left to a person, or to the teacher, if the rest is refused."""
    shares, risks = risk_coverage(answers, confidence)
    confidence = np.sort(confidence)[::-1]
    found: list[dict[str, float]] = []
    for wanted in COVERAGES:
        place = min(int(np.searchsorted(shares, wanted - 1e-12)), len(shares) - 1)
        rows = round(float(shares[place]) * len(confidence))
        if found and rows == found[-1]["rows"]:  # rows of one confidence are answered together or not at all
            continue
        found.append(
            {
                "coverage": float(shares[place]),
                "rows": rows,
                "confidence": float(confidence[rows - 1]),
                "accuracy": 1 - float(risks[place]),
            }
        )
    return found


def mistakes(answers: Answers, number: int = MISTAKES) -> Integers:
    """Row numbers of the wrong answers it was surest of, the surest first; of all where it did not say."""
    wrong = np.flatnonzero(answers.right == 0)
    if answers.confidence is None:
        return wrong[:number]
    return wrong[np.argsort(-answers.confidence[wrong], kind="stable")[:number]]


def slices(answers: Answers, lengths: Integers, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy by length, in quarters of the rows, and by class, each with Wilson's interval (1927).

    Args:
        lengths: int64 `[N]`, words.
    """
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, SLICES + 1)).round().astype(np.int64))
    parts: list[tuple[str, Any]] = []
    for number, (low, high) in enumerate(pairwise(edges)):
        low = low if number == 0 else low + 1
        name = f"{low} words" if low == high else f"{low:,} to {high:,} words"
        parts.append((name, (lengths >= low) & (lengths <= high)))
    if len(edges) == 1:
        parts.append((f"{edges[0]:,} words", np.ones(len(lengths), dtype=bool)))
    parts += [(f"label {name}", answers.labels == number) for number, name in enumerate(classes)]
    found = []
    for name, inside in parts:
        rows, right = int(inside.sum()), int(answers.right[inside].sum())
        if rows:
            low, high = wilson(right, rows)
            found.append({"slice": name, "rows": rows, "accuracy": right / rows, "low": low, "high": high})
    return found
