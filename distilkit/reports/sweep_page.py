"""Write the report of a sweep: a page, its pictures, and its figures as JSON, CSV and Parquet."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from distilkit.errors import pluralize
from distilkit.progress import describe_duration
from distilkit.reports import sweep_plots
from distilkit.reports.page import escape_formula
from distilkit.reports.parts import (
    INDEX,
    RESULTS_CSV,
    RESULTS_PARQUET,
    SWEEP,
    UNKNOWN,
    Cell,
    Picture,
    Table,
    check_report_dir,
    format_bytes,
    format_count,
    format_figure,
    render,
    write_pictures,
)
from distilkit.reports.sweep_document import (
    SettingEntry,
    SweepDocument,
    SweepRunEntry,
    name_option,
    name_value,
)
from distilkit.reports.sweep_frame import frame
from distilkit.reports.sweep_verdict import describe_outcome, format_difference, format_score
from distilkit.runs.folder import write_json, write_text, writing_folder

MAX_CURVES = 12  # of a picture: more cannot be told apart


def write_sweep_report(folder: Path, document: SweepDocument, option: str = "--report") -> list[Path]:
    """Write the page, the pictures and the figures of a sweep: whole, or not at all.

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
        write_json(draft / SWEEP, document.as_dict())
        _write_results(draft, document)
        files = write_pictures(draft, pictures)
        write_text(draft / INDEX, render("sweep.html", **_page(document, pictures)))
    results = [folder / name for name in (INDEX, SWEEP, RESULTS_CSV, RESULTS_PARQUET)]
    return [*results, *(folder / file.relative_to(draft) for file in files)]


def _write_results(draft: Path, document: SweepDocument) -> None:
    table = frame(document)
    table.to_parquet(draft / RESULTS_PARQUET, index=False)
    # Spreadsheets run a cell that begins with "=": names come from users.
    texts = table.map(lambda value: escape_formula(value) if isinstance(value, str) else value)
    texts.columns = [escape_formula(str(name)) for name in table.columns]
    write_text(draft / RESULTS_CSV, texts.to_csv(index=False, lineterminator="\n"))


# --- the page ---------------------------------------------------------------------------------------------


def _page(document: SweepDocument, pictures: Sequence[Picture]) -> dict[str, object]:
    return {
        "title": f"Sweep {document.name}",
        "lead": _lead(document),
        "verdict": document.verdict,
        "settings": _settings_table(document),
        "pictures": pictures,
        "runs": _runs_table(document),
        "failures": _failures_table(document),
        "method": _method(document),
    }


def _lead(document: SweepDocument) -> str:
    seconds = sum(run.seconds for run in document.runs)
    parts = [pluralize(len(document.runs), "run"), f"of {pluralize(len(document.settings), 'setting')}"]
    options = ", ".join(name_option(option) for option in document.swept) or "seeds alone"
    rows = pluralize(document.rows, "validation row")
    trained = f"; {describe_duration(seconds)} of training in all" if document.runs else ""
    return f"{' '.join(parts)} on {document.dataset} ({rows}); swept: {options}{trained}."


def _settings_table(document: SweepDocument) -> Table:
    has_rows = any(entry.difference and entry.difference.rows_interval for entry in document.settings)
    reference = "labels alone" if document.compared_with == "labels_only" else "the best"
    rows = []
    for entry in document.settings:
        difference = entry.difference
        against = f"against {difference.reference}" if difference else ""
        cells = [
            Cell(entry.name, against, kind="ours" if entry.name == document.best else ""),
            Cell(describe_outcome(document, entry)),
            Cell(format_figure(entry.mean), format_score(entry.interval)),
            Cell(*format_difference(document, difference)),
            Cell(_format_p_value(difference.p_adjusted) if difference else UNKNOWN),
        ]
        if has_rows:
            ends = difference.rows_interval if difference else None
            text = f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}" if ends else UNKNOWN
            p_value = _format_p_value(difference.rows_p_adjusted) if difference and ends else ""
            cells.append(Cell(text, p_value and f"p, Holm: {p_value}"))
        cells += [
            Cell(str(len(entry.seeds)), ", ".join(map(str, entry.seeds[:8]))),
            Cell(format_count(entry.steps)),
            Cell(f"{entry.seconds:,.0f} s"),
        ]
        rows.append(cells)
    head = ["setting", "outcome", document.metric, f"difference to {reference}", "p, Holm"]
    head += ["accuracy over rows too, points"] * has_rows
    return Table("Settings, on validation", [*head, "seeds", "steps", "time of a run"], rows)


def _format_p_value(p_value: float | None) -> str:
    if p_value is None:
        return UNKNOWN
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _runs_table(document: SweepDocument) -> Table:
    rows = [
        [
            Cell(document.setting_of(run).name, f"seed {run.seed}"),
            Cell(format_figure(run.score)),
            Cell(format_figure(run.validation.get("loss"))),
            Cell(str(run.best_epoch)),
            Cell(format_count(run.steps)),
            Cell(f"{run.seconds:,.0f} s"),
            Cell(format_count(run.parameters)),
            Cell(format_bytes(run.bytes)),
            Cell(run.folder, run.formula.removeprefix("loss = "), wide=True),
        ]
        for run in document.runs
    ]
    head = ["run", document.metric, "log loss", "best epoch", "steps", "time", "parameters", "size", "folder"]
    return Table("Runs", head, rows)


def _failures_table(document: SweepDocument) -> Table:
    rows = []
    for failure in document.failures:
        setting = ", ".join(
            f"{name_option(name)} {name_value(value)}" for name, value in failure.setting.items()
        )
        error = " ".join(failure.error.split())[:500]
        name = Cell(setting or failure.cell, f"seed {failure.seed}")
        rows.append([name, Cell(str(failure.attempts)), Cell(error, wide=True)])
    return Table("Failed cells", ["cell", "attempts", "error"], rows)


def _method(document: SweepDocument) -> list[str]:
    reference = (
        "the setting on labels alone that is equal in all other options"
        if document.compared_with == "labels_only"
        else "the setting with the best mean"
    )
    spread = ""
    if document.spread is not None:
        spread = f" Here that standard deviation is {document.spread:.4f}, pooled over the settings."
    return [
        f"All scores are of the validation split, at each run's best epoch by {document.metric}. The same "
        "rows chose the epoch and the best setting, so a test score will be somewhat lower.",
        f"Intervals of means and differences: Student's t, {document.confidence:.0%}, over the seeds. A "
        f"difference is the mean of the differences to {reference}, run by run of the same seed.",
        "p, Holm: paired t test, two-sided, corrected over all settings (Holm 1979). Where settings are "
        "compared with the best, it counts all pairs, because the best was picked by looking.",
        f"Over rows too: a bootstrap of seeds and validation rows, {document.replicates:,} samples, of the "
        "difference in accuracy. Seeds say whether a difference is there on these rows; this says whether "
        "it would be on other rows as well, by a p value of the bootstrap's standard error, corrected like "
        "the first. Settings are told apart only where both are at most 0.05.",
        "Seeds that would tell a point: those with which the paired t test, at the level that Holm's first "
        f"step leaves, finds a difference of 0.01 in 80 % of all sweeps.{spread}",
    ]


# --- pictures ---------------------------------------------------------------------------------------------


def draw_pictures(document: SweepDocument) -> list[Picture]:
    """Return the pictures for which there is something to show."""
    compared = [entry for entry in document.settings if not entry.pruned]
    pictures = [
        picture for option in document.swept if (picture := _option_picture(document, compared, option))
    ]
    options = [option for option in document.swept if len(_distinct(compared, option)) > 1]
    if len(options) > 1:
        pictures.append(_parallel_picture(document, compared, options))
    pictures += _cost_pictures(document, compared)
    pictures += _timeline_pictures(document)
    return pictures


def _distinct(entries: Sequence[SettingEntry], option: str) -> set[str]:
    return {name_value(entry.setting.get(option)) for entry in entries}


def _option_picture(document: SweepDocument, compared: Sequence[SettingEntry], option: str) -> Picture | None:
    """Draw the metric against a numeric option, a curve for each combination of the other options."""
    curves: dict[str, list[SettingEntry]] = {}
    for entry in compared:
        value = entry.setting.get(option)
        if isinstance(value, int | float) and not isinstance(value, bool):
            rest = ", ".join(
                f"{name_option(name)} {name_value(entry.setting[name])}"
                for name in document.swept
                if name != option and name in entry.setting
            )
            curves.setdefault(rest, []).append(entry)
    shown = {name: entries for name, entries in curves.items() if len(entries) > 1}
    if not shown:
        return None
    left_out = len(shown) - MAX_CURVES
    scores = _seed_scores(document)
    figure = sweep_plots.option_curves(
        [
            _option_curve(
                name, i, sorted(entries, key=lambda entry: float(entry.setting[option])), option, scores
            )
            for i, (name, entries) in enumerate(list(shown.items())[:MAX_CURVES])
        ],
        name_option(option),
        document.metric,
        document.teacher.score if document.teacher else None,
    )
    caption = f"Mean over the seeds, its {document.confidence:.0%} interval as a band, a dot per seed."
    if left_out > 0:
        caption += f" {pluralize(left_out, 'more curve')}: see the table."
    heading = f"Validation {document.metric} against {name_option(option)}."
    return Picture(option.replace("_", "-"), heading, caption, figure)


def _seed_scores(document: SweepDocument) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for run in document.runs:
        scores.setdefault(document.setting_of(run).name, []).append(run.score)
    return scores


def _option_curve(
    name: str, index: int, entries: Sequence[SettingEntry], option: str, scores: dict[str, list[float]]
) -> sweep_plots.OptionCurve:
    entries = sorted(entries, key=lambda entry: float(entry.setting[option]))
    return sweep_plots.OptionCurve(
        name=name or "all",
        index=index,
        values=[float(entry.setting[option]) for entry in entries],
        means=[entry.mean for entry in entries],
        ends=[entry.interval for entry in entries],
        seeds=[scores[entry.name] for entry in entries],
    )


def _parallel_picture(
    document: SweepDocument, compared: Sequence[SettingEntry], options: Sequence[str]
) -> Picture:
    def plain(value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number else name_value(value)

    columns = [
        (name_option(option), [plain(entry.setting.get(option)) for entry in compared]) for option in options
    ]
    best = next((i for i, entry in enumerate(compared) if entry.name == document.best), None)
    figure = sweep_plots.parallel_coordinates(
        columns, [entry.mean for entry in compared], document.metric, best
    )
    caption = "A line per setting, from its options to its mean score. The thick line is the best setting."
    return Picture("parallel-coordinates", "All options.", caption, figure)


def _cost_pictures(document: SweepDocument, compared: Sequence[SettingEntry]) -> list[Picture]:
    """Draw the best setting of each student against latency, where all were timed, else against size."""
    if "student" not in document.swept:
        return []
    sign = 1 if document.higher_is_better else -1
    runs: dict[str, SweepRunEntry] = {}
    for run in document.runs:
        runs.setdefault(document.setting_of(run).name, run)
    best: dict[str, SettingEntry] = {}
    for entry in sorted(compared, key=lambda entry: -sign * entry.mean):
        if "student" in entry.setting:
            best.setdefault(name_value(entry.setting["student"]), entry)
    if len(best) < 2:
        return []
    timed = all(runs[entry.name].latency_p50_ms is not None for entry in best.values())
    points = [
        sweep_plots.CostPoint(
            name=student,
            index=i,
            cost=(runs[entry.name].latency_p50_ms or 0.0) if timed else runs[entry.name].bytes / 1e6,
            score=entry.mean,
            ends=entry.interval,
        )
        for i, (student, entry) in enumerate(sorted(best.items()))
    ]
    quantity = "median latency of a single row, ms" if timed else "size of the weights, MB"
    figure = sweep_plots.cost_plot(
        points, quantity, document.metric, higher_is_better=document.higher_is_better
    )
    heading = "Quality against latency." if timed else "Quality against size."
    caption = (
        "The best setting of each student with its interval. The line joins the students that no smaller "
        "or faster one equals."
    )
    return [Picture("students", heading, caption, figure)]


def _timeline_pictures(document: SweepDocument) -> list[Picture]:
    try:
        times = [
            (datetime.fromisoformat(run.start).timestamp(), datetime.fromisoformat(run.end).timestamp())
            for run in document.runs
        ]
    except ValueError:  # a run of another version
        return []
    if not times:
        return []
    first = min(start for start, _ in times)
    bars = [
        sweep_plots.TimelineBar((start - first) / 60, (end - first) / 60, run.labels_only)
        for (start, end), run in zip(times, document.runs, strict=True)
    ]
    caption = "A bar per run. Runs that were trained together begin and end at the same time."
    return [Picture("timeline", "Timeline.", caption, sweep_plots.timeline(bars))]
