"""Tables and text of what the commands return."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from distilkit.reports import summary

if TYPE_CHECKING:  # help must not wait for pydantic and numpy
    from distilkit.reports.document import EvaluationDocument

PAIRS = 6  # that are summary under the table; the document has all of them


def evaluation_table(document: "EvaluationDocument") -> Table:
    """Tabulate the models of an evaluation, a row each, and say what their differences are worth."""
    rows = summary.pluralize(document.rows, "row")
    title = ", ".join([f"{document.dataset} {document.split}", rows, *summary.device_settings(document)])
    table = _titled(title)
    table.add_column("model", overflow="fold", min_width=12)
    columns = summary.shown_columns(document.models)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in document.models:
        table.add_row(entry.model, *(summary.format_cell(entry, name, _short) for name in columns))
    sentences = [pair.sentence for pair in document.pairs][:PAIRS] + summary.describe_domain_shifts(document)
    sentences += [f"passed: {gate.model}: {gate.why}" for gate in document.gates if gate.passed]
    table.caption = escape("\n".join(sentences)) or None
    table.caption_justify, table.caption_style = "left", ""
    return table


def _titled(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _short(value: float) -> str:
    scale, letter = (1e6, "M") if value >= 1e6 else (1e3, "k")
    return f"{value / scale:.1f}{letter}"


def cache_table(document: Mapping[str, Any]) -> Table | str:
    """Tabulate what is stored, a row per teacher."""
    if not document["entries"]:
        return f"{document['path']}: nothing is stored yet"
    table = _titled(document["path"])
    table.add_column("teacher", overflow="fold", min_width=12)
    for heading in ("key", "rows", "classes", "max length", "precision", "bytes", "last used"):
        table.add_column(heading, justify="left" if heading == "key" else "right", no_wrap=True)
    for entry in document["entries"]:
        table.add_row(
            _shown(entry["name"]),
            entry["key"][:KEY_SHOWN],
            f"{entry['rows']:,}",
            _shown(entry["classes"] and len(entry["classes"])),
            _shown(entry["max_length"]),
            _shown(entry["precision"]),
            _short(entry["bytes"]),
            entry["last_used"][:10],
        )
    return table


def diagnosis_text(document: Mapping[str, Any]) -> str:
    """Write what `doctor` found, some lines for each finding, and what the run would take."""
    rows = ", ".join(f"{split} {count:,}" for split, count in document["rows"].items())
    about = [f"{document['dataset']}: {rows} rows"]
    about += [f"teacher {name}" for name in document["teachers"]]
    about += [f"student {document['student']}"] * bool(document["student"])
    lines = ["; ".join(about)]
    for finding in document["findings"]:
        lines += ["", f"{finding['severity']}: {finding['what']}"]
        lines += [f"    why: {finding['why']}", f"    to do: {finding['do']}"]
    lines += [""] * bool(document["findings"])
    lines += [f"not checked: {what} ({why})" for what, why in document["skipped"].items()]
    lines += _estimates(document["estimates"], document["device"])
    errors = sum(finding["severity"] == "error" for finding in document["findings"])
    warnings = len(document["findings"]) - errors
    counts = f"{summary.pluralize(errors, 'error')}, {summary.pluralize(warnings, 'warning')}"
    outcome = counts if document["findings"] else "nothing found"
    return "\n".join([*lines, f"{outcome}; checked: {', '.join(document['checked'])}"])


def _estimates(estimates: Mapping[str, Any], device: str) -> list[str]:
    lines = []
    for name, cost in estimates.get("teachers", {}).items():
        how = (
            f"{cost['rows_per_second']:,.0f} rows/s, timed on {cost['rows_timed']:,}" if cost["rows"] else ""
        )
        took = f"{cost['seconds']:,.0f} s ({how})" if cost["rows"] else "none to compute"
        lines.append(f"estimate: logits of {name}, {cost['rows']:,} rows that are not in the cache: {took}")
    if "epoch" in estimates:
        cost, memory = estimates["epoch"], estimates["memory"]
        lines.append(
            f"estimate: {estimates['epochs']} epochs of {cost['rows']:,} rows: {cost['seconds']:,.0f} s each "
            f"({cost['rows_per_second']:,.0f} rows/s, timed on {cost['rows_timed']:,}; without validation)"
        )
        required, available = (memory[which] / 2**30 for which in ("bytes", "available"))
        lines.append(f"estimate: memory {required:.1f} GiB, of {available:.1f} on the {device}")
    return lines


def verification_text(document: Mapping[str, Any]) -> str:
    """Write what `cache verify` found, a line for each damaged shard."""
    lines = [
        f"{_shown(shard['name'])}  {shard['key'][:KEY_SHOWN]}/{shard['shard']}: {shard['damage']}"
        for shard in document["damaged"]
    ]
    damaged = f"{len(lines):,} damaged" if lines else "all whole"
    shown = f"{document['path']}: {document['shards']:,} shards, {_short(document['bytes'])} bytes, {damaged}"
    return "\n".join([*lines, shown])


def pruning_text(document: Mapping[str, Any]) -> str:
    """Write what `cache prune` removed and what it left, a line each."""
    lines = [
        f"removed: {entry['what']} of {_shown(entry['name'])}  {entry['key'][:KEY_SHOWN]}, "
        f"{entry['bytes']:,} bytes"
        for entry in document["removed"]
    ]
    lines += [
        f"left alone: {_shown(entry['name'])}  {entry['key'][:KEY_SHOWN]}, {entry['reason']}"
        for entry in document["kept"]
    ]
    return "\n".join([*lines, f"{document['path']}: {document['bytes']:,} bytes freed"])


def augmentation_text(document: Mapping[str, Any]) -> str:
    """Write what `augment` wrote and dropped, a line each."""
    speed = document["rows_per_second"]
    made = f", {speed:,.0f} rows/s" if speed else ""
    lines = [f"{document['path']}: {document['rows']:,} rows made of {document['sources']:,}{made}"]
    for title in ("rules", "dropped"):
        if counts := document[title]:
            lines.append(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    return "\n".join(lines)


def report_text(document: Mapping[str, Any]) -> str:
    """Say where the page is that `report` wrote, and what it shows."""
    runs = summary.pluralize(len(document["runs"]), "run")
    pictures = sum(file.endswith(".svg") for file in document["pictures"])
    return f"{document['path']}: {runs}, {summary.pluralize(pictures, 'picture')}"


KEY_SHOWN = 12  # hex digits of a key: enough for `--key`


def _shown(value: object) -> str:
    return "?" if value is None else str(value)


def run_summary(run: Any) -> tuple[dict[str, Any], str]:
    """Summarise a finished run as a JSON document and as a line."""
    metrics = run.metrics
    document = {"schema": "distilkit.run/1", "run": str(run.path), "loss": run.environment["loss"], **metrics}
    scores = "  ".join(f"{name} {value:.4f}" for name, value in metrics["validation"].items())
    text = (
        f"{run.path}: best epoch {metrics['best_epoch']}  {scores}  "
        f"{metrics['parameters']:,} parameters  {metrics['bytes']:,} bytes  {metrics['seconds']:,.0f} s"
    )
    return document, text
