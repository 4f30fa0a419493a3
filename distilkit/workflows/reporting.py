"""`report`: draw how runs were trained, of what they wrote; no model is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilkit.config import ReportConfig
from distilkit.errors import UserError
from distilkit.progress import SILENT, Reporter
from distilkit.reports import summary
from distilkit.reports.histories import write_histories
from distilkit.reports.parts import check_report_dir
from distilkit.runs import run as runs
from distilkit.runs.run import Run

SCHEMA = "distilkit.report/1"
OPTION = "--output-dir"
DRAWN = ("epoch", "improved", "validation", "examples_per_second")  # what every line of a history has


@dataclass(frozen=True)
class Report:
    """What was written, and of what; `document()` is the JSON of `--json`."""

    path: Path
    pictures: tuple[Path, ...]
    series: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """The versioned JSON document: what report.json holds, and where the files are."""
        return {**self.series, "path": str(self.path), "pictures": [str(file) for file in self.pictures]}


def report(config: ReportConfig, reporter: Reporter = SILENT) -> Report:
    """Write a page with the curves of `config.runs`, overlaid, and their pictures.

    Raises:
        UserError: when one of them is not a run or has no history, or the folder cannot receive a report.
    """
    check_report_dir(config.output_dir, OPTION)
    told = [_told(Run.load(path), reporter) for path in dict.fromkeys(config.runs)]
    series = {"schema": SCHEMA, "runs": told}
    page, *pictures = write_histories(config.output_dir, series, OPTION)
    return Report(page, tuple(pictures), series)


def _told(run: Run, reporter: Reporter) -> dict[str, Any]:
    """What the page says of a run.

    Raises:
        UserError: on a run without a history, or with files that hold something else.
    """
    history, metrics, environment = run.history, run.metrics, run.environment
    if not history:
        raise UserError(f"{run.path} has an empty {runs.HISTORY}: there is nothing to draw. Leave it out.")
    for line, record in enumerate(history, start=1):
        if missing := [name for name in DRAWN if name not in record]:
            file = run.path / runs.HISTORY
            raise UserError(f"{file}, line {line}, has no {missing[0]}. The run is damaged; make it anew.")
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
        raise UserError(f"{run.path} does not say {error}. The run is damaged; make it anew.") from None


def _evaluations(run: Run, reporter: Reporter) -> list[dict[str, Any]]:
    """What `evaluate` has left in the run, but for what another version of it wrote."""
    found = []
    for file in sorted((run.path / runs.EVALUATION).glob("*.json")):
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            if document["schema"] != summary.SCHEMA:
                raise ValueError(f"its schema is {document['schema']}")
            (entry,) = document["models"]
            kept = {name: document[name] for name in ("dataset", "split", "rows", "confidence")}
            found.append(kept | {name: entry[name] for name in ("metrics", "intervals")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            reporter.note(f"{file} is left out ({error}); evaluate the run again to have it")
    return found
