"""The statistics of a sweep are those of the textbook, and call nothing different that is not."""

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from distilkit.scores import sweeps
from distilkit.scores.sweeps import (
    SettingScores,
    SweepComparison,
    adjust_holm,
    bootstrap_rows,
    compare_settings,
    count_seeds,
    mean_interval,
    paired_difference,
)

ROWS = 872  # SST-2's validation split


def by_seed(*scores: float) -> dict[int, float]:
    return dict(enumerate(scores, start=1))


def test_the_interval_of_a_mean_is_the_one_of_student() -> None:
    """Mean 2, s = 1, n = 3: 2 ± 4.3027 / sqrt(3)."""
    interval = mean_interval([1.0, 2.0, 3.0])
    assert (interval.value, interval.low, interval.high) == pytest.approx((2, -0.4841, 4.4841), abs=1e-4)
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert (mean_interval(list(values)).low, mean_interval(list(values)).high) == pytest.approx(expected)


def test_a_single_seed_has_no_interval() -> None:
    """An interval of width 0 would look like certainty."""
    interval = mean_interval([0.85], 1 / ROWS)
    assert (interval.value, interval.low, interval.high) == (0.85, None, None)
    difference = paired_difference({1: 0.9}, {1: 0.8})
    assert difference and (difference.low, difference.p_value) == (None, None)


def test_differences_are_paired_by_seed_and_not_by_position() -> None:
    """Seeds 2, 3 and 4 are common; t = 2 / (1 / sqrt(3)) with 2 degrees of freedom has p = 0.0742."""
    first, second = {4: 13.0, 2: 11.0, 3: 12.0, 9: 50.0}, {2: 10.0, 3: 10.0, 4: 10.0, 7: 99.0}
    difference = paired_difference(first, second)
    assert difference and difference.seeds == (2, 3, 4)
    figures = (difference.value, difference.low, difference.high, difference.p_value)
    assert figures == pytest.approx((2, -0.4841, 4.4841, 0.0742), abs=1e-4)


def test_the_p_value_is_that_of_scipy() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(0.85, 0.01, 6), generator.normal(0.84, 0.01, 6)
    difference = paired_difference(by_seed(*first), by_seed(*second))
    assert difference and difference.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_settings_without_a_common_seed_have_no_difference() -> None:
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


def test_equal_differences_are_not_taken_for_certainty() -> None:
    """Three times the same row more: s = 0 would give p = 0. Rounding alone gives (1/16) / sqrt(6)."""
    first, second = by_seed(0.5625, 0.625, 0.6875), by_seed(0.5, 0.5625, 0.625)
    without = paired_difference(first, second)
    assert without and (without.low, without.p_value) == (None, None)
    with_steps = paired_difference(first, second, 1 / 16)
    assert with_steps and with_steps.p_value == pytest.approx(2 * stats.t.sf(np.sqrt(18), 2))
    same = paired_difference(first, first)
    assert same and same.p_value == 1.0


def test_holm_by_hand() -> None:
    """0.01 * 3, then max(0.03 * 2, 0.03), then max(0.04, 0.06); a setting without p value does not count."""
    assert adjust_holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06], nan_ok=True)
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([0.01, 0.5], family=10) == [pytest.approx(0.1), 1.0]
    assert adjust_holm([]) == []


@pytest.mark.parametrize("spread", [0.002, 0.004, 0.01, 0.03])
@pytest.mark.parametrize("comparisons", [1, 4, 10])
def test_the_number_of_seeds_is_that_of_the_power_of_the_t_test(spread: float, comparisons: int) -> None:
    seeds = count_seeds(spread, 0.01, comparisons)
    assert seeds
    fewer, enough = (TTestPower().power(0.01 / spread, n, 0.05 / comparisons) for n in (seeds - 1, seeds))
    # It is NaN where statsmodels cannot tell: few seeds and a large difference.
    assert not enough < 0.8 and (seeds == 2 or not fewer >= 0.8)


def test_the_power_is_the_share_of_simulated_samples_that_are_told() -> None:
    """4 seeds, spread 0.2 points, 10 comparisons: statsmodels has 0.844, and NaN for 3 seeds."""
    assert count_seeds(0.002, 0.01, 10) == 4
    samples = np.random.default_rng(0).normal(0.01, 0.002, (20_000, 3))
    t = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / np.sqrt(3))
    told = np.mean(t > stats.t.isf(0.0025, 2))
    assert sweeps._power(3, 0.002, 0.01, 10) == pytest.approx(told, abs=0.01)


def test_a_spread_that_no_number_of_seeds_overcomes_has_none() -> None:
    assert count_seeds(1.0, 0.01) is None
    assert count_seeds(0.0) == 2


def test_the_bootstrap_of_rows_has_the_width_of_theory() -> None:
    """Every seed has the same rows right: only rows vary, and the standard error is sqrt(p / N)."""
    difference = np.zeros((5, 2_000))
    difference[:, :100], difference[:, 100:160] = 1, -1
    (interval,) = bootstrap_rows([difference])
    low, high = interval.low, interval.high
    row = difference[0]
    assert interval.error == pytest.approx(row.std() / np.sqrt(len(row)), rel=0.06)
    expected = row.mean() + np.array([-1.96, 1.96]) * row.std() / np.sqrt(len(row))
    assert (low, high) == pytest.approx(tuple(expected), abs=0.0015)


def test_the_bootstrap_of_rows_counts_seeds_too() -> None:
    """Every row is equal within a seed: only seeds vary."""
    difference = np.repeat([[1.0], [0.0], [0.0], [-1.0]], 50, axis=1)
    (interval,) = bootstrap_rows([difference])
    low, high = interval.low, interval.high
    assert low == pytest.approx(-0.75, abs=0.26) and high == pytest.approx(0.75, abs=0.26)


def test_several_bootstraps_use_the_same_rows() -> None:
    first = np.random.default_rng(2).integers(-1, 2, (3, 60)).astype(float)
    second = np.random.default_rng(3).integers(-1, 2, (2, 60)).astype(float)
    ends = bootstrap_rows([first, second])
    assert len(ends) == 2 and all(interval.low < interval.high for interval in ends)
    assert bootstrap_rows([]) == []


# --- whole sweeps -----------------------------------------------------------------------------------------


def setting(
    scores: Mapping[int, float], *, labels_only: bool = False, pruned: bool = False, **values: object
) -> SettingScores:
    return SettingScores(values, labels_only, scores, pruned=pruned)


def compare(
    *settings: SettingScores, higher_is_better: bool = True, searched: bool = False
) -> SweepComparison:
    return compare_settings(
        settings, higher_is_better=higher_is_better, resolution=0.0, by_rows=True, searched=searched
    )


def test_a_setting_is_compared_with_the_labels_only_setting_that_is_equal_in_all_else() -> None:
    """Compared with another student's, the difference would be that of the students."""
    comparison = compare(
        setting(by_seed(0.8, 0.81), alpha=0.5, student="small"),
        setting(by_seed(0.9, 0.91), alpha=0.5, student="large"),
        setting(by_seed(0.79, 0.8), labels_only=True, alpha=1.0, student="small"),
        setting(by_seed(0.89, 0.9), labels_only=True, alpha=1.0, student="large"),
    )
    assert [entry.reference for entry in comparison.settings] == [2, 3, None, None]
    assert all(entry.differs_in == () for entry in comparison.settings)
    assert comparison.best == 1


def test_an_option_that_labels_only_lacks_does_not_count() -> None:
    """A temperature changes nothing at alpha 1, so there is one labels-only setting for all of them."""
    comparison = compare(
        setting(by_seed(0.8, 0.82), alpha=0.5, temperature=2.0),
        setting(by_seed(0.79, 0.8), labels_only=True, alpha=1.0),
    )
    assert comparison.settings[0].reference == 1 and comparison.settings[0].differs_in == ()


def test_without_an_equal_reference_the_closest_then_the_best_is_taken_and_named() -> None:
    comparison = compare(
        setting(by_seed(0.8, 0.82), alpha=0.5, student="new"),
        setting(by_seed(0.7, 0.71), labels_only=True, alpha=1.0, student="a"),
        setting(by_seed(0.75, 0.76), labels_only=True, alpha=1.0, student="b"),
    )
    assert comparison.settings[0].reference == 2
    assert comparison.settings[0].differs_in == ("student",)


def test_holm_counts_all_pairs_where_the_best_was_picked_by_looking() -> None:
    comparison = compare(*(setting(by_seed(0.8 + i / 100, 0.81 + i / 90), lr=i) for i in range(4)))
    assert comparison.best == 3 and not comparison.from_labels_only
    difference = comparison.settings[0].difference
    assert difference and difference.p_value is not None and difference.p_adjusted is not None
    assert difference.p_adjusted >= min(1, 4 * difference.p_value)


def test_a_lower_loss_is_better() -> None:
    worse, better = setting(by_seed(0.5, 0.51), lr=1), setting(by_seed(0.3, 0.31), lr=2)
    assert compare(worse, better, higher_is_better=False).best == 1


def test_pruned_settings_are_left_out_of_the_statistics() -> None:
    """The best of a pruned setting's single seed would win by luck."""
    comparison = compare(
        setting({1: 0.99}, alpha=0.1, pruned=True),
        setting(by_seed(0.8, 0.82, 0.81), alpha=0.5),
        setting(by_seed(0.79, 0.8, 0.8), labels_only=True, alpha=1.0),
    )
    assert comparison.best == 1
    assert comparison.settings[0].difference is None and comparison.settings[0].score.low is None
    with_p_value = comparison.settings[1].difference
    assert with_p_value and with_p_value.p_adjusted == with_p_value.p_value


def test_settings_of_a_search_are_compared_with_the_best_on_labels_alone() -> None:
    """The one that is most like them may have been searched badly: any setting would seem better."""
    settings = (
        setting(by_seed(0.8, 0.82, 0.81), alpha=0.5, learning_rate=1e-3),
        setting(by_seed(0.5, 0.51, 0.5), labels_only=True, alpha=1.0, learning_rate=1e-3),
        setting(by_seed(0.79, 0.8, 0.8), labels_only=True, alpha=1.0, learning_rate=1e-2),
    )
    assert compare(*settings).settings[0].reference == 1
    assert compare(*settings, searched=True).settings[0].reference == 2


def test_a_setting_with_few_seeds_is_not_the_best() -> None:
    comparison = compare(
        setting({1: 0.99}, alpha=0.1),
        setting(by_seed(0.8, 0.82, 0.81), alpha=0.5),
        setting(by_seed(0.79, 0.8, 0.8), labels_only=True, alpha=1.0),
    )
    assert comparison.best == 1


def test_nothing_is_compared_where_nothing_has_finished() -> None:
    assert compare().best is None
    assert compare(setting({1: 0.5}, alpha=0.5, pruned=True)).best is None


# --- simulated sweeps -------------------------------------------------------------------------------------


def simulate(
    sweeps_made: int, settings: int, seeds: int, *, spread: float, gain: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Return scores `[sweeps, settings, seeds]`; setting 0 is labels alone.

    Runs of a seed share the validation rows and its data order, so a part of their scores is common;
    differences of two settings have the standard deviation `spread`. Scores are multiples of 1 / `ROWS`.
    """
    generator = np.random.default_rng(seed)
    common = generator.normal(0, 0.004, (sweeps_made, 1, seeds)) + generator.normal(
        0, 0.01, (sweeps_made, 1, 1)
    )
    runs = generator.normal(0, spread / np.sqrt(2), (sweeps_made, settings, seeds))
    scores = 0.85 + common + runs
    scores[:, 1:] += gain
    return np.round(scores * ROWS) / ROWS


def judge(scores: np.ndarray, *, labels_only: bool = True) -> SweepComparison:
    settings = [
        SettingScores({"alpha": 1 - i / 10}, labels_only and i == 0, by_seed(*scores[i]))
        for i in range(len(scores))
    ]
    return compare_settings(settings, higher_is_better=True, resolution=1 / ROWS, by_rows=True)


def different(comparison: SweepComparison) -> list[bool]:
    return [entry.difference.different for entry in comparison.settings if entry.difference]


@pytest.mark.parametrize(("settings", "seeds"), [(11, 3), (5, 5)])
def test_sweeps_without_a_true_difference_are_called_different_in_at_most_one_of_twenty(
    settings: int, seeds: int
) -> None:
    """Without Holm's correction a third of them would be. A bound of 5 % and two standard errors."""
    scores = simulate(1_000, settings, seeds, spread=0.007)
    share = np.mean([any(different(judge(sweep))) for sweep in scores])
    assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1_000)


def test_sweeps_of_students_alone_are_called_different_in_at_most_one_of_twenty() -> None:
    """The best is picked by looking; corrected for the comparisons with it alone, more than 5 % would be."""
    scores = simulate(1_000, 6, 4, spread=0.007, seed=1)
    share = np.mean([any(different(judge(sweep, labels_only=False))) for sweep in scores])
    assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1_000)


def test_a_gain_of_two_points_is_found_with_five_seeds() -> None:
    """Paired differences with a standard deviation of 0.4 points; one setting of ten has the gain."""
    scores = simulate(300, 11, 5, spread=0.004)
    scores[:, 3] += 0.02
    gains = [comparison.settings[3].difference for comparison in map(judge, scores)]
    assert np.mean([difference is not None and difference.different for difference in gains]) >= 0.8


def simulate_rows(
    generator: np.random.Generator, gain: float, settings: int, seeds: int, size: float = 0.3
) -> np.ndarray:
    """Return right answers `[settings, seeds, ROWS]`; settings disagree on rows, but not on the whole.

    Each row has a difficulty, each setting a systematic deviation of some `size`, each run noise on each row.
    """
    difficulty = generator.normal(0, 3, ROWS)
    deviation = generator.normal(0, size, (settings, 1, ROWS))
    noise = generator.normal(0, 0.35, (settings, seeds, ROWS))
    scale = np.sqrt(9 + size**2 + 0.35**2)
    levels = np.full(settings, stats.norm.ppf(0.85))
    levels[1:] = stats.norm.ppf(0.85 + gain)
    return levels[:, None, None] * scale + difficulty + deviation + noise > 0


@pytest.mark.parametrize(
    ("gain", "size", "low", "high"), [(0.0, 0.3, 0, 0.05), (0.0, 1.0, 0, 0.05), (0.02, 0.3, 0.8, 1)]
)
def test_rows_that_settings_answer_differently_are_no_difference(
    monkeypatch: pytest.MonkeyPatch, gain: float, size: float, low: float, high: float
) -> None:
    """Settings that are equally good on all texts differ on these 872: seeds alone do not show it."""
    monkeypatch.setattr(sweeps, "REPLICATES", 400)
    generator = np.random.default_rng(5)
    called = []
    for _ in range(100):
        right = simulate_rows(generator, gain, 5, 5, size)
        settings = [
            SettingScores(
                {"alpha": 1 - i / 4},
                i == 0,
                by_seed(*right[i].mean(axis=1)),
                dict(enumerate(right[i], start=1)),
            )
            for i in range(5)
        ]
        comparison = compare_settings(settings, higher_is_better=True, resolution=1 / ROWS, by_rows=True)
        called.append(any(different(comparison)) if gain == 0 else different(comparison)[0])
    assert low <= np.mean(called) <= high
