"""Run `report`: draw how runs were trained, from the files in them; no model is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

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
from distilkit.runs.records import Record
from distilkit.runs.run import EVALUATION, HISTORY, Run

SCHEMA = "distilkit.report/1"
OPTION = "--output-dir"
AnyRecord = TypeVar("AnyRecord", bound=Record)
# Whatever training writes; what is beyond cannot be drawn.
Figure = Annotated[float, Field(ge=-1e30, le=1e30)]
Count = Annotated[int, Field(ge=0, le=10**15)]


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


class _HistoryLine(Record):
    """Check what is drawn of a line of `history.jsonl`."""

    epoch: Count
    improved: bool
    validation: dict[str, Figure]
    examples_per_second: Figure
    stage: Literal["layers", "logits"] | None = None
    loss: Figure | None = None
    hard_loss: Figure | None = None
    soft_loss: Figure | None = None
    layer_loss: Figure | None = None


class _Metrics(Record):
    """Check what is shown of `metrics.json`."""

    metric: str
    best_epoch: Count
    validation: dict[str, Figure]
    parameters: Count
    bytes: Count
    seconds: Figure


class _Name(Record):
    name: str


class _Environment(Record):
    """Check what is shown of `environment.json`."""

    dataset: _Name
    loss: str
    seed: int
    precision: str
    teachers: list[_Name] = Field(default=[])


def _read_history(run: Run, reporter: Reporter) -> TrainingHistory:
    """Read what the page shows of a run.

    Raises:
        UserError: when the run has no history, or its files lack what is drawn.
    """
    history, metrics, environment = run.history, run.metrics, run.environment
    if not history:
        raise UserError(f"{run.path} has an empty {HISTORY}: there is nothing to draw. Leave it out.")
    for line, record in enumerate(history, start=1):
        _check(_HistoryLine, record, f"{run.path / HISTORY}, line {line},")
    _check(_Metrics, metrics, str(run.path))
    shown = _check(_Environment, environment, str(run.path))
    return {
        "run": str(run.path),
        "dataset": shown.dataset.name,
        "loss": shown.loss,
        "teachers": [teacher.name for teacher in shown.teachers],
        "seed": shown.seed,
        "precision": shown.precision,
        "metric": metrics["metric"],
        "best_epoch": metrics["best_epoch"],
        "validation": metrics["validation"],
        "parameters": metrics["parameters"],
        "bytes": metrics["bytes"],
        "seconds": metrics["seconds"],
        "history": history,
        "evaluations": _evaluations(run, reporter),
    }


def _check(record_type: type[AnyRecord], values: dict[str, Any], source: str) -> AnyRecord:
    """Return what is shown of `values`. Raises `UserError` when something is missing or cannot be shown."""
    try:
        return record_type.model_validate(values, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, problem["loc"]))[:100]
        reason = (
            f"does not say {key!r}" if problem["type"] == "missing" else f"is wrong: {key}: {problem['msg']}"
        )
        raise UserError(f"{source} {reason}. The run is damaged; train it again.") from None


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
