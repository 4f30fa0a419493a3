"""`doctor` says what a teacher's file is worth before anything is trained on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK, Notes, write_jsonl

from distilkit import DoctorConfig, doctor
from distilkit.workflows.diagnosis.examination import Diagnosis

GOOD, BAD = ("great", "wonderful", "moving", "well"), ("dull", "awful", "boring", "badly")
FILLERS = ("a", "film", "truly", "and", "fun", "story", "told", ",")


def sentences(count: int) -> list[dict[str, Any]]:
    """Different sentences, every other one good."""
    made = {}
    for i in range(count):
        word = (BAD, GOOD)[i % 2][i // 2 % 4]
        fillers = [FILLERS[int(digit)] for digit in f"{i:06o}"]
        made[" ".join([word, *fillers])] = i % 2
    assert len(made) == count
    return [{"sentence": text, "label": label} for text, label in made.items()]


ROWS = sentences(420)
Examine = Callable[..., Diagnosis]


def answers(rows: list[dict[str, Any]], sure: float = 0.95) -> list[dict[str, Any]]:
    """What a file says that is surely right of all rows."""
    return [
        {"text": row["sentence"], "positive": sure if row["label"] else 1 - sure}
        | {"negative": 1 - sure if row["label"] else sure}
        for row in rows
    ]


@pytest.fixture
def examine(tmp_path: Path) -> Examine:
    """`examine(answers, **options)`: what `doctor` says of them."""
    write_jsonl(tmp_path / "data" / "train.jsonl", ROWS[:300])
    write_jsonl(tmp_path / "data" / "validation.jsonl", ROWS[300:])

    def run(values: list[dict[str, Any]], **options: Any) -> Diagnosis:
        file = str(write_jsonl(tmp_path / "answers.jsonl", values))
        known: dict[str, Any] = QUICK | {
            "dataset": "sst2",
            "data_dir": tmp_path / "data",
            "teacher_file": file,
        }
        notes = options.pop("notes", Notes())
        return doctor(DoctorConfig(**(known | {"hidden_size": 6, "embedding_size": 6} | options)), notes)

    return run


def names(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(finding.check, finding.severity) for finding in diagnosis.findings]


def test_a_good_file_has_no_finding_and_is_measured(examine: Examine) -> None:
    notes = Notes()
    result = examine(answers(ROWS), notes=notes)
    assert result.findings == [] and {"teacher-file", "teacher-file-rows", "label-disagreement"} <= set(
        result.checked
    )
    (facts,) = result.measured["teacher_files"].values()
    assert (facts["targets"], facts["rows"]) == ("probabilities", 420)
    assert (facts["train"]["covered"], facts["validation"]["covered"]) == (300, 120)
    assert facts["train"]["accuracy"] == 1 and facts["train"]["ece"] == pytest.approx(0.05)
    assert "holds probabilities (a column per class)" in notes.notes[0]
    assert result.document()["teachers"] == [str(next(iter(result.measured["teacher_files"])))]
    assert result.estimates["seconds"] is not None
    json.dumps(result.document())


def test_labels_that_the_file_surely_contradicts_are_listed(examine: Examine) -> None:
    values = answers(ROWS[:300])
    values[6] |= {"positive": 0.99, "negative": 0.01}
    result = examine(values)
    assert names(result) == [("label-disagreement", "warning")]
    assert "in 1 of 300 train rows, 1 of them with 0.9 or more; most surely row 7 " in result.findings[0].what


def test_rows_that_the_file_lacks_are_an_error_unless_they_are_skipped(examine: Examine) -> None:
    result = examine(answers(ROWS[:250]))
    assert names(result) == [("teacher-file-rows", "error")]
    assert "no target for 50 of 300 train rows" in result.findings[0].what
    skipped = examine(answers(ROWS[:250]), missing="skip")
    assert skipped.findings == [] and skipped.estimates["epoch"]["rows"] == 250


def test_a_file_with_its_classes_swapped_is_an_error_that_says_what_to_rename(examine: Examine) -> None:
    swapped = [
        row | {"positive": row["negative"], "negative": row["positive"]} for row in answers(ROWS[:300])
    ]
    result = examine(swapped)
    assert ("label-order", "error") in names(result)
    assert any(
        "rename the classes in the file: negative = positive" in finding.do for finding in result.findings
    )


def test_a_file_that_distill_refuses_is_an_error_and_the_rest_is_checked(examine: Examine) -> None:
    values = answers(ROWS[:300])
    values[6] |= {"positive": 1.5}
    result = examine(values)
    assert names(result) == [("teacher-file", "error")] and "row 7" in result.findings[0].what
    assert result.student
    assert names(examine(answers(ROWS[:300]), soft_loss="mse", alpha=0.5)) == [("teacher-file", "error")]


def test_a_file_that_alone_knows_the_classes_is_examined_without_labels(tmp_path: Path) -> None:
    unlabelled = [{"text": row["sentence"]} for row in ROWS[:300]]
    write_jsonl(tmp_path / "data" / "train.jsonl", unlabelled)
    held_out = [{"text": row["sentence"], "label": ("no", "yes")[row["label"]]} for row in ROWS[300:]]
    write_jsonl(tmp_path / "data" / "validation.jsonl", held_out)
    votes = [{"text": row["sentence"], "votes": {("no", "yes")[row["label"]]: 5}} for row in ROWS[:300]]
    file = str(write_jsonl(tmp_path / "votes.jsonl", votes))
    options: dict[str, Any] = QUICK | {"data_dir": tmp_path / "data", "teacher_file": file, "alpha": 0}
    result = doctor(DoctorConfig(**options, hidden_size=6, embedding_size=6), Notes())
    assert result.findings == [] and result.measured["teacher_files"][file]["train"] == {"covered": 300}
