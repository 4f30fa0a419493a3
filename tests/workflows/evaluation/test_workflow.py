"""`evaluate` end to end: figures that plain transformers confirms, and everything that is written."""

import csv
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    LABELS,
    QUICK,
    MakeModel,
    Notes,
    lively,
    rows,
    tiny_bert,
    tiny_tokenizer,
    write_jsonl,
    write_predictions,
)
from sklearn.metrics import f1_score
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import distilkit
from distilkit import DistillConfig, EvaluateConfig, GateMissed, UserError, distill, distill_many, evaluate
from distilkit.engine.inference import logits as inference
from distilkit.reports.document import SCHEMA
from distilkit.runs.run import Run
from distilkit.workflows.evaluation import workflow
from distilkit.workflows.evaluation.gates import check_gates


@pytest.fixture(scope="module")
def student_run(sst2_dir: Path, teacher_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a BiLSTM so briefly that it makes mistakes."""
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
    """Save a BERT with random weights, which is confident and often wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    lively(tiny_bert(seed=4)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def predict(folder: Path, values: Sequence[dict[str, Any]]) -> Tensor:
    """Return the logits of plain transformers, a text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(row["sentence"], return_tensors="pt")).logits for row in values])


# --- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 20, 4096])
def test_the_scores_are_those_of_plain_transformers(
    evaluating: Any, wrong_dir: Path, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are sorted by length: answers in the wrong order would belong to other rows."""
    monkeypatch.setattr(inference, "TOKENS", dict.fromkeys(inference.TOKENS, tokens))
    (score,) = evaluate(evaluating(wrong_dir)).scores
    logits, labels = predict(wrong_dir, rows(1)), [row["label"] for row in rows(1)]
    answers = logits.argmax(dim=1).tolist()
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    assert 0 < right < 8
    assert score.value("accuracy") == right / 8
    assert score.value("f1") == pytest.approx(f1_score(labels, answers))
    assert score.value("f1_macro") == pytest.approx(f1_score(labels, answers, average="macro"))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert score.value("loss") == pytest.approx(loss, rel=1e-4)


def test_parameters_and_bytes_are_those_of_the_files(evaluating: Any, wrong_dir: Path) -> None:
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
    """A model loaded with other weights, or another validation split, shows here."""
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


def test_a_model_with_another_class_order_is_scored_by_class_name(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    """Compared by position, a perfect model would score 0."""
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


def test_hidden_labels_are_refused_and_not_scored(evaluating: Any, teacher_run: Run) -> None:
    with pytest.raises(UserError, match="-1"):
        evaluate(evaluating(teacher_run, split="test"))
    assert not (teacher_run.path / "evaluation" / "sst2-test.json").exists()


def test_a_local_split_with_only_one_class_uses_the_class_ids_of_the_model(
    make_bert: MakeModel, tmp_path: Path
) -> None:
    """Class ids read from a split that lacks a class would all be shifted."""
    data = write_jsonl(tmp_path / "data" / "test.jsonl", [{"text": "no fun", "label": "good"}] * 3).parent
    model = make_bert(names=("bad", "good", "so-so"))
    config = EvaluateConfig(models=(str(model),), data_dir=data, split="test", precision="fp32")
    (score,) = evaluate(config).scores
    answer = int(predict(model, [{"sentence": "no fun"}]).argmax())
    assert score.value("accuracy") == float(answer == 1) and score.value("f1") is None


def test_the_held_out_rows_are_those_that_training_left_out(make_bert: MakeModel, tmp_path: Path) -> None:
    """Another choice of rows would score a student on its training data."""
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


def test_a_file_that_no_run_was_trained_on_can_be_scored_whole(
    teacher_run: Run, sst2_dir: Path, tmp_path: Path
) -> None:
    """A tenth of a held-out file is a tenth of the evidence, and nothing else says how to use the rest."""
    values = [{"sentence": f"{row['sentence']} {i}", "label": row["label"]} for i, row in enumerate(rows(5))]
    file = write_jsonl(tmp_path / "later.jsonl", values)
    options: dict[str, Any] = {"models": (str(teacher_run.path),), "text_column": "sentence"}
    advice = "later: 4 of 40 rows are scored; no run was trained on them, so all can be: --split train"
    notes = Notes()
    evaluate(EvaluateConfig(**options, data_dir=file, precision="fp32"), notes)
    assert advice in notes.notes
    notes = Notes()
    assert (
        evaluate(EvaluateConfig(**options, data_dir=file, split="train", precision="fp32"), notes).rows == 40
    )
    assert advice not in notes.notes


def test_a_sample_is_the_same_for_every_model(evaluating: Any, wrong_dir: Path) -> None:
    first, second = (evaluate(evaluating(wrong_dir, max_eval_samples=4)) for _ in range(2))
    assert first.rows == 4
    assert first.scores[0].value("loss") == second.scores[0].value("loss")


def test_a_model_with_a_different_number_of_classes_is_refused(evaluating: Any, make_bert: MakeModel) -> None:
    with pytest.raises(UserError, match="3 classes"):
        evaluate(evaluating(make_bert(names=("a", "b", "c"))))


# --- compared with the teacher ----------------------------------------------------------------------------


def agreement_by_hand(first_folder: Path, second_folder: Path) -> float:
    first, second = (predict(folder, rows(1)).argmax(dim=1) for folder in (first_folder, second_folder))
    return float((first == second).float().mean())


def test_a_run_is_compared_with_its_teacher_in_any_order_of_the_models(
    evaluating: Any, teacher_run: Run, student_run: Run, wrong_dir: Path
) -> None:
    for models in ((teacher_run, wrong_dir, student_run), (student_run, wrong_dir, teacher_run)):
        scores = {score.model: score for score in evaluate(evaluating(*models)).scores}
        assert list(scores) == [str(getattr(model, "path", model)) for model in models]
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


def test_the_teacher_is_recognised_by_its_weights_and_not_by_its_path(
    evaluating: Any, teacher_run: Run, student_run: Run
) -> None:
    score, _ = evaluate(evaluating(student_run, teacher_run.model_path)).scores
    assert score.teacher == str(teacher_run.model_path)


def test_a_student_without_its_teacher_has_no_agreement(
    evaluating: Any, student_run: Run, wrong_dir: Path
) -> None:
    score, _ = evaluate(evaluating(student_run, wrong_dir)).scores
    assert score.teacher is None and score.value("agreement") is None


def test_any_model_can_be_the_teacher_and_is_scored_too(
    evaluating: Any, teacher_run: Run, wrong_dir: Path
) -> None:
    wrong, teacher = evaluate(evaluating(wrong_dir, teacher=str(teacher_run.path))).scores
    assert wrong.value("agreement") == pytest.approx(agreement_by_hand(wrong_dir, teacher_run.model_path))
    assert 0 < wrong.value("agreement") < 1
    assert wrong.value("accuracy_kept") == pytest.approx(wrong.value("accuracy") / teacher.value("accuracy"))
    assert teacher.value("agreement") is None


def test_every_model_reads_with_its_tokenizer(evaluating: Any, teacher_run: Run, student_run: Run) -> None:
    for score in evaluate(evaluating(teacher_run, student_run)).scores:
        logits = predict(Path(score.model) / "model", rows(1))
        labels = torch.tensor([row["label"] for row in rows(1)])
        assert score.value("loss") == pytest.approx(
            torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-3
        )


# --- files, gates, notes -----------------------------------------------------------------------------------


def test_scores_are_saved_in_a_run_and_not_in_a_plain_model_folder(
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


def test_samples_and_shorter_texts_do_not_overwrite_the_scores_of_the_whole_split(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    """Figures of a sample would later be read as those of the whole split."""
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


def test_gates_apply_to_every_model_and_the_threshold_itself_passes(
    evaluating: Any, teacher_run: Run, wrong_dir: Path
) -> None:
    reached = f"accuracy={teacher_run.metrics['validation']['accuracy']!r}"
    measured = evaluate(evaluating(teacher_run, wrong_dir, fail_under=(reached, "f1=0")))
    passed = {(gate.model, gate.metric): gate.passed for gate in measured.gates}
    assert passed == {
        (str(teacher_run.path), "accuracy"): True,
        (str(wrong_dir), "accuracy"): False,
        (str(teacher_run.path), "f1"): True,
        (str(wrong_dir), "f1"): True,
    }
    with pytest.raises(GateMissed) as missed:
        check_gates(measured)
    assert str(wrong_dir) in str(missed.value) and str(teacher_run.path) not in str(missed.value)
    check_gates(evaluate(evaluating(teacher_run, fail_under=(reached,))))


def test_a_gate_on_a_figure_that_no_model_has_is_refused(evaluating: Any, wrong_dir: Path) -> None:
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
    assert any("class ids are assumed to match: LABEL_0 = negative" in note for note in reporter.notes)


def test_another_dataset_is_compared_with_the_training_data(
    evaluating: Any, bilstm_runs: Any, tmp_path: Path
) -> None:
    values = [{"text": "zyzzyva " * 20, "label": row["label"]} for row in rows(1)]
    data = write_jsonl(tmp_path / "imdb" / "test.jsonl", values).parent
    measured = evaluate(evaluating(bilstm_runs[0], dataset="imdb", data_dir=data, split="test"))
    (entry,) = measured.document()["models"]
    home = entry["home"]
    assert home["dataset"] == "sst2"
    assert home["accuracy"] == bilstm_runs[0].metrics["validation"]["accuracy"]
    assert home["drop"] == home["accuracy"] - entry["metrics"]["accuracy"]
    assert home["inputs"]["truncated"] == 0 and entry["inputs"]["truncated"] == 1
    assert home["inputs"]["unknown"] < entry["inputs"]["unknown"]
    assert evaluate(evaluating(bilstm_runs[0])).scores[0].in_domain is None


def test_threads_are_set_and_restored(evaluating: Any, bilstm_runs: Any) -> None:
    before = torch.get_num_threads()
    assert evaluate(evaluating(bilstm_runs[0], threads=1)).document()["threads"] == 1
    assert torch.get_num_threads() == before


def test_a_run_without_its_data_is_compared_with_its_saved_accuracy(
    evaluating: Any, bilstm_runs: Any, sst2_dir: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(bilstm_runs[0].path, tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(sst2_dir), str(tmp_path / "gone")))
    values = [{"text": f"{row['sentence']} .", "label": row["label"]} for row in rows(1)]
    data = write_jsonl(tmp_path / "imdb" / "test.jsonl", values).parent
    reporter = Notes()
    options = {"dataset": "imdb", "data_dir": data, "split": "test", "markdown": tmp_path / "summary.md"}
    (entry,) = evaluate(evaluating(run, **options), reporter).document()["models"]
    assert entry["home"]["inputs"] is None and entry["home"]["dataset"] == "sst2"
    reason = f"{run} (folder {str(tmp_path / 'gone')!r} not found)"
    assert [note for note in reporter.notes if "training data" in note] == [
        f"skipped the comparison with the training data of {reason}"
    ]
    assert "its own validation split (sst2, " in (tmp_path / "summary.md").read_text()


def test_the_markdown_names_models_pairs_and_gates(
    evaluating: Any, bilstm_runs: Any, teacher_run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "summary.md"
    evaluate(evaluating(bilstm_runs[0], teacher_run, fail_under=("accuracy=0.99",), markdown=file))
    text = file.read_text()
    assert f"`{bilstm_runs[0].path}`" in text and "fail" in text and "bootstrap" in text
    with pytest.raises(UserError, match="is a folder"):
        evaluate(evaluating(bilstm_runs[0], markdown=tmp_path))


def test_the_markdown_is_written_through_links_and_into_devices(evaluating: Any, tmp_path: Path) -> None:
    (tmp_path / "link.md").symlink_to(tmp_path / "real.md")
    files = (write_predictions(tmp_path, LABELS),)
    evaluate(evaluating(predictions=files, markdown=tmp_path / "link.md"))
    assert (tmp_path / "link.md").is_symlink() and "distilkit" in (tmp_path / "real.md").read_text()
    evaluate(evaluating(predictions=files, markdown=Path(os.devnull)))
    assert not Path(os.devnull).is_file()


def test_a_refused_command_leaves_no_folder(evaluating: Any, tmp_path: Path) -> None:
    options = {"markdown": tmp_path / "a" / "b.md", "glue_submission": tmp_path / "c"}
    with pytest.raises(UserError):
        evaluate(evaluating(tmp_path / "none", **options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to score"),
        ({"glue_submission": "x", "predictions": ("a.csv",)}, "one model"),
        ({"predictions": ("a.csv",), "concurrency": 2}, "concurrency belongs to an endpoint"),
        ({"predictions": ("a.csv",), "max_eval_samples": 2}, "all rows"),
        ({"endpoint": ("localhost:8000",)}, "http://"),
    ],
)
def test_options_that_exclude_each_other_are_refused(evaluating: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluating(**options)


def test_the_markdown_is_written_into_a_pipe_in_a_read_only_folder(
    evaluating: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `/dev/stdout` for everybody but root."""
    pipe, answers = tmp_path / "pipe", write_predictions(tmp_path, LABELS)
    os.mkfifo(pipe)
    monkeypatch.setattr(os, "access", lambda *_: False)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    evaluate(evaluating(predictions=(answers,), markdown=pipe))
    reader.join()
    assert "accuracy" in read[0]


@pytest.mark.parametrize("option", ["markdown", "glue_submission", "models"])
def test_a_report_that_would_not_be_alone_in_its_folder_is_refused_before_the_work(
    option: str, evaluating: Any, teacher_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written there first makes it a folder that no report may replace: after minutes of scoring."""

    def load(config: Any) -> None:
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr(workflow, "choose_contestants", load)
    report = tmp_path / "report"
    options: dict[str, Any] = {option: report / "inside"}
    if option == "models":
        copied = shutil.copytree(teacher_run.path, tmp_path / "run", ignore=lambda *_: ["evaluation"])
        teacher_run, report, options = Run.load(copied), copied / "evaluation", {}
    elif option == "glue_submission":
        options["split"] = "test"
    with pytest.raises(UserError, match="would be written into --report"):
        evaluate(evaluating(teacher_run, report=report, **options))


@pytest.mark.parametrize("option", ["report", "markdown"])
def test_a_file_that_cannot_be_written_does_not_cost_the_evaluation(
    option: str, evaluating: Any, bilstm_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of scoring were lost with the page, which can be made again."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "page"))

    monkeypatch.setattr("distilkit.reports.page.write_report", refuse)  # its import takes the real write_text
    monkeypatch.setattr(workflow.folder, "write_text", refuse)
    measured = evaluate(evaluating(bilstm_runs[0], **{option: tmp_path / "page"}))
    assert measured.document()["models"][0]["metrics"]["accuracy"] > 0
    with pytest.raises(UserError, match=f"--{option} .* cannot be written: No space left"):
        workflow.check_written(measured)


def test_what_is_written_needs_no_error(evaluating: Any, bilstm_runs: Any, tmp_path: Path) -> None:
    workflow.check_written(evaluate(evaluating(bilstm_runs[0], markdown=tmp_path / "summary.md")))


# --- what makes figures optimistic --------------------------------------------------------------------------


def test_rows_known_from_training_are_counted_by_content(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    """Copied training rows score as well as they were learned, which no figure shows."""
    copied = [{"text": row["sentence"].upper(), "label": row["label"]} for row in rows(1)[:3]]
    fresh = [{"text": f"quite {row['sentence']}", "label": row["label"]} for row in rows(1)[4:]]
    data = write_jsonl(tmp_path / "small" / "test.jsonl", copied + fresh).parent
    options = {"dataset": "imdb", "data_dir": data, "split": "test", "markdown": tmp_path / "summary.md"}
    measured = evaluate(evaluating(teacher_run, **options))
    (entry,) = measured.document()["models"]
    assert (entry["training_rows"], entry["selection_rows"]) == (3, 3), "both splits hold the same sentences"
    text = (tmp_path / "summary.md").read_text()
    assert f"3 of the 7 rows (42.9%) are among the rows that {teacher_run.path} was trained on" in text


def test_rows_that_chose_the_epoch_are_said_to_be_optimistic(
    evaluating: Any, make_bert: MakeModel, tmp_path: Path
) -> None:
    """On them the best of several epochs was kept; a test split has not been looked at."""
    for split, word in (("train", "quite"), ("validation", "rather"), ("test", "so")):
        values = [row | {"sentence": f"{word} {row['sentence']}"} for row in rows(1)]
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", values)
    options: dict[str, Any] = {"dataset": "sst2", "data_dir": tmp_path / "data"}
    sizes = {"hidden_size": 6, "embedding_size": 6}
    run = distill(DistillConfig(**options, alpha=1, output_dir=tmp_path / "run", **(QUICK | sizes)))
    counts = {}
    for split in ("train", "validation", "test"):
        (entry,) = evaluate(evaluating(run, split=split, **options)).document()["models"]
        counts[split] = entry["training_rows"], entry["selection_rows"]
    assert counts == {"train": (8, 0), "validation": (0, 8), "test": (0, 0)}
    (entry,) = evaluate(evaluating(make_bert(), **options)).document()["models"]
    assert (entry["training_rows"], entry["selection_rows"]) == (None, None), "no run, nothing known"


@pytest.fixture
def partly_answered(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """Return the options of 8 training rows and 8 others to validate on, and a teacher's file of 5."""
    for split, word in (("train", "quite"), ("validation", "rather")):
        values = [row | {"sentence": f"{word} {row['sentence']}"} for row in rows(1)]
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", values)
    answers = [
        {"sentence": f"quite {row['sentence']}", "prob_negative": 0.4, "prob_positive": 0.6}
        for row in rows(1)[:5]
    ]
    file = write_jsonl(tmp_path / "answers.jsonl", answers)
    return {"dataset": "sst2", "data_dir": tmp_path / "data"}, file


def test_rows_that_a_teacher_file_lacked_are_no_training_rows(
    evaluating: Any, partly_answered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """They were left out of the training, and a figure on them is not optimistic."""
    options, file = partly_answered
    sizes = {"hidden_size": 6, "embedding_size": 6, "teacher_file": (str(file),), "missing": "skip"}
    run = distill(DistillConfig(**options, alpha=0.5, output_dir=tmp_path / "run", **(QUICK | sizes)))
    (entry,) = evaluate(evaluating(run, split="train", **options)).document()["models"]
    assert (entry["training_rows"], entry["selection_rows"]) == (5, 0)
    first_answer, *_ = file.read_text().splitlines()
    file.write_text(first_answer)
    (entry,) = evaluate(evaluating(run, split="train", **options)).document()["models"]
    assert (entry["training_rows"], entry["selection_rows"]) == (None, None), "which they were is lost"
    file.unlink()
    (entry,) = evaluate(evaluating(run, split="train", **options)).document()["models"]
    assert (entry["training_rows"], entry["selection_rows"]) == (None, None), "which they were is lost"


def test_a_run_on_labels_alone_left_out_what_its_command_left_out(
    evaluating: Any, partly_answered: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Rows that it did not see would be said to be its training rows, or the other way round."""
    options, file = partly_answered

    def configure(name: str, alpha: float, **teacher: Any) -> DistillConfig:
        sizes = {"hidden_size": 6, "embedding_size": 6, "output_dir": tmp_path / name, "alpha": alpha}
        return DistillConfig(**(QUICK | options | sizes | teacher))

    def count_training_rows(*models: Run) -> list[int | None]:
        entries = evaluate(evaluating(*models, split="train", **options)).document()["models"]
        return [entry["training_rows"] for entry in entries]

    teacher: dict[str, Any] = {"teacher_file": (str(file),), "missing": "skip"}
    runs = [
        distill(configure("plain", 1)),
        distill(configure("alone", 1, **teacher)),
        distill(configure("strict", 1, teacher_file=(str(file),))),
        *distill_many([configure("labels", 1, **teacher), configure("both", 0.5, **teacher)]),
    ]
    assert [run.read_environment().dataset.rows["train"] for run in runs] == [8, 5, 8, 5, 5]
    assert count_training_rows(runs[2]) == [8]
    assert count_training_rows(*runs) == [8, 5, 8, 5, 5], "what is read for a run serves no run of other rows"
    file.unlink()
    assert count_training_rows(*runs) == [8, None, 8, None, None]


def test_rows_of_a_run_that_read_a_single_file_are_known(evaluating: Any, tmp_path: Path) -> None:
    """Its data is no folder, and was said to be missing: no figure on its own rows was called optimistic."""
    file = tmp_path / "train.csv"
    file.write_text("text,label\n" + "".join(f"a text {i},{'no' if i % 2 else 'yes'}\n" for i in range(20)))
    sizes = {"hidden_size": 6, "embedding_size": 6}
    run = distill(DistillConfig(data_dir=file, alpha=1, output_dir=tmp_path / "run", **(QUICK | sizes)))
    options: dict[str, Any] = {"dataset": None, "data_dir": file, "text_column": None, "split": "train"}
    (entry,) = evaluate(evaluating(run, **options)).document()["models"]
    assert (entry["training_rows"], entry["selection_rows"]) == (18, 2)


def test_the_same_rows_in_another_folder_are_not_another_dataset(
    evaluating: Any, teacher_run: Run, sst2_dir: Path, tmp_path: Path
) -> None:
    """Its name is that of a folder: a copy would be said to be `0.0 points below` itself."""
    copy = shutil.copytree(sst2_dir, tmp_path / "gold")
    options = {"dataset": None, "data_dir": copy, "text_column": "sentence"}
    assert evaluate(evaluating(teacher_run, **options)).scores[0].in_domain is None


def test_unreadable_training_data_is_one_note_for_all_runs(
    evaluating: Any, bilstm_runs: Any, sst2_dir: Path, tmp_path: Path
) -> None:
    copies = []
    for run in bilstm_runs:
        copies.append(Path(shutil.copytree(run.path, tmp_path / run.path.name)))
        text = (copies[-1] / "config.yaml").read_text()
        (copies[-1] / "config.yaml").write_text(text.replace(str(sst2_dir), "gone"))
    reporter = Notes()
    evaluate(evaluating(*copies), reporter)
    assert [note for note in reporter.notes if "training data" in note] == [
        f"skipped the comparison with the training data of {copies[0]}, {copies[1]} (folder 'gone' not found)"
    ]


# --- rows and where they are --------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [None, 4])
def test_rows_lead_to_their_line_of_the_file(
    evaluating: Any, wrong_dir: Path, tmp_path: Path, sample: int | None
) -> None:
    """Held-out and sampled rows are counted in the file that they come from, as messages count them."""
    values = [
        {"sentence": f"{row['sentence']} {i}", "label": row["label"]}
        for i, row in enumerate(rows(12), start=1)
    ]
    file = write_jsonl(tmp_path / "data" / "train.jsonl", values)
    options = {"data_dir": file.parent, "max_eval_samples": sample, "report": tmp_path / "report"}
    measured = evaluate(evaluating(wrong_dir, **options))
    workflow.check_written(measured)
    document = measured.document()
    with (tmp_path / "report" / "answers.csv").open(encoding="utf-8", newline="") as stream:
        answers = list(csv.DictReader(stream))
    assert len(answers) == document["rows"] == (sample or 9)
    assert [row["row"] for row in answers] == [str(i + 1) for i in range(len(answers))]
    for row in answers:
        value = values[int(row["source_row"]) - 1]
        assert row["sentence"] == value["sentence"]
    mistakes = document["models"][0]["mistakes"]
    assert mistakes and all(
        mistake["text"] == values[mistake["source_row"] - 1]["sentence"] for mistake in mistakes
    )
    assert document["provenance"]["data"] == str(file)


def test_a_column_of_the_data_does_not_hide_one_of_the_report(
    evaluating: Any, wrong_dir: Path, tmp_path: Path
) -> None:
    values = [{"row": row["sentence"], "label": row["label"]} for row in rows(1)]
    data = write_jsonl(tmp_path / "data" / "validation.jsonl", values).parent
    evaluate(evaluating(wrong_dir, data_dir=data, text_column="row", report=tmp_path / "report"))
    with (tmp_path / "report" / "answers.csv").open(encoding="utf-8", newline="") as stream:
        head, first, *_ = csv.reader(stream)
    assert head[:4] == ["row", "source_row", "data row", "label"]
    assert first[:3] == ["1", "1", values[0]["row"]]


def test_the_document_says_what_made_it(evaluating: Any, tmp_path: Path, sst2_dir: Path) -> None:
    """A baseline of last year is worth little without version, time, data and processor."""
    document = evaluate(evaluating(predictions=(write_predictions(tmp_path, LABELS),))).document()
    made = document["provenance"]
    assert made["distilkit"] == distilkit.__version__ and made["data"] == str(sst2_dir / "validation.jsonl")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made["time"])
    assert made["command_line"] == sys.argv and made["versions"]["torch"]
    assert document["majority"] == {
        "class": "negative",
        "rows": 4,
        "metrics": document["majority"]["metrics"],
    }


def test_a_frame_has_a_row_per_model(evaluating: Any, tmp_path: Path) -> None:
    files = tuple(write_predictions(tmp_path, answers) for answers in (LABELS, [1] * 8))
    frame = evaluate(evaluating(predictions=files)).to_frame()
    assert list(frame.index) == list(files) and frame.loc[files[1], "accuracy"] == 0.5


def test_a_constant_answer_is_named_in_the_document(evaluating: Any, tmp_path: Path) -> None:
    files = tuple(write_predictions(tmp_path, answers) for answers in (LABELS, [1] * 8))
    document = evaluate(evaluating(predictions=files, markdown=tmp_path / "summary.md")).document()
    assert [entry["constant_answer"] for entry in document["models"]] == [None, "positive"]
    text = (tmp_path / "summary.md").read_text()
    assert f"- **Note:** {files[1]} answers \\`positive\\` to every row" in text, "names are no markup"
    assert "| (always negative) | 0.5000 |" in text
