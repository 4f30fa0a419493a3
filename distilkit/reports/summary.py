"""An evaluation as Markdown: what a pull request shows of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

SCHEMA = "distilkit.evaluation/2"  # of the document
MARKS = {True: "pass", False: "**fail**"}


def markdown(document: Mapping[str, Any]) -> str:
    """A table of the models, a sentence for each pair, and the gates."""
    heading = f"{document['dataset']} {document['split']}, {document['rows']:,} rows"
    columns = columns_of(document["models"])
    lines = [
        f"### distilkit: {heading}",
        "",
        _row(["model", *columns.values()]),
        _row(["---"] * (len(columns) + 1)),
    ]
    for model in document["models"]:
        lines.append(_row([f"`{model['model']}`", *(cell(model, name) for name in columns)]))
    ends = f"{document['confidence']:.0%} bootstrap interval, {document['replicates']:,} samples"
    lines += ["", f"In brackets: {ends}. {', '.join(setting(document))}."]
    sentences = [pair["sentence"] for pair in document["pairs"]] + shifts(document)
    if sentences:
        lines += ["", *(f"- {one}" for one in sentences)]
    if document["gates"]:
        lines += ["", _row(["gate", "model", "result"]), _row(["---"] * 3)]
        for gate in document["gates"]:
            result = f"{MARKS[gate['passed']]}: {gate['why']}"
            lines.append(_row([gate_name(gate), f"`{gate['model']}`", result]))
    return "\n".join(lines) + "\n"


def setting(document: Mapping[str, Any]) -> list[str]:
    """Device, precision where a model computed, threads."""
    computed = [document["precision"]] if document["precision"] else []
    return [document["device"], *computed, many(document["threads"], "thread")]


def gate_name(gate: Mapping[str, Any]) -> str:
    """As it was asked for."""
    return f"{gate['kind'].replace('_', '-')} {gate['metric']}={gate['threshold']:g}"


def shifts(document: Mapping[str, Any]) -> list[str]:
    """A sentence for each run that learned other data: what that does to its accuracy, and to its inputs."""
    found = []
    for model in document["models"]:
        home, inputs = model["home"], model["inputs"]
        if not home:
            continue
        points = -100 * home["drop"]
        text = (
            f"{model['model']}: accuracy {model['metrics']['accuracy']:.4f} on {document['dataset']}, "
            f"{home['accuracy']:.4f} on {home['dataset']}, which it learned ({points:+.1f} points)"
        )
        if home["inputs"]:
            text += (
                f"; {inputs['truncated']:.1%} of rows are cut here and {home['inputs']['truncated']:.1%} "
                f"there, {inputs['unknown']:.1%} and {home['inputs']['unknown']:.1%} of tokens unknown"
            )
        found.append(f"{text}.")
    return found


def many(count: int, noun: str) -> str:
    """1 row, 2 rows."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# What people read first: a figure's name, what to call it, and how to write it.
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


def value(model: Mapping[str, Any], name: str) -> float | None:
    """A figure of quality, fidelity or cost."""
    found: float | None = model["metrics"].get(name, model["cost"].get(name))
    return found


def between(model: Mapping[str, Any], name: str, form: Callable[[float], str]) -> str:
    """The interval around a figure, `low to high`; empty where the figure has none."""
    low, high = model["intervals"].get(name) or (None, None)
    return "" if low is None or high is None else f"{form(low)} to {form(high)}"


def columns_of(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names and titles of the figures of `SHOWN` that any of the models has."""
    there = {
        name: title
        for name, (title, _) in SHOWN.items()
        if any(value(one, name) is not None for one in models)
    }
    if "f1" in there:
        there.pop("f1_macro", None)
    return there


def cell(model: Mapping[str, Any], name: str, count: Callable[[float], str] = "{:,.0f}".format) -> str:
    """A figure as it is written, with its interval where that is what people ask first.

    Args:
        count: how numbers of parameters and bytes are written.
    """
    found = value(model, name)
    if found is None:
        return ""
    if name in COUNTS:
        return count(found)
    form = SHOWN[name][1].format
    ends = between(model, name, form) if name in WITH_INTERVAL else ""
    return f"{form(found)} ({ends})" if ends else form(found)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"
