"""Say in words, tables and Markdown what an evaluation shows: the text that terminal and pages share."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distilkit.errors import join_first, pluralize

if TYPE_CHECKING:  # help must not wait for pydantic and numpy
    from distilkit.reports.document import EvaluationDocument, ModelEntry, PairEntry

VERDICTS = {True: "pass", False: "**fail**"}
# The figures of the short tables: a figure's name, its heading and its format.
SHOWN: dict[str, tuple[str, str]] = {
    "accuracy": ("accuracy", "{:.4f}"),
    "f1": ("F1", "{:.4f}"),
    "f1_macro": ("macro F1", "{:.4f}"),
    "ece": ("ECE", "{:.4f}"),
    "agreement": ("agreement", "{:.4f}"),
    "accuracy_kept": ("kept", "{:.1%}"),
    "gap_recovered": ("gap recovered", "{:.0%}"),
    "parameters": ("parameters", "{:,.0f}"),
    "bytes": ("bytes", "{:,.0f}"),
    "latency_p50_ms": ("p50 ms", "{:.1f}"),
    "rows_per_second": ("rows/s", "{:,.0f}"),
}
COUNTS = ("parameters", "bytes")
WITH_INTERVAL = ("accuracy", "gap_recovered")
MAX_SENTENCES = 6  # on pairs of models; more of them are a matrix
MAX_MATRIX_MODELS = 20
ELSEWHERE = "evaluate --json has the figures of all models and pairs"


def markdown(document: "EvaluationDocument") -> str:
    """Return a table of the models, what to beware of, the pairs, and the gates."""
    columns = shown_columns(document.models)
    rows = pluralize(document.rows, "row")
    lines = [
        f"### distilkit: {escape_markdown(document.dataset)} {document.split}, {rows}",
        "",
        _format_row(["model", *columns.values()]),
        _format_row(["---"] * (len(columns) + 1)),
    ]
    for entry in document.models:
        lines.append(
            _format_row([_format_code(entry.model), *(format_cell(entry, name) for name in columns)])
        )
    if reference := majority_cells(document, columns):
        lines.append(_format_row([escape_markdown(reference[0]), *reference[1:]]))
    interval = f"{document.confidence:.0%} bootstrap interval, {document.replicates:,} samples"
    lines += ["", f"In brackets: {interval}. {', '.join(device_settings(document))}."]
    if warnings := describe_warnings(document):
        lines += ["", *(f"- **Note:** {escape_markdown(sentence)}" for sentence in warnings)]
    pairs = describe_pairs(document)
    if pairs.sentences:
        lines += ["", *(f"- {escape_markdown(sentence)}" for sentence in pairs.sentences)]
    if pairs.matrix:
        lines += ["", _format_row(pairs.matrix[0]), _format_row(["---"] * len(pairs.matrix[0]))]
        for row in pairs.matrix[1:]:
            lines.append(_format_row([_format_code(row[0]), *map(escape_markdown, row[1:])]))
        lines += ["", escape_markdown(MATRIX_CAPTION)]
    if document.gates:
        lines += ["", _format_row(["gate", "model", "result"]), _format_row(["---"] * 3)]
        for gate in document.gates:
            result = f"{VERDICTS[gate.passed]}: {gate.why}"
            lines.append(_format_row([gate.name, _format_code(gate.model), result]))
    return "\n".join(lines) + "\n"


def device_settings(document: "EvaluationDocument") -> list[str]:
    """Return device, precision (where a model was run) and threads."""
    precision = [document.precision] if document.precision else []
    return [document.device, *precision, pluralize(document.threads, "thread")]


# --- what to beware of --------------------------------------------------------------------------------------


def describe_warnings(document: "EvaluationDocument") -> list[str]:
    """Return sentences on what the figures alone hide, the worst first."""
    return [
        *describe_lacking_skill(document),
        *_describe_training_rows(document),
        *describe_domain_shifts(document),
        *_describe_selection_rows(document),
    ]


def describe_lacking_skill(document: "EvaluationDocument") -> list[str]:
    """Return sentences on the models that are no better than answering the most frequent class."""
    from distilkit.scores.comparison import Majority, describe_lack_of_skill

    if document.majority is None:
        return []
    reference = Majority(document.majority.class_name, document.majority.rows, document.majority.metrics)
    by_answer: dict[tuple[str | None, float], list[str]] = {}  # equal constant answers have one accuracy
    for entry in document.models:
        accuracy = entry.metrics["accuracy"]
        assert accuracy is not None
        by_answer.setdefault((entry.constant_answer, accuracy), []).append(entry.model)
    sentences = [
        describe_lack_of_skill(
            join_first(models), accuracy, constant, document.rows, reference, several=len(models) > 1
        )
        for (constant, accuracy), models in by_answer.items()
    ]
    return _cut([sentence for sentence in sentences if sentence])


def _describe_training_rows(document: "EvaluationDocument") -> list[str]:
    """Return a sentence for the models that were trained on the same number of the rows."""
    by_count: dict[int, list[str]] = {}
    for entry in document.models:
        if entry.training_rows:
            by_count.setdefault(entry.training_rows, []).append(entry.model)
    return [
        f"{count:,} of the {pluralize(document.rows, 'row')} ({count / document.rows:.1%}) "
        f"{'is' if count == 1 else 'are'} among the rows that {join_first(models)} "
        f"{'was' if len(models) == 1 else 'were'} trained on: figures on them are optimistic."
        for count, models in by_count.items()
    ]


def _describe_selection_rows(document: "EvaluationDocument") -> list[str]:
    """Return a sentence for the models whose epoch, and temperature, the rows chose."""
    by_choice: dict[tuple[int, bool], list[str]] = {}
    for entry in document.models:
        if entry.selection_rows:
            is_calibrated = bool(entry.calibration and entry.calibration.temperature)
            by_choice.setdefault((entry.selection_rows, is_calibrated), []).append(entry.model)
    sentences = []
    remedy = "use --split test for figures that are not."
    if document.split == "test":
        remedy = "remove the rows that are in train or validation too from the test split."
    for (count, is_calibrated), models in by_choice.items():
        rows = "These rows" if count >= document.rows else f"{count:,} of these rows"
        chosen = "epoch and temperature" if is_calibrated else "epoch"
        sentences.append(
            f"{rows} chose the {chosen} of {join_first(models)}, so the figures are optimistic: {remedy}"
        )
    return sentences


def describe_domain_shifts(document: "EvaluationDocument") -> list[str]:
    """Return a sentence for each run that was trained on another dataset: its accuracy and inputs on both."""
    sentences = []
    for entry in document.models:
        in_domain, inputs = entry.in_domain, entry.inputs
        if not in_domain:
            continue
        points = 100 * in_domain.drop
        text = (
            f"{entry.model}: accuracy {entry.metrics['accuracy']:.4f} on {document.dataset}, "
            f"{abs(points):.1f} points {'below' if points >= 0 else 'above'} its own validation split "
            f"({in_domain.dataset}, {in_domain.accuracy:.4f})"
        )
        if in_domain.inputs and inputs:
            text += (
                f"; rows truncated: {inputs.truncated:.1%} against {in_domain.inputs.truncated:.1%}, "
                f"unknown tokens: {inputs.unknown:.1%} against {in_domain.inputs.unknown:.1%}"
            )
        sentences.append(f"{text}.")
    return _cut(sentences)


# --- pairs of models ----------------------------------------------------------------------------------------

MATRIX_CAPTION = (
    "Accuracy of the row's model less that of the column's, in points; * where interval and McNemar's test "
    "both show a difference."
)


@dataclass(frozen=True)
class PairSummary:
    """Hold sentences on pairs of models or, of many models, a matrix: a heading, then a row per model."""

    sentences: list[str]
    matrix: list[list[str]]


def describe_pairs(document: "EvaluationDocument") -> PairSummary:
    """Return a sentence for each pair, or a matrix of many; what is left out is counted."""
    if len(document.pairs) > MAX_SENTENCES and len(document.models) <= MAX_MATRIX_MODELS:
        return PairSummary([], pair_matrix(document))
    return PairSummary(first_sentences(document), [])


def first_sentences(document: "EvaluationDocument") -> list[str]:
    """Return the sentences of the first pairs, and how many are left out."""
    return _cut([pair.sentence for pair in document.pairs])


def _cut(sentences: list[str]) -> list[str]:
    more = len(sentences) - MAX_SENTENCES
    return [*sentences[:MAX_SENTENCES], f"{more:,} more: {ELSEWHERE}."] if more > 0 else sentences


def pair_matrix(document: "EvaluationDocument") -> list[list[str]]:
    """Return the differences in accuracy between all models, in points, the heading first."""
    cells: dict[tuple[str, str], str] = {}
    for pair in document.pairs:
        cells[pair.second, pair.first] = _format_difference(pair, 1)
        cells[pair.first, pair.second] = _format_difference(pair, -1)
    names = [entry.model for entry in document.models]
    heading = ["model", *(str(i) for i in range(1, len(names) + 1))]
    rows = [
        [f"{i} {name}", *(cells.get((name, column), "·") for column in names)]
        for i, name in enumerate(names, start=1)
    ]
    return [heading, *rows]


def _format_difference(pair: "PairEntry", sign: int) -> str:
    from distilkit.scores.comparison import is_significant

    assert pair.difference.value is not None
    points = round(100 * sign * pair.difference.value, 1) + 0.0  # no minus before zero
    return f"{points:+.1f}{'*' if is_significant(pair.difference, pair.p_value) else ''}"


# --- figures and names as text ------------------------------------------------------------------------------


def describe_temperature(temperature: float) -> str:
    """Return what a temperature does to logits: it divides them, and below 1 that makes them larger."""
    if temperature >= 1:
        return f"divided by {temperature:.3g}"
    return f"multiplied by {1 / temperature:.3g} (temperature {temperature:.3g})"


def format_interval(
    ends: tuple[float | None, float | None] | None, format_value: Callable[[float], str]
) -> str:
    """Return `low to high`; empty where the figure has no interval."""
    low, high = ends or (None, None)
    return "" if low is None or high is None else f"{format_value(low)} to {format_value(high)}"


def shown_columns(entries: Sequence["ModelEntry"]) -> dict[str, str]:
    """Return names and headings of the figures of `SHOWN` that at least one of the models has."""
    columns = {
        name: heading
        for name, (heading, _) in SHOWN.items()
        if any(entry.value(name) is not None for entry in entries)
    }
    if "f1" in columns:
        columns.pop("f1_macro", None)
    return columns


def format_cell(
    entry: "ModelEntry", name: str, format_count: Callable[[float], str] = "{:,.0f}".format
) -> str:
    """Return a figure as text, with its interval where readers ask for it first.

    Args:
        format_count: formats numbers of parameters and bytes.
    """
    value = entry.value(name)
    if value is None:
        return ""
    if name in COUNTS:
        return format_count(value)
    format_value = SHOWN[name][1].format
    interval = format_interval(entry.intervals.get(name), format_value) if name in WITH_INTERVAL else ""
    return f"{format_value(value)} ({interval})" if interval else format_value(value)


def majority_name(document: "EvaluationDocument") -> str:
    """Return what tables call the reference that always answers the most frequent class."""
    assert document.majority
    return f"always {' '.join(document.majority.class_name.split())}"


def majority_cells(document: "EvaluationDocument", columns: Iterable[str]) -> list[str]:
    """Return the row of that reference, or nothing where a document has none."""
    if document.majority is None:
        return []
    metrics = document.majority.metrics
    figures = [SHOWN[name][1].format(metrics[name]) if name in metrics else "" for name in columns]
    return [f"({majority_name(document)})", *figures]


def _format_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"


def escape_markdown(text: str) -> str:
    """Return a text that holds names so that no name is read as markup."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]])", r"\\\1", text)


def _format_code(name: str) -> str:
    """Return a name as code, fenced by more backticks than it holds in a row."""
    name = " ".join(name.split())
    fence = "`" * (max(map(len, re.findall("`+", name)), default=0) + 1)
    padding = " " if name.startswith("`") or name.endswith("`") else ""
    return f"{fence}{padding}{name}{padding}{fence}"
