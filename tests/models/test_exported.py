"""Exported folders in `load`, `predict` and `evaluate`: what they answer, and which folders are refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, Call

from distilkit import DistillConfig, EvaluateConfig, TrainConfig, distill, evaluate, load, train
from distilkit.errors import UserError
from distilkit.models.exported import load_exported
from distilkit.runs.locating import Source

ExportModel = Callable[..., Path]
TEXTS = [*GOOD, *BAD, "", "word " * 100]


def origin_of(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["source"]["model"])


@pytest.mark.parametrize("kind", ["words", "pieces", "bert"])
def test_load_answers_as_the_model_that_was_exported(kind: str, export_model: ExportModel) -> None:
    folder = export_model(kind)
    expected = load(origin_of(folder), precision="fp32", device="cpu").predict(TEXTS)
    exported = load(str(folder))
    assert exported.class_names == expected.class_names and exported.max_length == 16
    assert exported.predict(TEXTS).probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert np.ptp(expected.probabilities[:, 0]) > 0.005


def test_pairs_are_answered_and_single_texts_refused(export_model: ExportModel) -> None:
    for kind in ("siamese", "bert_pairs"):
        folder = export_model(kind)
        expected = load(origin_of(folder), precision="fp32", device="cpu").predict(GOOD, BAD)
        exported = load(str(folder))
        assert exported.predict(GOOD, BAD).probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        with pytest.raises(UserError, match="compares two texts"):
            exported.predict(GOOD)


def test_several_threads_answer_as_one(export_model: ExportModel) -> None:
    """Lanes share a session; a race would mix rows up."""
    folder = export_model("words")
    texts = [f"{text} {filler}" for text in TEXTS for filler in ("a", "film " * 12, "moving story")] * 300
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        several = load(str(folder)).predict(texts).probabilities
    finally:
        torch.set_num_threads(before)
    assert several == pytest.approx(load(str(folder)).predict(texts).probabilities, abs=1e-6)


def test_evaluate_scores_it_like_the_model(export_model: ExportModel, sst2_dir: Path) -> None:
    folder = export_model("words")
    names = (origin_of(folder), str(folder))
    result = evaluate(EvaluateConfig(models=names, dataset="sst2", data_dir=sst2_dir, precision="fp32"))
    first, second = (score.model_scores for score in result.scores)
    assert (first.answers.answer == second.answers.answer).all()
    assert first.cost.parameters == second.cost.parameters
    assert second.cost.bytes == (folder / "model.onnx").stat().st_size
    alone = evaluate(EvaluateConfig(models=(str(folder),), dataset="sst2", data_dir=sst2_dir, latency=False))
    assert alone.precision == "fp32"  # whatever the CPU would compute faster


def test_predict_takes_it(export_model: ExportModel, console: Call) -> None:
    folder = export_model("words")
    answer = console("predict", str(folder), GOOD[0], BAD[0], "--format", "csv")
    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) == 3 and "it computes model.onnx on the CPU" in answer.err
    refused = console("predict", str(folder), GOOD[0], "--precision", "bf16")
    assert refused.code == 2 and "computes as it was exported" in refused.err


def test_a_max_length_beyond_the_model_is_refused(export_model: ExportModel) -> None:
    assert load(str(export_model("words")), max_length=500).max_length == 500
    with pytest.raises(UserError, match="--max-length 500 is more than the model reads: use 64"):
        load(str(export_model("bert")), max_length=500)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "labels.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_folder_is_refused_by_name(name: str, damage: str, export_model: ExportModel) -> None:
    folder = export_model("words")
    if damage == "changed":
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b" ")
    else:
        (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}|model_quint8") as caught:
        load(str(folder))
    assert "export the model again" in str(caught.value)


@pytest.mark.parametrize("key", ["inputs", "files", "check", "padding", "longest_input"])
def test_a_damaged_manifest_is_refused(key: str, export_model: ExportModel) -> None:
    folder = export_model("words")
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    del manifest[key]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        load(str(folder))


def test_a_later_version_is_refused(export_model: ExportModel) -> None:
    folder = export_model("words")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"schema": "distilkit.export/2"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"is of 'distilkit.export/2', and this distilkit reads"):
        load(str(folder))


def test_without_onnxruntime_it_says_what_to_install(
    export_model: ExportModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_model("words")
    monkeypatch.delattr("distilkit.models.standalone")
    monkeypatch.delitem(sys.modules, "distilkit.models.standalone", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'distilkit\[export\]'"):
        load_exported(Source("exported", folder))


def test_it_can_be_neither_trained_nor_distilled(
    export_model: ExportModel, sst2_dir: Path, tmp_path: Path
) -> None:
    """There are no weights in it to start from; the message names the model that has them."""
    folder = export_model("words")
    data: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "output_dir": tmp_path / "run"}
    with pytest.raises(UserError, match="an exported model, which answers texts") as caught:
        train(TrainConfig(model=str(folder), **data))
    assert origin_of(folder)[:80] in str(caught.value)
    with pytest.raises(UserError, match="an exported model, which answers texts"):
        distill(DistillConfig(teacher=str(folder), **data))
