"""Write the page of trainings: `distilkit report`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from distilkit.errors import pluralize
from distilkit.reports import plots
from distilkit.reports.parts import (
    INDEX,
    REPORT,
    Cell,
    Picture,
    Table,
    check_report_dir,
    format_bytes,
    format_count,
    format_figure,
    render,
    short_names,
    write_pictures,
)
from distilkit.reports.summary import format_interval
from distilkit.runs.folder import write_json, write_text, writing_folder

LAYERS = "layers"  # the stage of a training that only matches layers
LAYER_LOSS = "layer_loss"  # the metric of such a stage, and of a run that has no other
# Means over the training rows of an epoch: file, heading, key of a record.
LOSSES = (
    ("loss", "Loss, as trained", "loss"),
    ("hard-loss", "Hard loss, against the labels", "hard_loss"),
    ("soft-loss", "Soft loss, against the teacher", "soft_loss"),
    ("layer-loss", "Loss of matched layers", LAYER_LOSS),
)
EVALUATION_METRICS = ("accuracy", "f1", "f1_macro", "agreement", "ece")

Record = Mapping[str, Any]  # a line of history.jsonl


class EvaluationSummary(TypedDict):
    """Hold what the page shows of an evaluation that is saved in a run."""

    dataset: str
    split: str
    rows: int
    confidence: float
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float | None, float | None]]


class TrainingHistory(TypedDict):
    """Hold what the page shows of a run: an entry of `runs` in report.json."""

    run: str
    dataset: str
    loss: str
    teachers: list[str]
    seed: int
    precision: str
    metric: str
    best_epoch: int
    validation: dict[str, float]
    parameters: int
    bytes: int
    seconds: float
    history: list[dict[str, Any]]
    evaluations: list[EvaluationSummary]


class HistoryDocument(TypedDict):
    """Hold the document of schema distilkit.report/1."""

    schema: str
    runs: list[TrainingHistory]


def write_histories(folder: Path, document: HistoryDocument, option: str) -> list[Path]:
    """Write the page, the figures and the pictures: whole, or not at all.

    Args:
        folder: made, or replaced where it holds an earlier report.
        option: the option that names the folder, for messages.

    Returns:
        The file to open, then the pictures.

    Raises:
        UserError: as `check_report_dir`, or when the disk refuses.
    """
    check = partial(check_report_dir, folder, option)
    with writing_folder(folder, option, "report", check) as draft:
        pictures = _pictures(document["runs"])
        write_json(draft / REPORT, document)
        files = write_pictures(draft, pictures)
        write_text(draft / INDEX, render("histories.html", **_page(document["runs"], pictures)))
    return [folder / INDEX, *(folder / file.relative_to(draft) for file in files)]


def _page(runs: Sequence[TrainingHistory], pictures: Sequence[Picture]) -> dict[str, object]:
    levels = {evaluation["confidence"] for run in runs for evaluation in run["evaluations"]}
    return {
        "title": f"Training of {pluralize(len(runs), 'run')}",
        "lead": _lead(runs),
        "summary": _summary_table(runs),
        "pictures": pictures,
        "evaluations": _evaluations_table(runs),
        "confidence": " and ".join(f"{level:.0%}" for level in sorted(levels)),
        "epochs": [_epochs_table(run) for run in runs],
    }


def _lead(runs: Sequence[TrainingHistory]) -> str:
    """Say how many runs on which data, and how long they are."""
    lengths = [len(run["history"]) for run in runs]
    shortest, longest = min(lengths), max(lengths)
    epochs = pluralize(longest, "epoch") if shortest == longest else f"{shortest:,} to {longest:,} epochs"
    suffix = " each" if len(runs) > 1 else ""
    datasets = ", ".join(dict.fromkeys(run["dataset"] for run in runs))
    return f"{pluralize(len(runs), 'run')} on {datasets}, {epochs}{suffix}."


# --- pictures ---------------------------------------------------------------------------------------------


def _pictures(runs: Sequence[TrainingHistory]) -> list[Picture]:
    """Return a picture for each metric that picked an epoch, and for each loss that any of the runs has."""
    names = short_names([run["run"] for run in runs])
    pictures = []

    def add(
        stem: str, heading: str, caption: str, *keys: str, metric: str | None = None, layers: bool = False
    ) -> None:
        curves = [
            curve
            for index, (name, run) in enumerate(zip(names, runs, strict=True))
            if metric is None or run["metric"] == metric
            if (curve := _training_curve(name, index, run, keys, layers=layers))
        ]
        if curves:
            figure = plots.history_curves(curves, heading.lower())
            pictures.append(Picture(stem, f"{heading}.", caption, figure))

    for metric in dict.fromkeys(run["metric"] for run in runs):
        if metric not in (LAYER_LOSS, "loss"):  # of which there are pictures below
            heading = f"Validation {metric}"
            add(f"validation-{metric}", heading, "Higher is better.", "validation", metric, metric=metric)
    caption = "Before any calibration. Lower is better."
    add("validation-loss", "Validation log loss", caption, "validation", "loss")
    for stem, heading, key in LOSSES:
        add(stem, heading, "Mean over the epoch's training rows.", key)
    caption = "Epochs that match layers and nothing else."
    add("layers-training", "Layers alone, training loss", caption, LAYER_LOSS, layers=True)
    add("layers-validation", "Layers alone, validation loss", caption, "validation", LAYER_LOSS, layers=True)
    return pictures


def _training_curve(
    name: str, index: int, run: TrainingHistory, keys: Sequence[str], *, layers: bool
) -> plots.TrainingCurve | None:
    """Return a figure of one stage of a run, in the epochs that have it; `None` where none has.

    Args:
        keys: the path to the figure in a record.
        layers: whether the stage is the one that matches layers. Both stages count epochs from 1, so they
            must not share a curve.
    """
    points = {}
    for record in run["history"]:
        value: Any = record
        for key in keys:
            value = (value or {}).get(key)
        if value is not None and _matches_layers(record, run) == layers:
            points[record["epoch"]] = value
    if not points:
        return None
    best = max(
        (
            record["epoch"]
            for record in run["history"]
            if record["improved"] and _matches_layers(record, run) == layers
        ),
        default=None,
    )
    return plots.TrainingCurve(name, index, list(points), list(points.values()), best)


def _matches_layers(record: Record, run: TrainingHistory) -> bool:
    return record.get("stage") == LAYERS or run["metric"] == LAYER_LOSS


# --- tables -----------------------------------------------------------------------------------------------


def _summary_table(runs: Sequence[TrainingHistory]) -> Table:
    rows = [
        [
            Cell(run["run"], index=index),
            Cell(run["metric"]),
            Cell(format_figure(run["validation"].get(run["metric"])), f"epoch {run['best_epoch']}"),
            Cell(format_count(run["parameters"])),
            Cell(format_bytes(run["bytes"])),
            Cell(f"{run['seconds']:,.0f} s"),
            Cell(", ".join(run["teachers"]) or "none", wide=True),
            Cell(run["loss"].removeprefix("loss = "), wide=True),
        ]
        for index, run in enumerate(runs)
    ]
    head = ["run", "metric", "best", "parameters", "size", "time", "teacher", "loss"]
    return Table("Best epoch on validation", head, rows)


def _evaluations_table(runs: Sequence[TrainingHistory]) -> Table:
    rows = []
    for index, run in enumerate(runs):
        for evaluation in run["evaluations"]:
            figures = [
                Cell(
                    format_figure(evaluation["metrics"].get(name)),
                    format_interval(evaluation["intervals"].get(name), "{:.3f}".format),
                )
                for name in EVALUATION_METRICS
            ]
            data = Cell(
                f"{evaluation['dataset']} {evaluation['split']}", pluralize(evaluation["rows"], "row")
            )
            rows.append([Cell(run["run"], index=index), data, *figures])
    head = ["run", "data", "accuracy", "F1", "F1, macro", "agreement", "ECE"]
    return Table("Measured by evaluate", head, rows)


def _epochs_table(run: TrainingHistory) -> Table:
    """Show the figures of each epoch; a loss that no epoch has gets no column."""
    losses = [
        (heading, key)
        for heading, (_, _, key) in zip(("loss", "hard", "soft", "layers"), LOSSES, strict=True)
        if any(record.get(key) is not None for record in run["history"])
    ]
    rows = []
    for record in run["history"]:
        stage = f"{record['stage']}, " if record.get("stage") else ""
        rows.append(
            [
                Cell(f"{stage}epoch {record['epoch']}", "best so far" if record["improved"] else ""),
                *(Cell(format_figure(record.get(key))) for _, key in losses),
                Cell(format_figure(record["validation"].get(run["metric"]))),
                Cell(format_figure(record["validation"].get("loss"))),
                Cell(format_count(record["examples_per_second"])),
            ]
        )
    head = ["epoch", *(heading for heading, _ in losses)]
    return Table(run["run"], [*head, f"validation {run['metric']}", "log loss", "examples/s"], rows)
