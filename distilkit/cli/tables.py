"""Tables and text of what the commands return."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distilkit.errors import join_first, pluralize
from distilkit.progress import describe_duration
from distilkit.reports import summary

if TYPE_CHECKING:  # help must not wait for pydantic and numpy
    from distilkit.reports.budget_document import BudgetDocument
    from distilkit.reports.document import EvaluationDocument
    from distilkit.reports.sweep_document import SweepDocument

MISSING = "-"
# Columns of the table of models that are left out first where the terminal is narrow.
DROPPED_FIRST = (
    *("ece", "bytes", "parameters", "agreement", "gap_recovered", "f1", "f1_macro", "rows_per_second"),
)
SWEEP_DROPPED_FIRST = ("steps", "seeds", "p, Holm")  # of the table of settings
BUDGET_DROPPED_FIRST = ("accuracy",)  # of the table of students
UNLIMITED = 10_000  # columns


class EvaluationView:
    """Show an evaluation at any width: a row for each model, or a block where the rows do not fit.

    No name or figure is ever cut: columns are left out by `DROPPED_FIRST`, and named below the table.
    """

    def __init__(self, document: "EvaluationDocument") -> None:
        self.document = document
        self.columns = summary.shown_columns(document.models)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        document = self.document
        rows = pluralize(document.rows, "row")
        settings = summary.device_settings(document)
        paragraphs = [", ".join([f"{document.dataset} {document.split}", rows, *settings]), ""]
        yield from _texts(paragraphs, console)
        yield from self._models(console, options)
        yield from _texts(self._notes(), console)
        pairs = summary.describe_pairs(document)
        if pairs.matrix and _fits(matrix := _plain_table(pairs.matrix), console, options):
            yield ""
            yield matrix
            yield from _texts(["", summary.MATRIX_CAPTION], console)
        elif document.pairs:
            yield from _texts(["", *summary.first_sentences(document)], console)
        passed = [f"passed: {gate.model}: {gate.why}" for gate in document.gates if gate.passed]
        yield from _texts(["", *passed] if passed else [], console)

    def _models(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        """Return the widest table that fits, or a block for each model."""
        shown = list(self.columns)
        for name in (None, *DROPPED_FIRST):
            if name in shown:
                shown.remove(name)
            table = _plain_table(self._rows(shown))
            if _fits(table, console, options):
                left_out = [heading for name, heading in self.columns.items() if name not in shown]
                lines = [f"Too narrow for: {', '.join(left_out)}. A wider terminal or --json shows all."]
                return [table, *_texts(["", *lines] if left_out else [], console)]
        return _texts(self._blocks(), console)

    def _rows(self, names: Sequence[str]) -> list[list[str]]:
        """Return the heading and a row for each model, the reference of the most frequent class last."""
        rows = [["model", *(self.columns[name] for name in names)]]
        for entry in self.document.models:
            rows.append([entry.model, *(summary.format_cell(entry, name, _short) for name in names)])
        rows.append(summary.majority_cells(self.document, names))
        return [[cell or MISSING for cell in row] for row in rows if row]

    def _blocks(self) -> list[str]:
        """Return a line with the name of each model, then one for each of its figures."""
        return _list_blocks(self._rows(list(self.columns)))

    def _notes(self) -> list[str]:
        sentences = summary.describe_warnings(self.document)
        return ["", *(f"note: {sentence}" for sentence in sentences)] if sentences else []


class VerdictView:
    """Show sentences, then a row for each thing compared, or a block where the rows do not fit."""

    def __init__(
        self, verdict: Sequence[str], rows: Sequence[Sequence[str]], dropped_first: Sequence[str]
    ) -> None:
        self.verdict, self.rows, self.dropped_first = verdict, rows, dropped_first

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _texts(self.verdict, console)
        if len(self.rows) < 2:
            return
        yield ""
        rows = [list(row) for row in self.rows]
        dropped: list[str] = []
        for heading in (None, *self.dropped_first):
            if heading in rows[0]:
                column = rows[0].index(heading)
                rows = [[*row[:column], *row[column + 1 :]] for row in rows]
                dropped.append(heading)
            table = _plain_table(rows)
            if _fits(table, console, options):
                yield table
                break
        else:
            yield from _texts(_list_blocks(self.rows), console)
            dropped = []
        if dropped:
            shown = f"Too narrow for: {', '.join(dropped)}. A wider terminal or --json shows all."
            yield from _texts(["", shown], console)


def sweep_text(document: "SweepDocument") -> VerdictView:
    """Return the verdict of a sweep and a table of its settings."""
    return VerdictView(document.verdict, _list_settings(document), SWEEP_DROPPED_FIRST)


def _list_settings(document: "SweepDocument") -> list[list[str]]:
    """Return the heading and a row for each setting of a sweep."""
    from distilkit.reports.sweep_verdict import describe_outcome, format_difference, format_score

    rows = [["setting", "seeds", document.metric, "difference", "p, Holm", "steps", "outcome"]]
    for entry in document.settings:
        value, ends = format_difference(document, entry.difference)
        p_value = entry.difference.p_adjusted if entry.difference else None
        score = format_score(entry.interval)
        cells = [
            entry.name,
            f"{len(entry.seeds)}",
            f"{entry.mean:.4f}" + (f" ({score})" if score else ""),
            MISSING if entry.difference is None else value + (f" ({ends})" if ends else ""),
            MISSING if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}",
            f"{entry.steps:,.0f}",
            describe_outcome(document, entry),
        ]
        rows.append(cells)
    return rows


def budget_text(document: "BudgetDocument") -> VerdictView:
    """Return the verdict of a search for a student, and a table of what was tried."""
    from distilkit.reports.budget_page import describe_outcome

    rows = [["student", "kept", "accuracy", "ms a row", "MB", "outcome"]]
    teacher = document.teacher
    for name, quality, cost, outcome in (
        *(
            (entry.name, entry.quality, entry.cost, describe_outcome(document, entry))
            for entry in document.entries
        ),
        (teacher.name, teacher.quality, teacher.cost, "the teacher, in torch"),
    ):
        share = quality.accuracy_kept if quality else None
        cells = [
            name,
            MISSING if share is None else f"{share:.1%}",
            f"{quality.accuracy:.4f}" if quality else MISSING,
            f"{cost.latency_p50_ms:.3g}" if cost else MISSING,
            f"{cost.bytes / 1e6:.1f}" if cost else MISSING,
            outcome,
        ]
        rows.append(cells)
    return VerdictView(document.verdict, rows, BUDGET_DROPPED_FIRST)


def _list_blocks(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line with the name of each row, then one for each of its figures."""
    lines = []
    headings, *rows = rows
    width = max(map(len, headings))
    for name, *cells in rows:
        figures = zip(headings[1:], cells, strict=True)
        lines += [name, *(f"  {head:{width}}  {cell}" for head, cell in figures if cell != MISSING), ""]
    return lines[:-1]


def _texts(lines: Iterable[str], console: Console) -> list[Text]:
    """Return lines that a terminal wraps between words; in a file or pipe each stays whole."""
    if console.is_terminal:
        return [Text(line, overflow="fold") for line in lines]
    return [Text(line, overflow="ignore", no_wrap=True) for line in lines]


def _plain_table(rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of the rows, the heading first; names are left-aligned and figures right-aligned."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for i, heading in enumerate(rows[0]):
        table.add_column(escape(heading), justify="right" if i else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    return table


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    natural = console.measure(table, options=options.update(max_width=UNLIMITED)).maximum
    return natural <= options.max_width


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
    counts = f"{pluralize(errors, 'error')}, {pluralize(warnings, 'warning')}"
    outcome = counts if document["findings"] else "nothing found"
    return "\n".join([*lines, f"{outcome}; checked: {', '.join(document['checked'])}"])


def _estimates(estimates: Mapping[str, Any], device: str) -> list[str]:
    lines = []
    if "new_texts" in estimates:
        made = estimates["new_texts"]
        lines.append(
            f"estimate: {pluralize(made['rows'], 'new text')} by the recipe: {made['seconds']:,.0f} s"
        )
    for name, cost in estimates.get("teachers", {}).items():
        how = (
            f"{cost['rows_per_second']:,.0f} rows/s, timed on {cost['rows_timed']:,}" if cost["rows"] else ""
        )
        took = f"{cost['seconds']:,.0f} s ({how})" if cost["rows"] else "none to compute"
        which = f"{pluralize(cost['rows'], 'row')} not in the cache"
        if cost["transfer_rows"]:
            which = (
                f"{pluralize(cost['rows'], 'row')}, {cost['transfer_rows']:,} of them transfer text that was "
                "not looked up in the cache"
            )
        lines.append(f"estimate: logits of {name}, {which}: {took}")
    if "epoch" in estimates:
        cost, memory = estimates["epoch"], estimates["memory"]
        lines.append(
            f"estimate: {pluralize(estimates['epochs'], 'epoch')} of "
            f"{pluralize(cost['rows'], 'row')}: {cost['seconds']:,.0f} s each "
            f"({cost['rows_per_second']:,.0f} rows/s, timed on {cost['rows_timed']:,}; without validation)"
        )
        if estimates["seconds"] is not None:
            lines.append(f"estimate: {describe_duration(estimates['seconds'])} in all")
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
    shards = pluralize(document["shards"], "shard")
    shown = f"{document['path']}: {shards}, {_short(document['bytes'])} bytes, {damaged}"
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
    lines = [
        f"{document['path']}: {pluralize(document['rows'], 'row')} made of {document['sources']:,}{made}"
    ]
    for title in ("rules", "dropped"):
        if counts := document[title]:
            lines.append(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    return "\n".join(lines)


def prediction_text(document: Mapping[str, Any]) -> str:
    """Write how many rows `predict` answered, left out and gave no label, and how many each class has."""
    speed = document["rows_per_second"]
    parts = [f"{document['output'] or document['model']}: {pluralize(document['rows'], 'row')}"]
    parts += [f"{document['resumed_rows']:,} of them from before"] * bool(document["resumed_rows"])
    parts += [f"{document['skipped']:,} left out"] * bool(document["skipped"])
    parts += [f"{document['abstained']:,} without a label"] * bool(document["abstained"])
    parts += [f"{speed:,.0f} rows/s"] * bool(speed)
    counts = [f"{name} {count:,}" for name, count in document["labels"].items() if count]
    return "\n".join([", ".join(parts), f"labels: {join_first(counts)}"][: 1 + bool(counts)])


def export_table(document: Mapping[str, Any]) -> Table:
    """Tabulate the model in torch and the files made from it: size, quality and speed on the same rows."""
    checked = document["checked"]
    rows = f"{checked['dataset']} {checked['split']}, {pluralize(checked['rows'], 'row')}"
    table = _titled(f"{document['path']}: {rows}, {pluralize(checked['threads'], 'thread')}")
    table.add_column("model", overflow="fold", min_width=12)
    for heading in (
        "bytes",
        "accuracy",
        "agreement",
        "largest diff",
        "mean diff",
        "rows/s",
        "p50 ms",
        "p95 ms",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in checked["models"]:
        differs = model["name"] != "torch"
        latency = model["latency"]
        table.add_row(
            escape(model["name"]),
            _short(model["bytes"]),
            f"{model['accuracy']:.4f}",
            f"{model['agreement']:.4f}" if differs else MISSING,
            f"{model['largest_difference']:.1e}" if differs else MISSING,
            f"{model['mean_difference']:.1e}" if differs else MISSING,
            f"{model['rows_per_second']:,.0f}",
            *(f"{latency[name]:.2f}" if latency else MISSING for name in ("p50", "p95")),
        )
    return table


def serving_text(document: Mapping[str, Any]) -> str:
    """Write what a server has answered from its start to its end."""
    parts = [f"{document['model']}: {pluralize(document['requests'], 'request')}"]
    parts += [f"{document['answered']:,} answered ({pluralize(document['texts'], 'text')})"]
    parts += [f"{document['fallback_texts']:,} by the teacher"] * bool(document["fallback_texts"])
    parts += [f"{document['refused']:,} refused"] * bool(document["refused"])
    return f"{', '.join(parts)} in {describe_duration(document['seconds'])}"


def labelling_text(document: Mapping[str, Any]) -> str:
    """Write how many rows `label` wrote, what they cost, which parts are missing and what comes next."""
    speed, missing = document["rows_per_second"], document["missing_parts"]
    parts = [f"{document['output']}: {pluralize(document['rows'], 'row')}"]
    parts += [f"{document['resumed_rows']:,} of them from before"] * bool(document["resumed_rows"])
    parts += [f"{document['skipped']:,} left out"] * bool(document["skipped"])
    parts += [f"{document['unlabelled']:,} unlabelled"] * bool(document["unlabelled"])
    parts += [f"{document['truncated']:,} with an estimated class"] * bool(document["truncated"])
    if document["requests"] is not None:
        parts.append(pluralize(document["requests"], "request"))
    parts += [f"cost {document['cost'] or 0:.4g}"] * (document["cost"] is not None)
    parts += [f"{speed:,.0f} rows/s"] * bool(speed)
    counts = [f"{name} {count:,}" for name, count in document["labels"].items() if count]
    lines = [", ".join(parts), f"labels: {join_first(counts)}"][: 1 + bool(counts)]
    if missing:
        lines.append(f"missing parts: {join_first(list(map(str, missing)))}")
    else:
        skip = " --missing skip" if document["unlabelled"] or document["skipped"] else ""
        lines.append(f"next: distilkit distill … --teacher-file {document['teacher_file']}{skip}")
    return "\n".join(lines)


def report_text(document: Mapping[str, Any]) -> str:
    """Say where the page is that `report` wrote, and what it shows."""
    runs = pluralize(len(document["runs"]), "run")
    pictures = sum(file.endswith(".svg") for file in document["pictures"])
    return f"{document['path']}: {runs}, {pluralize(pictures, 'picture')}"


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
