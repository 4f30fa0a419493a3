"""Every figure is scikit-learn's, scipy's or statsmodels', also where there is next to nothing to count."""

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
    """One row or many, two classes or ten, ties, one class only, all right or all wrong."""
    classes = draw(st.sampled_from([2, 3, 10]))
    rows = draw(st.integers(1, 40))
    one = st.just(draw(st.integers(0, classes - 1)))
    labels = np.asarray(
        draw(st.lists(st.one_of(one, st.integers(0, classes - 1)), min_size=rows, max_size=rows))
    )
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    probabilities = generator.dirichlet(np.full(classes, 0.5), size=rows)
    if draw(st.booleans()):  # ties
        probabilities = (probabilities * 4).round() + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    wanted = draw(st.sampled_from(["any", "right", "wrong"]))
    if wanted != "any":
        best = probabilities.argmax(axis=1)
        to = labels if wanted == "right" else (labels + 1) % classes
        for row in range(rows):
            probabilities[row, [best[row], to[row]]] = probabilities[row, [to[row], best[row]]]
    return Answers.from_probabilities(probabilities, labels.astype(np.int64))


def once(rows: int) -> Any:
    return np.ones((1, rows))


def by_scikit_learn(one: Answers, weights: Any = None) -> dict[str, float]:
    """All of them, NaN where the figure is not defined."""
    labels, answer, probabilities = one.labels, one.answer, one.probabilities
    assert probabilities is not None
    classes = list(range(one.classes))
    common: dict[str, Any] = {"sample_weight": weights}
    macro = common | {"average": "macro", "zero_division": 0}
    found = {
        "accuracy": metrics.accuracy_score(labels, answer, **common),
        "f1_macro": metrics.f1_score(labels, answer, **macro),
        "precision_macro": metrics.precision_score(labels, answer, **macro),
        "recall_macro": metrics.recall_score(labels, answer, **macro),
        "mcc": metrics.matthews_corrcoef(labels, answer, **common),
        "loss": metrics.log_loss(labels, probabilities, labels=classes, **common),
    }
    if one.classes == 2:
        binary = common | {"zero_division": 0}
        found |= {
            "f1": metrics.f1_score(labels, answer, **binary),
            "precision": metrics.precision_score(labels, answer, **binary),
            "recall": metrics.recall_score(labels, answer, **binary),
            "brier": metrics.brier_score_loss(labels, probabilities[:, 1], labels=classes, **common),
        }
    else:
        found["brier"] = metrics.brier_score_loss(labels, probabilities, labels=classes, **common)
    there = labels if weights is None else labels[weights > 0]
    of = [1] if one.classes == 2 else classes
    whole = all(0 < (there == number).sum() < len(there) for number in of)
    found["roc_auc"] = found["average_precision"] = float("nan")
    if whole:
        found["roc_auc"] = np.mean(
            [metrics.roc_auc_score(labels == number, probabilities[:, number], **common) for number in of]
        )
    if all((there == number).any() for number in of):
        found["average_precision"] = np.mean(
            [
                metrics.average_precision_score(labels == number, probabilities[:, number], **common)
                for number in of
            ]
        )
    return {name: float(value) for name, value in found.items()}


@given(one=answers())
@settings(max_examples=150, deadline=None)
def test_the_figures_are_those_of_scikit_learn(one: Answers) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, on figures that are not defined
        expected = by_scikit_learn(one)
    found = {name: float(values[0]) for name, values in quality(one, once(len(one.labels))).items()}
    assert set(found) == set(expected) | {"ece"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    labels = torch.from_numpy(one.labels)
    logits = torch.from_numpy(np.log(one.probabilities))
    assert found["ece"] == pytest.approx(expected_calibration_error(logits, labels), abs=1e-9)


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        probabilities = generator.dirichlet(np.ones(4), size=200)
        labels = generator.integers(4, size=200)
        expected = multiclass_calibration_error(
            torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=4, n_bins=15, norm="l1"
        )
        found = quality(Answers.from_probabilities(probabilities, labels), once(200))["ece"][0]
        assert found == pytest.approx(float(expected), abs=1e-6)


@given(one=answers(), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_sample_is_scored_as_the_rows_it_drew(one: Answers, seed: int) -> None:
    """Counts are not decoration: a row drawn twice counts twice, one not drawn not at all."""
    (counts,) = samples(len(one.labels), seed, 3)
    found = quality(one, counts)
    for number, count in enumerate(counts):
        drawn = np.repeat(np.arange(len(count)), count.astype(int))
        assert one.probabilities is not None
        again = Answers.from_probabilities(one.probabilities[drawn], one.labels[drawn])
        expected = quality(again, once(len(drawn)))
        for name, values in expected.items():
            assert found[name][number] == pytest.approx(float(values[0]), abs=1e-9, nan_ok=True), name


@given(one=answers())
@settings(max_examples=40, deadline=None)
def test_the_confusion_matrix_is_that_of_scikit_learn(one: Answers) -> None:
    expected = metrics.confusion_matrix(one.labels, one.answer, labels=range(one.classes))
    assert (confusion(one, once(len(one.labels)))[0] == expected).all()


def test_answers_without_probabilities_have_what_needs_none() -> None:
    labels, answer = np.asarray([0, 1, 1]), np.asarray([0, 1, 0])
    assert set(quality(Answers(labels, answer, None, None, 2), once(3))) == {
        *("accuracy", "f1", "precision", "recall"),
        *("f1_macro", "precision_macro", "recall_macro", "mcc"),
    }
    assert "ece" in quality(Answers(labels, answer, np.asarray([0.5, 0.9, 0.6]), None, 2), once(3))


# --- intervals --------------------------------------------------------------------------------------------


def test_samples_are_the_same_for_a_seed_and_of_as_many_rows() -> None:
    whole = np.concatenate(list(samples(7, seed=3, replicates=50)))
    assert whole.shape == (50, 7)
    assert (whole.sum(axis=1) == 7).all()
    assert (whole == np.concatenate(list(samples(7, seed=3, replicates=50)))).all()
    assert (whole != np.concatenate(list(samples(7, seed=4, replicates=50)))).any()


def test_samples_in_pieces_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 25,000 rows a thousand samples do not fit in memory at once."""
    monkeypatch.setattr(statistics, "MAX_COUNTS", 30)
    pieces = list(samples(7, seed=3, replicates=10))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert len({tuple(row) for piece in pieces for row in piece}) > 8
    of_many_classes = list(samples(7, seed=3, replicates=10, values_per_sample=15))
    assert [len(piece) for piece in of_many_classes] == [2] * 5
    assert (np.concatenate(of_many_classes) == np.concatenate(pieces)).all(), "the same samples"


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(share: float) -> None:
    """1,000 simulated sets of 400 rows: between 93 and 97 per cent, where 95 is claimed."""
    generator = np.random.default_rng(0)
    held = 0
    for number in range(1000):
        right = generator.random(400) < share
        labels = np.zeros(400, dtype=np.int64)
        one = Answers(labels, np.where(right, 0, 1), None, None, 2)
        found = bootstrap(lambda counts, of=one: {"accuracy": counts @ of.right / 400}, 400, number, 400)
        interval = found["accuracy"]
        assert interval.low is not None and interval.high is not None
        held += interval.low <= share <= interval.high
    assert 930 <= held <= 970


def test_a_difference_is_paired() -> None:
    """Two models alike on nearly all rows: the interval of the difference is far narrower than either's."""
    generator = np.random.default_rng(1)
    one = (generator.random(500) < 0.8).astype(float)
    two = one.copy()
    two[:5] = 1 - two[:5]

    def measure(counts: Any) -> dict[str, Any]:
        first, second = counts @ one / 500, counts @ two / 500
        return {"first": first, "difference": second - first}

    found = bootstrap(measure, 500, 0)
    widths = {name: (interval.high or 0) - (interval.low or 0) for name, interval in found.items()}
    assert widths["difference"] < widths["first"] / 3


def test_what_is_not_defined_has_neither_figure_nor_interval() -> None:
    one = Answers.from_probabilities(np.asarray([[0.4, 0.6], [0.3, 0.7]]), np.asarray([1, 1]))
    found = bootstrap(lambda counts: quality(one, counts), 2, 0)
    assert found["roc_auc"] == statistics.Interval(None, None, None)
    assert found["accuracy"] == statistics.Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no row"):
        bootstrap(lambda counts: quality(one, counts), 0, 0)


@given(table=st.tuples(*[st.integers(0, 60)] * 4))
@settings(max_examples=80, deadline=None)
def test_mcnemar_is_the_exact_binomial_test(table: tuple[int, int, int, int]) -> None:
    """As statsmodels has it: twice the smaller tail, at most 1."""
    both, first, second, neither = table
    if sum(table) == 0:
        return
    one = np.repeat([1, 1, 0, 0], table)
    two = np.repeat([1, 0, 1, 0], table)
    found = mcnemar(one, two)
    assert (found.only_first, found.only_second) == (first, second)
    expected = statsmodels_mcnemar([[both, first], [second, neither]], exact=True).pvalue
    assert found.p_value == pytest.approx(expected if first + second else 1.0)


def test_mcnemar_refuses_answers_to_other_rows() -> None:
    with pytest.raises(ValueError, match="same rows"):
        mcnemar([1, 0], [1, 0, 1])


# --- pictures' points -------------------------------------------------------------------------------------


@given(one=answers())
@settings(max_examples=40, deadline=None)
def test_curves_are_those_of_scikit_learn(one: Answers) -> None:
    scores, targets = one.scores[:, 0], one.targets[:, 0]
    if not 0 < targets.sum() < len(targets):
        return
    false, true, _ = metrics.roc_curve(targets, scores, drop_intermediate=False)
    own_false, own_true = roc(scores, targets)
    assert own_false == pytest.approx(false)
    assert own_true == pytest.approx(true)
    precision, recall, _ = metrics.precision_recall_curve(targets, scores)
    own_recall, own_precision = precision_recall(scores, targets)
    assert own_recall == pytest.approx(recall[-2::-1])
    assert own_precision == pytest.approx(precision[-2::-1])


def test_risk_coverage_by_hand() -> None:
    """Rows of a confidence come together: no threshold parts them."""
    one = Answers(
        np.asarray([1, 1, 0, 0]), np.asarray([1, 0, 0, 0]), np.asarray([0.9, 0.8, 0.8, 0.6]), None, 2
    )
    assert one.confidence is not None
    coverage, risk = risk_coverage(one, one.confidence)
    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 3, 1 / 4])


def test_reliability_by_hand() -> None:
    one = Answers(np.asarray([1, 1, 0]), np.asarray([1, 0, 0]), np.asarray([0.5, 0.75, 1.0]), None, 2)
    assert one.confidence is not None
    bars = reliability(one, one.confidence, 2)
    assert [(bar.rows, bar.accuracy, bar.confidence) for bar in bars] == [(1, 1.0, 0.5), (2, 0.5, 0.875)]
    assert reliability(one, one.confidence, 10)[0].accuracy is None


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (10, 10), (1, 1), (7, 20), (790, 872), (5, 100_000)])
def test_wilsons_interval_is_that_of_statsmodels(right: int, rows: int) -> None:
    low, high = proportion_confint(right, rows, method="wilson")
    assert wilson(right, rows) == pytest.approx((low, high))


@given(answers(), st.sampled_from(["probabilities", "confidence", "neither"]))
@settings(max_examples=100, deadline=None)
def test_what_will_be_defined_is_what_is(one: Answers, known: str) -> None:
    """`evaluate` refuses a gate by it before a model is run."""
    if known != "probabilities":
        sure = one.confidence if known == "confidence" else None
        one = Answers(one.labels, one.answer, sure, None, one.classes)
    found = quality(one, np.ones((1, len(one.labels))))
    labelled = np.bincount(one.labels, minlength=one.classes).tolist()
    expected = statistics.defined_metrics(labelled, known != "neither", known == "probabilities")
    assert {name for name, value in found.items() if not np.isnan(value[0])} == expected
