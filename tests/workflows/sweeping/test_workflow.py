"""A sweep as a whole: each cell once, whatever stops it, and the same runs as `distill` makes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Notes, write_jsonl
from processes import WarmProcess

from distilkit import UserError, distill
from distilkit.config import SweepReportConfig
from distilkit.progress import SILENT
from distilkit.runs.run import Run
from distilkit.workflows.distillation import scheduling
from distilkit.workflows.sweeping import worker
from distilkit.workflows.sweeping.cells import make_cells
from distilkit.workflows.sweeping.folder import SweepFolder
from distilkit.workflows.sweeping.planning import plan_sweep
from distilkit.workflows.sweeping.reporting import sweep_report
from distilkit.workflows.sweeping.storage import open_storage
from distilkit.workflows.sweeping.workflow import sweep

MakeSweep = Any


def runs_of(folder: Path) -> dict[str, Run]:
    return {path.name: Run.load(path) for path in sorted((folder / "runs").iterdir())}


def contents(folder: Path) -> dict[str, bytes]:
    """What must be equal to the byte: weights and figures of every run, without times."""
    found = {}
    for name, run in runs_of(folder).items():
        found[f"{name}/weights"] = (run.model_path / "model.safetensors").read_bytes()
        timed = ("seconds", "examples_per_second")
        history = [{key: line[key] for key in line if key not in timed} for line in run.history]
        metrics = {key: value for key, value in run.metrics.items() if key not in timed}
        found[f"{name}/figures"] = json.dumps([history, metrics]).encode()
    return found


def test_a_sweep_makes_each_run_as_distill_does(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(alpha="0,0.5", seed="1..2")
    result = sweep(config, notes := Notes())
    runs = runs_of(config.output_dir)
    assert len(runs) == 6 and {"alpha-0-seed-1", "alpha-1-seed-2"} <= runs.keys()
    document = result.typed_document
    assert [run.folder for run in document.runs] and document.missing == 0 and not document.failures
    scores = {Path(run.folder).name: run.score for run in document.runs}
    assert scores == {name: run.metrics["validation"]["accuracy"] for name, run in runs.items()}
    assert [setting.setting["alpha"] for setting in document.settings if setting.labels_only] == [1.0]
    assert any("(6 of 6 cells)" in note for note in notes.notes)
    cell = next(cell for cell in make_cells(config) if cell.name == "alpha-0.5-seed-2")
    alone = distill(cell.config.model_copy(update={"output_dir": tmp_path / "alone"}))
    swept = contents(config.output_dir)["alpha-0.5-seed-2/weights"]
    assert (alone.model_path / "model.safetensors").read_bytes() == swept


def test_further_values_extend_a_sweep(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is not trained again, also where an option is swept that was not before."""
    config = make_sweep(alpha="0", seed="1")
    sweep(config)
    before = contents(config.output_dir)
    trained: list[str] = []
    train_each = worker.train_each

    def counted(inputs: Any, *arguments: Any) -> Any:
        trained.extend(config.output_dir.name for config in inputs.configs)
        return train_each(inputs, *arguments)

    monkeypatch.setattr(worker, "train_each", counted)
    result = sweep(make_sweep(alpha="0", seed="1..2", epochs="1,2"))
    assert sorted(trained) == sorted(
        f"alpha-{alpha}-epochs-{epochs}-seed-{seed}"
        for alpha in (0, 1)
        for epochs in (1, 2)
        for seed in (1, 2)
        if (epochs, seed) != (2, 1)
    )
    assert contents(config.output_dir).items() >= before.items()
    assert {run.setting["epochs"] for run in result.typed_document.runs} == {1, 2}
    trained.clear()
    sweep(make_sweep(alpha="0", seed="1..2", epochs="1,2"))
    assert not trained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3}, r"is a sweep with --epochs 2 \(now 3\). Name another folder"),
        ({"hidden_size": 5, "metric": "f1_macro"}, "--hidden-size 4"),
    ],
)
def test_another_sweep_is_not_mixed_in(make_sweep: MakeSweep, options: dict[str, Any], message: str) -> None:
    """One forgotten option would put runs of two kinds into one comparison."""
    config = make_sweep(alpha=1, seed=1)
    sweep(config)
    with pytest.raises(UserError, match=message):
        sweep(make_sweep(alpha=1, seed="1..2", **options))


def test_changed_data_end_a_sweep(make_sweep: MakeSweep, sweep_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in sweep_data.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    sweep(make_sweep(alpha=1, seed=1, data_dir=data))
    lines = (data / "train.jsonl").read_text().splitlines()
    (data / "train.jsonl").write_text("\n".join(lines[:-8]) + "\n")
    with pytest.raises(UserError, match=r"train.* changed since the sweep .* began"):
        sweep(make_sweep(alpha=1, seed="1..2", data_dir=data))
    assert len(runs_of(tmp_path / "sweep")) == 1


def test_a_folder_of_something_else_is_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sweep" / "mine.jsonl", [{}])
    with pytest.raises(UserError, match="holds no sweep"):
        sweep(make_sweep())


@pytest.mark.parametrize(
    "names", [[".lock"], [".lock", "cells/0123.json", ".sweep.yaml.01234567.ab.unfinished"]]
)
def test_a_folder_that_another_process_is_making_is_no_foreign_one(
    make_sweep: MakeSweep, tmp_path: Path, names: list[str]
) -> None:
    """Workers that start at the same moment meet a folder without options; so does one after a kill."""
    for name in names:
        file = tmp_path / "sweep" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert len(sweep(make_sweep(alpha=1, seed=1)).frame()) == 1
    with pytest.raises(UserError, match="holds no sweep"):
        (tmp_path / "sweep" / "sweep.yaml").unlink()
        sweep(make_sweep(alpha=1, seed=1))


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(make_sweep: MakeSweep) -> None:
    """A learning rate that diverges in cell 3 of 300 must not cost the night."""
    config = make_sweep(alpha=1, seed="1..2", learning_rate=[1e-3, 1e30])
    result = sweep(config, notes := Notes())
    document = result.typed_document
    assert len(document.runs) == 2 and len(document.failures) == 2 and document.missing == 0
    assert all(failure.setting["learning_rate"] == 1e30 for failure in document.failures)
    assert all(failure.attempts == 1 and "finite" in failure.error for failure in document.failures)
    assert sum("failed:" in note for note in notes.notes) == 2
    again = sweep(config).typed_document
    assert {failure.attempts for failure in again.failures} == {2}, "the same command tries them once more"


def test_too_many_failures_end_a_sweep(make_sweep: MakeSweep) -> None:
    config = make_sweep(alpha=1, seed="1..6", learning_rate=1e30, max_failures=2)
    with pytest.raises(UserError, match=r"3 cells have failed, more than --max-failures 2. The last: "):
        sweep(config)
    assert 3 <= len(SweepFolder.load(config.output_dir).failures()) <= 4


def test_a_bug_in_one_cell_is_recorded_with_its_traceback(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained together, one bad cell would take its neighbours down with it."""
    prepare_job = scheduling.prepare_job

    def broken(inputs: Any, i: int) -> Any:
        if inputs.configs[i].seed == 2:
            raise ZeroDivisionError("a bug")
        return prepare_job(inputs, i)

    monkeypatch.setattr(scheduling, "prepare_job", broken)
    config = make_sweep(alpha=1, seed="1..3")
    document = sweep(config).typed_document
    assert sorted(run.seed for run in document.runs) == [1, 3]
    (failure,) = SweepFolder.load(config.output_dir).failures().values()
    assert failure.error == "a bug" and failure.traceback and "ZeroDivisionError" in failure.traceback


def test_time_that_is_up_ends_a_sweep_with_what_is_done(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit also ends a training in the middle, and the same command goes on later."""
    clock = [0.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: clock[0])
    record_run = worker.Worker._record_run

    def slow(self: Any, *arguments: Any) -> None:
        record_run(self, *arguments)
        clock[0] += 100

    monkeypatch.setattr(worker.Worker, "_record_run", slow)
    config = make_sweep(alpha=1, seed="1..4", time_limit="250s")
    result = sweep(config, notes := Notes())
    assert len(result.typed_document.runs) == 2 and result.typed_document.missing == 2
    assert any("--time-limit: 2 of 4 cells were not trained: " in note for note in notes.notes)
    monkeypatch.undo()
    assert sweep(make_sweep(alpha=1, seed="1..4")).typed_document.missing == 0


def test_a_plan_names_the_cells_and_trains_nothing(make_sweep: MakeSweep) -> None:
    config = make_sweep(alpha="0", seed="1..2", dry_run=True)
    plan = plan_sweep(config)
    document = plan.document()
    assert [cell["run"] for cell in document["cells"]] == [cell.name for cell in make_cells(config)]
    assert document["seconds"] is not None and not config.output_dir.exists()
    assert "4 cells: alpha 0, 1; seed 1, 2" in plan.text() and "Nothing was trained" in plan.text()
    sweep(make_sweep(alpha="0", seed="1"))
    again = plan_sweep(config)
    assert sum(cell["complete"] for cell in again.document()["cells"]) == 2
    assert "2 to train, about " in again.text()
    with pytest.raises(UserError, match="use plan_sweep"):
        sweep(config)


def test_the_best_setting_is_scored_on_the_test_split_when_asked(
    make_sweep: MakeSweep, sweep_data: Path, tmp_path: Path
) -> None:
    """Validation has chosen it; the test split chooses nothing."""
    data = tmp_path / "data"
    shutil.copytree(sweep_data, data)
    shutil.copy(data / "validation.jsonl", data / "test.jsonl")
    config = make_sweep(alpha="0.5", seed="1..2", data_dir=data)
    assert sweep(config).typed_document.test is None
    document = sweep_report(SweepReportConfig(folder=str(config.output_dir), test=True)).typed_document
    assert document.test and document.test.setting == document.best and document.test.rows == 16
    best = {run.seed: run.score for run in document.runs if document.setting_of(run).name == document.best}
    assert document.test.scores == pytest.approx(best), "the same rows here"
    assert document.verdict[-1].startswith(f"On the 16 rows of the test split, {document.best} has accuracy")


COMMAND = ["-m", "distilkit", "sweep", "--quiet"]
SWEPT: dict[str, Any] = {"alpha": "0,0.5", "seed": "1..3", "epochs": 3}  # also on labels alone: 9 cells


def command(make_sweep: MakeSweep, folder: Path, *more: str) -> list[str]:
    """What `python` is told for the sweep of `SWEPT`."""
    config = make_sweep()
    options = ["--data-dir", config.data_dir, "-t", config.teacher[0], "-o", folder, "--vocabulary", "words"]
    options += ["--hidden-size", 4, "--embedding-size", 4]
    options += [word for name, value in SWEPT.items() for word in (f"--{name}", value)]
    return [*COMMAND, *map(str, options), *more]


def test_a_sweep_that_is_killed_goes_on_to_the_same_runs(make_sweep: MakeSweep, tmp_path: Path) -> None:
    """`kill -9` at any moment: the same command goes on, and every byte is as if nothing had happened."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    sweep(make_sweep(**SWEPT, output_dir=whole))
    kills = 0
    for runs in (0, 2, 4, 5, 7):
        process = WarmProcess(command(make_sweep, killed))
        while process.poll() is None and len(list((killed / "runs").glob("alpha*"))) < runs:
            time.sleep(0.01)
        if runs == 0:  # before a run is there, while it prepares
            while process.poll() is None and not (killed / "queue.log").exists():
                time.sleep(0.01)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 4
    assert subprocess.run([sys.executable, *command(make_sweep, killed)], check=False).returncode == 0
    assert contents(killed) == contents(whole)
    assert not [path for path in (killed / "runs").iterdir() if path.name.startswith(".")]


def test_sigterm_gives_cells_back_and_is_no_failure(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = WarmProcess(command(make_sweep, folder))
    while process.poll() is None and len(list((folder / "runs").glob("alpha*"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert not SweepFolder.load(folder).failures() and not list((folder / "workers").iterdir())
    assert WarmProcess(command(make_sweep, folder)).wait() == 0
    assert len(runs_of(folder)) == 9


def test_two_commands_on_one_folder_share_the_cells(make_sweep: MakeSweep, tmp_path: Path) -> None:
    """Each cell is trained once: no run is replaced by another process."""
    folder = tmp_path / "shared"
    processes = [WarmProcess(command(make_sweep, folder)) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(runs_of(folder)) == 9
    attempts = [trial.user_attrs for trial in trials_of(folder) if trial.user_attrs.get("cell")]
    trained = [attempt for attempt in attempts if attempt.get("outcome") != "duplicate"]
    assert len(trained) == len({attempt["cell"] for attempt in trained}) == 9


def trials_of(folder: Path) -> Any:
    """All trials of a sweep, as its journal has them."""
    sweep_folder = SweepFolder.load(folder)
    storage = open_storage(None, sweep_folder, SILENT)
    return optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage).get_trials()


def test_jobs_are_processes_of_their_own(make_sweep: MakeSweep, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    jobs = [sys.executable, *command(make_sweep, folder, "--jobs", "2")]
    assert subprocess.run(jobs, check=False).returncode == 0
    assert len(runs_of(folder)) == 9
    workers = {trial.user_attrs.get("worker") for trial in trials_of(folder)}
    assert len(workers) == 2, "each has taken some"
