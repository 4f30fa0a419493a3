"""Compute metrics of answers on N rows, their confidence intervals, and significance tests.

A metric takes *counts*, float64 `[B, N]`: how often each row occurs in each of B samples. All ones give the
figure of the rows themselves; counts of rows drawn with replacement are bootstrap samples, and all B figures
come from a few matrix products. Figures are float64 `[B]`; a figure that is undefined in a sample (ROC AUC
where only one class occurs) is NaN there.
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

# The figures of `quality`, in the order in which they are shown.
QUALITY = (
    *("accuracy", "f1", "precision", "recall", "f1_macro", "precision_macro", "recall_macro", "mcc"),
    *("roc_auc", "average_precision", "loss", "brier", "ece"),
)
BINS = 15  # of the calibration error and the reliability diagram
CONFIDENCE = 0.95
REPLICATES = 1_000
MAX_COUNTS = 4_000_000  # float64 values of a chunk of samples: 32 MB
TINY = float(np.finfo(np.float64).eps)  # the least probability whose logarithm is taken


@dataclass(frozen=True)
class Answers:
    """Hold a model's answers on N rows, and their labels.

    Args:
        labels: int64 `[N]`.
        answer: int64 `[N]`, the predicted class.
        confidence: float64 `[N]`, the probability of the predicted class; `None` where it is not known.
        probabilities: float64 `[N, C]`, rows add up to 1; `None` where they are not known.
        classes: C.
    """

    labels: Integers
    answer: Integers
    confidence: Floats | None
    probabilities: Floats | None
    classes: int

    @staticmethod
    def from_probabilities(probabilities: Floats, labels: Integers) -> "Answers":
        """Make answers of the probabilities of all classes, `[N, C]`."""
        answer = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(answer)), answer]
        return Answers(labels, answer, confidence, probabilities, probabilities.shape[1])

    @cached_property
    def right(self) -> Floats:
        """Return 1 where the answer is the label, else 0, `[N]`."""
        right: Floats = (self.answer == self.labels).astype(np.float64)
        return right

    @cached_property
    def cells(self) -> Integers:
        """Return the cell of the confusion matrix that each row counts in, row-major, `[N]`."""
        return self.labels * self.classes + self.answer

    @cached_property
    def scores(self) -> Floats:
        """Return the probability of class 1 for two classes, of every class for more, `[N, S]`."""
        assert self.probabilities is not None
        scores: Floats = self.probabilities[:, 1:] if self.classes == 2 else self.probabilities
        return scores

    @cached_property
    def targets(self) -> Floats:
        """Return 1 where the label is the class that the score is for, else 0, `[N, S]`."""
        ids = np.arange(self.classes)[1:] if self.classes == 2 else np.arange(self.classes)
        targets: Floats = (self.labels[:, None] == ids).astype(np.float64)
        return targets


# --- metrics ----------------------------------------------------------------------------------------------


def confusion(answers: Answers, counts: Floats) -> Floats:
    """Count the rows with label i and answer j in each sample, `[B, C, C]`."""
    size = answers.classes**2
    cells = answers.cells + size * np.arange(len(counts))[:, None]
    table = np.bincount(cells.ravel(), weights=counts.ravel(), minlength=size * len(counts))
    return table.astype(np.float64, copy=False).reshape(len(counts), answers.classes, answers.classes)


def quality(answers: Answers, counts: Floats) -> dict[str, Floats]:
    """Compute every metric of every sample, as scikit-learn defines them.

    For two classes `precision`, `recall` and `f1` are of class 1; the `_macro` ones are means over classes.
    A class that is never answered has precision 0, one that never occurs recall 0. `mcc` is Matthews'
    coefficient, for more classes Gorodkin's R_K. For more than two classes `roc_auc` and `average_precision`
    are means over one-vs-rest. `brier` is the mean of (p_1 - y)^2 for two classes and of the sum over classes
    for more (Brier 1950). `ece`: Guo et al. 2017, equation 3.
    """
    metrics = _confusion_metrics(confusion(answers, counts))
    if answers.confidence is not None:
        metrics["ece"] = expected_calibration_error(answers.confidence, answers.right, counts)
    if answers.probabilities is None:
        return metrics
    rows = counts.sum(axis=1)
    label_probabilities = answers.probabilities[np.arange(len(answers.labels)), answers.labels]
    metrics["loss"] = counts @ -np.log(label_probabilities.clip(TINY)) / rows
    squares = ((answers.scores - answers.targets) ** 2).sum(axis=1)
    metrics["brier"] = counts @ squares / rows
    curves = [
        _ranking(answers.scores[:, s], answers.targets[:, s], counts) for s in range(answers.scores.shape[1])
    ]
    metrics["roc_auc"] = np.mean([auc for auc, _ in curves], axis=0)
    metrics["average_precision"] = np.mean([precision for _, precision in curves], axis=0)
    return metrics


def defined_metrics(labelled: Sequence[int], confidence: bool, probabilities: bool) -> set[str]:
    """Return the names of the figures of `quality` that will not be NaN, before any answer is known.

    Args:
        labelled: `[C]`, rows of each class.
        confidence: whether the probability of the predicted class will be known.
        probabilities: whether the probabilities of all classes will be known.
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


def _confusion_metrics(table: Floats) -> dict[str, Floats]:
    total = table.sum(axis=(1, 2))
    hits = np.einsum("bcc->bc", table)
    labelled, answered = table.sum(axis=2), table.sum(axis=1)
    precision, recall = _ratio(hits, answered), _ratio(hits, labelled)
    f1 = _ratio(2 * hits, labelled + answered)
    metrics = {"accuracy": hits.sum(axis=1) / total}
    if table.shape[1] == 2:
        metrics |= {"f1": f1[:, 1], "precision": precision[:, 1], "recall": recall[:, 1]}
    # As scikit-learn does: means over the classes that occur, as labels or as answers.
    occurs = (labelled + answered) > 0
    for name, values in (("f1_macro", f1), ("precision_macro", precision), ("recall_macro", recall)):
        metrics[name] = (values * occurs).sum(axis=1) / occurs.sum(axis=1)
    agreement = hits.sum(axis=1) * total - (labelled * answered).sum(axis=1)
    spread = (total**2 - (labelled**2).sum(axis=1)) * (total**2 - (answered**2).sum(axis=1))
    metrics["mcc"] = _ratio(agreement, np.sqrt(spread))
    return metrics


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _ranking(scores: Floats, targets: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Compute ROC AUC and average precision of a class against the rest; ties share a threshold."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    ordered = counts[:, order]
    hits = np.add.reduceat(ordered * targets[order], starts, axis=1)
    misses = np.add.reduceat(ordered, starts, axis=1) - hits
    true, false = hits.cumsum(axis=1), misses.cumsum(axis=1)
    positives, negatives = true[:, -1], false[:, -1]
    # Mann and Whitney: pairs that are ranked correctly, ties counted half.
    pairs = (misses * (true - hits / 2)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = pairs / (positives * negatives)
        average = (hits * _ratio(true, true + false)).sum(axis=1) / positives
    return auc, np.where(positives > 0, average, np.nan)


def bin_indices(confidence: Floats, bins: int = BINS) -> Integers:
    """Return which of `bins` equally wide intervals, open below and closed above, each confidence is in."""
    return (np.ceil(confidence * bins).astype(np.int64).clip(1, bins)) - 1


def expected_calibration_error(
    confidence: Floats, right: Floats, counts: Floats | None = None, bins: int = BINS
) -> Floats:
    """Compute `sum over bins of n / N * |accuracy - mean confidence|` (ECE, Guo et al. 2017, equation 3).

    Args:
        confidence: float64 `[N]`, the probability of the predicted class.
        right: float64 `[N]`, 1 where the predicted class is the label.
        counts: float64 `[B, N]`; every row once by default.

    Returns:
        float64 `[B]`.
    """
    counts = np.ones((1, len(right))) if counts is None else counts
    gaps = np.zeros((len(right), bins))
    # Summed over a bin, right - confidence is n * (accuracy - mean confidence).
    gaps[np.arange(len(gaps)), bin_indices(confidence, bins)] = right - confidence
    error: Floats = np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)
    return error


# --- intervals and tests ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """Hold a figure with its bootstrap interval; the ends are `None` where no sample had the figure."""

    value: float | None
    low: float | None
    high: float | None


def samples(
    rows: int, seed: int, replicates: int = REPLICATES, values_per_sample: int = 0
) -> Iterator[Floats]:
    """Yield counts `[b, N]` of samples of N rows drawn with replacement, in chunks; equal for equal seeds.

    Args:
        values_per_sample: how many values the caller computes of each sample; where these are more than N,
            chunks are smaller, so that they fit in memory.
    """
    generator = np.random.default_rng(seed)
    step = max(1, MAX_COUNTS // max(rows, values_per_sample))
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        # Offsets keep the samples of a chunk apart in a single bincount.
        drawn = generator.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def bootstrap(
    measure: Callable[[Floats], Mapping[Key, Floats]],
    rows: int,
    seed: int,
    replicates: int = REPLICATES,
    values_per_sample: int = 0,
) -> dict[Key, Interval]:
    """Compute every figure of `measure` with its percentile interval (Efron and Tibshirani 1993, chapter 13).

    Figures measured together use the same samples, so a difference that `measure` computes is a paired one.
    Samples in which a figure is undefined do not count in its interval.

    Args:
        measure: counts `[B, N]` to figures `[B]`, by name.
        rows: N, at least 1.
        values_per_sample: see `samples`.
    """
    if rows < 1:
        raise ValueError("there is no row to sample")
    values = measure(np.ones((1, rows)))
    resampled: dict[Key, list[Floats]] = {name: [] for name in values}
    for counts in samples(rows, seed, replicates, values_per_sample):
        for name, figures in measure(counts).items():
            resampled[name].append(figures)
    quantiles = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
    intervals = {}
    for name, (value,) in values.items():
        defined = np.concatenate(resampled[name])
        defined = defined[~np.isnan(defined)]
        low, high = np.quantile(defined, quantiles) if len(defined) and not np.isnan(value) else (None, None)
        intervals[name] = Interval(_plain(value), _plain(low), _plain(high))
    return intervals


def _plain(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


@dataclass(frozen=True)
class McNemar:
    """Hold the exact test of McNemar (1947) between two models on the same rows.

    `both` rows are right in both models, `only_first` in the first alone, `only_second` in the second alone.
    `p_value` is two-sided: how likely a split of the discordant rows at least as uneven is, if each of them
    falls to either model with probability 1/2.
    """

    both: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Test whether two models have equal accuracy.

    Args:
        first: `[N]`, nonzero where the first model is right.
        second: `[N]`, nonzero where the second model is right.
    """
    right_first, right_second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if right_first.shape != right_second.shape or right_first.ndim != 1:
        raise ValueError(f"{right_first.shape} and {right_second.shape} are not answers to the same rows")
    only_first, only_second = (
        int((right_first & ~right_second).sum()),
        int((right_second & ~right_first).sum()),
    )
    discordant = only_first + only_second
    p_value = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(int((right_first & right_second).sum()), only_first, only_second, p_value)


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the interval of a share, within [0, 1] and valid for few rows (Wilson 1927)."""
    ends = stats.binomtest(right, rows).proportion_ci(CONFIDENCE, method="wilson")
    return float(ends.low), float(ends.high)


# --- points of plots --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Hold a bar of the reliability diagram; means are `None` in a bin without rows."""

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


def reliability(answers: Answers, confidence: Floats, bins: int = BINS) -> list[Bin]:
    """Return mean confidence and accuracy, bin by bin."""
    indices = bin_indices(confidence, bins)
    bars = []
    for i in range(bins):
        inside = indices == i
        rows = int(inside.sum())
        means = (
            (float(confidence[inside].mean()), float(answers.right[inside].mean())) if rows else (None, None)
        )
        bars.append(Bin(i / bins, (i + 1) / bins, rows, *means))
    return bars


def risk_coverage(answers: Answers, confidence: Floats) -> tuple[Floats, Floats]:
    """Return the error rate of the most confident rows against their share (El-Yaniv and Wiener 2010).

    Returns:
        Coverage and risk, each `[T]`, a point for each distinct confidence, in falling order of confidence.
    """
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    last = np.flatnonzero(np.append(np.diff(confidence) != 0, True))
    wrong = (1 - answers.right[order]).cumsum()
    return (last + 1) / len(order), wrong[last] / (last + 1)


def roc(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return false and true positive rates, each `[T + 1]`, thresholds falling; NaN without both classes."""
    true, false = _cumulative_counts(scores, targets)
    with np.errstate(invalid="ignore"):
        return false / false[-1], true / true[-1]


def precision_recall(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return recall and precision, each `[T]`, thresholds falling; NaN without a positive row."""
    true, false = (counts[1:] for counts in _cumulative_counts(scores, targets))
    with np.errstate(invalid="ignore"):
        return true / true[-1], true / (true + false)


def _cumulative_counts(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true = targets[order].cumsum()[last]
    return np.insert(true, 0, 0.0), np.insert(last + 1 - true, 0, 0.0)
