"""`export --format mlflow`: what MLflow runs, and what it is asked to write."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from conftest import BAD, GOOD, Call

from distilkit import ExportConfig, export, load
from distilkit.runs.run import Run
from distilkit.workflows.exporting.pyfunc_model import TextClassifier

ExportModel = Callable[..., Path]


def load_from(folder: Path) -> Any:
    model = TextClassifier()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    return model


def test_a_table_of_texts_is_answered_as_the_model_does(export_model: ExportModel) -> None:
    folder = export_model("words")
    texts = [*GOOD, *BAD, "", "word " * 100] * 5  # more than are answered at once
    expected = load(str(folder)).predict(texts)
    table = pandas.DataFrame({"other": 1, "text": texts}, index=range(7, 7 + len(texts)))
    answers = load_from(folder).predict(table)
    assert list(answers.columns) == ["label", "score", "score_negative", "score_positive"]
    assert list(answers.index) == list(table.index) and list(answers["label"]) == list(expected.labels)
    scores = answers[["score_negative", "score_positive"]].to_numpy()
    assert scores == pytest.approx(expected.probabilities, abs=1e-6)
    assert (answers["score"] == scores.max(axis=1)).all()
    assert load_from(folder).predict(table[:0]).empty


def test_pairs_are_two_columns(export_model: ExportModel) -> None:
    folder = export_model("siamese")
    table = pandas.DataFrame({"text_pair": BAD, "text": GOOD})
    answers = load_from(folder).predict(table)
    assert list(answers["label"]) == list(load(str(folder)).predict(GOOD, BAD).labels)


def test_without_mlflow_it_says_what_to_install(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Call
) -> None:
    for name in ("mlflow", "mlflow.pyfunc"):
        monkeypatch.setitem(sys.modules, name, None)
    answer = console("export", str(bilstm_runs[0].path), "--format", "mlflow", "-o", str(tmp_path / "model"))
    assert answer.code == 2 and "pip install 'distilkit[mlflow]'" in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # of mlflow, on itself
def test_mlflow_loads_what_was_written(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, console: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    folder, run = tmp_path / "model", str(bilstm_runs[0].path)
    manifest = export(ExportConfig(model=run, output_dir=folder, format="mlflow", latency=False)).manifest
    assert {"MLmodel", "pyfunc_model.py", "input_example.json", "artifacts/model/model.onnx"} <= set(
        manifest["files"]
    )
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert not list(folder.rglob("*.pkl")) and "unfinished" not in (folder / "MLmodel").read_text()
    expected = load(run, precision="fp32", device="cpu").predict(GOOD)
    model = mlflow.pyfunc.load_model(str(folder))
    answers = model.predict(pandas.DataFrame({"text": GOOD}))
    assert list(answers["label"]) == list(expected.labels)
    assert model.metadata.signature.inputs.input_names() == ["text"]
    with pytest.raises(mlflow.exceptions.MlflowException):
        model.predict(pandas.DataFrame({"words": GOOD}))
    refused = console("predict", str(folder), "a text")
    assert refused.code == 2 and "Name the folder artifacts/model in it" in refused.err
    assert console("predict", str(folder / "artifacts" / "model"), "a text").code == 0
    export(ExportConfig(model=run, output_dir=folder, latency=False, overwrite=True))
    assert (folder / "model.onnx").exists() and not (folder / "MLmodel").exists()
