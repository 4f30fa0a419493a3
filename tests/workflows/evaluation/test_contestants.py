"""`evaluate` beyond models and accuracy: files, endpoints, intervals, cost, gates, other datasets, GLUE."""

import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, MakeModel, Notes, lively, rows, tiny_bert, tiny_tokenizer, write_jsonl

from distilkit import DistillConfig, EvaluateConfig, GateMissed, UserError, distill, evaluate
from distilkit.engine.inference import latency
from distilkit.runs.run import Run
from distilkit.scores.statistics import Answers, quality
from distilkit.workflows.evaluation.gates import check_gates

LABELS = [row["label"] for row in rows(1)]


@pytest.fixture(scope="module")
def students(sst2_dir: Path, teacher_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A BiLSTM that was distilled, and the same that had labels alone; neither is any good."""
    sizes: dict[str, Any] = {"hidden_size": 6, "embedding_size": 6, "dataset": "sst2", "data_dir": sst2_dir}
    folder = tmp_path_factory.mktemp("runs")
    options = QUICK | sizes | {"teacher": str(teacher_run.path)}
    distilled = distill(DistillConfig(**options, alpha=0, output_dir=folder / "distilled"))
    return distilled, distill(
        DistillConfig(**(options | {"epochs": 1}), alpha=1, output_dir=folder / "labels")
    )


def says(folder: Path, answers: list[Any], scores: list[float] | None = None) -> str:
    """A predictions file."""
    values = [{"label": answer} for answer in answers]
    for value, score in zip(values, scores or [], strict=False):
        value["score"] = score
    return str(write_jsonl(folder / f"answers-{len(list(folder.iterdir()))}.jsonl", values))


# --- files ------------------------------------------------------------------------------------------------


def test_a_file_of_answers_is_scored_as_they_stand(evaluating: Any, tmp_path: Path) -> None:
    answers = [1 - LABELS[0], *LABELS[1:]]
    score, unsure = evaluate(
        evaluating(predictions=(says(tmp_path, answers, [0.75] * 8), says(tmp_path, answers)))
    ).scores
    assert score.value("accuracy") == unsure.value("accuracy") == 7 / 8
    assert score.value("loss") == pytest.approx(-(7 * np.log(0.75) + np.log(0.25)) / 8)
    assert score.value("ece") == pytest.approx(7 / 8 - 0.75)
    assert unsure.value("loss") is None and unsure.value("ece") is None
    assert score.value("parameters") is None and score.value("rows_per_second") is None


def test_a_file_may_be_the_teacher(evaluating: Any, teacher_run: Run, tmp_path: Path) -> None:
    file = says(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    student, teacher = evaluate(evaluating(teacher_run, predictions=(file,), teacher=file)).scores
    assert teacher.model == file and student.teacher == file
    answers = student.model_scores.answers.answer
    assert student.value("agreement") == (answers == teacher.model_scores.answers.answer).mean()
    assert student.value("kl") is None, "the file said no probabilities"


def test_the_document_of_a_file_is_whole(evaluating: Any, tmp_path: Path) -> None:
    """What is not known of it is null, not missing: a script reads the same keys of every model."""
    document = evaluate(evaluating(predictions=(says(tmp_path, LABELS),))).document()
    (entry,) = json.loads(json.dumps(document))["models"]
    assert (entry["kind"], entry["architecture"], entry["inputs"], entry["coverage"]) == (
        *("predictions", None, None, None),
    )
    assert entry["confusion"] == [[4, 0], [0, 4]] and entry["right"] == "1" * 8
    assert entry["mistakes"] == []


# --- intervals, pairs, fidelity ---------------------------------------------------------------------------


def test_every_figure_is_within_its_interval_and_the_seed_decides_it(evaluating: Any, students: Any) -> None:
    first, again, other = (
        evaluate(evaluating(students[0], seed=seed)).document()["models"][0] for seed in (1, 1, 2)
    )
    assert first["intervals"] == again["intervals"] != other["intervals"]
    for name, (low, high) in first["intervals"].items():
        assert (low, high) == (None, None) if name == "ece" else low <= first["metrics"][name] <= high, name


def test_pairs_are_told_in_words(evaluating: Any, teacher_run: Run, tmp_path: Path) -> None:
    wrong = says(tmp_path, [1 - label for label in LABELS])
    right, same = says(tmp_path, LABELS), says(tmp_path, LABELS)
    document = evaluate(evaluating(predictions=(right, wrong, same))).document()
    told = {(pair["first"], pair["second"]): pair for pair in document["pairs"]}
    assert told[right, wrong]["only_first"] == 8 and told[right, wrong]["p_value"] == 2 / 2**8
    assert told[right, wrong]["sentence"].startswith(f"{right} is better than {wrong} on 8 rows")
    assert "right on the same 8 of 8 rows" in told[right, same]["sentence"]
    nearly = says(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    (pair,) = evaluate(evaluating(predictions=(right, nearly))).document()["pairs"]
    assert "no evidence of a difference on 8 rows" in pair["sentence"]
    assert pair["difference"]["value"] == -1 / 8


def test_the_gap_recovered_is_the_way_from_labels_alone_to_the_teacher(
    evaluating: Any, tmp_path: Path
) -> None:
    def missing(number: int) -> str:
        return says(tmp_path, [1 - label for label in LABELS[:number]] + LABELS[number:])

    base, student, teacher = missing(4), missing(2), missing(1)
    files = (student, base, teacher)
    scores = evaluate(evaluating(predictions=files, teacher=teacher, labels_only=base)).scores
    assert scores[0].value("gap_recovered") == pytest.approx(2 / 3)
    assert scores[0].value("accuracy_kept") == pytest.approx(6 / 7)
    assert scores[0].labels_only == base
    assert scores[1].value("gap_recovered") is None and scores[2].value("agreement") is None


def test_the_run_at_alpha_1_is_where_the_gap_begins(evaluating: Any, teacher_run: Run, students: Any) -> None:
    distilled, labels = students
    scores = {score.model: score for score in evaluate(evaluating(distilled, labels, teacher_run)).scores}
    assert scores[str(distilled.path)].labels_only == str(labels.path)
    assert scores[str(labels.path)].labels_only is None


def test_each_architecture_has_its_own_run_at_alpha_1(
    evaluating: Any, teacher_run: Run, students: Any, sst2_dir: Path, tmp_path: Path
) -> None:
    """Two such runs that are of different kinds leave nothing to choose."""
    labels, encoder = students[1], lively(tiny_bert(seed=3))
    encoder.save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    known: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "student": str(tmp_path / "bert")}
    options = QUICK | known | {"epochs": 1, "teacher": str(teacher_run.path)}
    own, other = (
        distill(DistillConfig(**options, alpha=alpha, output_dir=tmp_path / str(alpha))) for alpha in (0, 1)
    )
    models = (students[0], labels, own, other, teacher_run)
    twins = {score.model: score.labels_only for score in evaluate(evaluating(*models)).scores}
    assert twins[str(students[0].path)] == str(labels.path) and twins[str(own.path)] == str(other.path)
    assert twins[str(labels.path)] is twins[str(other.path)] is None


def test_kl_is_that_of_the_teacher_to_the_student(evaluating: Any, teacher_run: Run, students: Any) -> None:
    student, teacher = evaluate(evaluating(students[0], teacher_run)).scores
    one, other = (torch.from_numpy(score.model_scores.answers.probabilities) for score in (student, teacher))
    expected = torch.nn.functional.kl_div(one.log(), other, reduction="batchmean")
    assert student.value("kl") == pytest.approx(float(expected))


# --- calibration, slices, inputs, home --------------------------------------------------------------------


def test_what_temperature_scaling_did_is_undone_for_comparison(
    evaluating: Any, students: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(students[0].path, tmp_path / "run"))
    metrics = json.loads((run / "metrics.json").read_text())
    temperature = {"temperature": 2.0}
    (run / "metrics.json").write_text(json.dumps(metrics | {"calibration": temperature}))
    measured = evaluate(evaluating(run))
    answers = measured.scores[0].model_scores.answers
    before = torch.from_numpy(np.log(answers.probabilities)) * 2
    expected = torch.nn.functional.cross_entropy(before, torch.from_numpy(answers.labels))
    calibration = measured.document()["models"][0]["calibration"]
    assert calibration["temperature"] == 2.0
    assert calibration["loss_unscaled"] == pytest.approx(float(expected))
    assert calibration["loss_unscaled"] != measured.scores[0].value("loss")


def test_slices_cover_every_row_once_by_length_and_once_by_class(evaluating: Any, students: Any) -> None:
    entry = evaluate(evaluating(students[0])).document()["models"][0]
    lengths = [part for part in entry["slices"] if part["slice"].endswith("words")]
    classes = [part for part in entry["slices"] if part["slice"].startswith("label")]
    assert sum(part["rows"] for part in lengths) == sum(part["rows"] for part in classes) == 8
    for part in lengths + classes:
        assert 0 <= part["low"] <= part["accuracy"] <= part["high"] <= 1


def test_mistakes_are_the_surest_wrong_answers(evaluating: Any, tmp_path: Path) -> None:
    answers = [1 - label for label in LABELS[:3]] + LABELS[3:]
    file = says(tmp_path, answers, [0.6, 0.9, 0.7, *[0.99] * 5])
    entry = evaluate(evaluating(predictions=(file,))).document()["models"][0]
    assert [one["row"] for one in entry["mistakes"]] == [2, 3, 1], "rows count from 1, as in messages"
    assert entry["mistakes"][0]["text"] == rows(1)[1]["sentence"]
    assert entry["coverage"][-1]["accuracy"] == 1.0 and entry["coverage"][0]["accuracy"] == 5 / 8


def test_another_dataset_is_set_beside_the_one_it_was_trained_on(
    evaluating: Any, students: Any, tmp_path: Path
) -> None:
    values = [{"text": "zyzzyva " * 20, "label": row["label"]} for row in rows(1)]
    data = write_jsonl(tmp_path / "imdb" / "test.jsonl", values).parent
    measured = evaluate(evaluating(students[0], dataset="imdb", data_dir=data, split="test"))
    (entry,) = measured.document()["models"]
    home = entry["home"]
    assert home["dataset"] == "sst2"
    assert home["accuracy"] == students[0].metrics["validation"]["accuracy"]
    assert home["drop"] == home["accuracy"] - entry["metrics"]["accuracy"]
    assert home["inputs"]["truncated"] == 0 and entry["inputs"]["truncated"] == 1
    assert home["inputs"]["unknown"] < entry["inputs"]["unknown"]
    assert evaluate(evaluating(students[0])).scores[0].in_domain is None


# --- cost -------------------------------------------------------------------------------------------------


def test_latency_is_of_single_rows_and_can_be_left_out(
    evaluating: Any, teacher_run: Run, students: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "PATIENCE", 0.0)
    student, teacher = evaluate(evaluating(students[0], teacher_run, latency=True)).document()["models"]
    for entry in (student, teacher):
        figures = [entry["cost"][f"latency_{name}_ms"] for name in ("p50", "p95", "p99")]
        assert 0 < figures[0] <= figures[1] <= figures[2]
        assert entry["cost"]["peak_memory_bytes"] is None or torch.cuda.is_available()
    assert student["cost"]["speed_up"]["latency_p50_ms"] == pytest.approx(
        teacher["cost"]["latency_p50_ms"] / student["cost"]["latency_p50_ms"]
    )
    assert evaluate(evaluating(students[0])).scores[0].value("latency_p50_ms") is None


def test_the_memory_of_a_process_is_told_where_it_holds_one_model_alone(
    evaluating: Any, students: Any
) -> None:
    """Of two, the second's would hold what the first left, and the order of the names would decide."""
    assert evaluate(evaluating(students[0])).document()["models"][0]["cost"]["peak_memory_bytes"] > 0
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="evaluate the model alone"):
            evaluate(evaluating(*students, fail_over=("peak_memory_bytes=1",)))


def test_threads_are_as_told_and_put_back(evaluating: Any, students: Any) -> None:
    before = torch.get_num_threads()
    assert evaluate(evaluating(students[0], threads=1)).document()["threads"] == 1
    assert torch.get_num_threads() == before


# --- gates ------------------------------------------------------------------------------------------------


def test_gates_hold_upper_bounds_too(evaluating: Any, students: Any) -> None:
    size = students[0].metrics["parameters"]
    check_gates(evaluate(evaluating(students[0], fail_over=(f"parameters={size}",))))
    with pytest.raises(GateMissed, match="parameters"):
        check_gates(evaluate(evaluating(students[0], fail_over=(f"parameters={size - 1}",))))


def test_a_gate_that_would_hold_nothing_is_an_error(evaluating: Any, tmp_path: Path, students: Any) -> None:
    with pytest.raises(UserError, match="ece"):
        evaluate(evaluating(predictions=(says(tmp_path, LABELS),), fail_over=("ece=0.1",)))
    with pytest.raises(UserError, match="--concurrency 1"):
        evaluate(evaluating(endpoint=("http://127.0.0.1:9",), latency=True, fail_over=("latency_p95_ms=5",)))
    with pytest.raises(UserError, match="--no-latency"):
        evaluate(evaluating(students[0], fail_over=("latency_p95_ms=5",)))
    with pytest.raises(UserError, match="such as accuracy=NUMBER"):
        evaluating(students[0], fail_under=("acuracy=0.5",))
    with pytest.raises(UserError, match=r"try accuracy=0.85"):
        evaluating(students[0], fail_under=("accuracy=85",))
    with pytest.raises(UserError, match="--labels-only"):
        evaluate(evaluating(students[0], teacher=str(students[1].path), fail_under=("gap_recovered=0.5",)))


def test_a_gate_on_a_figure_that_turns_out_to_be_none_is_missed(evaluating: Any, tmp_path: Path) -> None:
    """It was not reached; and what was measured is kept."""
    base, student = says(tmp_path, LABELS), says(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    teacher = says(tmp_path, [1 - label for label in LABELS])
    measured = evaluate(
        evaluating(
            predictions=(student, base, teacher),
            teacher=teacher,
            labels_only=base,
            fail_under=("gap_recovered=0.5",),
            markdown=tmp_path / "summary.md",
        )
    )
    with pytest.raises(GateMissed, match="there is no gap_recovered here"):
        check_gates(measured)
    assert "**fail**: there is no gap_recovered here" in (tmp_path / "summary.md").read_text()


def test_mistakes_in_the_options_are_told_before_a_model_reads_a_row(
    evaluating: Any, students: Any, make_bert: MakeModel, sst2_dir: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was run first")

    monkeypatch.setattr("distilkit.workflows.evaluation.scoring.read_all", read)
    three = make_bert(names=("a", "b", "c"))
    with pytest.raises(UserError, match="3 classes apart"):
        evaluate(evaluating(students[0], three))
    with pytest.raises(UserError, match="rows, the split"):
        evaluate(evaluating(students[0], predictions=(says(tmp_path, LABELS[:3]),)))
    with pytest.raises(UserError, match="agreement"):
        evaluate(evaluating(students[0], fail_under=("agreement=0.5",)))
    data = tmp_path / "data"
    data.mkdir()
    for file in sst2_dir.glob("validation*"):
        shutil.copy(file, data)
    with pytest.raises(UserError, match="test"):
        evaluate(evaluating(students[0], data_dir=data, glue_submission=tmp_path / "glue"))
    assert not (tmp_path / "glue").exists()


def test_a_baseline_fails_what_is_significantly_worse(evaluating: Any, tmp_path: Path) -> None:
    good, bad = says(tmp_path, LABELS), says(tmp_path, [1 - label for label in LABELS])
    one_off = says(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps(evaluate(evaluating(predictions=(good,))).document()))
    with pytest.raises(GateMissed, match="significantly below the baseline's 1"):
        check_gates(evaluate(evaluating(predictions=(bad,), baseline=baseline)))
    check_gates(evaluate(evaluating(predictions=(one_off,), baseline=baseline)))
    with pytest.raises(UserError, match=f"and not {re.escape(bad)}"):  # held against nothing it would pass
        evaluate(evaluating(predictions=(good, bad), baseline=baseline))
    check_gates(evaluate(evaluating(predictions=(good, bad), teacher=bad, baseline=baseline)))
    with pytest.raises(UserError, match="there is no model to compare with it"):
        evaluate(evaluating(predictions=(good,), teacher=good, baseline=baseline))


def test_gates_leave_out_what_others_are_only_compared_with(evaluating: Any, tmp_path: Path) -> None:
    """A slow teacher must not fail the gate of its student."""
    good, bad = says(tmp_path, LABELS), says(tmp_path, [1 - label for label in LABELS])
    measured = evaluate(evaluating(predictions=(good, bad), teacher=bad, fail_under=("accuracy=0.9",)))
    assert [gate.model for gate in measured.gates] == [good]
    check_gates(measured)


def test_a_damaged_baseline_is_an_error(evaluating: Any, tmp_path: Path) -> None:
    good, baseline = says(tmp_path, LABELS), tmp_path / "baseline.json"
    document = evaluate(evaluating(predictions=(good,))).document()
    shorter = [document["models"][0] | {"right": "1"}]
    for damaged in ({"schema": document["schema"]}, document | {"models": shorter}, document | {"models": 1}):
        baseline.write_text(json.dumps(damaged))
        with pytest.raises(UserError, match="is damaged"):
            evaluate(evaluating(predictions=(good,), baseline=baseline))


def test_a_gap_that_the_teacher_does_not_open_is_not_recovered(evaluating: Any, tmp_path: Path) -> None:
    """With a teacher below labels alone a worse student would have the greater share."""
    base, student = says(tmp_path, LABELS), says(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    teacher = says(tmp_path, [1 - label for label in LABELS])
    scores = evaluate(
        evaluating(predictions=(student, base, teacher), teacher=teacher, labels_only=base)
    ).scores
    assert scores[0].value("gap_recovered") is None


def test_a_baseline_of_other_rows_or_models_is_an_error(evaluating: Any, tmp_path: Path) -> None:
    good, other = says(tmp_path, LABELS), says(tmp_path, LABELS)
    baseline = tmp_path / "baseline.json"
    document = evaluate(evaluating(predictions=(good,))).document()
    baseline.write_text(json.dumps(document | {"fingerprint": "other"}))
    with pytest.raises(UserError, match="other rows"):
        evaluate(evaluating(predictions=(good,), baseline=baseline))
    baseline.write_text(json.dumps(document))
    with pytest.raises(UserError, match="and not "):
        evaluate(evaluating(predictions=(good, other), baseline=baseline))
    baseline.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        evaluate(evaluating(predictions=(good,), baseline=baseline))
    baseline.write_text('{"schema": "distilkit.evaluation/1"}')
    with pytest.raises(UserError, match="Write it again"):
        evaluate(evaluating(predictions=(good,), baseline=baseline))


# --- samples, scores, models of others --------------------------------------------------------------------


def test_a_sample_is_named_as_one(evaluating: Any, students: Any) -> None:
    assert evaluate(evaluating(students[0], max_eval_samples=4)).document()["sampled_from"] == 8
    assert evaluate(evaluating(students[0])).document()["sampled_from"] is None


def test_scores_that_are_of_one_class_in_every_row_are_noticed(evaluating: Any, tmp_path: Path) -> None:
    """A file with the probability of "positive" beside each label: loss and AUC would be nonsense."""
    of_positive = [0.9 if label else 0.1 for label in LABELS]
    reporter = Notes()
    evaluate(evaluating(predictions=(says(tmp_path, LABELS, of_positive),)), reporter)
    assert any("4 of 8 scores are below 0.5" in note for note in reporter.notes)
    reporter = Notes()
    evaluate(evaluating(predictions=(says(tmp_path, LABELS, [0.9] * 8),)), reporter)
    assert not reporter.notes


def test_the_gap_is_not_counted_from_another_architecture(
    evaluating: Any, students: Any, teacher_run: Run
) -> None:
    """How much a transformer recovers of a BiLSTM's gap says nothing."""
    measured = evaluate(evaluating(teacher_run, *students, teacher=str(students[0].path)))
    of = {score.model: score for score in measured.scores}
    assert of[str(teacher_run.path)].labels_only is None
    assert of[str(teacher_run.path)].value("agreement") is not None


def test_a_run_whose_data_is_gone_still_shows_what_another_dataset_does_to_it(
    evaluating: Any, students: Any, sst2_dir: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(students[0].path, tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(sst2_dir), str(tmp_path / "gone")))
    values = [{"text": row["sentence"], "label": row["label"]} for row in rows(1)]
    data = write_jsonl(tmp_path / "imdb" / "test.jsonl", values).parent
    reporter = Notes()
    options = {"dataset": "imdb", "data_dir": data, "split": "test", "markdown": tmp_path / "summary.md"}
    (entry,) = evaluate(evaluating(run, **options), reporter).document()["models"]
    assert entry["home"]["inputs"] is None and entry["home"]["dataset"] == "sst2"
    assert any("training data cannot be read" in note for note in reporter.notes)
    assert "on sst2, its training data" in (tmp_path / "summary.md").read_text()


# --- what else is written ---------------------------------------------------------------------------------


def test_the_markdown_names_models_pairs_and_gates(
    evaluating: Any, students: Any, teacher_run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "summary.md"
    evaluate(evaluating(students[0], teacher_run, fail_under=("accuracy=0.99",), markdown=file))
    text = file.read_text()
    assert f"`{students[0].path}`" in text and "fail" in text and "bootstrap" in text
    with pytest.raises(UserError, match="is a folder"):
        evaluate(evaluating(students[0], markdown=tmp_path))


def test_the_markdown_goes_through_links_and_into_pipes(evaluating: Any, tmp_path: Path) -> None:
    (tmp_path / "link.md").symlink_to(tmp_path / "real.md")
    files = (says(tmp_path, LABELS),)
    evaluate(evaluating(predictions=files, markdown=tmp_path / "link.md"))
    assert (tmp_path / "link.md").is_symlink() and "distilkit" in (tmp_path / "real.md").read_text()
    evaluate(evaluating(predictions=files, markdown=Path(os.devnull)))
    assert not Path(os.devnull).is_file()


def test_a_refused_command_leaves_no_folder(evaluating: Any, tmp_path: Path) -> None:
    options = {"markdown": tmp_path / "a" / "b.md", "glue_submission": tmp_path / "c"}
    with pytest.raises(UserError):
        evaluate(evaluating(tmp_path / "none", **options))
    assert list(tmp_path.iterdir()) == []


def test_a_glue_submission_answers_the_hidden_test_split(
    evaluating: Any, teacher_run: Run, tmp_path: Path
) -> None:
    reporter = Notes()
    evaluate(evaluating(teacher_run, glue_submission=tmp_path / "glue"), reporter)
    lines = (tmp_path / "glue" / "SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(number) for number in range(len(lines) - 1)]
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"} and len(lines) > 1
    assert any("SST-2.tsv" in note for note in reporter.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing to score"),
        ({"glue_submission": "x", "predictions": ("a.csv",)}, "one model"),
        ({"predictions": ("a.csv",), "concurrency": 2}, "--concurrency"),
        ({"predictions": ("a.csv",), "max_eval_samples": 2}, "all rows"),
        ({"endpoint": ("localhost:8000",)}, "http://"),
    ],
)
def test_options_that_do_not_go_together_are_refused(evaluating: Any, options: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluating(**options)


def test_ten_classes_and_a_split_without_names(make_bert: MakeModel, tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(10)]
    values = [{"text": "no fun at all", "label": names[number % 10]} for number in range(20)]
    data = write_jsonl(tmp_path / "data" / "test.jsonl", values).parent
    model = make_bert(names=tuple(names))
    common: dict[str, Any] = {"data_dir": data, "split": "test", "precision": "fp32", "latency": False}
    (score,) = evaluate(EvaluateConfig(models=(str(model),), **common)).scores
    probabilities = score.model_scores.answers.probabilities
    assert probabilities is not None and probabilities.shape == (20, 10)
    expected = quality(
        Answers.from_probabilities(probabilities, score.model_scores.answers.labels), np.ones((1, 20))
    )
    assert score.value("brier") == expected["brier"][0]
    assert score.value("f1") is None
    file = says(tmp_path, [value["label"] for value in values], [0.5] * 20)
    (alone,) = evaluate(EvaluateConfig(predictions=(file,), **common)).scores
    assert alone.value("accuracy") == 1.0 and alone.value("loss") is None and alone.value("ece") == 0.5


def test_a_summary_goes_into_a_pipe_whose_folder_cannot_be_written_to(
    evaluating: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `/dev/stdout` for everybody but root."""
    pipe, answers = tmp_path / "pipe", says(tmp_path, LABELS)
    os.mkfifo(pipe)
    monkeypatch.setattr(os, "access", lambda *_: False)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    evaluate(evaluating(predictions=(answers,), markdown=pipe))
    reader.join()
    assert "accuracy" in read[0]
