"""`export --format safetensors`: half the bytes, in a folder that is a model like any."""

import json
from pathlib import Path

import pytest
import torch
from conftest import BAD, GOOD, Call, lively, tiny_bert, tiny_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilkit import EvaluateConfig, ExportConfig, UserError, evaluate, export, load
from distilkit.runs.run import Run


@pytest.fixture(scope="module", params=["bilstm", "bert"])
def half(
    request: pytest.FixtureRequest,
    teacher_run: Run,
    bilstm_runs: tuple[Run, Run],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """Return a run, and the folder that `export --format safetensors` made of it."""
    run = bilstm_runs[0] if request.param == "bilstm" else teacher_run
    folder = tmp_path_factory.mktemp("half") / "exported"
    export(ExportConfig(model=str(run.path), output_dir=folder, format="safetensors", latency=False))
    return run.path, folder


def test_weights_are_half_as_large_and_answers_the_same(half: tuple[Path, Path]) -> None:
    run, folder = half
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    manifest = json.loads((folder / "manifest.json").read_text())
    full, exported = manifest["checked"]["models"]
    assert exported["name"] == "model.safetensors" and exported["bytes"] < 0.6 * full["bytes"]
    assert exported["agreement"] == 1 and 0 < exported["largest_difference"] < 0.01
    expected = load(str(run), precision="fp32", device="cpu").predict([*GOOD, *BAD])
    answers = load(str(folder), precision="fp32", device="cpu").predict([*GOOD, *BAD])
    assert answers.probabilities == pytest.approx(expected.probabilities, abs=1e-3)


def test_transformers_loads_it(half: tuple[Path, Path]) -> None:
    run, folder = half
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(GOOD, padding=True, truncation=True, return_tensors="pt")
    expected = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    for dtype, tolerance in ((torch.float32, 0.005), (torch.float16, 0.03)):
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
        with torch.no_grad():
            logits, reference = model(**inputs).logits, expected(**inputs).logits
        assert logits.dtype == dtype and (logits.float() - reference).abs().max() < tolerance
    assert AutoModelForSequenceClassification.from_pretrained(folder).dtype == torch.float16


def test_commands_take_it_and_cut_texts_where_its_run_did(
    half: tuple[Path, Path], sst2_dir: Path, tmp_path: Path, console: Call
) -> None:
    """Its max length is in no config of transformers; by default far longer texts would be read."""
    run, folder = half
    assert load(str(folder)).max_length == load(str(run)).max_length == 16
    names = (str(run), str(folder))
    result = evaluate(EvaluateConfig(models=names, dataset="sst2", data_dir=sst2_dir, precision="fp32"))
    first, second = (score.model_scores.answers.answer for score in result.scores)
    assert (first == second).all()
    options = ["-o", str(tmp_path / "graph"), "-d", "sst2", "--data-dir", str(sst2_dir), "--no-latency"]
    assert console("export", str(folder), *options).code == 0
    assert json.loads((tmp_path / "graph" / "manifest.json").read_text())["max_length"] == 16


def test_weights_that_fp16_cannot_hold_are_refused(tmp_path: Path, sst2_dir: Path) -> None:
    """They would become infinite, and the answers those of chance."""
    model = lively(tiny_bert())
    with torch.no_grad():
        model.classifier.bias[0] = 1e5
    model.save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    config = ExportConfig(
        model=str(tmp_path / "bert"),
        output_dir=tmp_path / "half",
        format="safetensors",
        dataset="sst2",
        data_dir=sst2_dir,
    )
    with pytest.raises(UserError, match=r"classifier.bias holds 1e\+05, and fp16 ends at 65,504"):
        export(config)
    assert not (tmp_path / "half").exists()


def test_options_of_graphs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="int8 is for graphs"):
        ExportConfig(model="m", output_dir=tmp_path, format="safetensors", int8=True)
