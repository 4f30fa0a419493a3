"""Metrics agree with scikit-learn, need no network and write nothing to the disk."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from distilkit.errors import UserError
from distilkit.scores.metrics import F1, Accuracy, expected_calibration_error, score


def logits_for(predictions: list[int], classes: int) -> torch.Tensor:
    """Return logits whose largest entry is the prediction."""
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


@st.composite
def answers(draw: Any, classes: int) -> tuple[list[int], list[int]]:
    """Draw predictions and labels, often with only one class."""
    rows = draw(st.integers(1, 30))
    ids = st.one_of(st.just(draw(st.integers(0, classes - 1))), st.integers(0, classes - 1))
    some = st.lists(ids, min_size=rows, max_size=rows)
    return draw(some), draw(some)


@given(answer=answers(2))
@settings(max_examples=40, deadline=None)
def test_two_classes_are_scored_as_scikit_learn_scores_them(answer: tuple[list[int], list[int]]) -> None:
    predictions, labels = answer
    scores = score(logits_for(predictions, 2), torch.tensor(labels))
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert scores["f1"] == pytest.approx(f1_score(labels, predictions, zero_division=0))
    macro = f1_score(labels, predictions, average="macro", zero_division=0)
    assert scores["f1_macro"] == pytest.approx(macro)


@given(answer=answers(10))
@settings(max_examples=40, deadline=None)
def test_ten_classes_have_a_macro_f1_and_no_binary_one(answer: tuple[list[int], list[int]]) -> None:
    """A split in which only two of ten classes occur must not look binary either."""
    predictions, labels = answer
    scores = score(logits_for(predictions, 10), torch.tensor(labels))
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    macro = f1_score(labels, predictions, average="macro", zero_division=0)
    assert scores["f1_macro"] == pytest.approx(macro)
    assert "f1" not in scores


def test_mcc_by_hand() -> None:
    """2 true and 1 false positives, 1 true and 1 false negatives: (2 - 1) / sqrt(3 * 3 * 2 * 2)."""
    scores = score(logits_for([1, 1, 1, 0, 0], 2), torch.tensor([1, 1, 0, 1, 0]), with_mcc=True)
    assert scores["mcc"] == pytest.approx(1 / 6)
    constant = score(logits_for([1, 1, 1], 2), torch.tensor([1, 1, 0]), with_mcc=True)
    assert constant["mcc"] == 0
    assert list(scores) == ["accuracy", "f1", "f1_macro", "mcc", "loss"]


def test_f1_by_hand() -> None:
    """2 true positives, 1 false positive, 1 missed; the other class 1 right of 3 in question."""
    scores = score(logits_for([1, 1, 1, 0, 0], 2), torch.tensor([1, 1, 0, 1, 0]))
    assert scores["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert list(scores) == ["accuracy", "f1", "f1_macro", "loss"]


def test_the_loss_is_the_mean_cross_entropy() -> None:
    logits, labels = torch.tensor([[1.0, 3.0], [0.0, -2.0]]), torch.tensor([0, 0])
    probability = np.array([1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))])
    assert score(logits, labels)["loss"] == pytest.approx(-np.log(probability).mean())


def test_hidden_labels_are_refused_and_not_scored() -> None:
    """GLUE's test labels are -1: scored, every row would be wrong, and the result would look valid."""
    with pytest.raises(UserError, match="-1"):
        score(torch.zeros(3, 2), torch.tensor([0, 1, -1]))
    with pytest.raises(UserError, match="no row"):
        score(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


def test_the_metrics_are_evaluate_metrics() -> None:
    answer = {"predictions": [0, 1, 1], "references": [0, 1, 0]}
    assert Accuracy().compute(**answer) == {"accuracy": pytest.approx(2 / 3)}
    assert F1().compute(**answer)["f1"] == pytest.approx(2 / 3)


def test_no_metric_is_downloaded_and_none_writes_a_cache(tmp_path: Path) -> None:
    """`evaluate.load("accuracy")` fetches a script; a metric on disk locks out parallel runs."""
    home = tmp_path / "cache"
    code = (
        "import socket, torch\n"
        "def refuse(*_): raise SystemExit('a metric asked for the network')\n"
        "socket.create_connection = socket.getaddrinfo = refuse\n"
        "from distilkit.scores.metrics import score\n"
        "assert score(torch.eye(2), torch.tensor([0, 1]))['accuracy'] == 1\n"
    )
    folders = {name: str(home / name) for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_MODULES_CACHE")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | folders | {"HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [file for file in home.rglob("*") if file.is_file()] == []


def ece_by_hand(logits: torch.Tensor, labels: list[int], bins: int) -> float:
    """Compute the calibration error bin by bin, row by row."""
    rows = []
    for values, label in zip(logits.double().softmax(dim=1).tolist(), labels, strict=True):
        rows.append((max(values), values.index(max(values)) == label))
    total = 0.0
    for i in range(bins):
        within = [row for row in rows if i / bins < row[0] <= (i + 1) / bins]
        if within:
            accuracy = sum(right for _, right in within) / len(within)
            confidence = sum(row_confidence for row_confidence, _ in within) / len(within)
            total += len(within) / len(rows) * abs(accuracy - confidence)
    return total


@given(seed=st.integers(0, 999), classes=st.integers(2, 5), bins=st.sampled_from([1, 10, 15]))
@settings(max_examples=40, deadline=None)
def test_the_calibration_error_is_that_of_a_plain_loop(seed: int, classes: int, bins: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(50, classes, generator=random)
    labels = torch.randint(classes, (50,), generator=random)
    error = expected_calibration_error(logits, labels, bins)
    assert error == pytest.approx(ece_by_hand(logits, labels.tolist(), bins), abs=1e-9)


def test_the_calibration_error_is_0_for_confident_right_and_1_for_confident_wrong_answers() -> None:
    logits = torch.tensor([[100.0, 0.0]] * 4)
    assert expected_calibration_error(logits, torch.zeros(4, dtype=torch.long)) == pytest.approx(0)
    assert expected_calibration_error(logits, torch.ones(4, dtype=torch.long)) == pytest.approx(1)
    with pytest.raises(ValueError, match="labels"):
        expected_calibration_error(logits, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null/home"])
def test_scores_need_no_home_folder(home: str) -> None:
    """A container's user often has none: training ended after its first epoch."""
    code = (
        "import torch; from distilkit.scores.metrics import score\n"
        "scores = score(torch.eye(2), torch.tensor([0, 1]), with_mcc=True)\n"
        "assert scores['accuracy'] == scores['mcc'] == 1"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": home, "HF_HOME": f"{home}/hf"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
