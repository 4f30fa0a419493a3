"""A page that shows how runs were trained: `distilkit report`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distilkit.reports import plots, summary
from distilkit.reports.parts import (
    INDEX,
    REPORT,
    Cell,
    Picture,
    Table,
    check_report_dir,
    counted,
    number,
    render,
    short_names,
    size,
    write_pictures,
)
from distilkit.runs import folder as runs

LAYERS = "layers"  # the stage of a training that matches layers, and the metric of one that does nothing else
LAYER_LOSS = "layer_loss"
# Of the training rows, in each epoch: file, what it is, the key of a record.
LOSSES = (
    ("loss", "Loss, as trained", "loss"),
    ("hard-loss", "Hard loss, against the labels", "hard_loss"),
    ("soft-loss", "Soft loss, against the teacher", "soft_loss"),
    ("layer-loss", "Loss of matched layers", LAYER_LOSS),
)


def write_histories(folder: Path, document: Mapping[str, Any], option: str) -> list[Path]:
    """Write the page, the figures and the pictures: whole, or not at all.

    Args:
        folder: made, or replaced where it holds an earlier report.
        document: of schema distilkit.report/1.
        option: what names the folder on the command line.

    Returns:
        The file to open, then the pictures.

    Raises:
        UserError: as `check_report_dir`, or when the disk refuses.
    """
    check = partial(check_report_dir, folder, option)
    with runs.writing_folder(folder, option, "report", check) as draft:
        pictures = _pictures(document["runs"])
        runs.write_json(draft / REPORT, document)
        files = write_pictures(draft, pictures)
        runs.write_text(draft / INDEX, render("histories.html", **_context(document, pictures)))
    return [folder / INDEX, *(folder / file.relative_to(draft) for file in files)]


def _context(document: Mapping[str, Any], pictures: Sequence[Picture]) -> dict[str, Any]:
    found = document["runs"]
    epochs = sum(len(run["history"]) for run in found)
    many = "1 run" if len(found) == 1 else f"{len(found)} runs"
    levels = {one["confidence"] for run in found for one in run["evaluations"]}
    return {
        "title": f"{many}: how they were trained",
        "lead": f"{epochs:,} epochs of {', '.join(dict.fromkeys(run['dataset'] for run in found))}.",
        "summary": _summary(found),
        "pictures": pictures,
        "evaluations": _evaluations(found),
        "confidence": " and ".join(f"{level:.0%}" for level in sorted(levels)),
        "epochs": [_epochs(run) for run in found],
    }


# --- pictures ---------------------------------------------------------------------------------------------


def _pictures(found: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """A picture for each loss that any of the runs has, and for each metric that picked an epoch."""
    names = short_names([run["run"] for run in found])
    pictures = []

    def add(stem: str, heading: str, caption: str, courses: Sequence[plots.Course | None]) -> None:
        drawn = [course for course in courses if course]
        if drawn:
            figure = plots.history_curves(drawn, heading.lower())
            pictures.append(Picture(stem, f"{heading}.", caption, figure))

    numbered = list(enumerate(zip(names, found, strict=True)))
    for metric in dict.fromkeys(run["metric"] for run in found):
        if metric != LAYER_LOSS:
            courses = [
                _course(name, place, run, ("validation", metric))
                for place, (name, run) in numbered
                if run["metric"] == metric
            ]
            add(f"validation-{metric}", f"Validation {metric}", "Higher is better.", courses)
    courses = [_course(name, place, run, ("validation", "loss")) for place, (name, run) in numbered]
    add("validation-loss", "Validation log loss", "Before any calibration. Lower is better.", courses)
    for stem, heading, key in LOSSES:
        courses = [_course(name, place, run, (key,)) for place, (name, run) in numbered]
        add(stem, heading, "Mean over the epoch's training rows.", courses)
    stages: Any = (((LAYER_LOSS,), "training"), (("validation", LAYER_LOSS), "validation"))
    for keys, what in stages:
        courses = [_course(name, place, run, keys, layers=True) for place, (name, run) in numbered]
        heading = f"Layers alone, {what} loss"
        add(f"layers-{what}", heading, "The epochs in which layers are matched and nothing else.", courses)
    return pictures


def _course(
    name: str, place: int, run: Mapping[str, Any], keys: Sequence[str], *, layers: bool = False
) -> plots.Course | None:
    """A figure of one stage of a run's history, in the epochs that have it; `None` where none has."""
    points = {}
    for record in run["history"]:
        value: Any = record
        for key in keys:
            value = (value or {}).get(key)
        if value is not None and _of_layers(record, run) == layers:
            points[record["epoch"]] = value
    if not points:
        return None
    best = max(
        (one["epoch"] for one in run["history"] if one["improved"] and _of_layers(one, run) == layers),
        default=None,
    )
    return plots.Course(name, place, list(points), list(points.values()), best)


def _of_layers(record: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    return record.get("stage") == LAYERS or run["metric"] == LAYER_LOSS


# --- tables -----------------------------------------------------------------------------------------------


def _summary(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for place, run in enumerate(found):
        value = number(run["validation"].get(run["metric"]))
        rows.append(
            [
                Cell(run["run"], place=place),
                Cell(run["metric"]),
                Cell(value, f"epoch {run['best_epoch']}"),
                Cell(counted(run["parameters"])),
                Cell(size(run["bytes"])),
                Cell(f"{run['seconds']:,.0f} s"),
                Cell(", ".join(run["teachers"]) or "none", wide=True),
                Cell(run["loss"], wide=True),
            ]
        )
    head = ["run", "metric", "best", "parameters", "size", "time", "teacher", "loss"]
    return Table("Best epoch on validation", head, rows)


def _evaluations(found: Sequence[Mapping[str, Any]]) -> Table:
    names = ("accuracy", "f1", "f1_macro", "agreement", "ece")
    rows = []
    for place, run in enumerate(found):
        for one in run["evaluations"]:
            cells = [
                Cell(number(one["metrics"].get(name)), summary.between(one, name, "{:.3f}".format))
                for name in names
            ]
            what = Cell(f"{one['dataset']} {one['split']}", f"{one['rows']:,} rows")
            rows.append([Cell(run["run"], place=place), what, *cells])
    head = ["run", "data", "accuracy", "F1", "F1, macro", "agreement", "ECE"]
    return Table("Measured by evaluate", head, rows)


def _epochs(run: Mapping[str, Any]) -> Table:
    rows = []
    for one in run["history"]:
        stage = f"{one['stage']}, " if one.get("stage") else ""
        rows.append(
            [
                Cell(f"{stage}epoch {one['epoch']}", "best so far" if one["improved"] else ""),
                *(Cell(number(one.get(key))) for _, _, key in LOSSES),
                Cell(number(one["validation"].get(run["metric"]))),
                Cell(number(one["validation"].get("loss"))),
                Cell(counted(one["examples_per_second"])),
            ]
        )
    head = ["epoch", "loss", "hard", "soft", "layers"]
    return Table(run["run"], [*head, f"validation {run['metric']}", "log loss", "examples/s"], rows)
