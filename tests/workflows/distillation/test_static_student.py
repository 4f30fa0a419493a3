"""A static student through every command, on a tiny teacher."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, QUICK, Call, lively, tiny_bert, tiny_tokenizer, weights
from transformers import AutoModelForSequenceClassification

import distilkit
from distilkit import DistillConfig, ExportConfig, distill, export
from distilkit.models.static import StaticForSequenceClassification
from distilkit.runs.run import Run
from distilkit.workflows.distillation.workflow import distill_many

STATIC: dict[str, Any] = {"student": "static", "hidden_size": 8, "learning_rate": 2e-2, "alpha": 0.0}


@pytest.fixture(scope="module")
def static_run(sst2_dir: Path, teacher_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A static student of the teacher's word-pieces that has learned its logits."""
    options = QUICK | STATIC | {"dataset": "sst2", "data_dir": sst2_dir, "epochs": 12}
    folder = tmp_path_factory.mktemp("runs") / "static"
    return distill(DistillConfig(**options, teacher=str(teacher_run.path), output_dir=folder))


def test_it_learns_what_its_teacher_says_and_loads_without_it(static_run: Run, sst2_dir: Path) -> None:
    assert static_run.metrics["validation"]["accuracy"] == 1.0
    model = AutoModelForSequenceClassification.from_pretrained(static_run.model_path)
    assert type(model) is StaticForSequenceClassification and model.encoder.scores.any()
    assert model.config.embedding_size == 24, "as wide as a teacher that is narrower than 96"
    answers = distilkit.load(str(static_run.path)).predict([*GOOD, *BAD])
    assert answers.labels == ["positive"] * 4 + ["negative"] * 4


def test_its_config_repeats_the_run(static_run: Run, tmp_path: Path, console: Call) -> None:
    answer = console(
        "distill", "--config", str(static_run.path / "config.yaml"), "-o", str(tmp_path / "again")
    )
    assert answer.code == 0, answer.err
    assert weights(Run.load(tmp_path / "again")) == weights(static_run)


def test_students_distilled_together_are_what_each_is_alone(
    sst2_dir: Path, teacher_run: Run, tmp_path: Path
) -> None:
    options = QUICK | STATIC | {"dataset": "sst2", "data_dir": sst2_dir, "teacher": str(teacher_run.path)}
    configs = [DistillConfig(**options, seed=seed, output_dir=tmp_path / f"s{seed}") for seed in (1, 2)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = distill_many(configs)
    finally:
        torch.set_num_threads(before)
    alone = distill(DistillConfig(**options, seed=2, output_dir=tmp_path / "alone"))
    assert weights(together[1]) == weights(alone) != weights(together[0])


@pytest.mark.parametrize("option", [{}, {"int8": True}, {"fp16_table": True}], ids=["fp32", "int8", "fp16"])
def test_it_is_exported_and_answers_the_same(static_run: Run, tmp_path: Path, option: dict[str, Any]) -> None:
    config = ExportConfig(model=str(static_run.path), output_dir=tmp_path / "x", latency=False, **option)
    result = export(config)
    assert result.manifest["graphs"] == ["model_quint8_avx2.onnx" if "int8" in option else "model.onnx"]
    _, graph = result.manifest["checked"]["models"]
    assert graph["agreement"] == 1.0 and graph["largest_difference"] < (0.05 if option else 1e-5)
    answers = distilkit.load(str(tmp_path / "x")).predict([*GOOD, *BAD])
    assert answers.labels == ["positive"] * 4 + ["negative"] * 4


def test_pairs_are_distilled_predicted_and_exported(mrpc_dir: Path, tmp_path: Path, console: Call) -> None:
    lively(tiny_bert(("not_equivalent", "equivalent")), factor=6).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    data = {"dataset": "mrpc", "data_dir": mrpc_dir}
    options = QUICK | STATIC | data | {"teacher": str(tmp_path / "teacher"), "embedding_size": 6}
    run = distill(DistillConfig(**options, output_dir=tmp_path / "pairs"))
    assert AutoModelForSequenceClassification.from_pretrained(run.model_path).config.siamese
    result = export(ExportConfig(model=str(run.path), output_dir=tmp_path / "x", latency=False, **data))
    assert result.manifest["takes_pairs"] and "token_type_ids" in result.manifest["inputs"]
    evaluated = console(
        *("evaluate", str(run.path), str(tmp_path / "x"), "-d", "mrpc", "--data-dir", str(mrpc_dir)),
        *("--no-latency", "--precision", "fp32", "--json"),
    )
    assert evaluated.code == 0, evaluated.err
    first, second = json.loads(evaluated.out)["models"][:2]
    for name, value in first["metrics"].items():
        assert second["metrics"][name] == pytest.approx(value, abs=1e-6)


def test_without_a_teacher_it_learns_words_from_labels(sst2_dir: Path, tmp_path: Path) -> None:
    options = QUICK | STATIC | {"dataset": "sst2", "data_dir": sst2_dir, "alpha": 1.0, "epochs": 8}
    run = distill(DistillConfig(**options, output_dir=tmp_path / "words"))
    assert run.config.vocabulary == "words" and run.config.embedding_size == 96
    assert run.metrics["validation"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--embedding-size", "25"), ("--embedding-size 25", "24", "--init random")),
        (("--layers", "2"), ("--layers 2", "static")),
        (("--pooling", "max"), ("--pooling", "bilstm", "static")),
        (("--student", "tinybert", "--init", "teacher"), ("--init teacher", "static, without layers")),
    ],
)
def test_bad_input_is_one_error(
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
    sst2_dir: Path,
    teacher_run: Run,
    static_run: Run,
    tmp_path: Path,
    console: Call,
) -> None:
    """The last: layers cannot be taken of a teacher that is a static student itself."""
    teacher = static_run if "tinybert" in arguments else teacher_run
    answer = console(
        *("distill", "-d", "sst2", "--data-dir", str(sst2_dir), "-t", str(teacher.path)),
        *("-o", str(tmp_path / "x"), "--student", "static", *arguments),
    )
    assert answer.code == 2 and answer.err.count("error:") == 1
    assert all(part in answer.err for part in parts), answer.err
