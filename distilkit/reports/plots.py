"""Pictures of evaluations and trainings: arrays in, a matplotlib `Figure` out.

Everything that is neither a model nor a number's size is drawn in `INK`, the one colour that `inline` gives
over to the page; what is filled is so pale that ink is legible on it on white and on black. Nothing is said
by colour alone: models differ in dashes and markers too, and wrong answers are hatched. Names are anybody's,
so no text is read as a formula.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from distilkit.scores.statistics import Answers, Bin, Floats, Integers, precision_recall, roc, wilson

INK = "#1b1f24"
# Told apart by people who do not see red or green, and at least 3 : 1 on white and on near black.
PALETTE = ("#2f7fc6", "#d0720a", "#0b9376", "#bd5c9c", "#7f7f85", "#9a8210")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RIGHT, WRONG = PALETTE[0], PALETTE[1]
WIDTH, HEIGHT = 4.5, 3.3  # inches: at this width text of 10 points is 10 pixels on a phone
LEGEND_ROW = 0.2  # inches
SHORT = 24  # characters of a name in a narrow place
POINTS = 1_000  # of a curve, at most
GRID = np.linspace(0, 1, 201)  # where the curves of several classes are averaged
HISTOGRAM = 20  # bars
MOST_NAMES = 15  # classes that are named in a confusion matrix, and whose cells hold numbers
STYLE = {
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "hatch.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "distilkit",
}


@dataclass(frozen=True)
class Line:
    """A model's or run's curve, `y` against `x`; `place` is its number, which picks colour and dashes."""

    name: str
    place: int
    x: Floats
    y: Floats


@dataclass(frozen=True)
class Trade:
    """What a model costs and what one gets for it, with the ends of its interval."""

    name: str
    place: int
    milliseconds: float
    accuracy: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Course:
    """A figure of a training, epoch by epoch, and the epoch that was kept (`None` where none is of these)."""

    name: str
    place: int
    epochs: Sequence[int]
    values: Sequence[float]
    best: int | None


def colour(place: int) -> str:
    """The colour of model number `place`, from 0 on."""
    return PALETTE[place % len(PALETTE)]


def elided(name: str, length: int = SHORT) -> str:
    """`name` without its middle where it is longer, on one line."""
    name = " ".join(name.split())
    if len(name) <= length:
        return name
    head = (length - 1) // 3
    return f"{name[:head]}…{name[head + 1 - length :]}"


# --- quality ----------------------------------------------------------------------------------------------


def confusion_matrix(table: Integers, classes: Sequence[str], title: str) -> Figure:
    """Rows of label i that were answered j, `[C, C]`; the darker, the greater its share of the label."""
    number = len(classes)
    side = min(7.5, max(WIDTH - 0.6, 0.55 * number))
    named = number <= MOST_NAMES
    with _styled():
        figure = Figure(figsize=(side + 0.6, side))
        axes: Axes = figure.add_subplot()
        labelled = table.sum(axis=1)
        for row, column in zip(*np.nonzero(table), strict=True):
            share = table[row, column] / labelled[row]
            box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=RIGHT, alpha=0.06 + 0.5 * share, lw=0)
            axes.add_patch(box)
        if named:
            size = 11 if number <= 4 else 8
            for row in range(number):
                for column in range(number):
                    text = f"{table[row, column]:,}"
                    if number <= 4 and labelled[row]:
                        text += f"\n{table[row, column] / labelled[row]:.1%}"
                    axes.text(column, row, text, ha="center", va="center", fontsize=size)
        names = [_cut(name) for name in classes] if named else [str(place) for place in range(number)]
        places = range(number) if named else range(0, number, -(-number // 10))
        slanted = number > 3 or max(map(len, names)) > 10
        turned: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(places, [names[place] for place in places], **turned)
        axes.set_yticks(places, [names[place] for place in places])
        axes.set(xlim=(-0.5, number - 0.5), ylim=(number - 0.5, -0.5), aspect="equal")
        axes.set(xlabel="answer", ylabel="label", title=title)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[["top", "right"]].set_visible(True)
        return figure


def _cut(name: str, length: int = 14) -> str:
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1] + "…"


def roc_line(name: str, place: int, answers: Answers) -> Line | None:
    """Of two classes the curve of class 1, of more the mean over one against the rest.

    `None` where the figure under it is none: probabilities are not known, or a class has no row, or all.
    """
    curves = [roc(*one) for one in _one_against_rest(answers)]
    if not curves or any(np.isnan(curve).any() for curve in curves):
        return None
    if len(curves) == 1:
        return Line(name, place, *_thinned(*curves[0]))
    mean = np.mean([np.interp(GRID, false, true) for false, true in curves], axis=0)
    return Line(name, place, np.insert(GRID, 0, 0.0), np.insert(mean, 0, 0.0))


def precision_recall_line(name: str, place: int, answers: Answers) -> Line | None:
    """As `roc_line`, recall and precision."""
    curves = [precision_recall(*one) for one in _one_against_rest(answers)]
    if not curves or any(np.isnan(curve).any() for curve in curves):
        return None
    if len(curves) == 1:
        return Line(name, place, *_thinned(*curves[0]))
    # At a recall between two thresholds' one has the precision of the later of them.
    heights = [precision[np.searchsorted(recall, GRID[1:])] for recall, precision in curves]
    return Line(name, place, GRID[1:], np.mean(heights, axis=0))


def _one_against_rest(answers: Answers) -> Iterator[tuple[Floats, Floats]]:
    if answers.probabilities is not None:
        for number in range(answers.scores.shape[1]):
            yield answers.scores[:, number], answers.targets[:, number]


def roc_curves(lines: Sequence[Line]) -> Figure:
    """True against false positive rate; the diagonal is chance."""
    with _styled():
        figure, axes = _one_plot(lines)
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, alpha=0.5)
        _draw(axes, lines)
        _unit(axes, "false positive rate", "true positive rate")
        return figure


def precision_recall_curves(lines: Sequence[Line], prevalence: float | None) -> Figure:
    """Precision against recall; the level line, `prevalence`, is what answering at random has."""
    with _styled():
        figure, axes = _one_plot(lines)
        if prevalence is not None:
            axes.axhline(prevalence, color=INK, lw=0.8, alpha=0.5)
        _draw(axes, lines)
        _unit(axes, "recall", "precision")
        return figure


def latency_picture(trades: Sequence[Trade]) -> Figure:
    """Accuracy with its interval against the median time of a request."""
    with _styled():
        figure = _figure(len(trades))
        axes: Axes = figure.add_subplot()
        for one in trades:
            ends = None
            if one.low is not None and one.high is not None:
                ends = [[max(0, one.accuracy - one.low)], [max(0, one.high - one.accuracy)]]
            look: Any = {"color": colour(one.place), "marker": _marker(one.place), "ms": 7, "ls": ""}
            axes.errorbar(one.milliseconds, one.accuracy, ends, capsize=3, elinewidth=1.2, **look)
        times = [one.milliseconds for one in trades]
        if max(times) > 4 * min(times):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(_Ladder())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(x=0.15)
        axes.set(xlabel="median milliseconds a row, one at a time", ylabel="accuracy")
        if len(trades) > 1:
            _number_points(figure, axes, trades)
        _legend(figure, [(one.name, one.place) for one in trades], marked=True, dashed=False)
        return figure


class _Ladder(MaxNLocator):
    """1, 2, 5, 10, 20 … over a logarithmic axis, the whole of it, so that even a short one has ticks."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        rungs = [m * 10.0**e for e in range(-9, 10) for m in (1, 2, 5)]
        inside = [rung for rung in rungs if vmin <= rung <= vmax]
        return np.asarray(inside if len(inside) <= 7 else [rung for rung in inside if f"{rung:e}"[0] == "1"])


def _number_points(figure: Figure, axes: Axes, trades: Sequence[Trade]) -> None:
    """The number that a name begins with, beside its point, where nothing else is."""
    axes.autoscale_view()  # else places are not yet those of the finished picture
    pixels = axes.transData.transform([(one.milliseconds, one.accuracy) for one in trades])
    points = pixels * 72 / figure.dpi
    taken = [*points]
    beside = [
        np.asarray(offset) for offset in ((13, 0), (-13, 0), (13, 11), (-13, 11), (13, -11), (-13, -11))
    ]
    for one, point in zip(trades, points, strict=True):
        free = [
            offset for offset in beside if all(np.abs(point + offset - other).max() > 10 for other in taken)
        ]
        offset = free[0] if free else beside[0]
        taken.append(point + offset)
        axes.annotate(
            str(one.place + 1),
            (one.milliseconds, one.accuracy),
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            weight="bold",
        )


# --- confidence -------------------------------------------------------------------------------------------


def confidence_histogram(answers: Answers, title: str) -> Figure:
    """How sure it was of its right and of its wrong answers."""
    assert answers.confidence is not None
    right = answers.right == 1
    low = min(1 / answers.classes, float(answers.confidence.min()))
    edges = np.linspace(low, 1, HISTOGRAM + 1)
    with _styled():
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.5))
        both = figure.subplots(2, 1, sharex=True)
        looks: Any = ({"color": RIGHT}, {"color": WRONG, "hatch": "////"})
        for axes, these, name, look in zip(both, (right, ~right), ("right", "wrong"), looks, strict=True):
            counts, _ = np.histogram(answers.confidence[these], edges)
            axes.bar(edges[:-1], counts, np.diff(edges), align="edge", edgecolor=INK, lw=0.4, **look)
            axes.set(ylabel=f"{name} ({int(these.sum()):,})", xlim=(low, 1))
            axes.set_ylim(0, max(1, 1.08 * counts.max()))
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.grid(axis="x", visible=False)
        both[0].set_title(title)
        both[1].set_xlabel("confidence")
        return figure


def reliability_diagram(found: Sequence[Bin], title: str) -> Figure:
    """Accuracy against confidence, bin by bin with Wilson's interval; below, how many rows a bin has."""
    used = [one for one in found if one.rows]
    low = used[0].low
    with _styled():
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.5))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([low, 1], [low, 1], color=INK, lw=0.8, alpha=0.5)
        for one in used:
            assert one.confidence is not None and one.accuracy is not None
            ends = wilson(round(one.rows * one.accuracy), one.rows)
            above.plot([one.confidence] * 2, ends, color=RIGHT, lw=1.2, alpha=0.7)
        x, y = [one.confidence for one in used], [one.accuracy for one in used]
        above.plot(x, y, color=RIGHT, marker="o", ms=5, lw=1.2)
        above.set(ylabel="accuracy", xlim=(low, 1), ylim=(-0.03, 1.03), title=title)
        middles = [(one.low + one.high) / 2 for one in used]
        widths = [one.high - one.low for one in used]
        below.bar(middles, [one.rows for one in used], widths, color=RIGHT, edgecolor=INK, lw=0.4)
        if len(used) <= 10:
            for middle, one in zip(middles, used, strict=True):
                below.annotate(
                    _compact(one.rows),
                    (middle, one.rows),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        below.margins(y=0.35)
        below.grid(False)
        below.set(xlabel="confidence", ylabel="rows")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        return figure


def _compact(number: int) -> str:
    return f"{number:,}" if number < 10_000 else f"{number / 1000:.0f}k"


def risk_coverage_curves(lines: Sequence[Line]) -> Figure:
    """Share of wrong answers among the surest rows, against the share of rows that these are."""
    with _styled():
        figure, axes = _one_plot(lines)
        _draw(axes, [Line(one.name, one.place, *_thinned(one.x, one.y)) for one in lines])
        axes.set(xlim=(0, 1), xlabel="share of rows answered, the surest first", ylabel="wrong among them")
        axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        return figure


# --- trainings --------------------------------------------------------------------------------------------


def history_curves(courses: Sequence[Course], quantity: str) -> Figure:
    """A figure of several trainings, epoch by epoch; the epoch that was kept has a ring."""
    with _styled():
        figure = _figure(len(courses))
        axes: Axes = figure.add_subplot()
        for one in courses:
            look = {"color": colour(one.place), "ls": _dashes(one.place), "marker": _marker(one.place)}
            axes.plot(one.epochs, one.values, ms=4.5, **look)
            if one.best is not None and one.best in one.epochs:
                value = one.values[list(one.epochs).index(one.best)]
                ring: Any = {"mfc": "none", "mec": colour(one.place), "ms": 12, "mew": 1.4, "ls": ""}
                axes.plot([one.best], [value], marker="o", **ring)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.margins(x=0.08, y=0.12)
        axes.set(xlabel="epoch", ylabel=quantity)
        if max(len(one.epochs) for one in courses) == 1:  # the axis has no length of its own
            axes.set_xlim(courses[0].epochs[0] - 1, courses[0].epochs[0] + 1)
        _legend(figure, [(one.name, one.place) for one in courses], marked=True)
        return figure


# --- files ------------------------------------------------------------------------------------------------


def raster(figure: Figure) -> bytes:
    """A PNG on white, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with _styled():
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def vector(figure: Figure) -> str:
    """An SVG file on white, the same text for the same figure."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _styled():
        figure.savefig(buffer, format="svg", facecolor="white", metadata=nothing)
    return buffer.getvalue()


def inline(drawn: str, described: str) -> str:
    """An `<svg>` element to put into a page, on its ground and in its colour of text.

    Args:
        drawn: as `vector` gives it.
        described: what is to be said where it is not seen; plain text.
    """
    element = drawn[drawn.index("<svg") :]
    element = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)  # the same in every picture of the page
    head, _, rest = element.partition(">")
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', head)
    assert box
    # What is wider than the others is not made smaller for a phone: its text would be illegible.
    wide = f' style="min-width: {float(box[1]):.0f}px"' if float(box[1]) > 72 * WIDTH + 1 else ""
    label = html.escape(described)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box[0]}{wide} role="img" aria-label="{label}"'
    rest = rest.replace("fill: #ffffff", "fill: none", 1)  # the ground is what is drawn first
    rest = rest.replace("xlink:href", "href").replace(INK, "currentColor")
    return re.sub(r"\s*\n\s*", "\n", f"{head}>{rest}").strip()


@contextmanager
def _styled() -> Iterator[None]:
    """Within, matplotlib draws as `STYLE` says, whatever the user has set; after it, as before."""
    with warnings.catch_warnings(), style.context([STYLE], after_reset=True):
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        yield


def _figure(legend_entries: int) -> Figure:
    """Room for the plot and, below it, for a legend of so many names."""
    return Figure(figsize=(WIDTH, HEIGHT + LEGEND_ROW * legend_entries))


def _one_plot(lines: Sequence[Line]) -> tuple[Figure, Axes]:
    figure = _figure(len(lines))
    axes: Axes = figure.add_subplot()
    _legend(figure, [(one.name, one.place) for one in lines])
    return figure, axes


def _draw(axes: Axes, lines: Sequence[Line]) -> None:
    for one in lines:
        axes.plot(one.x, one.y, color=colour(one.place), ls=_dashes(one.place))


def _legend(
    figure: Figure, names: Sequence[tuple[str, int]], *, marked: bool = False, dashed: bool = True
) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=colour(place),
            ls=_dashes(place) if dashed else "",
            marker=_marker(place) if marked else "",
        )
        for _, place in names
    ]
    labels = [name for name, _ in names]
    figure.legend(handles=handles, labels=labels, loc="outside lower center", handlelength=2.6)


def _dashes(place: int) -> Any:
    return DASHES[place % len(DASHES)]


def _marker(place: int) -> str:
    return MARKERS[place % len(MARKERS)]


def _unit(axes: Axes, across: str, up: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=across, ylabel=up)


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most `POINTS` of them, spread evenly, the first and the last among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(np.int64))
    return x[kept], y[kept]
