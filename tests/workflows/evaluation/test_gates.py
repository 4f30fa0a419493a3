"""Gates and baselines are met, missed or refused, and never silently passed."""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    LABELS,
    MakeModel,
    write_predictions,
)

from distilkit import GateMissed, UserError, evaluate
from distilkit.workflows.evaluation.gates import check_gates


def test_upper_bounds_are_gates_too(evaluating: Any, bilstm_runs: Any) -> None:
    size = bilstm_runs[0].metrics["parameters"]
    check_gates(evaluate(evaluating(bilstm_runs[0], fail_over=(f"parameters={size}",))))
    with pytest.raises(GateMissed, match="parameters"):
        check_gates(evaluate(evaluating(bilstm_runs[0], fail_over=(f"parameters={size - 1}",))))


def test_a_gate_that_no_model_can_meet_is_refused_with_the_reason(
    evaluating: Any, tmp_path: Path, bilstm_runs: Any
) -> None:
    with pytest.raises(UserError, match="ece"):
        evaluate(evaluating(predictions=(write_predictions(tmp_path, LABELS),), fail_over=("ece=0.1",)))
    with pytest.raises(UserError, match="--concurrency 1"):
        evaluate(evaluating(endpoint=("http://127.0.0.1:9",), latency=True, fail_over=("latency_p95_ms=5",)))
    with pytest.raises(UserError, match="--no-latency"):
        evaluate(evaluating(bilstm_runs[0], fail_over=("latency_p95_ms=5",)))
    with pytest.raises(UserError, match="such as accuracy=NUMBER"):
        evaluating(bilstm_runs[0], fail_under=("acuracy=0.5",))
    with pytest.raises(UserError, match=r"try accuracy=0.85"):
        evaluating(bilstm_runs[0], fail_under=("accuracy=85",))
    with pytest.raises(UserError, match="--labels-only"):
        evaluate(
            evaluating(bilstm_runs[0], teacher=str(bilstm_runs[1].path), fail_under=("gap_recovered=0.5",))
        )


def test_a_gate_on_a_figure_that_turns_out_undefined_is_missed(evaluating: Any, tmp_path: Path) -> None:
    """It was not met, and what was measured is still written."""
    base, student = (
        write_predictions(tmp_path, LABELS),
        write_predictions(tmp_path, [1 - LABELS[0], *LABELS[1:]]),
    )
    teacher = write_predictions(tmp_path, [1 - label for label in LABELS])
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


def test_mistakes_in_the_options_are_refused_before_a_model_reads_a_row(
    evaluating: Any, bilstm_runs: Any, make_bert: MakeModel, sst2_dir: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was run first")

    monkeypatch.setattr("distilkit.workflows.evaluation.scoring.read_all", read)
    three = make_bert(names=("a", "b", "c"))
    with pytest.raises(UserError, match="3 classes apart"):
        evaluate(evaluating(bilstm_runs[0], three))
    with pytest.raises(UserError, match="rows, the split"):
        evaluate(evaluating(bilstm_runs[0], predictions=(write_predictions(tmp_path, LABELS[:3]),)))
    with pytest.raises(UserError, match="agreement"):
        evaluate(evaluating(bilstm_runs[0], fail_under=("agreement=0.5",)))
    data = tmp_path / "data"
    data.mkdir()
    for file in sst2_dir.glob("validation*"):
        shutil.copy(file, data)
    with pytest.raises(UserError, match="test"):
        evaluate(evaluating(bilstm_runs[0], data_dir=data, glue_submission=tmp_path / "glue"))
    assert not (tmp_path / "glue").exists()


def test_a_significantly_worse_model_misses_the_baseline(evaluating: Any, tmp_path: Path) -> None:
    good, bad = (
        write_predictions(tmp_path, LABELS),
        write_predictions(tmp_path, [1 - label for label in LABELS]),
    )
    one_off = write_predictions(tmp_path, [1 - LABELS[0], *LABELS[1:]])
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps(evaluate(evaluating(predictions=(good,))).document()))
    with pytest.raises(GateMissed, match="significantly below the baseline's 1"):
        check_gates(evaluate(evaluating(predictions=(bad,), baseline=baseline)))
    check_gates(evaluate(evaluating(predictions=(one_off,), baseline=baseline)))
    with pytest.raises(UserError, match=f"and not {re.escape(bad)}"):  # without a comparison it would pass
        evaluate(evaluating(predictions=(good, bad), baseline=baseline))
    check_gates(evaluate(evaluating(predictions=(good, bad), teacher=bad, baseline=baseline)))
    with pytest.raises(UserError, match="there is no model to compare with it"):
        evaluate(evaluating(predictions=(good,), teacher=good, baseline=baseline))


def test_gates_do_not_apply_to_the_teacher(evaluating: Any, tmp_path: Path) -> None:
    """A slow teacher must not fail the gate of its student."""
    good, bad = (
        write_predictions(tmp_path, LABELS),
        write_predictions(tmp_path, [1 - label for label in LABELS]),
    )
    measured = evaluate(evaluating(predictions=(good, bad), teacher=bad, fail_under=("accuracy=0.9",)))
    assert [gate.model for gate in measured.gates] == [good]
    check_gates(measured)


def test_a_damaged_baseline_is_refused(evaluating: Any, tmp_path: Path) -> None:
    good, baseline = write_predictions(tmp_path, LABELS), tmp_path / "baseline.json"
    document = evaluate(evaluating(predictions=(good,))).document()
    shorter = [document["models"][0] | {"right": "1"}]
    for damaged in ({"schema": document["schema"]}, document | {"models": shorter}, document | {"models": 1}):
        baseline.write_text(json.dumps(damaged))
        with pytest.raises(UserError, match="is damaged"):
            evaluate(evaluating(predictions=(good,), baseline=baseline))


def test_a_baseline_of_different_rows_or_models_is_refused(evaluating: Any, tmp_path: Path) -> None:
    good, new = write_predictions(tmp_path, LABELS), write_predictions(tmp_path, LABELS)
    baseline = tmp_path / "baseline.json"
    document = evaluate(evaluating(predictions=(good,))).document()
    baseline.write_text(json.dumps(document | {"fingerprint": "other"}))
    with pytest.raises(UserError, match="other rows"):
        evaluate(evaluating(predictions=(good,), baseline=baseline))
    baseline.write_text(json.dumps(document))
    with pytest.raises(UserError, match="and not "):
        evaluate(evaluating(predictions=(good, new), baseline=baseline))
    baseline.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        evaluate(evaluating(predictions=(good,), baseline=baseline))
    baseline.write_text('{"schema": "distilkit.evaluation/1"}')
    with pytest.raises(UserError, match="Write it again"):
        evaluate(evaluating(predictions=(good,), baseline=baseline))


def damaged(text: str, chance: random.Random) -> str:
    """Return a baseline with something replaced, cut or deleted."""
    if chance.random() < 0.3:
        start = chance.randrange(len(text))
        return text[:start] + chance.choice(("", "[", "\0", "9" * 5000, "\\ud800")) + text[start + 3 :]
    document = json.loads(text)
    home, key = document, chance.choice(list(document))
    while isinstance(home[key], dict | list) and home[key] and chance.random() < 0.8:
        home = home[key]
        key = chance.choice(list(home) if isinstance(home, dict) else range(len(home)))
    wrong = [None, True, -1, 0, 10**400, 1e308, float("nan"), "x", "", "x" * 5000, [], {}, [[1]], "\ud800"]
    home[key] = chance.choice(wrong)
    return json.dumps(document)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_baseline_is_used_or_refused(seed: int, evaluating: Any, tmp_path: Path) -> None:
    """19 of 300 damaged baselines ended in a traceback."""
    chance = random.Random(seed)
    answers = write_predictions(tmp_path, LABELS)
    text = json.dumps(evaluate(evaluating(predictions=(answers,))).document())
    file = tmp_path / "baseline.json"
    file.write_text(damaged(text, chance))
    try:
        evaluate(evaluating(predictions=(answers,), baseline=file))
    except UserError as error:
        assert len(str(error)) < 1000
        assert "baseline.json" in str(error)


@pytest.mark.parametrize(
    ("name", "value"), [("right", "1" * 7), ("right", "1" * 7 + "2"), ("right", "x" * 8), ("model", 3)]
)
def test_a_baseline_whose_rows_are_not_these_is_refused(
    name: str, value: object, evaluating: Any, tmp_path: Path
) -> None:
    """Rows that are neither right nor wrong would be counted as wrong ones."""
    answers = write_predictions(tmp_path, LABELS)
    document = evaluate(evaluating(predictions=(answers,))).document()
    document["models"][0][name] = value
    if len(str(value)) == 7:
        document["rows"] = 7
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"baseline\.json"):
        evaluate(evaluating(predictions=(answers,), baseline=file))
