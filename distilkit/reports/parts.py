"""What the pages are made of: a folder that is written whole, tables, pictures, and numbers as text.

A page loads nothing: no script, font, style or picture comes from elsewhere, and its own policy forbids it.
Names and texts are anybody's, so the templates escape all they are given; only `Picture.svg` is markup.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from distilkit.errors import UserError
from distilkit.reports import plots
from distilkit.runs import folder as run

INDEX, EVALUATION, ANSWERS, REPORT, PLOTS = (
    "index.html",
    "evaluation.json",
    "answers.csv",
    "report.json",
    "plots",
)
MARK = '<meta name="generator" content="distilkit">'
UNKNOWN = "\u2013"  # a dash


@dataclass(frozen=True)
class Cell:
    """What one place of a table shows: `note` below it, small; a model's colour if it has a `place`."""

    text: str
    note: str = ""
    place: int | None = None
    kind: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A heading per column and the rows; one without rows is not shown."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """A figure for the page and, under the name `stem`, for the folder."""

    stem: str
    heading: str
    caption: str
    figure: Figure

    @cached_property
    def vector(self) -> str:
        """The SVG file."""
        return plots.vector(self.figure)

    @property
    def svg(self) -> Markup:
        """The element for the page, which says the caption where it is not seen."""
        return Markup(plots.inline(self.vector, f"{self.heading} {self.caption}"))


# --- the folder -------------------------------------------------------------------------------------------


def check_report_dir(folder: Path, option: str = "--report") -> None:
    """Refuse early, before any work, a folder that could not receive a report.

    Raises:
        UserError: when it holds something other than an earlier report, which is replaced, or cannot be made.
    """

    def check_contents() -> None:
        index = folder / INDEX
        if not index.is_file() or MARK not in index.read_text(encoding="utf-8", errors="replace")[:1000]:
            raise UserError(f"{option} {folder} is not empty and holds no report. Name another folder.")
        known = {folder / name for name in (INDEX, EVALUATION, ANSWERS, REPORT, PLOTS)}
        pictures = {file for file in (folder / PLOTS).glob("*") if file.suffix in (".png", ".svg")}
        others = sorted(set(folder.rglob("*")) - known - pictures)
        if others:
            raise UserError(
                f"{option} {folder} holds a report and {others[0].relative_to(folder)}, which would be lost "
                "with it. Name another folder, or move that away."
            )

    run.check_folder(folder, option, check_contents)


def write_pictures(draft: Path, pictures: Iterable[Picture]) -> list[Path]:
    """Each of them as PNG and as SVG, in the folder `PLOTS`."""
    folder = draft / PLOTS
    folder.mkdir()
    files = []
    for one in pictures:
        png, svg = folder / f"{one.stem}.png", folder / f"{one.stem}.svg"
        png.write_bytes(plots.raster(one.figure))
        svg.write_text(one.vector, encoding="utf-8")
        files += [png, svg]
    return files


def render(template: str, **context: Any) -> str:
    """The page; every text of `context` is escaped."""
    environment = Environment(
        loader=PackageLoader("distilkit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context, colour=plots.colour)


# --- names and numbers as text ---------------------------------------------------------------------------


def short_names(names: Sequence[str]) -> list[str]:
    """For pictures: the last part of each path after the number of the model, if there are several."""
    ends = [name.rstrip("/").rsplit("/", 1)[-1] or name for name in names]
    if len(set(ends)) < len(ends):  # told apart only by the folders that they are in
        ends = list(names)
    if len(names) == 1:
        return [plots.elided(ends[0], 40)]
    return [f"{number} {plots.elided(end, 40)}" for number, end in enumerate(ends, start=1)]


def number(value: float | None) -> str:
    """Four decimals."""
    return UNKNOWN if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    """A share in per cent."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def counted(value: float | None) -> str:
    """A whole number."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes."""
    return UNKNOWN if value is None else f"{value / 1e6:,.1f} MB"


def shortened(value: float | None) -> str:
    """Parameters as publications write them."""
    return UNKNOWN if value is None else f"{value / 1e6:,.1f} M"


def digits(value: float | None) -> str:
    """Three digits, more before the point."""
    return UNKNOWN if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
