"""`evaluate`: numbers that plain transformers confirms, side by side, and gates that hold."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, MakeModel, Notes, lively, rows, tiny_bert, tiny_tokenizer, write_jsonl
from sklearn.metrics import f1_score
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilkit import DistillConfig, EvaluateConfig, GateMissed, UserError, distill, evaluate
from distilkit.engine.inference import logits as inference
from distilkit.reports.document import SCHEMA
from distilkit.runs.run import Run
from distilkit.workflows.evaluation.gates import check_gates


@pytest.fixture(scope="module")
def student_run(sst2_dir: Path, teacher_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A BiLSTM of the teacher, trained so little that it is wrong now and then."""
    sizes = {"hidden_size": 6, "embedding_size": 6}
    output_dir = tmp_path_factory.mktemp("runs") / "student"
    return distill(
        DistillConfig(
            dataset="sst2",
            data_dir=sst2_dir,
            teacher=str(teacher_run.path),
            output_dir=output_dir,
            **(QUICK | sizes),
        )
    )


@pytest.fixture(scope="module")
def wrong_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that answers at random, and surely: a model that is often wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    lively(tiny_bert(seed=4)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def predicted(folder: Path, values: Sequence[dict[str, Any]]) -> Tensor:
    """Logits of plain transformers, a text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(row["sentence"], return_tensors="pt")).logits for row in values])


# --- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 20, 4096])
def test_the_scores_are_those_of_plain_transformers(
    evaluating: Any, wrong_dir: Path, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens a forward pass reads: answers out of order would be other rows' answers."""
    monkeypatch.setattr(inference, "TOKENS", dict.fromkeys(inference.TOKENS, tokens))
    (score,) = evaluate(evaluating(wrong_dir)).scores
    logits, labels = predicted(wrong_dir, rows(1)), [row["label"] for row in rows(1)]
    answers = logits.argmax(dim=1).tolist()
    right = sum(one == two for one, two in zip(answers, labels, strict=True))
    assert 0 < right < 8
    assert score.value("accuracy") == right / 8
    assert score.value("f1") == pytest.approx(f1_score(labels, answers))
    assert score.value("f1_macro") == pytest.approx(f1_score(labels, answers, average="macro"))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert score.value("loss") == pytest.approx(loss, rel=1e-4)


def test_a_model_is_described_with_its_size(evaluating: Any, wrong_dir: Path) -> None:
    (score,) = evaluate(evaluating(wrong_dir)).scores
    model = tiny_bert()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    table = model.get_input_embeddings().weight.numel()
    assert (score.value("parameters"), score.value("parameters_without_embeddings")) == (
        parameters,
        parameters - table,
    )
    assert score.value("bytes") == (wrong_dir / "model.safetensors").stat().st_size
    (entry,) = evaluate(evaluating(wrong_dir)).document()["models"]
    assert entry["architecture"] == "BertForSequenceClassification" and score.model == str(wrong_dir)
    assert score.value("rows_per_second") > 0


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_evaluating_a_run_gives_the_metrics_it_was_saved_with(
    evaluating: Any, which: str, teacher_run: Run, student_run: Run
) -> None:
    """A reload that is not what was trained, or another validation split, shows here."""
    run = teacher_run if which == "teacher" else student_run
    (score,) = evaluate(evaluating(run)).scores
    saved = run.metrics["validation"]
    assert (score.value("accuracy"), score.value("f1"), score.value("f1_macro")) == pytest.approx(
        (saved["accuracy"], saved["f1"], saved["f1_macro"])
    )
    assert score.value("loss") == pytest.approx(saved["loss"], rel=1e-4)
    assert (
        score.value("parameters") == run.metrics["parameters"]
        and score.value("bytes") == run.metrics["bytes"]
    )
    assert (
        score.model_scores.classifier and score.model_scores.classifier.max_length == 16
    )  # what the run was trained with


def test_trap_6_a_model_with_its_labels_in_another_order_is_scored_by_name(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    """By position a perfect model scores nothing at all."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher_run.model_path)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}
    model.config.label2id = {"POSITIVE": 0, "NEGATIVE": 1}
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(teacher_run.model_path).save_pretrained(tmp_path)
    plain, turned = evaluate(evaluating(teacher_run, tmp_path, teacher=str(teacher_run.path))).scores
    assert turned.value("accuracy") == plain.value("accuracy") > 0.8
    assert turned.value("loss") == pytest.approx(plain.value("loss"), rel=1e-4)
    assert turned.value("agreement") == 1.0


def test_trap_14_hidden_labels_are_refused_and_not_scored(evaluating: Any, teacher_run: Run) -> None:
    with pytest.raises(UserError, match="-1"):
        evaluate(evaluating(teacher_run, split="test"))
    assert not (teacher_run.path / "evaluation" / "sst2-test.json").exists()


def test_a_split_of_ones_own_with_one_class_only_takes_the_models_classes(
    make_bert: MakeModel, tmp_path: Path
) -> None:
    """Classes read off a split in which one is missing would shift every id."""
    data = write_jsonl(tmp_path / "data" / "test.jsonl", [{"text": "no fun", "label": "good"}] * 3).parent
    model = make_bert(names=("bad", "good", "so-so"))
    config = EvaluateConfig(models=(str(model),), data_dir=data, split="test", precision="fp32")
    (score,) = evaluate(config).scores
    answer = int(predicted(model, [{"sentence": "no fun"}]).argmax())
    assert score.value("accuracy") == float(answer == 1) and score.value("f1") is None


def test_a_held_out_validation_split_is_the_one_that_was_trained_without(
    make_bert: MakeModel, tmp_path: Path
) -> None:
    """Scored on other rows than were held out, a student is scored on what it was trained on."""
    values = [{"text": f"{row['sentence']} {i}", "label": row["label"]} for i, row in enumerate(rows(5))]
    data = write_jsonl(tmp_path / "imdb" / "train.jsonl", values).parent
    options = QUICK | {"hidden_size": 6, "embedding_size": 6, "epochs": 1}
    run = distill(
        DistillConfig(dataset="imdb", data_dir=data, alpha=1, output_dir=tmp_path / "run", **options)
    )
    measured = evaluate(
        EvaluateConfig(models=(str(run.path),), dataset="imdb", data_dir=data, precision="fp32")
    )
    assert measured.rows == 4
    assert measured.scores[0].value("loss") == pytest.approx(run.metrics["validation"]["loss"], rel=1e-4)


def test_only_some_rows_are_the_same_rows_for_every_model(evaluating: Any, wrong_dir: Path) -> None:
    first, second = (evaluate(evaluating(wrong_dir, max_eval_samples=4)) for _ in range(2))
    assert first.rows == 4
    assert first.scores[0].value("loss") == second.scores[0].value("loss")


def test_a_model_of_other_classes_is_refused(evaluating: Any, make_bert: MakeModel) -> None:
    with pytest.raises(UserError, match="3 classes"):
        evaluate(evaluating(make_bert(names=("a", "b", "c"))))


# --- beside the teacher ------------------------------------------------------------------------------------


def agreement_by_hand(one: Path, other: Path) -> float:
    first, second = (predicted(folder, rows(1)).argmax(dim=1) for folder in (one, other))
    return float((first == second).float().mean())


def test_a_run_is_compared_with_the_teacher_it_names_wherever_that_stands_in_the_list(
    evaluating: Any, teacher_run: Run, student_run: Run, wrong_dir: Path
) -> None:
    for models in ((teacher_run, wrong_dir, student_run), (student_run, wrong_dir, teacher_run)):
        scores = {score.model: score for score in evaluate(evaluating(*models)).scores}
        assert list(scores) == [str(getattr(one, "path", one)) for one in models]
        student, teacher = scores[str(student_run.path)], scores[str(teacher_run.path)]
        expected = agreement_by_hand(student_run.model_path, teacher_run.model_path)
        assert student.value("agreement") == pytest.approx(expected)
        assert student.value("accuracy_kept") == pytest.approx(
            student.value("accuracy") / teacher.value("accuracy")
        )
        assert student.teacher == teacher.model
        for alone in (teacher, scores[str(wrong_dir)]):
            assert (alone.teacher, alone.value("agreement"), alone.value("accuracy_kept")) == (
                None,
                None,
                None,
            )


def test_the_teacher_is_known_by_its_weights_and_not_by_its_path(
    evaluating: Any, teacher_run: Run, student_run: Run
) -> None:
    score, _ = evaluate(evaluating(student_run, teacher_run.model_path)).scores
    assert score.teacher == str(teacher_run.model_path)


def test_without_its_teacher_a_student_is_compared_with_nothing(
    evaluating: Any, student_run: Run, wrong_dir: Path
) -> None:
    score, _ = evaluate(evaluating(student_run, wrong_dir)).scores
    assert score.teacher is None and score.value("agreement") is None


def test_any_model_may_be_named_the_teacher_and_joins_the_list(
    evaluating: Any, teacher_run: Run, wrong_dir: Path
) -> None:
    wrong, teacher = evaluate(evaluating(wrong_dir, teacher=str(teacher_run.path))).scores
    assert wrong.value("agreement") == pytest.approx(agreement_by_hand(wrong_dir, teacher_run.model_path))
    assert 0 < wrong.value("agreement") < 1
    assert wrong.value("accuracy_kept") == pytest.approx(wrong.value("accuracy") / teacher.value("accuracy"))
    assert teacher.value("agreement") is None


def test_two_models_with_other_tokenizers_each_read_their_own(
    evaluating: Any, teacher_run: Run, student_run: Run
) -> None:
    for score in evaluate(evaluating(teacher_run, student_run)).scores:
        logits = predicted(Path(score.model) / "model", rows(1))
        labels = torch.tensor([row["label"] for row in rows(1)])
        assert score.value("loss") == pytest.approx(
            torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-3
        )


# --- files, gates, notes -----------------------------------------------------------------------------------


def test_a_run_keeps_its_scores_and_a_plain_folder_gets_nothing(
    evaluating: Any, teacher_run: Run, student_run: Run, wrong_dir: Path
) -> None:
    before = {file.name for file in wrong_dir.iterdir()}
    measured = evaluate(evaluating(student_run, teacher_run, wrong_dir))
    for run, score in zip((student_run, teacher_run), measured.scores, strict=False):
        document = json.loads((run.path / "evaluation" / "sst2-validation.json").read_text())
        assert document["schema"] == SCHEMA
        assert (document["dataset"], document["split"], document["rows"]) == ("sst2", "validation", 8)
        (entry,) = document["models"]
        assert entry["model"] == score.model and entry["metrics"]["accuracy"] == score.value("accuracy")
    assert {file.name for file in wrong_dir.iterdir()} == before


def test_other_rows_and_lengths_do_not_take_the_place_of_a_runs_scores(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    """Figures of texts that were cut elsewhere, read later as those of the whole, tell another story."""
    run = Path(shutil.copytree(teacher_run.path, tmp_path / "run"))
    for options in ({}, {"max_length": 4}, {"max_eval_samples": 4}, {"max_length": 4, "max_eval_samples": 4}):
        evaluate(evaluating(run, **options))
    assert {file.name for file in (run / "evaluation").iterdir()} >= {
        "sst2-validation.json",
        "sst2-validation-4-tokens.json",
        "sst2-validation-4-rows.json",
        "sst2-validation-4-rows-4-tokens.json",
    }


def test_the_document_is_plain_json_with_every_model(
    evaluating: Any, teacher_run: Run, wrong_dir: Path
) -> None:
    measured = evaluate(evaluating(teacher_run, wrong_dir, fail_under=("accuracy=0.1",)))
    document = json.loads(json.dumps(measured.document()))
    assert [model["model"] for model in document["models"]] == [str(teacher_run.path), str(wrong_dir)]
    assert document["gates"][0] == {
        "model": str(teacher_run.path),
        "kind": "fail_under",
        "metric": "accuracy",
        "threshold": 0.1,
        "value": teacher_run.metrics["validation"]["accuracy"],
        "passed": True,
        "why": f"accuracy {teacher_run.metrics['validation']['accuracy']:.4g} is not under 0.1",
    }


def test_gates_are_held_against_every_model_and_the_value_itself_passes(
    evaluating: Any, teacher_run: Run, wrong_dir: Path
) -> None:
    reached = f"accuracy={teacher_run.metrics['validation']['accuracy']!r}"
    measured = evaluate(evaluating(teacher_run, wrong_dir, fail_under=(reached, "f1=0")))
    held = {(gate.model, gate.metric): gate.passed for gate in measured.gates}
    assert held == {
        (str(teacher_run.path), "accuracy"): True,
        (str(wrong_dir), "accuracy"): False,
        (str(teacher_run.path), "f1"): True,
        (str(wrong_dir), "f1"): True,
    }
    with pytest.raises(GateMissed) as missed:
        check_gates(measured)
    assert str(wrong_dir) in str(missed.value) and str(teacher_run.path) not in str(missed.value)
    check_gates(evaluate(evaluating(teacher_run, fail_under=(reached,))))


def test_a_gate_on_what_no_model_has_is_an_error_and_not_passed(evaluating: Any, wrong_dir: Path) -> None:
    with pytest.raises(UserError, match="agreement"):
        evaluate(evaluating(wrong_dir, fail_under=("agreement=0.9",)))


def test_gates_on_agreement_leave_the_teacher_out(
    evaluating: Any, teacher_run: Run, student_run: Run
) -> None:
    measured = evaluate(evaluating(teacher_run, student_run, fail_under=("agreement=0.01",)))
    assert [gate.model for gate in measured.gates] == [str(student_run.path)]


def test_a_model_without_class_names_is_noted(evaluating: Any, make_bert: MakeModel) -> None:
    reporter = Notes()
    evaluate(evaluating(make_bert(names=("LABEL_0", "LABEL_1"))), reporter)
    assert any("class ids are assumed to match" in note for note in reporter.notes)
