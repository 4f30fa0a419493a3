"""`evaluate --teacher-file` scores what a file says, on the rows that it has, and as others' teacher."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, Notes, rows, write_jsonl, write_predictions

from distilkit import UserError, evaluate
from distilkit.runs.run import Run

TEXTS = [row["sentence"] for row in rows(1)]
Answers = list[dict[str, Any]]


def probabilities(wrong: int = 0) -> Answers:
    """Probabilities of the eight validation rows, backwards; so many of them are wrong."""
    right = [label if i >= wrong else 1 - label for i, label in enumerate(LABELS)]
    values = [
        {"text": text, "negative": 0.95 - 0.9 * label, "positive": 0.05 + 0.9 * label}
        for text, label in zip(TEXTS, right, strict=True)
    ]
    return values[::-1]


def write(folder: Path, values: Answers) -> str:
    return str(write_jsonl(folder / "answers.jsonl", values))


def test_a_file_is_scored_like_a_model_and_its_disagreements_are_listed(
    evaluating: Any, tmp_path: Path
) -> None:
    file, notes = write(tmp_path, probabilities(wrong=2)), Notes()
    (score,) = evaluate(evaluating(teacher_file=file), notes).scores
    assert score.model == file and score.value("accuracy") == 0.75
    assert score.value("ece") == pytest.approx(0.2) and score.value("loss") is not None
    (listed,) = [note for note in notes.notes if "differs from the labels" in note]
    assert "in 2 of 8 validation rows, 2 of them with 0.9 or more; most surely row 1 'a dull film'" in listed


def test_others_are_compared_with_the_file(evaluating: Any, teacher_run: Run, tmp_path: Path) -> None:
    file = write(tmp_path, probabilities(wrong=1))
    student, teacher = evaluate(evaluating(teacher_run, teacher_file=file)).scores
    assert student.teacher == file and teacher.teacher is None
    answers = student.model_scores.answers.answer
    assert student.value("agreement") == (answers == teacher.model_scores.answers.answer).mean()
    assert student.value("kl") is not None


def test_a_run_is_compared_with_the_teacher_that_it_names(
    evaluating: Any, teacher_run: Run, bilstm_runs: tuple[Run, Run], tmp_path: Path
) -> None:
    """A file that is there too must not take its place."""
    file = write(tmp_path, probabilities())
    scores = evaluate(evaluating(bilstm_runs[0], teacher_run, teacher_file=file)).scores
    assert [score.teacher for score in scores] == [str(teacher_run.path), file, None]
    named = evaluate(evaluating(bilstm_runs[0], teacher_file=file, teacher=file)).scores
    assert named[0].teacher == file


def test_labels_alone_have_no_calibration(evaluating: Any, tmp_path: Path) -> None:
    """A probability of 1 that nobody gave would be an ECE that means nothing."""
    values = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    (score,) = evaluate(evaluating(teacher_file=write(tmp_path, values))).scores
    assert score.value("accuracy") == 1 and score.value("ece") is None and score.value("loss") is None
    values = [row | {"score": 0.75} for row in values]
    (score,) = evaluate(evaluating(teacher_file=write(tmp_path, values))).scores
    assert score.value("ece") == pytest.approx(0.25) and score.value("loss") is not None


def test_rows_that_the_file_lacks_are_refused_or_left_out_for_all(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    file, notes = write(tmp_path, probabilities()[:6]), Notes()
    with pytest.raises(UserError, match=r"no target for 2 of 8 validation rows.*--missing skip"):
        evaluate(evaluating(teacher_file=file))
    result = evaluate(evaluating(teacher_run, teacher_file=file, missing="skip"), notes)
    assert result.rows == 6 and result.typed_document.sampled_from == 8
    assert [len(score.model_scores.answers.labels) for score in result.scores] == [6, 6]
    written = [path.name for path in (teacher_run.path / "evaluation").iterdir()]
    assert "sst2-validation-6-rows.json" in written, "the result of the whole split stays"
    predictions = write_predictions(tmp_path, LABELS)
    with pytest.raises(UserError, match="leave missing skip out"):
        evaluating(teacher_file=file, predictions=predictions, missing="skip")


def test_gates_apply_to_a_file_alone_and_not_to_one_that_is_a_reference(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    file = write(tmp_path, probabilities(wrong=4))
    (gate,) = evaluate(evaluating(teacher_file=file, fail_under="accuracy=0.9")).gates
    assert gate.model == file and not gate.passed
    (gate,) = evaluate(evaluating(teacher_run, teacher_file=file, fail_under="agreement=0.1")).gates
    assert gate.model == str(teacher_run.path)


def test_nothing_to_score_is_a_mistake(evaluating: Any) -> None:
    with pytest.raises(UserError, match="teacher_file"):
        evaluating()
