"""The submission to GLUE has an answer to every hidden row."""

from pathlib import Path
from typing import Any

from conftest import Notes

from distilkit import evaluate
from distilkit.runs.run import Run


def test_a_submission_answers_the_hidden_test_split(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    reporter = Notes()
    evaluate(evaluating(teacher_run, glue_submission=tmp_path / "glue"), reporter)
    lines = (tmp_path / "glue" / "SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(number) for number in range(len(lines) - 1)]
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"} and len(lines) > 1
    assert any("SST-2.tsv" in note for note in reporter.notes)
