"""The table of an evaluation is legible in every terminal: names and figures are whole at any width."""

import io
import re
from typing import Any

import numpy as np
import pytest
from evaluations import MODEL_COST, answers, make_document
from rich.console import Console
from sweep_documents import describe
from sweep_documents import example as example_sweep

from distilkit.cli.tables import EvaluationView, sweep_text
from distilkit.reports.document import EvaluationDocument
from distilkit.reports.sweep_document import SweepDocument
from distilkit.reports.sweep_summary import make_document as make_sweep_document
from distilkit.scores.statistics import Answers

NAMES = ("runs/reviews-teacher", "runs/reviews-student", "runs/a-much-longer-name-of-a-third-student-run")
SHORT = ("runs/teacher", "runs/student")


def render(document: dict[str, Any], width: int, terminal: bool = True) -> str:
    """Return what a terminal of that width shows, without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None, highlight=False)
    console.print(EvaluationView(EvaluationDocument.model_validate(document)), markup=False)
    return stream.getvalue()


def evaluation(names: tuple[str, ...] = SHORT, **more: Any) -> dict[str, Any]:
    """Make a document of models with every figure of the table."""
    return make_document([answers(seed=seed) for seed in range(len(names))], names=names, **more)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("names", [SHORT, NAMES], ids=["short", "long"])
def test_names_and_figures_are_whole_at_every_width(names: tuple[str, ...], width: int) -> None:
    """A cut name or a cut figure (`0.8...`) leaves a result that cannot be read, or is read wrongly."""
    document = evaluation(names)
    shown = render(document, width)
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    folded = "".join(shown.split())
    for entry in document["models"]:
        assert "".join(entry["model"].split()) in folded
        low, high = entry["intervals"]["accuracy"]
        figures = f"{entry['metrics']['accuracy']:.4f} ({low:.4f} to {high:.4f})"
        assert figures in " ".join(shown.split())


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_columns_that_are_left_out_are_named(width: int) -> None:
    """A figure that is missing without a word looks like one that was not measured."""
    shown = render(evaluation(), width)
    flat = " ".join(shown.split())
    for heading in ("accuracy", "F1", "ECE", "agreement", "kept", "parameters", "bytes", "p50 ms", "rows/s"):
        assert heading in flat, heading
    left_out = re.search(r"Too narrow for: (.*?)\. A wider terminal", flat)
    assert bool(left_out) == (width >= 80), "at 60 columns there are blocks"
    if width == 80:
        assert left_out and left_out[1].split(", ")[0] not in flat.split("Too narrow")[0].split()


def test_long_names_leave_a_block_for_each_model() -> None:
    shown = render(evaluation(NAMES), 60)
    blocks = shown.split("\n\n")[1:4]
    assert [block.splitlines()[0].strip() for block in blocks] == list(NAMES)
    assert "  p50 ms" in blocks[0] and "2.8" in blocks[0]


def test_the_reference_of_the_most_frequent_class_is_below_the_models() -> None:
    rows = [line.split() for line in render(evaluation(), 200).splitlines()]
    (reference,) = (row for row in rows if row[:1] == ["(always"])
    assert reference[:4] == ["(always", "class", "0)", "0.5000"]


def test_a_pipe_gets_whole_lines_without_trailing_blanks() -> None:
    """Scripts read lines: a sentence that is wrapped at some width matches nothing."""
    document = evaluation(gates=[{**GATE, "passed": True}, {**GATE, "passed": False}])
    shown = render(document, 500, terminal=False)
    lines = shown.splitlines()
    assert document["pairs"][0]["sentence"] in lines
    assert [line for line in lines if line != line.rstrip()] == []
    assert "passed: m: why" in lines and shown.count("m: why") == 1


GATE = {
    "model": "m",
    "kind": "fail_under",
    "metric": "f1",
    "threshold": 0.9,
    "value": 0.8,
    "why": "why",
}


def test_many_models_are_compared_in_a_matrix_or_counted() -> None:
    """45 sentences hide what matters, and 6 of them without a count hide the other 39."""
    document = make_document([answers(seed=seed) for seed in range(10)])
    wide = render(document, 200)
    rows = [line for line in wide.splitlines() if re.match(r"\s*\d+ runs/model-", line)]
    assert len(rows) == 10 and all("·" in row for row in rows)
    assert "more accurate" not in wide and "less accurate" not in wide
    first, second = document["models"][0]["metrics"], document["models"][1]["metrics"]
    points = 100 * (second["accuracy"] - first["accuracy"])
    assert rows[1].split()[2].startswith(f"{points:+.1f}")
    narrow = " ".join(render(document, 80).split())
    assert "39 more: evaluate --json has the figures of all models and pairs." in narrow


def test_the_table_warns_of_a_constant_answer_and_of_rows_known_from_training() -> None:
    labels = np.arange(60) % 3 // 2  # two thirds are of class 0
    constant = Answers.from_probabilities(np.tile([0.7, 0.3], (60, 1)), labels)
    document = make_document([constant, constant], names=SHORT, costs=[MODEL_COST] * 2)
    document["models"][0] |= {"training_rows": 12, "selection_rows": 60}
    shown = " ".join(render(document, 120).split())
    assert "runs/teacher, runs/student answer `class 0` to every row: no better than the most" in shown
    assert "12 of the 60 rows (20.0%) are among the rows that runs/teacher was trained on" in shown
    assert "These rows chose the epoch of runs/teacher, so the figures are optimistic: use --split" in shown
    document |= {"split": "test"}
    document["models"][0]["selection_rows"] = 5
    shown = " ".join(render(document, 120).split())  # advice that was followed is no advice
    assert "5 of these rows chose the epoch of runs/teacher" in shown and "--split test" not in shown
    assert "remove the rows that are in train or validation too from the test split." in shown


def test_markup_in_names_is_shown_as_it_is() -> None:
    assert "[bold]x[/bold]" in render(evaluation(("[bold]x[/bold]", "b")), 200)


# --- sweeps -----------------------------------------------------------------------------------------------


def render_sweep(document: SweepDocument, width: int, terminal: bool = True) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None, highlight=False)
    console.print(sweep_text(document), markup=False)
    return stream.getvalue()


@pytest.mark.parametrize("width", [30, 60, 80, 100, 120, 200])
def test_the_table_of_a_sweep_is_whole_at_every_width(width: int) -> None:
    """Names such as `tiny<bert>` and `[bold]` are text, and no figure is cut."""
    document = example_sweep()
    shown = render_sweep(document, width)
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    folded = "".join(shown.split())
    for entry in document.settings:
        assert "".join(entry.name.split()) in folded
        assert f"{entry.mean:.4f}" in folded
    for sentence in document.verdict:
        assert "".join(sentence.split()) in folded


def test_a_pipe_gets_the_verdict_of_a_sweep_and_its_table() -> None:
    lines = render_sweep(example_sweep(), 200, terminal=False).splitlines()
    assert lines[0] == (
        "alpha 0.25, student bilstm is better than labels alone (student bilstm) by 2.2 points (1.9 to 2.5)."
    )
    assert any("alpha 0.75, student bilstm" in line and line.endswith("ended early") for line in lines)


def test_columns_of_a_sweep_that_are_left_out_are_named() -> None:
    assert "Too narrow for: steps" in " ".join(render_sweep(example_sweep(), 115).split())


def test_a_sweep_without_runs_is_its_verdict() -> None:
    document = make_sweep_document(describe(), [], missing=2)
    assert render_sweep(document, 80).splitlines() == [*document.verdict]
