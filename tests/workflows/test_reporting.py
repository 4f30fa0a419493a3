"""`report` draws the saved histories of runs without loading a model."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Notes, write_jsonl

from distilkit import EvaluateConfig, ReportConfig, UserError, evaluate, report
from distilkit.reports import histories, plots
from distilkit.reports.plots import TrainingCurve
from distilkit.runs.run import Run
from distilkit.workflows import reporting

MakeRun = Callable[..., Path]


def record(epoch: int, value: float, **more: Any) -> dict[str, Any]:
    """Return a line of `history.jsonl`."""
    fields = {
        "epoch": epoch,
        "step": 10 * epoch,
        "learning_rate": 1e-3,
        "loss": 1 - value,
        "hard_loss": None,
        "soft_loss": 1 - value,
        "validation": {"accuracy": value, "f1": value, "f1_macro": value, "loss": 2 - value},
        "improved": True,
        "examples_per_second": 100.0,
        "seconds": 1.0,
        "layer_loss": None,
    }
    return fields | more


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function from a name and a history to a run folder that `report` can read, without a model."""

    def make(name: str, history: list[dict[str, Any]], **metrics: Any) -> Path:
        folder = tmp_path / name
        (folder / "model").mkdir(parents=True)
        (folder / "config.yaml").write_text("dataset: sst2\n", encoding="utf-8")
        write_jsonl(folder / "history.jsonl", history)
        measured: dict[str, Any] = {"best_epoch": 2, "metric": "accuracy", "validation": {"accuracy": 0.8}}
        measured |= {"parameters": 1_000, "bytes": 4_000, "seconds": 2.5}
        (folder / "metrics.json").write_text(json.dumps(measured | metrics), encoding="utf-8")
        environment = {"command": "distill", "loss": "loss = MSE(a, b)", "dataset": {"name": "sst2"}}
        environment |= {"seed": 1, "precision": "fp32", "teachers": [{"name": "runs/t"}]}
        (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[TrainingCurve]]:
    """Return the curves of every picture by its axis label."""
    curves_by_label: dict[str, list[TrainingCurve]] = {}
    ordinary = plots.history_curves

    def watched(curves: Any, quantity: str) -> Any:
        curves_by_label[quantity] = list(curves)
        return ordinary(curves, quantity)

    monkeypatch.setattr(plots, "history_curves", watched)
    monkeypatch.setattr(plots, "raster", lambda figure: b"")
    return curves_by_label


def test_curves_are_those_of_the_histories(
    make_run: MakeRun, drawn: dict[str, list[TrainingCurve]], tmp_path: Path
) -> None:
    """A curve under another run's name would make the reader choose the wrong run."""
    a = make_run("a", [record(1, 0.6), record(2, 0.8), record(3, 0.7, improved=False)])
    b = make_run("b", [record(1, 0.5, hard_loss=0.3, soft_loss=None)], best_epoch=1)
    made = report(ReportConfig(runs=(str(a), str(b)), output_dir=tmp_path / "out"))
    assert drawn["validation accuracy"] == [
        TrainingCurve("1 a", 0, [1, 2, 3], [0.6, 0.8, 0.7], 2),
        TrainingCurve("2 b", 1, [1], [0.5], 1),
    ]
    assert [curve.values for curve in drawn["validation log loss"]] == [[1.4, 1.2, 1.3], [1.5]]
    assert [(curve.name, curve.values) for curve in drawn["hard loss, against the labels"]] == [
        ("2 b", [0.3])
    ]
    assert [curve.name for curve in drawn["soft loss, against the teacher"]] == ["1 a"]
    assert len(drawn) == 5
    document = made.document()
    assert document["schema"] == reporting.SCHEMA
    assert [run["history"] for run in document["runs"]] == [Run(a).history, Run(b).history]
    saved = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert saved == {name: document[name] for name in ("schema", "runs")}
    files = {str(file) for file in (tmp_path / "out" / "plots").iterdir()}
    assert set(document["pictures"]) == files and len(files) == 10
    page = made.path.read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("<figcaption>") == 5
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "") and "https:" not in page


def test_epochs_that_match_layers_are_a_separate_curve(
    make_run: MakeRun, drawn: dict[str, list[TrainingCurve]], tmp_path: Path
) -> None:
    """Both stages count from 1: in a shared curve one would overwrite the other."""
    alone = {"stage": "layers", "soft_loss": None}
    run = make_run(
        "tiny",
        [
            record(1, 0.1, **alone, layer_loss=9.0, validation={"layer_loss": 8.5}),
            record(2, 0.2, **alone, layer_loss=7.0, validation={"layer_loss": 6.5}),
            record(1, 0.6, stage="logits"),
            record(2, 0.7, stage="logits"),
        ],
    )
    general = make_run(
        "general",
        [record(1, 0.1, soft_loss=None, layer_loss=5.0, validation={"layer_loss": 4.0})],
        metric="layer_loss",
        best_epoch=1,
        validation={"layer_loss": 4.0},
    )
    report(ReportConfig(runs=(str(run), str(general)), output_dir=tmp_path / "out"))
    assert drawn["layers alone, training loss"] == [
        TrainingCurve("1 tiny", 0, [1, 2], [9.0, 7.0], 2),
        TrainingCurve("2 general", 1, [1], [5.0], 1),
    ]
    assert [curve.values for curve in drawn["layers alone, validation loss"]] == [[8.5, 6.5], [4.0]]
    assert drawn["validation accuracy"] == [TrainingCurve("1 tiny", 0, [1, 2], [0.6, 0.7], 2)]
    assert drawn["loss, as trained"] == [TrainingCurve("1 tiny", 0, [1, 2], [0.4, pytest.approx(0.3)], 2)]
    assert "loss of matched layers" not in drawn


def test_a_real_run_and_its_evaluation_are_shown(
    teacher_run: Run, sst2_dir: Path, drawn: dict[str, list[TrainingCurve]], tmp_path: Path
) -> None:
    """The files that `train` and `evaluate` write have the fields that `report` reads."""
    run = tmp_path / "teacher"
    shutil.copytree(teacher_run.path, run, ignore=shutil.ignore_patterns("evaluation"))
    evaluate(EvaluateConfig(models=(str(run),), dataset="sst2", data_dir=sst2_dir, latency=False))
    (made,) = report(ReportConfig(runs=str(run), output_dir=tmp_path / "out")).series["runs"]
    assert set(Run(run).history[0]) == set(record(1, 0.5))
    assert [curve.best for curve in drawn["validation accuracy"]] == [Run(run).metrics["best_epoch"]]
    (evaluation,) = made["evaluations"]
    assert (evaluation["dataset"], evaluation["split"], evaluation["rows"]) == ("sst2", "validation", 8)
    assert f"{evaluation['metrics']['accuracy']:.4f}" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("text", ['{"schema": "distilkit.evaluation/1"}', "[]", "{", '{"schema": 3}'])
def test_an_evaluation_of_another_schema_is_left_out_with_a_note(
    text: str, make_run: MakeRun, drawn: object, tmp_path: Path
) -> None:
    run = make_run("a", [record(1, 0.6)])
    (run / "evaluation").mkdir()
    (run / "evaluation" / "sst2-test.json").write_text(text)
    notes = Notes()
    made = report(ReportConfig(runs=str(run), output_dir=tmp_path / "out"), notes)
    assert made.series["runs"][0]["evaluations"] == []
    (note,) = notes.notes
    assert "sst2-test.json is left out" in note and "evaluate the run again" in note


def test_names_in_a_run_are_escaped(make_run: MakeRun, drawn: object, tmp_path: Path) -> None:
    run = make_run("<script>a<", [record(1, 0.6)])
    environment = json.loads((run / "environment.json").read_text())
    environment["teachers"] = [{"name": "<script>b</script>"}]
    (run / "environment.json").write_text(json.dumps(environment))
    page = report(ReportConfig(runs=str(run), output_dir=tmp_path / "out")).path.read_text()
    assert "<script" not in page and "&lt;script&gt;b&lt;/script&gt;" in page


def test_no_model_is_loaded(make_run: MakeRun, tmp_path: Path) -> None:
    """Importing torch takes longer than drawing thirty runs."""
    run = make_run("a", [record(1, 0.6)])
    code = (
        "import sys; from distilkit import ReportConfig, report\n"
        f"report(ReportConfig(runs={str(run)!r}, output_dir={str(tmp_path / 'out')!r}))\n"
        "assert not {'torch', 'transformers', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- mistakes ----------------------------------------------------------------------------------------------


def refused(runs: Path | str, output_dir: Path) -> str:
    with pytest.raises(UserError) as error:
        report(ReportConfig(runs=(str(runs),), output_dir=output_dir))
    assert not output_dir.exists() or output_dir.name == "there"
    return str(error.value)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    assert "is not a run" in refused(tmp_path, tmp_path / "out")
    assert "is not a run" in refused(tmp_path / "nowhere", tmp_path / "out")


def test_a_run_without_history_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("a", [])
    assert "empty history.jsonl" in refused(run, tmp_path / "out")
    (run / "history.jsonl").unlink()
    assert "history.jsonl cannot be read" in refused(run, tmp_path / "out")


@pytest.mark.parametrize("missing", ["metric", "best_epoch", "parameters"])
def test_a_damaged_run_is_refused_with_the_missing_field(
    missing: str, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("a", [record(1, 0.6)])
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics[missing]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert f"does not say '{missing}'" in refused(run, tmp_path / "out")


@pytest.mark.parametrize("missing", ["epoch", "improved", "validation"])
def test_a_damaged_history_is_refused(missing: str, make_run: MakeRun, tmp_path: Path) -> None:
    line = record(1, 0.6)
    del line[missing]
    assert "damaged" in refused(make_run("a", [line]), tmp_path / "out")


def test_a_folder_with_foreign_files_is_refused_before_any_work(make_run: MakeRun, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "thesis.txt").write_text("mine")
    message = refused(tmp_path / "nowhere", there)
    assert message.startswith(f"--output-dir {there} is not empty and holds no report")
    assert [file.name for file in there.iterdir()] == ["thesis.txt"]


def test_a_run_named_twice_is_drawn_once(
    make_run: MakeRun, drawn: dict[str, list[TrainingCurve]], tmp_path: Path
) -> None:
    run = str(make_run("a", [record(1, 0.6)]))
    report(ReportConfig(runs=(run, run), output_dir=tmp_path / "out"))
    assert len(drawn["validation accuracy"]) == 1


def test_the_layer_metric_of_the_page_is_that_of_the_runs() -> None:
    """The page would draw a run that only matches layers as if its metric were an accuracy."""
    from distilkit.workflows.fitting.job import Job

    only_layers: Any = SimpleNamespace(objective="layers")
    assert Job.metric.fget(only_layers) == histories.LAYER_LOSS


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, item in inner for leaf in leaves(item, (*path, key)))]


def damage(document: Any, chance: random.Random) -> None:
    """Replace something in a JSON document by something else, or delete it."""
    path = chance.choice([path for path in leaves(document) if path])
    home = document
    for key in path[:-1]:
        home = home[key]
    wrong = [
        None,
        True,
        -1,
        0,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "x",
        "",
        "x" * 5000,
        [],
        {},
        [[1]],
    ]
    wrong += ["\ud800", "<script>", "$\\frac{", "\0", {"accuracy": "x"}, {"accuracy": [1]}, DELETED]
    if (value := chance.choice(wrong)) is DELETED:
        del home[path[-1]]
    else:
        home[path[-1]] = value


DELETED = object()


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_run_is_drawn_or_refused(
    seed: int, make_run: MakeRun, drawn: object, tmp_path: Path
) -> None:
    """Twelve of seventy damaged runs ended in a traceback."""
    chance = random.Random(seed)
    run = make_run("a", [record(1, 0.6), record(2, 0.7, stage="layers", layer_loss=1.0)])
    for name in chance.choices(("metrics.json", "environment.json", "history.jsonl"), k=2):
        lines = (run / name).read_text().splitlines()
        documents = [json.loads(line) for line in lines]
        damage(documents[0], chance)
        (run / name).write_text("".join(json.dumps(document) + "\n" for document in documents))
    try:
        report(ReportConfig(runs=str(run), output_dir=tmp_path / "out"))
    except UserError as error:
        assert len(str(error)) < 1000
        assert str(run) in str(error)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"epoch": ' + "9" * 5000 + "}", "\xff", "\0"])
@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "history.jsonl"])
def test_a_file_that_no_parser_reads_is_refused(
    name: str, text: str, make_run: MakeRun, drawn: object, tmp_path: Path
) -> None:
    run = make_run("a", [record(1, 0.6)])
    (run / name).write_text(text, encoding="latin-1")
    assert name in refused(run, tmp_path / "out")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_evaluation_is_shown_or_left_out(
    seed: int, evaluated_run: Path, drawn: object, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    run = Path(shutil.copytree(evaluated_run, tmp_path / "run"))
    (file,) = (run / "evaluation").iterdir()
    document = json.loads(file.read_text())
    damage(document, chance)
    file.write_text(json.dumps(document))
    made = report(ReportConfig(runs=str(run), output_dir=tmp_path / "out"))
    assert len(made.series["runs"][0]["evaluations"]) <= 1


@pytest.fixture(scope="module")
def evaluated_run(teacher_run: Run, sst2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluate a copy of the teacher, which keeps the result."""
    run = tmp_path_factory.mktemp("evaluated") / "teacher"
    shutil.copytree(teacher_run.path, run, ignore=shutil.ignore_patterns("evaluation"))
    evaluate(EvaluateConfig(models=(str(run),), dataset="sst2", data_dir=sst2_dir, latency=False))
    return run
