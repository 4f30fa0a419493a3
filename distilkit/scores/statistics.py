"""What a classifier's answers on N rows are worth, and how sure that is: metrics, intervals, tests.

A metric takes *counts*, float64 `[B, N]`: how often each row is there in each of B samples. Once each is the
figure of the rows themselves; drawn with replacement they are the bootstrap's samples, and all B figures come
from a few matrix products. Figures are float64 `[B]`; one that a sample leaves undefined (ROC AUC where only
one class occurs) is NaN there.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Key = TypeVar("Key", bound=Hashable)

# What `quality` measures, in the order in which it is shown.
QUALITY = (
    *("accuracy", "f1", "precision", "recall", "f1_macro", "precision_macro", "recall_macro", "mcc"),
    *("roc_auc", "average_precision", "loss", "brier", "ece"),
)
BINS = 15
CONFIDENCE = 0.95
REPLICATES = 1_000
AT_ONCE = 4_000_000  # counts in memory: 32 MB of them
TINY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Answers:
    """What a model said of N rows.

    Args:
        labels: int64 `[N]`, what is right.
        answer: int64 `[N]`, the class it chose.
        confidence: float64 `[N]`, the probability it gave that class; `None` where it did not say.
        probabilities: float64 `[N, C]`, rows add up to 1; `None` where not all are known.
        classes: C.
    """

    labels: Integers
    answer: Integers
    confidence: Floats | None
    probabilities: Floats | None
    classes: int

    @staticmethod
    def of(probabilities: Floats, labels: Integers) -> "Answers":
        """Of all classes' probabilities."""
        answer = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(answer)), answer]
        return Answers(labels, answer, confidence, probabilities, probabilities.shape[1])

    @cached_property
    def right(self) -> Floats:
        """`[N]`, 1 where the answer is the label."""
        right: Floats = (self.answer == self.labels).astype(np.float64)
        return right

    @cached_property
    def cells(self) -> Integers:
        """`[N]`: which cell of the confusion matrix, read row by row, a row falls in."""
        return self.labels * self.classes + self.answer

    @cached_property
    def scores(self) -> Floats:
        """`[N, S]`: of two classes the probability of class 1, of more every class's."""
        assert self.probabilities is not None
        scores: Floats = self.probabilities[:, 1:] if self.classes == 2 else self.probabilities
        return scores

    @cached_property
    def targets(self) -> Floats:
        """`[N, S]`, 1 where the row is of the class that the score is of."""
        ids = np.arange(self.classes)[1:] if self.classes == 2 else np.arange(self.classes)
        targets: Floats = (self.labels[:, None] == ids).astype(np.float64)
        return targets


# --- metrics ----------------------------------------------------------------------------------------------


def confusion(answers: Answers, counts: Floats) -> Floats:
    """`[B, C, C]`: rows of label i that were answered j."""
    size = answers.classes**2
    cells = answers.cells + size * np.arange(len(counts))[:, None]
    table = np.bincount(cells.ravel(), weights=counts.ravel(), minlength=size * len(counts))
    return table.astype(np.float64, copy=False).reshape(len(counts), answers.classes, answers.classes)


def quality(answers: Answers, counts: Floats) -> dict[str, Floats]:
    """Every metric of every sample, as scikit-learn defines them.

    For two classes `precision`, `recall` and `f1` are of class 1; the `_macro` ones are means over classes.
    Where nothing was answered (or nothing is) a class, its precision (recall, F1) is 0. `mcc` is Matthews'
    coefficient, for more classes Gorodkin's R_K. For more than two classes `roc_auc` and `average_precision`
    are means over one-against-the-rest. `brier` is the mean of (p_1 - y)^2 for two classes and of the sum
    over classes for more (Brier 1950). `ece`: Guo et al. 2017, equation 3.
    """
    table = confusion(answers, counts)
    found = _of_confusion(table)
    if answers.confidence is not None:
        found["ece"] = calibration_error(answers, answers.confidence, counts)
    if answers.probabilities is None:
        return found
    rows = counts.sum(axis=1)
    copied_layers = answers.probabilities[np.arange(len(answers.labels)), answers.labels]
    found["loss"] = counts @ -np.log(copied_layers.clip(TINY)) / rows
    squares = ((answers.scores - answers.targets) ** 2).sum(axis=1)
    found["brier"] = counts @ squares / rows
    curves = [
        _ranking(answers.scores[:, s], answers.targets[:, s], counts) for s in range(answers.scores.shape[1])
    ]
    found["roc_auc"] = np.mean([auc for auc, _ in curves], axis=0)
    found["average_precision"] = np.mean([precision for _, precision in curves], axis=0)
    return found


def defined(labelled: Sequence[int], confidence: bool, probabilities: bool) -> set[str]:
    """The figures of `quality` that will be numbers, told before anything is answered.

    Args:
        labelled: `[C]`, rows of each class.
        confidence: whether the probability of the chosen class will be known.
        probabilities: whether those of all classes will.
    """
    without = {"f1", "precision", "recall"} if len(labelled) > 2 else set()
    if not confidence:
        without.add("ece")
    if not probabilities:
        without |= {"loss", "brier"}
    if not (probabilities and all(labelled)):
        without.add("roc_auc")
    if not (probabilities and all(labelled[1:] if len(labelled) == 2 else labelled)):
        without.add("average_precision")
    return set(QUALITY) - without


def _of_confusion(table: Floats) -> dict[str, Floats]:
    total = table.sum(axis=(1, 2))
    hits = np.einsum("bcc->bc", table)
    labelled, answered = table.sum(axis=2), table.sum(axis=1)
    precision, recall = _ratio(hits, answered), _ratio(hits, labelled)
    f1 = _ratio(2 * hits, labelled + answered)
    found = {"accuracy": hits.sum(axis=1) / total}
    if table.shape[1] == 2:
        found |= {"f1": f1[:, 1], "precision": precision[:, 1], "recall": recall[:, 1]}
    # As scikit-learn: over the classes that occur, as labels or as answers.
    there = (labelled + answered) > 0
    for name, values in (("f1_macro", f1), ("precision_macro", precision), ("recall_macro", recall)):
        found[name] = (values * there).sum(axis=1) / there.sum(axis=1)
    agreement = hits.sum(axis=1) * total - (labelled * answered).sum(axis=1)
    spread = (total**2 - (labelled**2).sum(axis=1)) * (total**2 - (answered**2).sum(axis=1))
    found["mcc"] = _ratio(agreement, np.sqrt(spread))
    return found


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _ranking(scores: Floats, targets: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """ROC AUC and average precision of one class against the rest; ties share a threshold."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    ordered = counts[:, order]
    hits = np.add.reduceat(ordered * targets[order], starts, axis=1)
    misses = np.add.reduceat(ordered, starts, axis=1) - hits
    true, false = hits.cumsum(axis=1), misses.cumsum(axis=1)
    positives, negatives = true[:, -1], false[:, -1]
    pairs = (misses * (true - hits / 2)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = pairs / (positives * negatives)
        average = (hits * _ratio(true, true + false)).sum(axis=1) / positives
    return auc, np.where(positives > 0, average, np.nan)


def bins(confidence: Floats, number: int = BINS) -> Integers:
    """`[N]`: which of `number` equally wide intervals, open below and closed above, the confidence is in."""
    return (np.ceil(confidence * number).astype(np.int64).clip(1, number)) - 1


def calibration_error(answers: Answers, confidence: Floats, counts: Floats, number: int = BINS) -> Floats:
    """`sum over bins of n / N * |accuracy - mean confidence|` (ECE, Guo et al. 2017, equation 3)."""
    gaps = np.zeros((len(answers.labels), number))
    gaps[np.arange(len(gaps)), bins(confidence, number)] = answers.right - confidence
    error: Floats = np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)
    return error


# --- intervals and tests ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A figure and the bootstrap's interval around it; the ends are `None` where no sample had the figure."""

    value: float | None
    low: float | None
    high: float | None


def samples(rows: int, seed: int, replicates: int = REPLICATES, held: int = 0) -> Iterator[Floats]:
    """Counts `[b, N]` of samples of N rows drawn with replacement, a few at a time, the same for a seed.

    Args:
        held: numbers that are made of each sample, where these are more than N: fewer at a time then.
    """
    generator = np.random.default_rng(seed)
    step = max(1, AT_ONCE // max(rows, held))
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        drawn = generator.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def bootstrap(
    measure: Callable[[Floats], Mapping[Key, Floats]],
    rows: int,
    seed: int,
    replicates: int = REPLICATES,
    held: int = 0,
) -> dict[Key, Interval]:
    """Every figure of `measure` with its percentile interval (Efron and Tibshirani 1993, chapter 13).

    Figures measured together are of the same samples, so a difference that `measure` computes is a paired
    one. Samples that leave a figure undefined are left out of its interval.

    Args:
        measure: counts `[B, N]` to figures `[B]`, by name.
        rows: N, at least 1.
        held: as `samples`, by `measure`.
    """
    if rows < 1:
        raise ValueError("there is no row to sample")
    values = measure(np.ones((1, rows)))
    drawn: dict[Key, list[Floats]] = {name: [] for name in values}
    for counts in samples(rows, seed, replicates, held):
        for name, found in measure(counts).items():
            drawn[name].append(found)
    ends = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
    intervals = {}
    for name, one in values.items():
        known = np.concatenate(drawn[name])
        known = known[~np.isnan(known)]
        low, high = np.quantile(known, ends) if len(known) and not np.isnan(one[0]) else (None, None)
        intervals[name] = Interval(*(_plain(value) for value in (one[0], low, high)))
    return intervals


def _plain(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


@dataclass(frozen=True)
class McNemar:
    """The exact test of McNemar (1947) between two models on the same rows.

    `both` have that many rows right, the first alone `only_first`, the second alone `only_second`;
    `p_value`, two-sided: how often a fair coin thrown for each of the latter comes out as unequal, or more.
    """

    both: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Of which answers are right, each `[N]`, nonzero where they are."""
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or one.ndim != 1:
        raise ValueError(f"{one.shape} and {two.shape} are not answers to the same rows")
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    either = only_first + only_second
    p_value = float(stats.binomtest(only_first, either).pvalue) if either else 1.0
    return McNemar(int((one & two).sum()), only_first, only_second, p_value)


def wilson(right: int, rows: int) -> tuple[float, float]:
    """The interval of a share (Wilson 1927, *Probable Inference*): within [0, 1] and right for few rows."""
    ends = stats.binomtest(right, rows).proportion_ci(CONFIDENCE, method="wilson")
    return float(ends.low), float(ends.high)


# --- pictures' points -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """A bar of the reliability diagram."""

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


def reliability(answers: Answers, confidence: Floats, number: int = BINS) -> list[Bin]:
    """Confidence against accuracy, bin by bin; `None` in a bin without rows."""
    which = bins(confidence, number)
    found = []
    for one in range(number):
        inside = which == one
        rows = int(inside.sum())
        means = (
            (float(confidence[inside].mean()), float(answers.right[inside].mean())) if rows else (None, None)
        )
        found.append(Bin(one / number, (one + 1) / number, rows, *means))
    return found


def risk_coverage(answers: Answers, confidence: Floats) -> tuple[Floats, Floats]:
    """Error among the most confident rows, against the share of rows they are (El-Yaniv and Wiener 2010).

    Returns:
        Coverage and risk, each `[T]`, a point for each distinct confidence, from the surest row on.
    """
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    last = np.flatnonzero(np.append(np.diff(confidence) != 0, True))
    wrong = (1 - answers.right[order]).cumsum()
    return (last + 1) / len(order), wrong[last] / (last + 1)


def roc(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """False and true positive rates, each `[T + 1]`, thresholds falling; NaN without both classes."""
    true, false = _cumulated(scores, targets)
    with np.errstate(invalid="ignore"):
        return false / false[-1], true / true[-1]


def precision_recall(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Recall and precision, each `[T]`, thresholds falling; NaN without a positive row."""
    true, false = (one[1:] for one in _cumulated(scores, targets))
    with np.errstate(invalid="ignore"):
        return true / true[-1], true / (true + false)


def _cumulated(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true = targets[order].cumsum()[last]
    return np.insert(true, 0, 0.0), np.insert(last + 1 - true, 0, 0.0)
