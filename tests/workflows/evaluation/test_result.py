"""The document has every figure, right and under its key."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    LABELS,
    rows,
    write_predictions,
)

from distilkit import evaluate
from distilkit.runs.run import Run


def test_the_entry_of_a_predictions_file_has_every_key(evaluating: Any, tmp_path: Path) -> None:
    """Unknown figures are null, not missing: scripts read the same keys of every model."""
    document = evaluate(evaluating(predictions=(write_predictions(tmp_path, LABELS),))).document()
    (entry,) = json.loads(json.dumps(document))["models"]
    assert (entry["kind"], entry["architecture"], entry["inputs"], entry["coverage"]) == (
        *("predictions", None, None, None),
    )
    assert entry["confusion"] == [[4, 0], [0, 4]] and entry["right"] == "1" * 8
    assert entry["mistakes"] == []


def test_figures_are_within_their_intervals_which_depend_on_the_seed(
    evaluating: Any, bilstm_runs: Any
) -> None:
    first, repeated, reseeded = (
        evaluate(evaluating(bilstm_runs[0], seed=seed)).document()["models"][0] for seed in (1, 1, 2)
    )
    assert first["intervals"] == repeated["intervals"] != reseeded["intervals"]
    for name, (low, high) in first["intervals"].items():
        assert (low, high) == (None, None) if name == "ece" else low <= first["metrics"][name] <= high, name


def test_pairs_are_described_in_sentences(evaluating: Any, teacher_run: Run, tmp_path: Path) -> None:
    wrong = write_predictions(tmp_path, [1 - label for label in LABELS])
    right, same = write_predictions(tmp_path, LABELS), write_predictions(tmp_path, LABELS)
    document = evaluate(evaluating(predictions=(right, wrong, same))).document()
    pairs = {(pair["first"], pair["second"]): pair for pair in document["pairs"]}
    assert pairs[right, wrong]["only_first"] == 8 and pairs[right, wrong]["p_value"] == 2 / 2**8
    assert pairs[right, wrong]["sentence"].startswith(f"{wrong} is 100.0 points less accurate than {right} (")
    assert "right on the same 8 of 8 rows" in pairs[right, same]["sentence"]
    nearly = write_predictions(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    (pair,) = evaluate(evaluating(predictions=(right, nearly))).document()["pairs"]
    assert "no evidence of a difference in accuracy" in pair["sentence"] and "8 rows" in pair["sentence"]
    assert pair["difference"]["value"] == -1 / 8


def test_kl_is_of_the_teacher_from_the_student(evaluating: Any, teacher_run: Run, bilstm_runs: Any) -> None:
    student, teacher = evaluate(evaluating(bilstm_runs[0], teacher_run)).scores
    q, p = (torch.from_numpy(score.model_scores.answers.probabilities) for score in (student, teacher))
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="batchmean")
    assert student.value("kl") == pytest.approx(float(expected))


def test_calibration_is_also_reported_without_the_temperature(
    evaluating: Any, bilstm_runs: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(bilstm_runs[0].path, tmp_path / "run"))
    metrics = json.loads((run / "metrics.json").read_text())
    temperature = {"temperature": 2.0}
    (run / "metrics.json").write_text(json.dumps(metrics | {"calibration": temperature}))
    measured = evaluate(evaluating(run))
    answers = measured.scores[0].model_scores.answers
    before = torch.from_numpy(np.log(answers.probabilities)) * 2
    expected = torch.nn.functional.cross_entropy(before, torch.from_numpy(answers.labels))
    calibration = measured.document()["models"][0]["calibration"]
    assert calibration["temperature"] == 2.0
    assert calibration["loss_unscaled"] == pytest.approx(float(expected))
    assert calibration["loss_unscaled"] != measured.scores[0].value("loss")


def test_slices_cover_every_row_once_by_length_and_once_by_class(evaluating: Any, bilstm_runs: Any) -> None:
    entry = evaluate(evaluating(bilstm_runs[0])).document()["models"][0]
    lengths = [part for part in entry["slices"] if part["slice"].endswith("words")]
    classes = [part for part in entry["slices"] if part["slice"].startswith("label")]
    assert sum(part["rows"] for part in lengths) == sum(part["rows"] for part in classes) == 8
    for part in lengths + classes:
        assert 0 <= part["low"] <= part["accuracy"] <= part["high"] <= 1


def test_mistakes_are_the_most_confident_wrong_answers(evaluating: Any, tmp_path: Path) -> None:
    answers = [1 - label for label in LABELS[:3]] + LABELS[3:]
    file = write_predictions(tmp_path, answers, [0.6, 0.9, 0.7, *[0.99] * 5])
    entry = evaluate(evaluating(predictions=(file,))).document()["models"][0]
    assert [mistake["row"] for mistake in entry["mistakes"]] == [2, 3, 1], "rows count from 1, as in messages"
    assert entry["mistakes"][0]["text"] == rows(1)[1]["sentence"]
    assert entry["coverage"][-1]["accuracy"] == 1.0 and entry["coverage"][0]["accuracy"] == 5 / 8


def test_a_sample_is_recorded_with_the_size_of_the_whole_split(evaluating: Any, bilstm_runs: Any) -> None:
    assert evaluate(evaluating(bilstm_runs[0], max_eval_samples=4)).document()["sampled_from"] == 8
    assert evaluate(evaluating(bilstm_runs[0])).document()["sampled_from"] is None


def test_the_curve_of_a_fallback_ends_at_the_student_and_begins_at_the_teacher(
    evaluating: Any, teacher_run: Run, bilstm_runs: Any
) -> None:
    """Without a teacher among the models there is none."""
    student, teacher = evaluate(evaluating(bilstm_runs[0], teacher_run)).document()["models"]
    first, last = student["fallback"][0], student["fallback"][-1]
    assert (first["coverage"], first["accuracy"]) == (0, teacher["metrics"]["accuracy"])
    assert (last["coverage"], last["accuracy"]) == (1, student["metrics"]["accuracy"])
    assert (first["agreement"], last["agreement"]) == (1, student["metrics"]["agreement"])
    assert teacher["fallback"] is None
