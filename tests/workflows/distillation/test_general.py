"""`distill --method general`: raw text in, a student without a head out, from which later ones start."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, QUICK, MakeModel, Notes, lively, tiny_bert, tiny_tokenizer, weights
from safetensors.torch import load_file
from transformers import AutoModel, BertForMaskedLM

from distilkit import DistillConfig, UserError, distill
from distilkit.config.fields import make_config, read_values
from distilkit.models import students
from distilkit.runs.run import Run
from distilkit.workflows.distillation.workflow import distill_many


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{text} .\n" for text in (*GOOD, *BAD) * 6), encoding="utf-8")
    return file


@pytest.fixture
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT as pre-training leaves it: with a head for masked words and none for classes."""
    folder = tmp_path_factory.mktemp("pretrained")
    classifier = lively(tiny_bert(layers=4), factor=5)
    model = BertForMaskedLM(classifier.config)
    model.bert.load_state_dict(classifier.bert.state_dict(), strict=False)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def config(corpus: Path, teacher_dir: Path, tmp_path: Path) -> Any:
    def make(**options: Any) -> DistillConfig:
        known: dict[str, Any] = QUICK | {"method": "general", "corpus": str(corpus), "layers": 2}
        known |= {
            "teacher": str(teacher_dir),
            "student": str(teacher_dir),
            "output_dir": tmp_path / "general",
        }
        return DistillConfig(**(known | {"learning_rate": 5e-3, "epochs": 3} | options))

    return make


def test_a_general_student_learns_the_teachers_layers_without_labels_or_head(config: Any) -> None:
    notes = Notes()
    run = distill(config(epochs=6), notes)
    losses = [line["validation"]["layer_loss"] for line in run.history]
    assert losses[-1] < 0.9 * losses[0]
    assert all(line["hard_loss"] is line["soft_loss"] is None for line in run.history)
    assert run.metrics["metric"] == "layer_loss"
    assert run.history[-1]["learning_rate"] < run.history[1]["learning_rate"], "it decays"
    assert run.metrics["validation"]["layer_loss"] == min(losses)
    assert run.metrics["best_epoch"] == losses.index(min(losses)) + 1
    saved = load_file(run.model_path / "model.safetensors")
    assert not [name for name in saved if "classifier" in name or "project" in name or "student" in name]
    assert run.metrics["parameters"] == sum(values.numel() for values in saved.values())
    assert type(AutoModel.from_pretrained(run.model_path)).__name__ == "BertModel"
    assert run.environment["matched_layers"] == [2, 4]
    assert run.environment["student"]["origin"].startswith("random weights")
    assert "sum over layers 1-2, 2-4 of MSE(states)" in run.environment["loss"]
    assert run.environment["dataset"]["rows"] == {"train": 48}
    assert any("are held out" in note for note in notes.notes)


def test_later_students_start_from_it(
    config: Any, sst2_dir: Path, teacher_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `--student`, the folder of the run: everything but the head is the general student's."""
    general = distill(config())
    started: list[dict[str, torch.Tensor]] = []
    ordinary = students.load_for_training

    def watched(*arguments: Any) -> Any:
        loaded = ordinary(*arguments)
        started.append({name: value.clone() for name, value in loaded.model.state_dict().items()})
        return loaded

    monkeypatch.setattr(students, "load_for_training", watched)
    for method, own in (("logits", {}), ("tinybert", {"layer_epochs": 1}), ("pkd", {})):
        run = distill(
            DistillConfig(
                **QUICK,
                dataset="sst2",
                data_dir=sst2_dir,
                teacher=str(teacher_run.path),
                student=str(general.path),
                method=method,
                output_dir=tmp_path / method,
                **own,
            )
        )
        assert "new: classifier.bias, classifier.weight" in run.environment["student"]["origin"]
        for name, value in load_file(general.model_path / "model.safetensors").items():
            torch.testing.assert_close(started[-1][f"bert.{name}"], value)


def test_layers_of_the_teacher_may_be_the_start(config: Any) -> None:
    run = distill(config(init="teacher", epochs=1, learning_rate=1e-9))
    assert run.environment["matched_layers"] == [1, 4]
    assert run.history[0]["validation"]["embedding_loss"] < 1e-8
    all_of_it = distill(
        config(
            init="teacher", layers=4, epochs=1, learning_rate=1e-9, output_dir=config().output_dir / "../all"
        )
    )
    assert all_of_it.history[0]["validation"]["layer_loss"] < 1e-8


def test_a_distilbert_of_the_teachers_sizes(config: Any) -> None:
    run = distill(config(student="distilbert", init="teacher", epochs=1))
    assert type(AutoModel.from_pretrained(run.model_path)).__name__ == "DistilBertModel"
    assert "token_type_ids" not in json.loads((run.model_path / "tokenizer_config.json").read_text()).get(
        "model_input_names", []
    )


def test_the_saved_config_repeats_the_run(config: Any, tmp_path: Path) -> None:
    run = distill(config())
    values = read_values(run.path / "config.yaml")
    again = distill(make_config(DistillConfig, values | {"output_dir": tmp_path / "again"}))
    assert weights(again) == weights(run)
    assert run.config.init == "random" and run.config.alpha == 0  # type: ignore[union-attr]


def test_a_teacher_without_all_of_its_encoder_is_refused(
    config: Any, make_bert: MakeModel, tmp_path: Path
) -> None:
    """transformers fills what is missing with random weights, and the student would learn noise."""
    folder = make_bert(layers=1)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 2}))
    with pytest.raises(UserError, match=r"lacks 16 weights of the encoder \(bert\.encoder\.layer\.1"):
        distill(config(teacher=str(folder)))
    assert not (tmp_path / "general").exists()


def test_several_at_a_time_are_refused(config: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one student at a time"):
        distill_many([config(), config(output_dir=tmp_path / "other", seed=1)])
