"""Make the parts of report pages: the folder, tables, pictures, and numbers as text.

A page loads nothing: no script, font, style or picture from elsewhere, and its content policy forbids it.
Names and texts come from users, so templates escape everything; only `Picture.svg` is markup.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from distilkit.errors import UserError
from distilkit.reports import plots
from distilkit.reports.templating import make_environment
from distilkit.runs.folder import check_folder

INDEX, EVALUATION, ANSWERS, REPORT, PLOTS = (
    "index.html",
    "evaluation.json",
    "answers.csv",
    "report.json",
    "plots",
)
SWEEP, RESULTS_CSV, RESULTS_PARQUET, BUDGET = "sweep.json", "results.csv", "results.parquet", "budget.json"
FILES = (INDEX, EVALUATION, ANSWERS, REPORT, SWEEP, RESULTS_CSV, RESULTS_PARQUET, BUDGET)  # of any report
MARK = '<meta name="generator" content="distilkit">'
UNKNOWN = "\u2013"  # an en dash


@dataclass(frozen=True)
class Cell:
    """Hold a cell of a table.

    Attributes:
        note: small text below `text`.
        index: position of the model whose colour is shown.
        kind: CSS class of the row that it begins.
    """

    text: str
    note: str = ""
    index: int | None = None
    kind: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Hold a heading per column, and the rows; a table without rows is not shown."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """Hold a figure for the page and, as `stem`.png and `stem`.svg, for the folder."""

    stem: str
    heading: str
    caption: str
    figure: Figure

    @cached_property
    def vector(self) -> str:
        """Return the SVG file."""
        return plots.vector(self.figure)

    @property
    def svg(self) -> Markup:
        """Return the element for the page, described by its caption."""
        return Markup(plots.inline(self.vector, f"{self.heading} {self.caption}"))


# --- the folder -------------------------------------------------------------------------------------------


def check_report_dir(folder: Path, option: str = "--report") -> None:
    """Refuse, before any work, a folder that cannot receive a report.

    Raises:
        UserError: when it holds anything but an earlier report, which is replaced, or cannot be made.
    """

    def check_contents() -> None:
        index = folder / INDEX
        if not index.is_file() or MARK not in index.read_text(encoding="utf-8", errors="replace")[:1000]:
            raise UserError(f"{option} {folder} is not empty and holds no report. Name another folder.")
        report_files = {folder / name for name in (*FILES, PLOTS)}
        pictures = {file for file in (folder / PLOTS).glob("*") if file.suffix in (".png", ".svg")}
        foreign = sorted(set(folder.rglob("*")) - report_files - pictures)
        if foreign:
            raise UserError(
                f"{option} {folder} holds a report and {foreign[0].relative_to(folder)}, which would be lost "
                "with it. Name another folder, or move that file."
            )

    check_folder(folder, option, check_contents)


def write_pictures(draft: Path, pictures: Iterable[Picture]) -> list[Path]:
    """Write each picture as PNG and as SVG into the folder `PLOTS`."""
    folder = draft / PLOTS
    folder.mkdir()
    files = []
    for picture in pictures:
        png, svg = folder / f"{picture.stem}.png", folder / f"{picture.stem}.svg"
        png.write_bytes(plots.raster(picture.figure))
        svg.write_text(picture.vector, encoding="utf-8")
        files += [png, svg]
    return files


def render(template: str, **context: object) -> str:
    """Return the page; every text of `context` is escaped."""
    return make_environment().get_template(template).render(**context, colour=plots.colour)


# --- names and numbers as text ---------------------------------------------------------------------------


def short_names(names: Sequence[str]) -> list[str]:
    """Return names for plots: the last part of each path, with the model's number where there are several."""
    ends = [name.rstrip("/").rsplit("/", 1)[-1] or name for name in names]
    if len(set(ends)) < len(ends):  # only their folders differ
        ends = list(names)
    if len(names) == 1:
        return [plots.elide(ends[0], 40)]
    return [f"{position} {plots.elide(end, 40)}" for position, end in enumerate(ends, start=1)]


def format_figure(value: float | None) -> str:
    """Return four decimals."""
    return UNKNOWN if value is None else f"{value:.4f}"


def format_percent(value: float | None) -> str:
    """Return a share in per cent."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def format_count(value: float | None) -> str:
    """Return a whole number."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def format_bytes(value: float | None) -> str:
    """Return bytes as megabytes."""
    return UNKNOWN if value is None else f"{value / 1e6:,.1f} MB"


def format_millions(value: float | None) -> str:
    """Return parameters in millions, as publications write them."""
    return UNKNOWN if value is None else f"{value / 1e6:,.1f} M"


def format_milliseconds(value: float | None) -> str:
    """Return three significant digits, or a whole number from 1,000 on."""
    return UNKNOWN if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
