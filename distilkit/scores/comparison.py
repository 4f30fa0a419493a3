"""Compare models on the same rows: quality, agreement with a teacher, pairwise tests, slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from distilkit.errors import pluralize
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

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # shares of the rows, the most confident first
MAX_MISTAKES = 10
LENGTH_SLICES = 4
SIGNIFICANCE_LEVEL = 1 - CONFIDENCE
Figure = tuple[int, str] | tuple[int, int, str]  # (model, metric), or (first, second, "difference")


@dataclass(frozen=True)
class Contestant:
    """Hold a name, its answers, and the indices (among the contestants) of what it is compared with."""

    name: str
    answers: Answers
    teacher: int | None = None
    labels_only: int | None = None


@dataclass(frozen=True)
class Pair:
    """Compare two models on the same rows; `difference` is the second's accuracy less the first's."""

    first: str
    second: str
    difference: Interval
    test: McNemar
    sentence: str


@dataclass(frozen=True)
class ClassScores:
    """Hold precision, recall and F1 of a class; `None` where nothing is to be divided by."""

    name: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class CoveragePoint:
    """Hold the accuracy of the rows with at least this `confidence`; `coverage` is their share."""

    coverage: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Slice:
    """Hold the accuracy on some of the rows, with Wilson's interval; `slice` names the rows."""

    slice: str
    rows: int
    accuracy: float
    low: float
    high: float


def compare(
    contestants: Sequence[Contestant], seed: int, replicates: int = REPLICATES
) -> tuple[list[dict[str, Interval]], list[Pair]]:
    """Compute every contestant's figures and every pair's difference on the same bootstrap samples.

    Figures are those of `quality` and, for a contestant with a teacher, those of `fidelity`. The calibration
    error has no interval: it is a sum of absolute values, which every sample makes larger, so that the
    bootstrap's interval would lie above the truth.
    """
    rows = len(contestants[0].answers.labels)
    pairs = list(combinations(range(len(contestants)), 2))

    def measure(counts: Floats) -> dict[Figure, Floats]:
        figures: dict[Figure, Floats] = {}
        qualities = [quality(contestant.answers, counts) for contestant in contestants]
        for i, contestant in enumerate(contestants):
            if contestant.teacher is not None:
                qualities[i] |= fidelity(contestants, i, qualities, counts)
            figures |= {(i, name): values for name, values in qualities[i].items()}
        for first, second in pairs:
            difference = qualities[second]["accuracy"] - qualities[first]["accuracy"]
            figures[first, second, "difference"] = difference
        return figures

    confusion_cells = max(contestant.answers.classes for contestant in contestants) ** 2
    intervals = bootstrap(measure, rows, seed, replicates, confusion_cells)
    figures: list[dict[str, Interval]] = [{} for _ in contestants]
    for key, interval in intervals.items():
        if len(key) == 2:
            i, name = key
            figures[i][name] = Interval(interval.value, None, None) if name == "ece" else interval
    compared = [
        _compare_pair(contestants[first], contestants[second], intervals[first, second, "difference"])
        for first, second in pairs
    ]
    return figures, compared


def fidelity(
    contestants: Sequence[Contestant], student: int, qualities: Sequence[Mapping[str, Floats]], counts: Floats
) -> dict[str, Floats]:
    """Measure how close a student is to its teacher.

    Args:
        student: index of the student in `contestants`.
        qualities: `quality` of every contestant on the same `counts`.

    Returns:
        `agreement`, the share of rows with the teacher's answer (Stanton et al. 2021); `kl`, the mean of
        KL(teacher || student) in nats; `accuracy_kept`, the student's accuracy over the teacher's; and, where
        a labels-only baseline is known, `gap_recovered`: (student - baseline) / (teacher - baseline) of the
        accuracies, NaN where the teacher is no better than the baseline.
    """
    answers = contestants[student].answers
    teacher, labels_only = contestants[student].teacher, contestants[student].labels_only
    assert teacher is not None
    teacher_answers = contestants[teacher].answers
    total = counts.sum(axis=1)
    same = (answers.answer == teacher_answers.answer).astype(np.float64)
    student_accuracy, teacher_accuracy = qualities[student]["accuracy"], qualities[teacher]["accuracy"]
    figures = {"agreement": counts @ same / total}
    q, p = answers.probabilities, teacher_answers.probabilities
    if q is not None and p is not None:
        divergence = (p * (np.log(p.clip(TINY)) - np.log(q.clip(TINY)))).sum(axis=1)
        figures["kl"] = counts @ divergence / total
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = student_accuracy / teacher_accuracy
        figures["accuracy_kept"] = np.where(teacher_accuracy > 0, ratio, np.nan)
        if labels_only is not None:
            baseline = qualities[labels_only]["accuracy"]
            recovered = (student_accuracy - baseline) / (teacher_accuracy - baseline)
            figures["gap_recovered"] = np.where(teacher_accuracy > baseline, recovered, np.nan)
    return figures


def _compare_pair(first: Contestant, second: Contestant, difference: Interval) -> Pair:
    test = mcnemar(first.answers.right, second.answers.right)
    text = describe_pair(first.name, second.name, len(first.answers.labels), difference, test)
    return Pair(first.name, second.name, difference, test, text)


def describe_pair(first: str, second: str, rows: int, difference: Interval, test: McNemar) -> str:
    """Return a sentence that claims no more than the interval and the test both show."""
    assert difference.value is not None and difference.low is not None and difference.high is not None
    p_value = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    counts = f"McNemar {p_value}; {pluralize(rows, 'row')}"
    value, low, high = (100 * end for end in (difference.value, difference.low, difference.high))
    if test.only_first + test.only_second == 0:
        return f"{second} and {first} are right on the same {test.both:,} of {pluralize(rows, 'row')}."
    if is_significant(difference, test.p_value):
        change, ends = ("more", (low, high)) if value > 0 else ("less", (-high, -low))
        interval = f"{100 * CONFIDENCE:.0f} % CI {ends[0]:.1f} to {ends[1]:.1f}"
        return f"{second} is {abs(value):.1f} points {change} accurate than {first} ({interval}; {counts})."
    # Near the threshold the exact test and the bootstrap can disagree; then neither verdict is claimed.
    disagree = test.p_value < SIGNIFICANCE_LEVEL or not low <= 0 <= high
    verdict = "no evidence of a difference in accuracy"
    if disagree:
        verdict = "inconclusive on accuracy, as interval and test disagree"
    interval = f"{100 * CONFIDENCE:.0f} % CI {low:+.1f} to {high:+.1f}"
    return f"{second} against {first}: {verdict} ({value:+.1f} points, {interval}; {counts})."


def is_significant(difference: Interval, p_value: float) -> bool:
    """Return whether test and interval both show a difference in accuracy."""
    assert difference.low is not None and difference.high is not None
    return p_value < SIGNIFICANCE_LEVEL and not difference.low <= 0 <= difference.high


# --- the least that a model has to beat ---------------------------------------------------------------------


@dataclass(frozen=True)
class Majority:
    """Hold what the most frequent class would score as the answer to every row.

    Attributes:
        rows: how many rows have that class.
        metrics: the figures of `quality` that need no probabilities.
    """

    class_name: str
    rows: int
    metrics: dict[str, float]


def majority(labels: Integers, class_names: Sequence[str]) -> Majority:
    """Score the most frequent class as the answer to every row."""
    counts = np.bincount(labels, minlength=len(class_names))
    class_id = int(counts.argmax())
    answers = Answers(labels, np.full(len(labels), class_id), None, None, len(class_names))
    figures = quality(answers, np.ones((1, len(labels))))
    return Majority(
        class_names[class_id],
        int(counts[class_id]),
        {name: float(value[0]) for name, value in figures.items()},
    )


def constant_answer(answer: Integers, class_names: Sequence[str]) -> str | None:
    """Return the class that is the answer to every row; `None` where answers differ, or of a single row."""
    return class_names[int(answer[0])] if len(answer) > 1 and (answer == answer[0]).all() else None


def describe_lack_of_skill(
    models: str,
    accuracy: float,
    constant: str | None,
    rows: int,
    reference: Majority,
    *,
    several: bool = False,
) -> str | None:
    """Return a sentence on a model that is no better than the most frequent class; `None` for a better one.

    Where all rows have the same label nothing can be told.

    Args:
        models: the name of the model, or those of several that answer alike.
        accuracy: of the model.
        constant: what it answers to every row, if it does.
        rows: of the split.
    """
    answer, be = ("answer", "are") if several else ("answers", "is")
    share = reference.rows / rows
    if accuracy > share or reference.rows == rows:
        return None
    right, most_frequent = f"{100 * accuracy:.1f} %", f"{100 * share:.1f} %"
    frequent = f"the most frequent class ({most_frequent})"
    if constant == reference.class_name:
        return f"{models} {answer} `{constant}` to every row: no better than {frequent}."
    if constant is not None:
        comparison = "no better" if right == most_frequent else "worse"
        return (
            f"{models} {answer} `{constant}` to every row and {be} right in {right}: "
            f"{comparison} than always answering `{reference.class_name}`, {frequent}."
        )
    return (
        f"{models} {be} right in {right} of the rows: no better than always answering "
        f"`{reference.class_name}`, {frequent}."
    )


# --- where a model is right and where not -----------------------------------------------------------------


def per_class(answers: Answers, class_names: Sequence[str]) -> list[ClassScores]:
    """Return rows, precision, recall and F1 of every class."""
    scores = []
    for class_id, name in enumerate(class_names):
        labelled, answered = answers.labels == class_id, answers.answer == class_id
        hits = int((labelled & answered).sum())
        rows, answers_of_class = int(labelled.sum()), int(answered.sum())
        scores.append(
            ClassScores(
                name,
                rows,
                precision=hits / answers_of_class if answers_of_class else None,
                recall=hits / rows if rows else None,
                f1=2 * hits / (rows + answers_of_class) if rows + answers_of_class else None,
            )
        )
    return scores


def coverage(answers: Answers, confidence: Floats) -> list[CoveragePoint]:
    """Return the accuracy on the most confident rows, for several shares of rows (selective prediction)."""
    shares, risks = risk_coverage(answers, confidence)
    confidence = np.sort(confidence)[::-1]
    points: list[CoveragePoint] = []
    for target in COVERAGES:
        # The tolerance: a share such as 9 / 10 is not exactly 0.9.
        i = min(int(np.searchsorted(shares, target - 1e-12)), len(shares) - 1)
        rows = round(float(shares[i]) * len(confidence))
        if points and rows == points[-1].rows:  # no threshold separates rows of equal confidence
            continue
        points.append(
            CoveragePoint(float(shares[i]), rows, float(confidence[rows - 1]), accuracy=1 - float(risks[i]))
        )
    return points


def mistakes(answers: Answers, limit: int = MAX_MISTAKES) -> Integers:
    """Return the rows of the most confident wrong answers; in row order where no confidence is known."""
    wrong = np.flatnonzero(answers.right == 0)
    if answers.confidence is None:
        return wrong[:limit]
    return wrong[np.argsort(-answers.confidence[wrong], kind="stable")[:limit]]


def slices(answers: Answers, lengths: Integers, class_names: Sequence[str]) -> list[Slice]:
    """Return the accuracy by length, in quarters of the rows, and by class, with Wilson's interval (1927).

    Args:
        lengths: int64 `[N]`, words.
    """
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_SLICES + 1)).round().astype(np.int64))
    parts: list[tuple[str, NDArray[np.bool_]]] = []
    for i, (low, high) in enumerate(pairwise(edges)):
        low = low if i == 0 else low + 1  # an edge belongs to the slice below it
        name = pluralize(low, "word") if low == high else f"{low:,} to {high:,} words"
        parts.append((name, (lengths >= low) & (lengths <= high)))
    if len(edges) == 1:
        parts.append((pluralize(edges[0], "word"), np.ones(len(lengths), dtype=bool)))
    parts += [(f"label {name}", answers.labels == class_id) for class_id, name in enumerate(class_names)]
    scored_slices = []
    for name, inside in parts:
        rows, right = int(inside.sum()), int(answers.right[inside].sum())
        if rows:
            scored_slices.append(Slice(name, rows, right / rows, *wilson(right, rows)))
    return scored_slices
