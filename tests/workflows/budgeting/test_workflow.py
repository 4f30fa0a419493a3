"""`fit`: the cheapest student within limits, tried for real on sixteen sentences."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Call, Notes, rows, write_jsonl
from filelock import FileLock

from distilkit import BudgetConfig, GateMissed, UserError, fit_budget, load
from distilkit.reports.budget_document import BudgetDocument, BudgetEntry
from distilkit.runs.run import Run
from distilkit.workflows.budgeting import candidates, workflow
from distilkit.workflows.budgeting.workflow import BudgetResult, check_choice

Make = Callable[..., BudgetConfig]
ANYTHING = 1e-9  # a share that every student keeps


@pytest.fixture
def make_config(sst2_dir: Path, teacher_run: Run, tmp_path: Path) -> Make:
    """Return a function from options to a quick search that needs no new text."""
    text = tmp_path / "more.txt"
    text.write_text("a dull story\na great , moving film\n")

    def make(**options: Any) -> BudgetConfig:
        quick = {"precision": "fp32", "max_length": 16, "epochs": 1, "transfer": (str(text),), "threads": 1}
        data: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "teacher": str(teacher_run.path)}
        return BudgetConfig(
            **(quick | data | {"output_dir": tmp_path / "fit", "min_kept": ANYTHING} | options)
        )

    return make


def outcomes(result: BudgetResult) -> dict[str, tuple[bool, tuple[str, ...], str]]:
    """Return what became of each entry: whether it was trained, what it misses and why it was not trained."""

    def outcome(entry: BudgetEntry) -> tuple[bool, tuple[str, ...], str]:
        return entry.quality is not None, entry.missed, entry.reason

    return {entry.name: outcome(entry) for entry in result.typed_document.entries}


def test_the_first_within_the_limits_is_chosen_and_answers_without_its_run(
    make_config: Make, tmp_path: Path
) -> None:
    notes = Notes()
    result = fit_budget(make_config(), notes)
    document = result.typed_document
    trained = [entry for entry in document.entries if entry.quality]
    assert [entry.form for entry in trained] == ["int8", "fp32"] and document.chosen == trained[0].name
    assert {entry.reason for entry in document.entries[2:]} == {"a cheaper one was chosen"}
    assert len(document.entries) == 6, "static, bilstm and one of the two layers, in two forms"
    assert result.path == tmp_path / "fit" / trained[0].folder
    answers = load(str(result.path)).predict(["a great film", "a dull film"])
    assert set(answers.labels) <= {"negative", "positive"}
    assert document.teacher.quality.accuracy_kept is None and 0 < document.teacher.quality.accuracy <= 1
    kept = trained[0].quality.accuracy / document.teacher.quality.accuracy
    assert trained[0].quality.accuracy_kept == pytest.approx(kept)
    assert json.loads((tmp_path / "fit/report/budget.json").read_text()) == result.document()
    assert result.page.is_file() and any(note.startswith("fit: distilling") for note in notes.notes)
    check_choice(result)


def test_the_same_command_trains_nothing_again_and_other_limits_go_on(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit_budget(make_config(student=("static",)))
    trained: list[str] = []
    original = workflow.distill

    def watched(config: Any, reporter: Any) -> Run:
        trained.append(config.output_dir.name)
        return original(config, reporter)

    monkeypatch.setattr(workflow, "distill", watched)
    again = fit_budget(make_config(student=("static",)))
    assert trained == []
    qualities = [[entry.quality for entry in result.typed_document.entries] for result in (first, again)]
    assert qualities[0] == qualities[1]
    fit_budget(make_config(student=("static", "bilstm"), try_all=True))
    assert trained == ["bilstm"]


def test_what_costs_too_much_is_not_trained(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size and speed are those of its untrained weights; the training would be for nothing."""
    monkeypatch.setattr(workflow, "distill", None)
    result = fit_budget(make_config(student=("static", "bilstm"), max_mb=1e-6), notes := Notes())
    assert all(outcome == (False, ("size",), "") for outcome in outcomes(result).values())
    assert result.typed_document.chosen is None and result.path is None
    assert any(note.startswith("fit: not trained, as it costs too much") for note in notes.notes)
    with pytest.raises(GateMissed, match=r"No student meets the limits\. None was trained"):
        check_choice(result)


def test_a_form_that_fits_is_enough_to_train(make_config: Make) -> None:
    """In fp32 the student is too large, and in int8 it is not."""
    sizes = {
        entry.form: entry.cost.bytes
        for entry in fit_budget(make_config(student=("bilstm",))).typed_document.entries
    }
    between = (sizes["int8"] + sizes["fp32"]) / 2e6
    result = fit_budget(make_config(student=("bilstm",), max_mb=between))
    assert outcomes(result) == {"bilstm in int8": (True, (), ""), "bilstm in fp32": (True, ("size",), "")}


def test_without_a_teacher_one_is_fine_tuned_first(
    make_config: Make, teacher_run: Run, tmp_path: Path
) -> None:
    config = make_config(teacher=None, model=str(teacher_run.path), student=("static",))
    document = fit_budget(config).typed_document
    assert document.teacher.name == str(tmp_path / "fit/teacher")
    assert Run.load(tmp_path / "fit/teacher").environment["command"] == "train"


def test_a_labelled_test_split_is_scored_once_where_it_is_asked_for(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, copies in (("train", 2), ("validation", 1), ("test", 3)):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows(copies))
    scored: list[str] = []
    original = workflow.evaluate

    def watched(config: Any, reporter: Any) -> Any:
        scored.append(config.split)
        return original(config, reporter)

    monkeypatch.setattr(workflow, "evaluate", watched)
    options = {"data_dir": tmp_path / "data", "student": ("static", "bilstm"), "try_all": True}
    document = fit_budget(make_config(**options, test=True)).typed_document
    assert scored == ["validation", "validation", "test"] and document.test_rows == 24
    assert "On the 24 rows of the test split, which chose nothing," in document.verdict[-1]


def test_a_student_that_cannot_be_exported_is_left_out_with_its_reason(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fit_budget(make_config(student=("layers:9", "static")), notes := Notes())
    assert any("layers-9 is not tried: --layers 9: the teacher" in note for note in notes.notes)
    assert result.typed_document.chosen == "static in int8"
    assert "has only 2" in result.typed_document.entry("layers-9 in int8").reason
    with pytest.raises(UserError, match="layers-9: --layers 9"):
        fit_budget(make_config(student=("layers:9",)))


def test_a_folder_of_another_search_or_of_something_else_is_refused(
    make_config: Make, tmp_path: Path
) -> None:
    fit_budget(make_config(student=("static",)))
    with pytest.raises(UserError, match=r"is a search with --epochs 1 \(now 2\)\. Name another folder"):
        fit_budget(make_config(student=("static",), epochs=2))
    with FileLock(tmp_path / "fit" / ".lock"), pytest.raises(UserError, match="another command works in it"):
        fit_budget(make_config(student=("static",)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no search of fit"):
        fit_budget(make_config(output_dir=tmp_path / "mine"))
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_a_failure_leaves_what_is_trained(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "export_form", lambda *args: (_ for _ in ()).throw(UserError("no space")))
    with pytest.raises(UserError, match="no space"):
        fit_budget(make_config(student=("static",)))
    monkeypatch.undo()
    assert Run.load(tmp_path / "fit/runs/static").metrics
    assert not list((tmp_path / "fit").glob(".untrained-*"))


def test_untrained_students_are_timed_on_rows_of_the_data(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[Any] = []
    original = candidates.export

    def watched(config: Any, reporter: Any) -> Any:
        exported.append((config.int8, config.latency, config.max_drop))
        return original(config, reporter)

    monkeypatch.setattr(candidates, "export", watched)
    fit_budget(make_config(student=("static",)))
    assert exported == [(True, True, 100), (False, True, 100), (True, False, 100), (False, False, 100)]


def test_the_command_prints_a_table_and_exits_with_3_where_nothing_fits(
    console: Call, make_config: Make, tmp_path: Path
) -> None:
    config = make_config()
    options = ["-d", "sst2", "--data-dir", str(config.data_dir), "-t", str(config.teacher), "-e", "1"]
    options += [
        "--transfer",
        config.transfer[0],
        "--precision",
        "fp32",
        "--max-length",
        "16",
        "--threads",
        "1",
    ]
    options += ["--student", "static", "-o", str(tmp_path / "fit"), "--min-kept", "0.000001"]
    answer = console("fit", *options)
    assert answer.code == 0 and "static in int8 meets the limits" in answer.out
    assert "the teacher, in torch" in answer.out
    answer = console("fit", *options, "--max-mb", "0.000001", "--json")
    assert answer.code == 3 and "error: No student meets the limits." in answer.err
    assert BudgetDocument.model_validate_json(answer.out).chosen is None
