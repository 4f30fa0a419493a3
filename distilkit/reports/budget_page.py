"""Write the report of a search for a student within limits: a page, its picture, and its figures as JSON."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from distilkit.reports import sweep_plots
from distilkit.reports.budget_document import BudgetDocument, BudgetEntry, BudgetQuality
from distilkit.reports.parts import (
    BUDGET,
    INDEX,
    UNKNOWN,
    Cell,
    Picture,
    Table,
    check_report_dir,
    format_bytes,
    format_figure,
    format_millions,
    format_milliseconds,
    format_percent,
    render,
    write_pictures,
)
from distilkit.runs.folder import write_json, write_text, writing_folder

FAULTS = {"latency": "too slow", "size": "too large", "quality": "keeps too little"}


def write_budget_report(folder: Path, document: BudgetDocument, option: str = "--report") -> list[Path]:
    """Write the page, the picture and the figures: whole, or not at all.

    Args:
        folder: made, or replaced where it holds an earlier report.
        option: the option that names the folder, for messages.

    Returns:
        The file to open, the figures, then the pictures.

    Raises:
        UserError: as `check_report_dir`, or when the disk refuses.
    """
    check = partial(check_report_dir, folder, option)
    with writing_folder(folder, option, "report", check) as draft:
        pictures = draw_pictures(document)
        write_json(draft / BUDGET, document.as_dict())
        files = write_pictures(draft, pictures)
        write_text(draft / INDEX, render("budget.html", **_page(document, pictures)))
    return [folder / INDEX, folder / BUDGET, *(folder / file.relative_to(draft) for file in files)]


def describe_outcome(document: BudgetDocument, entry: BudgetEntry) -> str:
    """Return in a few words what became of an entry."""
    if entry.name == document.chosen:
        return "chosen"
    if entry.reason and not entry.missed:
        return entry.reason
    if entry.missed:
        faults = ", ".join(FAULTS[limit] for limit in entry.missed)
        return faults if entry.quality else f"not trained: {faults}"
    return "meets the limits"


def _page(document: BudgetDocument, pictures: Sequence[Picture]) -> dict[str, object]:
    return {
        "title": f"A student for {document.dataset}",
        "lead": _lead(document),
        "verdict": document.verdict,
        "students": _students_table(document),
        "pictures": pictures,
        "method": _method(document),
    }


def _lead(document: BudgetDocument) -> str:
    limits = document.limits
    asked = [f"at least {100 * limits.min_kept:.3g} % of the teacher's accuracy"]
    if limits.max_latency_ms is not None:
        asked.append(f"at most {limits.max_latency_ms:g} ms a row")
    if limits.max_mb is not None:
        asked.append(f"at most {limits.max_mb:g} MB")
    where = f" on {document.cpu}" if document.cpu else ""
    return f"Asked for: {', '.join(asked)}{where}."


def _students_table(document: BudgetDocument) -> Table:
    rows = []
    for entry in document.entries:
        cost = entry.cost
        rows.append(
            [
                Cell(entry.name, entry.folder or "", kind="ours" if entry.name == document.chosen else ""),
                Cell(describe_outcome(document, entry)),
                *_quality_cells(document, entry.quality),
                Cell(
                    format_milliseconds(cost.latency_p50_ms if cost else None),
                    f"95 %: {format_milliseconds(cost.latency_p95_ms)}" if cost else "",
                ),
                Cell(format_bytes(cost.bytes if cost else None)),
                Cell(format_millions(entry.parameters)),
            ]
        )
    teacher = document.teacher
    rows.append(
        [
            Cell(teacher.name, "the teacher, in torch"),
            Cell(UNKNOWN),
            *_quality_cells(document, teacher.quality),
            Cell(
                format_milliseconds(teacher.cost.latency_p50_ms),
                f"95 %: {format_milliseconds(teacher.cost.latency_p95_ms)}",
            ),
            Cell(format_bytes(teacher.cost.bytes)),
            Cell(format_millions(teacher.parameters)),
        ]
    )
    head = ["student", "outcome", "kept", "accuracy", "ms a row", "size", "parameters"]
    return Table("Students, from the cheapest to the dearest", head, rows)


def _quality_cells(document: BudgetDocument, quality: BudgetQuality | None) -> list[Cell]:
    if quality is None:
        return [Cell(UNKNOWN), Cell(UNKNOWN)]
    low, high = quality.accuracy_kept_interval or (None, None)
    share_ends = "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
    low, high = quality.accuracy_interval
    accuracy_ends = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
    return [
        Cell(format_percent(quality.accuracy_kept), share_ends),
        Cell(format_figure(quality.accuracy), accuracy_ends),
    ]


def _method(document: BudgetDocument) -> list[str]:
    threads = f"{document.threads} thread{'s' if document.threads > 1 else ''}"
    return [
        f"Latency: the median of up to 200 rows, one at a time, text in and logits out, with {threads} on "
        "this CPU: onnxruntime for the students, torch for the teacher. On another CPU it differs.",
        "Size: the graph that this CPU runs. Tokenizer and labels are not counted.",
        f"Kept: the student's accuracy over the teacher's, on the {document.rows:,} rows of the validation "
        f"split, and its {document.confidence:.0%} interval: a paired bootstrap of the rows. The same rows "
        "chose each run's best epoch and this student, so other rows will give somewhat less: --test "
        "scores the chosen one on the test split.",
        "Order: students with untrained weights are exported and timed first. One that is too slow or too "
        "large even so is not trained. The others are trained from the fastest on, in both forms, and the "
        "first that meets all limits ends the search.",
    ]


def draw_pictures(document: BudgetDocument) -> list[Picture]:
    """Return what each trained student keeps against its latency, where there is one."""
    trained = [entry for entry in document.entries if entry.quality and entry.cost]
    if not trained:
        return []
    points = [
        sweep_plots.CostPoint(
            name=entry.name,
            index=i,
            cost=entry.cost.latency_p50_ms,
            score=entry.quality.accuracy,
            ends=_as_ends(entry.quality.accuracy_interval),
        )
        for i, entry in enumerate(trained)
        if entry.quality and entry.cost
    ]
    teacher = document.teacher
    points.append(
        sweep_plots.CostPoint(
            name="teacher",
            index=len(points),
            cost=teacher.cost.latency_p50_ms,
            score=teacher.quality.accuracy,
            ends=_as_ends(teacher.quality.accuracy_interval),
        )
    )
    figure = sweep_plots.cost_plot(
        points,
        "median latency of a single row, ms",
        "accuracy",
        higher_is_better=True,
        cost_limit=document.limits.max_latency_ms,
        score_limit=document.limits.min_kept * teacher.quality.accuracy,
    )
    caption = (
        "Each trained student with its interval. The line joins those that no faster one equals; the dotted "
        "lines are the limits, and students above the one and left of the other are within both."
    )
    return [Picture("students", "Quality against latency.", caption, figure)]


def _as_ends(interval: tuple[float | None, float | None]) -> tuple[float, float] | None:
    low, high = interval
    return None if low is None or high is None else (low, high)
