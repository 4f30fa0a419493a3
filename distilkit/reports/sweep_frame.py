"""Make a table of a sweep: a row per run."""

from typing import TYPE_CHECKING, Any

from distilkit.reports.sweep_document import SweepDocument, SweepRunEntry, name_value

if TYPE_CHECKING:
    import pandas

FIGURES = (
    *("score", "labels_only", "parameters", "parameters_without_embeddings", "bytes", "latency_p50_ms"),
    *("best_epoch", "steps", "seconds", "start", "end", "student", "formula", "folder"),
)


def frame(document: SweepDocument) -> "pandas.DataFrame":
    """Return a row per run: cell, swept options, seed, score, every validation metric, then what it cost.

    A swept option has its name as column; where a figure of the run has the same name, the option stands.
    """
    import pandas

    options = list(dict.fromkeys([*document.swept, *(name for run in document.runs for name in run.setting)]))
    options = [name for name in options if name != "seed"]
    metrics = list(dict.fromkeys(name for run in document.runs for name in run.validation))
    columns = ["cell", *options, "seed", *(f"validation_{name}" for name in metrics)]
    columns += [name for name in FIGURES if name not in columns]
    rows = [_row(run, options, metrics) for run in document.runs]
    table = pandas.DataFrame(rows, columns=columns)
    for name in options:
        # A file's column has one type: where values are of several, all of them are written as text.
        kinds = {
            float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
            for value in (run.setting.get(name) for run in document.runs)
            if value is not None
        }
        if len(kinds) > 1:
            table[name] = [_as_text(run.setting.get(name)) for run in document.runs]
    return table


def _row(run: SweepRunEntry, options: list[str], metrics: list[str]) -> dict[str, Any]:
    row = {name: getattr(run, name) for name in FIGURES}
    row |= {f"validation_{name}": run.validation.get(name) for name in metrics}
    for name in options:
        value = run.setting.get(name)
        row[name] = name_value(value) if isinstance(value, list | tuple) else value
    return {**row, "cell": run.cell, "seed": run.seed}


def _as_text(value: object) -> str | None:
    return None if value is None else name_value(value)
