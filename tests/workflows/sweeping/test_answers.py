"""Which rows runs have right is what `evaluate` says, is computed once, and leaves the runs as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilkit import DistillConfig, Reporter, Run, evaluate
from distilkit.workflows.sweeping import answers
from distilkit.workflows.sweeping.answers import correct_rows


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def config(sst2_dir: Path, teacher_run: Run, tmp_path: Path) -> DistillConfig:
    return DistillConfig(
        dataset="sst2",
        data_dir=sst2_dir,
        teacher=str(teacher_run.path),
        output_dir=tmp_path / "run",
        precision="fp32",
    )


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_rows_and_the_teacher_are_those_of_evaluate(
    config: DistillConfig, bilstm_runs: tuple[Run, Run], teacher_run: Run, evaluating: Any, tmp_path: Path
) -> None:
    folders = [run.path for run in bilstm_runs]
    before = [files(folder) for folder in folders]
    found = correct_rows(folders, [str(teacher_run.path)], config, tmp_path / "answers.json")
    assert [files(folder) for folder in folders] == before, "evaluation/ must not appear in a run"
    entries = evaluate(evaluating(teacher_run, *bilstm_runs)).typed_document.models
    for folder, entry in zip(folders, entries[1:], strict=True):
        assert found.right[folder].tolist() == [digit == "1" for digit in entry.right]
    assert found.teacher and found.teacher.name == str(teacher_run.path)
    assert found.teacher.score == pytest.approx(entries[0].metrics["accuracy"])
    assert found.teacher.validation["f1"] == pytest.approx(entries[0].metrics["f1"])


def test_a_second_report_computes_nothing_again(
    config: DistillConfig,
    bilstm_runs: tuple[Run, Run],
    teacher_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where one run has been added since: only that one is read."""
    file, names = tmp_path / "sweep" / "answers.json", [str(teacher_run.path)]
    read: list[str] = []
    compute = answers._read_logits

    def count(classifier: Any, *rest: Any) -> Any:
        read.append(classifier.name)
        return compute(classifier, *rest)

    monkeypatch.setattr(answers, "_read_logits", count)
    first = correct_rows([bilstm_runs[0].path], names, config, file)
    both = correct_rows([run.path for run in bilstm_runs], names, config, file)
    again = correct_rows([run.path for run in bilstm_runs], names, config, file)
    assert read == [str(bilstm_runs[0].path), names[0], str(bilstm_runs[1].path)]
    assert again.teacher == both.teacher == first.teacher
    assert all(np.array_equal(again.right[folder], both.right[folder]) for folder in both.right)


def test_the_runs_that_were_asked_for_are_timed_once(
    config: DistillConfig, bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that is made again must not show another latency, or take as long."""
    file, folders = tmp_path / "answers.json", [run.path for run in bilstm_runs]
    assert correct_rows(folders, [], config, file).latencies == {}
    timed = correct_rows(folders, [], config, file, timed=folders[:1]).latencies
    assert list(timed) == folders[:1] and 0 < timed[folders[0]] < 10_000
    monkeypatch.setattr(answers, "measure_latency", None)
    assert correct_rows(folders, [], config, file, timed=folders[:1]).latencies == timed


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "distilkit.sweep-answers/1", "data": "x"}'])
def test_a_damaged_file_or_one_of_other_rows_is_computed_anew(
    text: str, config: DistillConfig, bilstm_runs: tuple[Run, Run], tmp_path: Path
) -> None:
    file = tmp_path / "answers.json"
    file.write_text(text)
    found = correct_rows([bilstm_runs[0].path], [], config, file)
    assert len(found.right) == 1 and found.teacher is None
    assert json.loads(file.read_text())["schema"] == "distilkit.sweep-answers/1"


def test_several_teachers_are_scored_by_their_weighted_mean(
    config: DistillConfig, bilstm_runs: tuple[Run, Run], teacher_run: Run, tmp_path: Path
) -> None:
    names = [str(teacher_run.path), str(bilstm_runs[1].path)]
    weighted = config.model_copy(update={"teacher": tuple(names), "teacher_weight": (1.0, 0.0001)})
    alone = correct_rows([bilstm_runs[0].path], names[:1], config, tmp_path / "alone.json").teacher
    mean = correct_rows([bilstm_runs[0].path], names, weighted, tmp_path / "mean.json").teacher
    assert alone and mean and mean.name == ", ".join(names)
    assert mean.validation["accuracy"] == alone.validation["accuracy"]
    assert mean.validation["loss"] == pytest.approx(alone.validation["loss"], abs=1e-2)


def test_a_run_that_was_scored_on_other_rows_is_left_out(
    config: DistillConfig, bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data has changed under the sweep: its rows would be paired with rows of other texts."""
    monkeypatch.setattr(answers, "MAX_ACCURACY_CHANGE", -1.0)
    notes = Notes()
    found = correct_rows([bilstm_runs[0].path], [], config, tmp_path / "answers.json", reporter=notes)
    assert found.right == {} and "left out of the bootstrap" in notes.lines[-1]


def test_a_file_of_answers_is_no_model_to_score(
    config: DistillConfig, bilstm_runs: tuple[Run, Run], tmp_path: Path
) -> None:
    file, notes = tmp_path / "teacher.csv", Notes()
    file.write_text("label\n")
    found = correct_rows(
        [bilstm_runs[0].path], [str(file)], config, tmp_path / "answers.json", reporter=notes
    )
    assert found.teacher is None and "is a file of answers" in notes.lines[-1]


def test_no_runs_have_no_answers(config: DistillConfig, tmp_path: Path) -> None:
    assert correct_rows([], [], config, tmp_path / "answers.json").right == {}
