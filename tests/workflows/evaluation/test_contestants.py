"""Teachers and labels-only baselines are found, and figures are counted from the right ones."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, QUICK, lively, tiny_bert, tiny_tokenizer, write_predictions

from distilkit import DistillConfig, distill, evaluate
from distilkit.runs.run import Run


def test_a_predictions_file_can_be_the_teacher(evaluating: Any, teacher_run: Run, tmp_path: Path) -> None:
    file = write_predictions(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    student, teacher = evaluate(evaluating(teacher_run, predictions=(file,), teacher=file)).scores
    assert teacher.model == file and student.teacher == file
    answers = student.model_scores.answers.answer
    assert student.value("agreement") == (answers == teacher.model_scores.answers.answer).mean()
    assert student.value("kl") is None, "the file has no probabilities"


def test_the_gap_recovered_is_counted_from_the_labels_only_baseline_to_the_teacher(
    evaluating: Any, tmp_path: Path
) -> None:
    def with_mistakes(count: int) -> str:
        return write_predictions(tmp_path, [1 - label for label in LABELS[:count]] + LABELS[count:])

    base, student, teacher = with_mistakes(4), with_mistakes(2), with_mistakes(1)
    files = (student, base, teacher)
    scores = evaluate(evaluating(predictions=files, teacher=teacher, labels_only=base)).scores
    assert scores[0].value("gap_recovered") == pytest.approx(2 / 3)
    assert scores[0].value("accuracy_kept") == pytest.approx(6 / 7)
    assert scores[0].labels_only == base
    assert scores[1].value("gap_recovered") is None and scores[2].value("agreement") is None


def test_the_run_with_alpha_1_is_the_labels_only_baseline(
    evaluating: Any, teacher_run: Run, bilstm_runs: Any
) -> None:
    distilled, labels = bilstm_runs
    scores = {score.model: score for score in evaluate(evaluating(distilled, labels, teacher_run)).scores}
    assert scores[str(distilled.path)].labels_only == str(labels.path)
    assert scores[str(labels.path)].labels_only is None


def test_a_labels_only_baseline_has_the_same_architecture(
    evaluating: Any, teacher_run: Run, bilstm_runs: Any, sst2_dir: Path, tmp_path: Path
) -> None:
    """Two such runs that are of different kinds leave nothing to choose."""
    labels, encoder = bilstm_runs[1], lively(tiny_bert(seed=3))
    encoder.save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    sizes: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "student": str(tmp_path / "bert")}
    options = QUICK | sizes | {"epochs": 1, "teacher": str(teacher_run.path)}
    distilled_bert, labels_bert = (
        distill(DistillConfig(**options, alpha=alpha, output_dir=tmp_path / str(alpha))) for alpha in (0, 1)
    )
    models = (bilstm_runs[0], labels, distilled_bert, labels_bert, teacher_run)
    baselines = {score.model: score.labels_only for score in evaluate(evaluating(*models)).scores}
    assert baselines[str(bilstm_runs[0].path)] == str(labels.path)
    assert baselines[str(distilled_bert.path)] == str(labels_bert.path)
    assert baselines[str(labels.path)] is baselines[str(labels_bert.path)] is None


def test_a_baseline_of_another_architecture_is_not_used(
    evaluating: Any, bilstm_runs: Any, teacher_run: Run
) -> None:
    """How much a transformer recovers of a BiLSTM's gap says nothing."""
    measured = evaluate(evaluating(teacher_run, *bilstm_runs, teacher=str(bilstm_runs[0].path)))
    of = {score.model: score for score in measured.scores}
    assert of[str(teacher_run.path)].labels_only is None
    assert of[str(teacher_run.path)].value("agreement") is not None


def test_the_gap_recovered_is_undefined_where_the_teacher_is_no_better_than_the_baseline(
    evaluating: Any, tmp_path: Path
) -> None:
    """With a teacher below labels alone a worse student would have the greater share."""
    base, student = (
        write_predictions(tmp_path, LABELS),
        write_predictions(tmp_path, [1 - LABELS[0], *LABELS[1:]]),
    )
    teacher = write_predictions(tmp_path, [1 - label for label in LABELS])
    scores = evaluate(
        evaluating(predictions=(student, base, teacher), teacher=teacher, labels_only=base)
    ).scores
    assert scores[0].value("gap_recovered") is None
