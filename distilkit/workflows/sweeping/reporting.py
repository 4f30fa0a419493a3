"""Compare the runs of a sweep: from its folder to the document and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilkit.config import DistillConfig, EvaluateConfig, SweepReportConfig, TextsConfig
from distilkit.config.fields import field_infos
from distilkit.config.sweeping import SWEPT
from distilkit.errors import UserError, pluralize
from distilkit.progress import SILENT, Reporter
from distilkit.reports.parts import check_report_dir
from distilkit.reports.sweep_document import (
    FailureEntry,
    FinalScore,
    SweepDescription,
    SweepDocument,
    SweepRunEntry,
)
from distilkit.reports.sweep_frame import frame
from distilkit.reports.sweep_page import write_sweep_report
from distilkit.reports.sweep_summary import make_document
from distilkit.runs.run import Run
from distilkit.scores.sweeps import mean_interval
from distilkit.workflows.evaluation.workflow import evaluate
from distilkit.workflows.sweeping.answers import SweepAnswers, correct_rows
from distilkit.workflows.sweeping.cells import RUNS, TEACHERS_OWN
from distilkit.workflows.sweeping.folder import CellRecord, SweepFolder, resolve_options

REPORT, ANSWERS = "report", "answers.json"


@dataclass(frozen=True)
class SweepResult:
    """The comparison of a sweep's runs, and the page that shows it."""

    path: Path
    typed_document: SweepDocument

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document, and the path of the page."""
        return {**self.typed_document.as_dict(), "path": str(self.path)}

    def frame(self) -> Any:
        """Return a pandas DataFrame with a row for each run."""
        return frame(self.typed_document)


def sweep_report(config: SweepReportConfig, reporter: Reporter = SILENT) -> SweepResult:
    """Compare the runs of a sweep, finished or not, and write its page; nothing is trained.

    Raises:
        UserError: when the folder holds no sweep, or none of its cells is complete.
    """
    return report_sweep(SweepFolder.load(Path(config.folder[0])), reporter, scores_test=config.test)


def report_sweep(folder: SweepFolder, reporter: Reporter, *, scores_test: bool = False) -> SweepResult:
    """Compare all complete runs of a sweep and write the page below its folder.

    Args:
        scores_test: whether the runs of the best setting, once it is chosen, are scored on the test split.

    Raises:
        UserError: when no cell is complete, or there is no test split to score.
    """
    check_report_dir(folder.path / REPORT, "report")
    records = list(folder.records().values())
    runs = {record.id: run for record in records if (run := folder.find_run(record.run))}
    failed = folder.failures()
    if not runs:
        reasons = sorted({failure.error for failure in failed.values()})
        raise UserError(
            f"{folder.path}: no cell of the sweep is complete, so there is nothing to compare. "
            + (f"The first error: {reasons[0]}" if reasons else "Type its command again.")
        )
    resolved = {record.id: resolve_options(record.options) for record in records}
    varying = [name for name in SWEPT if len({repr(getattr(cell, name)) for cell in resolved.values()}) > 1]
    settings = {cell_id: _describe_setting(config, varying) for cell_id, config in resolved.items()}
    entries = [
        _make_entry(record, runs[record.id], settings[record.id], resolved[record.id])
        for record in records
        if record.id in runs
    ]
    failures = [
        FailureEntry(
            cell=record.id,
            setting=settings[record.id],
            seed=resolved[record.id].seed,
            error=failed[record.id].error,
            attempts=failed[record.id].attempts,
        )
        for record in records
        if record.id in failed and record.id not in runs
    ]
    first = next(iter(runs.values()))
    metric = str(first.metrics["metric"])
    tried = folder.settings()
    description = SweepDescription(
        name=folder.path.resolve().name,
        dataset=str(first.environment["dataset"]["name"]),
        rows=int(first.environment["dataset"]["rows"]["validation"]),
        metric=metric,
        higher_is_better=metric != "loss",
        swept=[name for name in varying if name != "seed"],
        searched=bool(tried),
    )
    students = _group_students(entries) if "student" in varying else {}
    timed = {first: runs[first].path for first in set(students.values())}
    answers = _read_answers(folder, runs, metric, reporter, list(timed.values()))
    latencies = {cell: answers.latencies.get(timed[first]) for cell, first in students.items()}
    entries = [entry.model_copy(update={"latency_p50_ms": latencies.get(entry.cell)}) for entry in entries]
    document = make_document(
        description,
        entries,
        failures=failures,
        missing=len(records) - len(entries) - len(failures),
        teacher=answers.teacher,
        pruned={cell for setting in tried if setting.state == "pruned" for cell in setting.cells},
        right={cell: answers.right[run.path] for cell, run in runs.items() if run.path in answers.right},
    )
    if scores_test:
        document = _add_test_score(document, runs, reporter)
    page, *_ = write_sweep_report(folder.path / REPORT, document, "report")
    return SweepResult(page, document)


def _group_students(entries: Sequence[SweepRunEntry]) -> dict[str, str]:
    """Return for each cell the first one whose student is as large and of the same kind."""
    first: dict[tuple[object, ...], str] = {}
    return {
        entry.cell: first.setdefault(
            (entry.setting.get("student"), entry.student, entry.parameters), entry.cell
        )
        for entry in entries
    }


def _read_answers(
    folder: SweepFolder, runs: Mapping[str, Run], metric: str, reporter: Reporter, timed: Sequence[Path]
) -> SweepAnswers:
    """Return which rows the runs have right; nothing, with a warning, where data or teacher are gone."""
    configs = [run.config for run in runs.values() if isinstance(run.config, DistillConfig)]
    config = next((config for config in configs if config.runs_teacher), configs[0])
    paths = [run.path for run in runs.values()]
    try:
        return correct_rows(paths, config.teacher, config, folder.path / ANSWERS, metric, reporter, timed)
    except UserError as error:
        reporter.warn(f"the report has no teacher and no interval over validation rows: {error}")
        return SweepAnswers({}, None)


def _add_test_score(document: SweepDocument, runs: Mapping[str, Run], reporter: Reporter) -> SweepDocument:
    """Return the document with the test score of the setting that is best on validation.

    Raises:
        UserError: as `evaluate`; when no setting is the best.
    """
    if document.best is None:
        raise UserError("--test: no setting of the sweep is the best yet. Leave --test out.")
    entry = document.entry(document.best)
    chosen = {
        run.seed: runs[run.cell] for run in document.runs if document.setting_of(run).name == entry.name
    }
    config = next(iter(chosen.values())).config
    options = {name: getattr(config, name) for name in field_infos(TextsConfig)}
    evaluation = EvaluateConfig(
        **options, models=[str(run.path) for run in chosen.values()], split="test", latency=False
    )
    result = evaluate(evaluation, reporter).typed_document
    scores = {
        seed: float(scored.metrics[document.metric] or 0.0)
        for seed, scored in zip(chosen, result.models, strict=True)
    }
    interval = mean_interval(list(scores.values()), 1 / result.rows)
    ends = None if interval.low is None or interval.high is None else (interval.low, interval.high)
    score = FinalScore(
        setting=entry.name,
        rows=result.rows,
        scores=scores,
        mean=float(np.mean(list(scores.values()))),
        interval=ends,
    )
    shown = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
    sentence = (
        f"On the {result.rows:,} rows of the test split, {entry.name} has {document.metric} "
        f"{score.mean:.4f}{shown} over {pluralize(len(scores), 'seed')}."
    )
    return document.model_copy(update={"test": score, "verdict": [*document.verdict, sentence]})


def _describe_setting(config: DistillConfig, varying: Sequence[str]) -> dict[str, Any]:
    """Return the swept options of a cell without the seed, and without those that mean nothing to it."""
    applicable = {name for name in varying if config.runs_teacher or name not in TEACHERS_OWN}
    values = config.model_dump(mode="json", include=applicable - {"seed"}, exclude_none=True)
    return {name: values[name] for name in varying if name in values}


def _make_entry(
    record: CellRecord, run: Run, setting: dict[str, Any], config: DistillConfig
) -> SweepRunEntry:
    metrics, environment, history = run.read_metrics(), run.read_environment(), run.read_history()
    return SweepRunEntry(
        cell=record.id,
        folder=f"{RUNS}/{record.run}",
        setting=setting,
        seed=environment.seed,
        score=metrics.validation[metrics.metric],
        validation=metrics.validation,
        labels_only=not config.runs_teacher,
        parameters=metrics.parameters,
        parameters_without_embeddings=metrics.parameters_without_embeddings,
        bytes=metrics.bytes,
        best_epoch=metrics.best_epoch,
        steps=history[-1].step,
        seconds=metrics.seconds,
        start=environment.start,
        end=environment.end,
        student=environment.student.class_name if environment.student else "",
        formula=environment.loss,
    )
