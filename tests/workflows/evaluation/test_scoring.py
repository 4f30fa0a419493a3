"""Scores of models, predictions files and endpoints, and what they cost."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    LABELS,
    MakeModel,
    Notes,
    tiny_bert,
    tiny_tokenizer,
    write_jsonl,
    write_predictions,
)

from distilkit import EvaluateConfig, UserError, evaluate
from distilkit.engine.inference import latency
from distilkit.engine.inference.logits import check_finite
from distilkit.runs.run import Run
from distilkit.scores.statistics import Answers, quality
from distilkit.workflows.evaluation import scoring


def test_a_predictions_file_is_scored_row_by_row(evaluating: Any, tmp_path: Path) -> None:
    answers = [1 - LABELS[0], *LABELS[1:]]
    score, unsure = evaluate(
        evaluating(
            predictions=(
                write_predictions(tmp_path, answers, [0.75] * 8),
                write_predictions(tmp_path, answers),
            )
        )
    ).scores
    assert score.value("accuracy") == unsure.value("accuracy") == 7 / 8
    assert score.value("loss") == pytest.approx(-(7 * np.log(0.75) + np.log(0.25)) / 8)
    assert score.value("ece") == pytest.approx(7 / 8 - 0.75)
    assert unsure.value("loss") is None and unsure.value("ece") is None
    assert score.value("parameters") is None and score.value("rows_per_second") is None


def test_latency_is_measured_on_single_rows_and_can_be_left_out(
    evaluating: Any, teacher_run: Run, bilstm_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "PATIENCE", 0.0)
    student, teacher = evaluate(evaluating(bilstm_runs[0], teacher_run, latency=True)).document()["models"]
    for entry in (student, teacher):
        figures = [entry["cost"][f"latency_{name}_ms"] for name in ("p50", "p95", "p99")]
        assert 0 < figures[0] <= figures[1] <= figures[2]
        assert entry["cost"]["peak_memory_bytes"] is None or torch.cuda.is_available()
    assert student["cost"]["speed_up"]["latency_p50_ms"] == pytest.approx(
        teacher["cost"]["latency_p50_ms"] / student["cost"]["latency_p50_ms"]
    )
    assert evaluate(evaluating(bilstm_runs[0])).scores[0].value("latency_p50_ms") is None


def test_cpu_memory_is_reported_only_for_a_single_model(evaluating: Any, bilstm_runs: Any) -> None:
    """Of two, the second's would hold what the first left, and the order of the names would decide."""
    assert evaluate(evaluating(bilstm_runs[0])).document()["models"][0]["cost"]["peak_memory_bytes"] > 0
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="evaluate the model alone"):
            evaluate(evaluating(*bilstm_runs, fail_over=("peak_memory_bytes=1",)))


def test_scores_of_the_same_class_in_every_row_are_warned_of(evaluating: Any, tmp_path: Path) -> None:
    """A file with the probability of "positive" beside each label: loss and AUC would be nonsense."""
    of_positive = [0.9 if label else 0.1 for label in LABELS]
    reporter = Notes()
    evaluate(evaluating(predictions=(write_predictions(tmp_path, LABELS, of_positive),)), reporter)
    (warning,) = [note for note in reporter.notes if note.startswith("warning: ")]
    assert "4 of 8 scores are below 0.5" in warning
    reporter = Notes()
    evaluate(evaluating(predictions=(write_predictions(tmp_path, LABELS, [0.9] * 8),)), reporter)
    (note,) = reporter.notes
    assert note.endswith("its labels 0, 1 … are taken for ids of the classes: 0 = negative, 1 = positive")


def test_ten_classes_are_scored_on_a_split_without_class_names(make_bert: MakeModel, tmp_path: Path) -> None:
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
    file = write_predictions(tmp_path, [value["label"] for value in values], [0.5] * 20)
    (alone,) = evaluate(EvaluateConfig(predictions=(file,), **common)).scores
    assert alone.value("accuracy") == 1.0 and alone.value("loss") is None and alone.value("ece") == 0.5


@pytest.mark.parametrize(("name", "short", "passes"), [("cpu", 2.0, 1), ("cuda", 2.0, 2), ("cuda", 0.0, 1)])
def test_a_short_pass_on_cuda_is_timed_when_it_is_warm(
    name: str, short: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one allocates memory for every new shape: rows per second would be those of the allocator."""
    monkeypatch.setattr(scoring, "SHORT_PASS_SECONDS", short)
    durations = [0.2, 0.0]
    calls: list[int] = []

    def read() -> torch.Tensor:
        time.sleep(durations[len(calls)])
        calls.append(1)
        return torch.tensor([float(len(calls))])

    logits, seconds = scoring._time_pass(read, torch.device(name))
    assert len(calls) == passes and logits.item() == passes
    assert (seconds < 0.2) is (passes == 2)


# --- models that answer with no number ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("share", ["all", "some"])
def test_a_model_whose_logits_are_no_numbers_is_refused(
    evaluating: Any, tmp_path: Path, value: float, share: str
) -> None:
    """The largest of NaNs is class 0: such a model has an accuracy, and passes a gate."""
    model = tiny_bert()
    with torch.no_grad():
        if share == "all":
            model.classifier.bias[0] = value
        else:  # the word occurs in the last row alone
            word = tiny_tokenizer().convert_tokens_to_ids("told")
            model.get_input_embeddings().weight[word, 0] = value
    model.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError) as refused:
        evaluate(evaluating(tmp_path / "broken", fail_under=("accuracy=0.1",), markdown=tmp_path / "a.md"))
    counted = "8 of 8 validation rows (the first is row 1)" if share == "all" else "of 8 validation rows"
    assert f"{tmp_path / 'broken'}: its logits are NaN or infinite in " in str(refused.value)
    assert counted in str(refused.value) and "lower --learning-rate" in str(refused.value)
    assert not (tmp_path / "a.md").exists()


def test_the_message_on_broken_logits_proposes_full_precision_only_where_it_was_lower() -> None:
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
    for precision, proposes in (("fp32", False), ("bf16", True), ("fp16", True)):
        with pytest.raises(UserError, match=r"1 of 2 test rows \(the first is row 2\)") as refused:
            check_finite(logits, "m", "test", precision)  # type: ignore[arg-type]
        assert ("--precision fp32" in str(refused.value)) == proposes
    check_finite(logits[:1], "m", "test", "fp32")
