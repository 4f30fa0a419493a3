"""Every figure agrees with scikit-learn, scipy or statsmodels, also for a single row or class."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional.classification import multiclass_calibration_error

from distilkit.scores import statistics
from distilkit.scores.metrics import expected_calibration_error
from distilkit.scores.statistics import (
    Answers,
    bootstrap,
    confusion,
    mcnemar,
    precision_recall,
    quality,
    reliability,
    risk_coverage,
    roc,
    samples,
    wilson,
)


@st.composite
def answers(draw: Any) -> Answers:
    """Draw one row or many, two classes or ten, ties, a single class, all right or all wrong."""
    classes = draw(st.sampled_from([2, 3, 10]))
    rows = draw(st.integers(1, 40))
    single_class = st.just(draw(st.integers(0, classes - 1)))
    labels = np.asarray(
        draw(st.lists(st.one_of(single_class, st.integers(0, classes - 1)), min_size=rows, max_size=rows))
    )
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    probabilities = generator.dirichlet(np.full(classes, 0.5), size=rows)
    if draw(st.booleans()):  # ties
        probabilities = (probabilities * 4).round() + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    outcome = draw(st.sampled_from(["any", "right", "wrong"]))
    if outcome != "any":
        best = probabilities.argmax(axis=1)
        to = labels if outcome == "right" else (labels + 1) % classes
        for row in range(rows):
            probabilities[row, [best[row], to[row]]] = probabilities[row, [to[row], best[row]]]
    return Answers.from_probabilities(probabilities, labels.astype(np.int64))


def once(rows: int) -> Any:
    return np.ones((1, rows))


def by_scikit_learn(subject: Answers, weights: Any = None) -> dict[str, float]:
    """Return every figure as scikit-learn computes it, NaN where it is undefined."""
    labels, answer, probabilities = subject.labels, subject.answer, subject.probabilities
    assert probabilities is not None
    classes = list(range(subject.classes))
    common: dict[str, Any] = {"sample_weight": weights}
    macro = common | {"average": "macro", "zero_division": 0}
    figures = {
        "accuracy": metrics.accuracy_score(labels, answer, **common),
        "f1_macro": metrics.f1_score(labels, answer, **macro),
        "precision_macro": metrics.precision_score(labels, answer, **macro),
        "recall_macro": metrics.recall_score(labels, answer, **macro),
        "mcc": metrics.matthews_corrcoef(labels, answer, **common),
        "loss": metrics.log_loss(labels, probabilities, labels=classes, **common),
    }
    if subject.classes == 2:
        binary = common | {"zero_division": 0}
        figures |= {
            "f1": metrics.f1_score(labels, answer, **binary),
            "precision": metrics.precision_score(labels, answer, **binary),
            "recall": metrics.recall_score(labels, answer, **binary),
            "brier": metrics.brier_score_loss(labels, probabilities[:, 1], labels=classes, **common),
        }
    else:
        figures["brier"] = metrics.brier_score_loss(labels, probabilities, labels=classes, **common)
    occurring = labels if weights is None else labels[weights > 0]
    scored_classes = [1] if subject.classes == 2 else classes
    both_occur = all(0 < (occurring == class_id).sum() < len(occurring) for class_id in scored_classes)
    figures["roc_auc"] = figures["average_precision"] = float("nan")
    if both_occur:
        figures["roc_auc"] = np.mean(
            [
                metrics.roc_auc_score(labels == class_id, probabilities[:, class_id], **common)
                for class_id in scored_classes
            ]
        )
    if all((occurring == class_id).any() for class_id in scored_classes):
        figures["average_precision"] = np.mean(
            [
                metrics.average_precision_score(labels == class_id, probabilities[:, class_id], **common)
                for class_id in scored_classes
            ]
        )
    return {name: float(value) for name, value in figures.items()}


@given(subject=answers())
@settings(max_examples=150, deadline=None)
def test_the_figures_are_those_of_scikit_learn(subject: Answers) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of undefined figures
        expected = by_scikit_learn(subject)
    figures = {name: float(values[0]) for name, values in quality(subject, once(len(subject.labels))).items()}
    assert set(figures) == set(expected) | {"ece"}
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    labels = torch.from_numpy(subject.labels)
    logits = torch.from_numpy(np.log(subject.probabilities))
    assert figures["ece"] == pytest.approx(expected_calibration_error(logits, labels), abs=1e-9)


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        probabilities = generator.dirichlet(np.ones(4), size=200)
        labels = generator.integers(4, size=200)
        expected = multiclass_calibration_error(
            torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=4, n_bins=15, norm="l1"
        )
        error = quality(Answers.from_probabilities(probabilities, labels), once(200))["ece"][0]
        assert error == pytest.approx(float(expected), abs=1e-6)


@given(subject=answers(), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_counts_give_the_figures_of_the_repeated_rows(subject: Answers, seed: int) -> None:
    """A row drawn twice counts twice, a row that is not drawn does not count."""
    (counts,) = samples(len(subject.labels), seed, 3)
    figures = quality(subject, counts)
    for sample, count in enumerate(counts):
        drawn = np.repeat(np.arange(len(count)), count.astype(int))
        assert subject.probabilities is not None
        again = Answers.from_probabilities(subject.probabilities[drawn], subject.labels[drawn])
        expected = quality(again, once(len(drawn)))
        for name, values in expected.items():
            assert figures[name][sample] == pytest.approx(float(values[0]), abs=1e-9, nan_ok=True), name


@given(subject=answers())
@settings(max_examples=40, deadline=None)
def test_the_confusion_matrix_is_that_of_scikit_learn(subject: Answers) -> None:
    expected = metrics.confusion_matrix(subject.labels, subject.answer, labels=range(subject.classes))
    assert (confusion(subject, once(len(subject.labels)))[0] == expected).all()


def test_answers_without_probabilities_have_the_figures_that_need_none() -> None:
    labels, answer = np.asarray([0, 1, 1]), np.asarray([0, 1, 0])
    assert set(quality(Answers(labels, answer, None, None, 2), once(3))) == {
        *("accuracy", "f1", "precision", "recall"),
        *("f1_macro", "precision_macro", "recall_macro", "mcc"),
    }
    assert "ece" in quality(Answers(labels, answer, np.asarray([0.5, 0.9, 0.6]), None, 2), once(3))


# --- intervals --------------------------------------------------------------------------------------------


def test_samples_have_as_many_rows_and_depend_on_the_seed() -> None:
    whole = np.concatenate(list(samples(7, seed=3, replicates=50)))
    assert whole.shape == (50, 7)
    assert (whole.sum(axis=1) == 7).all()
    assert (whole == np.concatenate(list(samples(7, seed=3, replicates=50)))).all()
    assert (whole != np.concatenate(list(samples(7, seed=4, replicates=50)))).any()


def test_samples_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand samples of 25,000 rows do not fit in memory at once."""
    monkeypatch.setattr(statistics, "MAX_COUNTS", 30)
    pieces = list(samples(7, seed=3, replicates=10))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert len({tuple(row) for piece in pieces for row in piece}) > 8
    of_many_classes = list(samples(7, seed=3, replicates=10, values_per_sample=15))
    assert [len(piece) for piece in of_many_classes] == [2] * 5
    assert (np.concatenate(of_many_classes) == np.concatenate(pieces)).all(), "the same samples"


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_the_interval_covers_the_truth_as_often_as_claimed(share: float) -> None:
    """1,000 simulated sets of 400 rows: between 93 and 97 per cent, where 95 is claimed."""
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(1000):
        right = generator.random(400) < share
        labels = np.zeros(400, dtype=np.int64)
        subject = Answers(labels, np.where(right, 0, 1), None, None, 2)
        intervals = bootstrap(
            lambda counts, answers=subject: {"accuracy": counts @ answers.right / 400}, 400, seed, 400
        )
        interval = intervals["accuracy"]
        assert interval.low is not None and interval.high is not None
        covered += interval.low <= share <= interval.high
    assert 930 <= covered <= 970


def test_the_interval_of_a_difference_is_paired() -> None:
    """For two nearly equal models the interval of the difference is far narrower than either model's."""
    generator = np.random.default_rng(1)
    first_right = (generator.random(500) < 0.8).astype(float)
    second_right = first_right.copy()
    second_right[:5] = 1 - second_right[:5]

    def measure(counts: Any) -> dict[str, Any]:
        first, second = counts @ first_right / 500, counts @ second_right / 500
        return {"first": first, "difference": second - first}

    intervals = bootstrap(measure, 500, 0)
    widths = {name: (interval.high or 0) - (interval.low or 0) for name, interval in intervals.items()}
    assert widths["difference"] < widths["first"] / 3


def test_an_undefined_figure_has_no_interval() -> None:
    subject = Answers.from_probabilities(np.asarray([[0.4, 0.6], [0.3, 0.7]]), np.asarray([1, 1]))
    intervals = bootstrap(lambda counts: quality(subject, counts), 2, 0)
    assert intervals["roc_auc"] == statistics.Interval(None, None, None)
    assert intervals["accuracy"] == statistics.Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no row"):
        bootstrap(lambda counts: quality(subject, counts), 0, 0)


@given(table=st.tuples(*[st.integers(0, 60)] * 4))
@settings(max_examples=80, deadline=None)
def test_mcnemar_is_the_exact_binomial_test(table: tuple[int, int, int, int]) -> None:
    """Twice the smaller tail, at most 1, as statsmodels computes it."""
    both, first, second, neither = table
    if sum(table) == 0:
        return
    right_first = np.repeat([1, 1, 0, 0], table)
    right_second = np.repeat([1, 0, 1, 0], table)
    test = mcnemar(right_first, right_second)
    assert (test.only_first, test.only_second) == (first, second)
    expected = statsmodels_mcnemar([[both, first], [second, neither]], exact=True).pvalue
    assert test.p_value == pytest.approx(expected if first + second else 1.0)


def test_mcnemar_refuses_answers_to_other_rows() -> None:
    with pytest.raises(ValueError, match="same rows"):
        mcnemar([1, 0], [1, 0, 1])


# --- points of plots --------------------------------------------------------------------------------------


@given(subject=answers())
@settings(max_examples=40, deadline=None)
def test_curves_are_those_of_scikit_learn(subject: Answers) -> None:
    scores, targets = subject.scores[:, 0], subject.targets[:, 0]
    if not 0 < targets.sum() < len(targets):
        return
    false, true, _ = metrics.roc_curve(targets, scores, drop_intermediate=False)
    our_false, our_true = roc(scores, targets)
    assert our_false == pytest.approx(false)
    assert our_true == pytest.approx(true)
    precision, recall, _ = metrics.precision_recall_curve(targets, scores)
    our_recall, our_precision = precision_recall(scores, targets)
    assert our_recall == pytest.approx(recall[-2::-1])
    assert our_precision == pytest.approx(precision[-2::-1])


def test_risk_coverage_by_hand() -> None:
    """Rows of equal confidence are one point: no threshold separates them."""
    subject = Answers(
        np.asarray([1, 1, 0, 0]), np.asarray([1, 0, 0, 0]), np.asarray([0.9, 0.8, 0.8, 0.6]), None, 2
    )
    assert subject.confidence is not None
    coverage, risk = risk_coverage(subject, subject.confidence)
    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 3, 1 / 4])


def test_reliability_by_hand() -> None:
    subject = Answers(np.asarray([1, 1, 0]), np.asarray([1, 0, 0]), np.asarray([0.5, 0.75, 1.0]), None, 2)
    assert subject.confidence is not None
    bars = reliability(subject, subject.confidence, 2)
    assert [(bar.rows, bar.accuracy, bar.confidence) for bar in bars] == [(1, 1.0, 0.5), (2, 0.5, 0.875)]
    assert reliability(subject, subject.confidence, 10)[0].accuracy is None


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (10, 10), (1, 1), (7, 20), (790, 872), (5, 100_000)])
def test_wilsons_interval_is_that_of_statsmodels(right: int, rows: int) -> None:
    low, high = proportion_confint(right, rows, method="wilson")
    assert wilson(right, rows) == pytest.approx((low, high))


@given(answers(), st.sampled_from(["probabilities", "confidence", "neither"]))
@settings(max_examples=100, deadline=None)
def test_defined_metrics_are_those_that_are_not_nan(subject: Answers, available: str) -> None:
    """`evaluate` refuses gates by it before a model is run."""
    if available != "probabilities":
        confidence = subject.confidence if available == "confidence" else None
        subject = Answers(subject.labels, subject.answer, confidence, None, subject.classes)
    figures = quality(subject, np.ones((1, len(subject.labels))))
    labelled = np.bincount(subject.labels, minlength=subject.classes).tolist()
    expected = statistics.defined_metrics(labelled, available != "neither", available == "probabilities")
    assert {name for name, value in figures.items() if not np.isnan(value[0])} == expected
