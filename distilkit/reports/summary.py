"""Write an evaluation as Markdown, for a pull request, and format the text that all tables share."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # help must not wait for pydantic and numpy
    from distilkit.reports.document import EvaluationDocument, ModelEntry

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


def markdown(document: "EvaluationDocument") -> str:
    """Return a table of the models, a sentence for each pair, and the gates."""
    columns = shown_columns(document.models)
    lines = [
        f"### distilkit: {escape_markdown(document.dataset)} {document.split}, {document.rows:,} rows",
        "",
        _format_row(["model", *columns.values()]),
        _format_row(["---"] * (len(columns) + 1)),
    ]
    for entry in document.models:
        lines.append(
            _format_row([_format_code(entry.model), *(format_cell(entry, name) for name in columns)])
        )
    interval = f"{document.confidence:.0%} bootstrap interval, {document.replicates:,} samples"
    lines += ["", f"In brackets: {interval}. {', '.join(device_settings(document))}."]
    sentences = [pair.sentence for pair in document.pairs] + describe_domain_shifts(document)
    if sentences:
        lines += ["", *(f"- {escape_markdown(sentence)}" for sentence in sentences)]
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


def describe_domain_shifts(document: "EvaluationDocument") -> list[str]:
    """Return a sentence for each run that was trained on another dataset: its accuracy and inputs on both."""
    sentences = []
    for entry in document.models:
        in_domain, inputs = entry.in_domain, entry.inputs
        if not in_domain:
            continue
        points = -100 * in_domain.drop
        text = (
            f"{entry.model}: accuracy {entry.metrics['accuracy']:.4f} on {document.dataset}, "
            f"{in_domain.accuracy:.4f} on {in_domain.dataset}, its training data ({points:+.1f} points)"
        )
        if in_domain.inputs and inputs:
            text += (
                f"; rows truncated: {inputs.truncated:.1%} against {in_domain.inputs.truncated:.1%}, "
                f"unknown tokens: {inputs.unknown:.1%} against {in_domain.inputs.unknown:.1%}"
            )
        sentences.append(f"{text}.")
    return sentences


def pluralize(count: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


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
