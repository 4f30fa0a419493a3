"""Run `report`: draw how runs were trained, from the files in them; no model is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distilkit.config import ReportConfig
from distilkit.errors import UserError
from distilkit.progress import SILENT, Reporter
from distilkit.reports.document import EvaluationDocument, describe_error
from distilkit.reports.histories import (
    EvaluationSummary,
    HistoryDocument,
    TrainingHistory,
    write_histories,
)
from distilkit.reports.parts import check_report_dir
from distilkit.runs.run import EVALUATION, HISTORY, Run

SCHEMA = "distilkit.report/1"
OPTION = "--output-dir"
RECORD_FIELDS = ("epoch", "improved", "validation", "examples_per_second")  # of every line of a history


@dataclass(frozen=True)
class Report:
    """Hold what was written, and the data behind it; `document()` is the JSON of `--json`."""

    path: Path
    pictures: tuple[Path, ...]
    series: HistoryDocument

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document: the content of report.json, and the paths of the files."""
        return {**self.series, "path": str(self.path), "pictures": [str(file) for file in self.pictures]}


def report(config: ReportConfig, reporter: Reporter = SILENT) -> Report:
    """Write a page with the curves of `config.runs`, overlaid, and their pictures.

    Raises:
        UserError: when one of them is not a run or has no history, or the folder cannot receive a report.
    """
    check_report_dir(config.output_dir, OPTION)
    histories = [_read_history(Run.load(path), reporter) for path in dict.fromkeys(config.runs)]
    series: HistoryDocument = {"schema": SCHEMA, "runs": histories}
    page, *pictures = write_histories(config.output_dir, series, OPTION)
    return Report(page, tuple(pictures), series)


def _read_history(run: Run, reporter: Reporter) -> TrainingHistory:
    """Read what the page shows of a run.

    Raises:
        UserError: when the run has no history, or its files lack what is drawn.
    """
    history, metrics, environment = run.history, run.metrics, run.environment
    if not history:
        raise UserError(f"{run.path} has an empty {HISTORY}: there is nothing to draw. Leave it out.")
    for line, record in enumerate(history, start=1):
        if missing := [name for name in RECORD_FIELDS if name not in record]:
            file = run.path / HISTORY
            raise UserError(f"{file}, line {line}, has no {missing[0]}. The run is damaged; train it again.")
    try:
        return {
            "run": str(run.path),
            "dataset": environment["dataset"]["name"],
            "loss": environment["loss"],
            "teachers": [teacher["name"] for teacher in environment.get("teachers", [])],
            "seed": environment["seed"],
            "precision": environment["precision"],
            "metric": metrics["metric"],
            "best_epoch": metrics["best_epoch"],
            "validation": metrics["validation"],
            "parameters": metrics["parameters"],
            "bytes": metrics["bytes"],
            "seconds": metrics["seconds"],
            "history": history,
            "evaluations": _evaluations(run, reporter),
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{run.path} does not say {error}. The run is damaged; train it again.") from None


def _evaluations(run: Run, reporter: Reporter) -> list[EvaluationSummary]:
    """Return the results that `evaluate` saved in the run, without those of other schemas."""
    summaries: list[EvaluationSummary] = []
    for file in sorted((run.path / EVALUATION).glob("*.json")):
        try:
            document = EvaluationDocument.model_validate_json(file.read_text(encoding="utf-8"))
            (entry,) = document.models
        except (OSError, ValueError) as error:
            reason = describe_error(error) if isinstance(error, ValidationError) else error
            reporter.note(f"{file} is left out ({reason}); evaluate the run again to include it")
            continue
        summaries.append(
            {
                "dataset": document.dataset,
                "split": document.split,
                "rows": document.rows,
                "confidence": document.confidence,
                "metrics": entry.metrics,
                "intervals": entry.intervals,
            }
        )
    return summaries
