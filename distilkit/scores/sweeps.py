"""Compare the settings of a sweep: intervals over seeds, paired differences, Holm's correction.

A setting is run once per seed, and runs with the same seed are paired. Its difference to labels alone is
judged by a t interval over the paired differences, which speaks of these validation rows, and, where the
rows that each run has right are known, by a bootstrap over seeds and rows, which speaks of new rows too.
There is no sign-flip permutation: with n seeds its least p value is 2 / 2^n, 0.25 with three.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from distilkit.scores.statistics import CONFIDENCE, MAX_COUNTS, TINY, Floats, Interval

LEVEL = 1 - CONFIDENCE  # of p values, after Holm's correction
POWER = 0.8  # chance to tell a difference, from which the number of seeds follows
POINT = 0.01
MAX_SEEDS = 1_000  # that are worth proposing
REPLICATES = 2_000  # bootstrap samples of seeds and rows
SAMPLING_SEED = 42
VARIANCES = 1_000  # quantiles of a sample's variance that a power is averaged over
EQUAL = 1e-12  # differences that are closer have no spread but rounding errors

Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SettingScores:
    """Hold the runs of a setting.

    Attributes:
        values: the swept options without the seed; one that does not apply is missing.
        labels_only: whether the teacher has no part in it (alpha 1).
        scores: the metric on validation, by seed.
        right: bool `[N]`, the validation rows answered correctly, by seed; empty where that is not known.
        pruned: whether it was ended before it had all seeds, because it did badly.
    """

    values: Mapping[str, Any]
    labels_only: bool
    scores: Mapping[int, float]
    right: Mapping[int, Rows] = field(default_factory=dict)
    pruned: bool = False

    @property
    def mean(self) -> float:
        """Return the mean score over the seeds."""
        return float(np.mean(list(self.scores.values())))


@dataclass(frozen=True)
class PairedDifference:
    """Compare a setting with another on the seeds that both have; `value` is the mean of the differences.

    Attributes:
        low, high: ends of the t interval; `None` with one seed or without any spread.
        p_value: of the paired t test, two-sided.
        p_adjusted: after Holm's correction over the settings.
        spread: standard deviation of the paired differences.
        rows_low, rows_high: bootstrap interval of the difference in accuracy, over seeds and rows.
        rows_p_adjusted: p value of that difference by its bootstrap standard error, after Holm's correction.
        different: whether both adjusted p values, or the only one, tell the settings apart.
        on_these_rows: whether only the bootstrap over rows keeps them from being told apart.
    """

    value: float
    seeds: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    spread: float | None = None
    rows_low: float | None = None
    rows_high: float | None = None
    rows_p_adjusted: float | None = None
    different: bool = False
    on_these_rows: bool = False


@dataclass(frozen=True)
class SettingComparison:
    """Hold what is known of a setting.

    Attributes:
        score: mean over the seeds with its t interval.
        reference: position of the setting that `difference` is counted from.
        differs_in: options besides alpha whose values differ from the reference's.
        tied: whether it cannot be told from the best setting, or is the best.
    """

    score: Interval
    reference: int | None = None
    differs_in: tuple[str, ...] = ()
    difference: PairedDifference | None = None
    tied: bool = False


@dataclass(frozen=True)
class SweepComparison:
    """Hold the comparison of all settings, in their order.

    Attributes:
        best: position of the best setting by mean score; `None` where nothing has finished.
        from_labels_only: whether differences are counted from labels alone, else from the best setting.
        spread: standard deviation of paired differences, pooled over the settings.
        seeds_for_point: how many seeds would tell a difference of a point.
    """

    settings: tuple[SettingComparison, ...]
    best: int | None
    from_labels_only: bool
    spread: float | None
    seeds_for_point: int | None


# --- intervals and tests ----------------------------------------------------------------------------------


def mean_interval(values: Sequence[float], resolution: float = 0.0) -> Interval:
    """Return the mean with its t interval, `mean ± t(n - 1) * s / sqrt(n)`.

    Args:
        values: independent figures, one per seed.
        resolution: see `paired_difference`.
    """
    figures = np.asarray(values, dtype=np.float64)
    spread = _spread(figures, resolution / np.sqrt(12))
    return Interval(float(figures.mean()), *_t_ends(figures, spread))


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], resolution: float = 0.0
) -> PairedDifference | None:
    """Return the mean of `first - second` over the seeds that both have, with t interval and p value.

    Args:
        resolution: the step in which scores come, 1 / N for an accuracy on N rows; 0 where there is none.
            Two or three equal differences must not look like no variance at all, so the standard deviation
            is taken to be at least that of rounding both scores, resolution / sqrt(6).

    Returns:
        `None` where the two share no seed.
    """
    seeds = tuple(sorted(first.keys() & second.keys()))
    if not seeds:
        return None
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    mean = float(differences.mean())
    spread = _spread(differences, resolution / np.sqrt(6))
    low, high = _t_ends(differences, spread)
    p_value = None
    if spread:
        t = abs(mean) / (spread / np.sqrt(len(seeds)))
        p_value = float(2 * special.stdtr(len(seeds) - 1, -t))
    elif len(seeds) > 1 and abs(mean) <= EQUAL:
        p_value = 1.0
    return PairedDifference(mean, seeds, low, high, p_value, spread=spread)


def _spread(values: Floats, least: float) -> float | None:
    """Return the standard deviation, `None` for a single value and 0 only where `least` is 0 too."""
    if len(values) < 2:
        return None
    spread = float(values.std(ddof=1))
    return max(spread if spread > EQUAL else 0.0, float(least))


def _t_ends(values: Floats, spread: float | None) -> tuple[float | None, float | None]:
    if not spread:
        return None, None
    half = float(special.stdtrit(len(values) - 1, 1 - LEVEL / 2)) * spread / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


@dataclass(frozen=True)
class RowsInterval:
    """Hold the bootstrap interval of a difference in accuracy, and its standard error."""

    low: float
    high: float
    error: float


def bootstrap_rows(differences: Sequence[Floats], replicates: int = REPLICATES) -> list[RowsInterval]:
    """Return the intervals of differences in accuracy over seeds and rows.

    Seeds and rows are both drawn with replacement, independently, and the rows are the same for all seeds
    and settings (the pigeonhole bootstrap, Owen 2007). It errs on the wide side.

    Args:
        differences: for each pair of settings float64 `[S, N]`, 1 where the first is right and the second
            wrong, -1 where it is the other way round, else 0. N is the same for all, S need not be.
    """
    if not differences:
        return []
    rows = differences[0].shape[1]
    stacked = np.concatenate(differences).T  # [N, sum of S]
    bounds = np.cumsum([0, *(len(difference) for difference in differences)])
    generator = np.random.default_rng(SAMPLING_SEED)
    means = np.empty((replicates, len(differences)))
    step = max(1, MAX_COUNTS // rows)
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        sums = _draw_counts(generator, rows, size) @ stacked
        for i in range(len(differences)):
            seeds = len(differences[i])
            drawn = sums[:, bounds[i] : bounds[i + 1]] * _draw_counts(generator, seeds, size)
            means[start : start + size, i] = drawn.sum(axis=1) / (seeds * rows)
    low, high = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2), axis=0)
    errors = means.std(axis=0, ddof=1)
    return [RowsInterval(float(low[i]), float(high[i]), float(errors[i])) for i in range(len(differences))]


def _draw_counts(generator: np.random.Generator, items: int, samples: int) -> Floats:
    """Return how often each item is in each sample of as many, drawn with replacement, `[samples, items]`."""
    drawn = generator.integers(items, size=(samples, items)) + items * np.arange(samples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=samples * items).reshape(samples, items)
    return counts.astype(np.float64)


def adjust_holm(p_values: Sequence[float | None], family: int | None = None) -> list[float | None]:
    """Return p values after Holm's step-down correction (Holm 1979); `None` stays and does not count.

    Args:
        family: how many hypotheses there are in all, where `p_values` were picked among them by looking at
            the data; their number by default.
    """
    order = sorted((p_value, i) for i, p_value in enumerate(p_values) if p_value is not None)
    hypotheses = max(len(order), family or 0)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p_value, i) in enumerate(order):
        largest = max(largest, min(1.0, (hypotheses - rank) * p_value))
        adjusted[i] = largest
    return adjusted


def count_seeds(spread: float, difference: float = POINT, comparisons: int = 1) -> int | None:
    """Return how many seeds tell a `difference` with probability `POWER`, by the paired t test.

    Args:
        spread: standard deviation of the paired differences.
        comparisons: how many settings are compared; the level is `LEVEL / comparisons`, Holm's first step.

    Returns:
        `None` where `MAX_SEEDS` are too few.
    """
    if spread <= 0:
        return 2
    seeds = range(2, MAX_SEEDS + 1)
    i = bisect_left(seeds, POWER, key=lambda n: _power(n, spread, difference, comparisons))
    return seeds[i] if i < len(seeds) else None


def _power(seeds: int, spread: float, difference: float, comparisons: int) -> float:
    """Return the chance that the paired t test tells a difference, without the far tail, which is tiny.

    SciPy's noncentral t is NaN for a few degrees of freedom and a large difference, so the mean over the
    distribution of the sample's variance is taken here.
    """
    freedom = seeds - 1
    critical = special.stdtrit(freedom, 1 - LEVEL / comparisons / 2)
    shift = np.sqrt(seeds) * difference / spread
    return float(special.ndtr(shift - critical * _sample_spreads(freedom)).mean())


@cache
def _sample_spreads(freedom: int) -> Floats:
    """Return equally likely standard deviations of a sample from a distribution where it is 1."""
    shares = (np.arange(VARIANCES) + 0.5) / VARIANCES
    spreads: Floats = np.sqrt(special.chdtri(freedom, shares) / freedom)
    return spreads


# --- a whole sweep ----------------------------------------------------------------------------------------


def compare_settings(
    settings: Sequence[SettingScores],
    *,
    higher_is_better: bool,
    resolution: float,
    by_rows: bool,
    searched: bool = False,
) -> SweepComparison:
    """Compare every setting with labels alone or, where no run is on labels alone, with the best setting.

    Pruned settings get a mean and nothing else.

    Args:
        settings: each with at least one seed.
        resolution: see `paired_difference`.
        by_rows: whether the metric is accuracy, so that a bootstrap over rows speaks of it.
        searched: whether a search chose the settings. Each is then compared with the best on labels alone,
            which had as many trials, and not with the one that is most like it.
    """
    whole = [i for i, setting in enumerate(settings) if not setting.pruned]
    sign = 1 if higher_is_better else -1
    best = _choose_best(settings, whole, sign)
    labels_only = [i for i in whole if settings[i].labels_only]
    from_labels_only = bool(labels_only) and len(labels_only) < len(whole)
    if from_labels_only:
        references = {
            i: _choose_reference(settings, None if searched else i, labels_only, sign)
            for i in whole
            if i not in labels_only
        }
        family = None
    else:
        # The best was picked by looking: Holm must count every pair that it was picked among.
        references = {i: best for i in whole if i != best and best is not None}
        family = len(whole) * (len(whole) - 1) // 2
    differences = _compare_all(settings, references, resolution, family=family, by_rows=by_rows)
    tied = _find_ties(settings, whole, best, references, differences, resolution)
    comparisons = []
    for i, setting in enumerate(settings):
        reference = references.get(i)
        comparisons.append(
            SettingComparison(
                score=mean_interval(list(setting.scores.values()), resolution)
                if not setting.pruned
                else Interval(setting.mean, None, None),
                reference=reference,
                differs_in=() if reference is None else _list_differences(setting, settings[reference]),
                difference=differences.get(i),
                tied=i in tied,
            )
        )
    spread = _pool_spread(list(differences.values()))
    comparisons_made = family or sum(difference.p_value is not None for difference in differences.values())
    seeds_for_point = None if spread is None else count_seeds(spread, comparisons=max(1, comparisons_made))
    return SweepComparison(tuple(comparisons), best, from_labels_only, spread, seeds_for_point)


def _choose_best(settings: Sequence[SettingScores], whole: Sequence[int], sign: int) -> int | None:
    """Return the setting with the best mean, of those that have at least half of the most seeds."""
    largest = max((len(settings[i].scores) for i in whole), default=0)
    candidates = [i for i in whole if 2 * len(settings[i].scores) >= largest]
    return max(candidates, key=lambda i: sign * settings[i].mean, default=None)


def _choose_reference(
    settings: Sequence[SettingScores], i: int | None, labels_only: Sequence[int], sign: int
) -> int:
    """Return the best labels-only setting by mean: of all, or of those that differ least from setting `i`."""

    def rank(candidate: int) -> tuple[int, float]:
        differences = 0 if i is None else len(_list_differences(settings[i], settings[candidate]))
        return -differences, sign * settings[candidate].mean

    return max(labels_only, key=rank)


def _list_differences(setting: SettingScores, reference: SettingScores) -> tuple[str, ...]:
    """Return the options that both settings have and that differ; alpha is what is compared."""
    skipped = {"alpha"} if reference.labels_only and not setting.labels_only else set()
    return tuple(
        name
        for name, value in setting.values.items()
        if name not in skipped and name in reference.values and reference.values[name] != value
    )


def _compare_all(
    settings: Sequence[SettingScores],
    references: Mapping[int, int],
    resolution: float,
    *,
    family: int | None,
    by_rows: bool,
) -> dict[int, PairedDifference]:
    """Return the difference of each setting to its reference, p values corrected over all."""
    differences = {}
    for i, reference in references.items():
        difference = paired_difference(settings[i].scores, settings[reference].scores, resolution)
        if difference is not None:
            differences[i] = difference
    by_row = {
        i: stacked
        for i, difference in differences.items()
        if (stacked := _stack_rows(difference.seeds, settings[i], settings[references[i]])) is not None
    }
    intervals = dict(zip(by_row, bootstrap_rows(list(by_row.values()), REPLICATES), strict=True))
    adjusted = adjust_holm([difference.p_value for difference in differences.values()], family)
    # Of the normal distribution: a share of samples could not be small enough for many settings.
    rows_p_values = [
        2 * float(special.ndtr(-abs(by_row[i].mean()) / max(interval.error, TINY)))
        for i, interval in intervals.items()
    ]
    rows_adjusted = dict(zip(intervals, adjust_holm(rows_p_values, family), strict=True))
    judged = {}
    for (i, difference), p_adjusted in zip(differences.items(), adjusted, strict=True):
        rows = intervals.get(i)
        judged[i] = _judge(
            replace(
                difference,
                p_adjusted=p_adjusted,
                rows_low=rows.low if rows else None,
                rows_high=rows.high if rows else None,
                rows_p_adjusted=rows_adjusted.get(i),
            ),
            by_rows,
        )
    return judged


def _stack_rows(seeds: Sequence[int], setting: SettingScores, reference: SettingScores) -> Floats | None:
    """Return the difference by seed and row; `None` for one seed, or where the rows of any are unknown."""
    if len(seeds) < 2 or not all(seed in setting.right and seed in reference.right for seed in seeds):
        return None
    first = np.stack([setting.right[seed] for seed in seeds]).astype(np.float64)
    difference: Floats = first - np.stack([reference.right[seed] for seed in seeds])
    return difference


def _judge(difference: PairedDifference, by_rows: bool) -> PairedDifference:
    over_seeds = difference.p_adjusted is not None and difference.p_adjusted <= LEVEL
    over_rows = not by_rows or difference.rows_p_adjusted is None or difference.rows_p_adjusted <= LEVEL
    return replace(difference, different=over_seeds and over_rows, on_these_rows=over_seeds and not over_rows)


def _find_ties(
    settings: Sequence[SettingScores],
    whole: Sequence[int],
    best: int | None,
    references: Mapping[int, int],
    differences: Mapping[int, PairedDifference],
    resolution: float,
) -> set[int]:
    """Return the settings that cannot be told from the best one, and that one.

    Where a setting is compared with its reference, that comparison decides: two families of tests must not
    contradict each other. Else Holm counts every pair, as the best was picked by looking.
    """
    if best is None:
        return set()
    compared = [i for i in whole if i != best]
    pairs = [paired_difference(settings[i].scores, settings[best].scores, resolution) for i in compared]
    p_values = [pair.p_value if pair else None for pair in pairs]
    adjusted = adjust_holm(p_values, len(whole) * (len(whole) - 1) // 2)
    tied = {best}
    for i, p_adjusted in zip(compared, adjusted, strict=True):
        direct = differences.get(i) if references.get(i) == best else None
        if references.get(best) == i:
            direct = differences.get(best)
        if p_adjusted is not None and (not direct.different if direct else p_adjusted > LEVEL):
            tied.add(i)
    return tied


def _pool_spread(differences: Sequence[PairedDifference]) -> float | None:
    """Return the root mean square of the standard deviations, weighted by degrees of freedom."""
    parts = [
        (len(difference.seeds) - 1, difference.spread)
        for difference in differences
        if difference.spread is not None
    ]
    freedom = sum(weight for weight, _ in parts)
    if not freedom:
        return None
    return float(np.sqrt(sum(weight * spread**2 for weight, spread in parts) / freedom))
