"""Draw evaluations and trainings: arrays in, a matplotlib `Figure` out.

Axes and text are drawn in `INK`, which `inline` replaces by the page's own text colour; filled areas are so
pale that text on them is legible on white and on black. Colour never carries information alone: models differ
in dashes and markers too, and wrong answers are hatched. Names come from users, so no text is read as a
formula. A colour always means a model, also in its own plots.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from distilkit.scores.fallback import FallbackPoint
from distilkit.scores.statistics import Answers, Bin, Floats, Integers, precision_recall, roc, wilson

INK = "#1b1f24"
# Distinct with red-green colour blindness, and a contrast of at least 3 : 1 on white and on near black.
PALETTE = (
    *("#2f7fc6", "#d0720a", "#0b9376", "#bd5c9c", "#7f7f85", "#9a8210"),
    *("#7d6bd6", "#cc5a4e", "#4f8f2f", "#1f8fa3", "#a0674b", "#b14be0"),
)
Dashes = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH, HEIGHT = 4.5, 3.3  # inches; at this width 10-point text is 10 pixels high on a phone
LEGEND_ROW_HEIGHT = 0.2  # inches
SHORT_NAME_CHARACTERS = 24
MAX_CURVE_POINTS = 1_000
AVERAGING_GRID = np.linspace(0, 1, 201)  # where the curves of several classes are averaged
HISTOGRAM_BARS = 20
MAX_NAMED_CLASSES = 15  # of a confusion matrix; with more, cells have no numbers and axes no names
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
    """Hold a model's curve, `y` against `x`; `index`, its position from 0, picks colour and dashes."""

    name: str
    index: int
    x: Floats
    y: Floats


@dataclass(frozen=True)
class FallbackCurve:
    """Hold what a student and its teacher answer together, by how much of it the student answers."""

    name: str
    index: int
    points: Sequence[FallbackPoint]


@dataclass(frozen=True)
class LatencyPoint:
    """Hold a model's latency and its accuracy with the ends of its interval."""

    name: str
    index: int
    milliseconds: float
    accuracy: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TrainingCurve:
    """Hold a figure of a training by epoch, and the best epoch; `None` where it is none of these."""

    name: str
    index: int
    epochs: Sequence[int]
    values: Sequence[float]
    best: int | None


def colour(index: int) -> str:
    """Return the colour of a model by its position, from 0."""
    return PALETTE[index % len(PALETTE)]


def elide(name: str, length: int = SHORT_NAME_CHARACTERS) -> str:
    """Return `name` on one line, its middle replaced by an ellipsis where it is longer than `length`."""
    name = " ".join(name.split())
    if len(name) <= length:
        return name
    head = (length - 1) // 3
    return f"{name[:head]}…{name[head + 1 - length :]}"


# --- quality ----------------------------------------------------------------------------------------------


def confusion_matrix(table: Integers, class_names: Sequence[str], title: str, index: int = 0) -> Figure:
    """Draw the rows with label i and answer j, `[C, C]`; darker cells hold a larger share of their label."""
    classes = len(class_names)
    side = min(7.5, max(WIDTH - 0.6, 0.55 * classes))
    with styled():
        figure = Figure(figsize=(side + 0.6, side))
        axes: Axes = figure.add_subplot()
        rows_of_label = table.sum(axis=1)
        for row, column in zip(*np.nonzero(table), strict=True):
            alpha = 0.06 + 0.5 * table[row, column] / rows_of_label[row]
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour(index), alpha=alpha, lw=0))
        if classes <= MAX_NAMED_CLASSES:
            _write_cells(axes, table, rows_of_label)
        _label_classes(axes, class_names)
        axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal")
        axes.set(xlabel="answer", ylabel="label", title=title)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[["top", "right"]].set_visible(True)
        return figure


def _write_cells(axes: Axes, table: Integers, rows_of_label: Integers) -> None:
    classes = len(table)
    for row in range(classes):
        for column in range(classes):
            text = f"{table[row, column]:,}"
            if classes <= 4 and rows_of_label[row]:
                text += f"\n{table[row, column] / rows_of_label[row]:.1%}"
            size = 11 if classes <= 4 else 8
            axes.text(column, row, text, ha="center", va="center", fontsize=size)


def _label_classes(axes: Axes, class_names: Sequence[str]) -> None:
    """Write class names at the ticks; of many classes every tenth of the ids."""
    classes = len(class_names)
    if classes <= MAX_NAMED_CLASSES:
        ticks, labels = range(classes), [_shorten(name) for name in class_names]
    else:
        ticks = range(0, classes, -(-classes // 10))
        labels = [str(tick) for tick in ticks]
    axes.set_yticks(ticks, labels)
    if classes > 3 or max(map(len, labels)) > 10:
        axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(ticks, labels)


def _shorten(name: str, length: int = 14) -> str:
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1] + "…"


def roc_line(name: str, index: int, answers: Answers) -> Line | None:
    """Compute the ROC curve of class 1 for two classes, the mean over one-vs-rest for more.

    Returns:
        `None` where the area under it is undefined: without probabilities, or where a class has no rows
        or all rows.
    """
    curves = [roc(scores, targets) for scores, targets in _one_vs_rest(answers)]
    if not curves or any(np.isnan(curve).any() for curve in curves):
        return None
    if len(curves) == 1:
        return Line(name, index, *_thin_out(*curves[0]))
    mean = np.mean([np.interp(AVERAGING_GRID, false, true) for false, true in curves], axis=0)
    return Line(name, index, np.insert(AVERAGING_GRID, 0, 0.0), np.insert(mean, 0, 0.0))


def precision_recall_line(name: str, index: int, answers: Answers) -> Line | None:
    """Compute precision against recall, of the same classes and `None` in the same cases as `roc_line`."""
    curves = [precision_recall(scores, targets) for scores, targets in _one_vs_rest(answers)]
    if not curves or any(np.isnan(curve).any() for curve in curves):
        return None
    if len(curves) == 1:
        return Line(name, index, *_thin_out(*curves[0]))
    # Precision is a step function of recall: between two thresholds, the later one's precision applies.
    precisions = [precision[np.searchsorted(recall, AVERAGING_GRID[1:])] for recall, precision in curves]
    return Line(name, index, AVERAGING_GRID[1:], np.mean(precisions, axis=0))


def _one_vs_rest(answers: Answers) -> Iterator[tuple[Floats, Floats]]:
    if answers.probabilities is not None:
        for column in range(answers.scores.shape[1]):
            yield answers.scores[:, column], answers.targets[:, column]


def roc_curves(lines: Sequence[Line]) -> Figure:
    """Draw the true against the false positive rate; the diagonal is chance."""
    with styled():
        figure, axes = _figure_with_legend(lines)
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, alpha=0.5)
        _plot_lines(axes, lines)
        _set_unit_axes(axes, "false positive rate", "true positive rate")
        return figure


def precision_recall_curves(lines: Sequence[Line], prevalence: float | None) -> Figure:
    """Draw precision against recall; the horizontal line, `prevalence`, is random guessing."""
    with styled():
        figure, axes = _figure_with_legend(lines)
        if prevalence is not None:
            axes.axhline(prevalence, color=INK, lw=0.8, alpha=0.5)
        _plot_lines(axes, lines)
        _set_unit_axes(axes, "recall", "precision")
        return figure


def draw_point(axes: Axes, x: float, y: float, bar: list[list[float]] | None, index: int) -> None:
    """Draw a model as a point, in its colour and shape, with its interval as a bar `[[below], [above]]`."""
    axes.errorbar(
        x,
        y,
        bar,
        capsize=3,
        elinewidth=1.2,
        color=colour(index),
        marker=marker(index),
        ms=7,
        ls="",
    )


def latency_plot(points: Sequence[LatencyPoint]) -> Figure:
    """Draw the accuracy with its interval against the median latency."""
    with styled():
        figure = make_figure(len(points))
        axes: Axes = figure.add_subplot()
        for point in points:
            error_bar = None
            if point.low is not None and point.high is not None:
                error_bar = [[max(0, point.accuracy - point.low)], [max(0, point.high - point.accuracy)]]
            draw_point(axes, point.milliseconds, point.accuracy, error_bar, point.index)
        times = [point.milliseconds for point in points]
        if max(times) > 4 * min(times):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(_LogLocator())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(x=0.15)
        axes.set(xlabel="median latency of a single row, ms", ylabel="accuracy")
        if len(points) > 1:
            _number_points(figure, axes, points)
        add_legend(figure, [(point.name, point.index) for point in points], marked=True, dashed=False)
        return figure


class _LogLocator(MaxNLocator):
    """Set ticks at 1, 2, 5, 10, 20 …: matplotlib's own locators leave an axis of less than a decade bare."""

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        ticks = [m * 10.0**e for e in range(-9, 10) for m in (1, 2, 5)]
        inside = [tick for tick in ticks if vmin <= tick <= vmax]
        return inside if len(inside) <= 7 else [tick for tick in inside if f"{tick:e}"[0] == "1"]


def _number_points(figure: Figure, axes: Axes, points: Sequence[LatencyPoint]) -> None:
    """Write the number that a name begins with next to its point, where nothing else is."""
    axes.autoscale_view()  # else the transform below is not yet that of the finished plot
    pixels = axes.transData.transform([(point.milliseconds, point.accuracy) for point in points])
    positions = pixels * 72 / figure.dpi
    occupied = [*positions]
    offsets = [np.asarray(xy) for xy in ((13, 0), (-13, 0), (13, 11), (-13, 11), (13, -11), (-13, -11))]
    for point, position in zip(points, positions, strict=True):
        free = [
            offset
            for offset in offsets
            if all(np.abs(position + offset - taken).max() > 10 for taken in occupied)
        ]
        offset = free[0] if free else offsets[0]
        occupied.append(position + offset)
        axes.annotate(
            str(point.index + 1),
            (point.milliseconds, point.accuracy),
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            weight="bold",
        )


# --- confidence -------------------------------------------------------------------------------------------


def confidence_histogram(answers: Answers, title: str, index: int = 0) -> Figure:
    """Draw the distribution of the confidence, of right and of wrong answers, each with its own y axis.

    Both are in the model's colour; wrong answers are hatched.
    """
    assert answers.confidence is not None
    right = answers.right == 1
    # A file's scores may lie below 1 / C, the least that a predicted class can have.
    low = min(1 / answers.classes, float(answers.confidence.min()))
    edges = np.linspace(low, 1, HISTOGRAM_BARS + 1)
    with styled():
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.5))
        above, below = figure.subplots(2, 1, sharex=True)
        face = colour(index)
        for axes, inside, name, hatch in ((above, right, "right", None), (below, ~right, "wrong", "////")):
            counts, _ = np.histogram(answers.confidence[inside], edges)
            widths = np.diff(edges)
            axes.bar(edges[:-1], counts, widths, align="edge", edgecolor=INK, lw=0.4, color=face, hatch=hatch)
            axes.set(ylabel=f"{name} ({int(inside.sum()):,})", xlim=(low, 1))
            axes.set_ylim(0, max(1, 1.08 * counts.max()))
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.grid(axis="x", visible=False)
        above.set_title(title)
        below.set_xlabel("confidence")
        return figure


def reliability_diagram(bins: Sequence[Bin], title: str, index: int = 0) -> Figure:
    """Draw accuracy against confidence by bin, with Wilson's interval; below, the rows of each bin."""
    bins = [bar for bar in bins if bar.rows]
    low, face = bins[0].low, colour(index)
    with styled():
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.5))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([low, 1], [low, 1], color=INK, lw=0.8, alpha=0.5)
        for bar in bins:
            assert bar.confidence is not None and bar.accuracy is not None
            interval = wilson(round(bar.rows * bar.accuracy), bar.rows)
            above.plot([bar.confidence] * 2, interval, color=face, lw=1.2, alpha=0.7)
        x, y = [bar.confidence for bar in bins], [bar.accuracy for bar in bins]
        above.plot(x, y, color=face, marker="o", ms=5, lw=1.2)
        above.set(ylabel="accuracy", xlim=(low, 1), ylim=(-0.03, 1.03), title=title)
        centres = [(bar.low + bar.high) / 2 for bar in bins]
        widths = [bar.high - bar.low for bar in bins]
        below.bar(centres, [bar.rows for bar in bins], widths, color=face, edgecolor=INK, lw=0.4)
        if len(bins) <= 10:
            for centre, bar in zip(centres, bins, strict=True):
                below.annotate(
                    _abbreviate(bar.rows),
                    (centre, bar.rows),
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


def _abbreviate(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"


def risk_coverage_curves(lines: Sequence[Line]) -> Figure:
    """Draw the error rate of the most confident rows against their share of all rows."""
    with styled():
        figure, axes = _figure_with_legend(lines)
        _plot_lines(axes, [Line(line.name, line.index, *_thin_out(line.x, line.y)) for line in lines])
        axes.set(xlim=(0, 1), xlabel="share of rows answered, most confident first", ylabel="error rate")
        axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        return figure


def fallback_curves(curves: Sequence[FallbackCurve]) -> Figure:
    """Draw agreement with the teacher and accuracy against the share of rows that the student answers."""
    with styled():
        figure = Figure(figsize=(WIDTH, HEIGHT + 1 + LEGEND_ROW_HEIGHT * len(curves)))
        above, below = figure.subplots(2, 1, sharex=True)
        for curve in curves:
            shade, line = colour(curve.index), dashes(curve.index)
            coverage = [point.coverage for point in curve.points]
            above.plot(coverage, [point.agreement for point in curve.points], color=shade, ls=line)
            bounds = [point.agreement_bound for point in curve.points]
            above.plot(coverage, bounds, color=shade, ls=":", lw=1)
            below.plot(coverage, [point.accuracy for point in curve.points], color=shade, ls=line)
        above.set(ylabel="agreement")
        below.set(xlim=(0, 1), xlabel="share of rows that the student answers", ylabel="accuracy")
        for axis in (below.xaxis, above.yaxis, below.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        add_legend(figure, [(curve.name, curve.index) for curve in curves])
        return figure


# --- trainings --------------------------------------------------------------------------------------------


def history_curves(curves: Sequence[TrainingCurve], quantity: str) -> Figure:
    """Draw a figure of several trainings by epoch, a ring around the best epoch."""
    with styled():
        figure = make_figure(len(curves))
        axes: Axes = figure.add_subplot()
        for curve in curves:
            shade = colour(curve.index)
            axes.plot(
                curve.epochs,
                curve.values,
                ms=4.5,
                color=shade,
                ls=dashes(curve.index),
                marker=marker(curve.index),
            )
            if curve.best is not None and curve.best in curve.epochs:
                value = curve.values[list(curve.epochs).index(curve.best)]
                axes.plot([curve.best], [value], marker="o", mfc="none", mec=shade, ms=12, mew=1.4, ls="")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.margins(x=0.08, y=0.12)
        axes.set(xlabel="epoch", ylabel=quantity)
        if max(len(curve.epochs) for curve in curves) == 1:  # a single epoch gives the axis no extent
            epochs = {curve.epochs[0] for curve in curves}
            axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        add_legend(figure, [(curve.name, curve.index) for curve in curves], marked=True)
        return figure


# --- files ------------------------------------------------------------------------------------------------


def raster(figure: Figure) -> bytes:
    """Return a PNG on white, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def vector(figure: Figure) -> str:
    """Return an SVG file on white, the same text for the same figure."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with styled():
        figure.savefig(buffer, format="svg", facecolor="white", metadata=no_metadata)
    return buffer.getvalue()


def inline(svg: str, description: str) -> str:
    """Return an `<svg>` element for a page, with the page's background and text colour.

    Args:
        svg: a file as `vector` returns it.
        description: plain text that screen readers read out.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element)  # ids are the same in every plot of the page
    head, _, rest = element.partition(">")
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', head)
    assert box
    # Wide plots scroll on a phone: made smaller, their text would be illegible.
    wide = f' style="min-width: {float(box[1]):.0f}px"' if float(box[1]) > 72 * WIDTH + 1 else ""
    label = html.escape(description)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box[0]}{wide} role="img" aria-label="{label}"'
    rest = rest.replace("fill: #ffffff", "fill: none", 1)  # the background is drawn first
    rest = rest.replace("xlink:href", "href").replace(INK, "currentColor")
    return re.sub(r"\s*\n\s*", "\n", f"{head}>{rest}").strip()


@contextmanager
def styled() -> Iterator[None]:
    """Draw with `STYLE`, whatever the user's matplotlib settings are, and restore these afterwards."""
    with warnings.catch_warnings(), style.context([STYLE], after_reset=True):
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        yield


def make_figure(legend_entries: int) -> Figure:
    """Make a figure with room for the plot and, below it, for the legend."""
    return Figure(figsize=(WIDTH, HEIGHT + LEGEND_ROW_HEIGHT * legend_entries))


def _figure_with_legend(lines: Sequence[Line]) -> tuple[Figure, Axes]:
    figure = make_figure(len(lines))
    axes: Axes = figure.add_subplot()
    add_legend(figure, [(line.name, line.index) for line in lines])
    return figure, axes


def _plot_lines(axes: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        axes.plot(line.x, line.y, color=colour(line.index), ls=dashes(line.index))


def add_legend(
    figure: Figure, entries: Sequence[tuple[str, int]], *, marked: bool = False, dashed: bool = True
) -> None:
    """Name the models below the plot, each with its colour and its dashes or marker."""
    # Handles are made here because matplotlib leaves names that begin with an underscore out.
    handles = [
        Line2D(
            [],
            [],
            color=colour(index),
            ls=dashes(index) if dashed else "",
            marker=marker(index) if marked else "",
        )
        for _, index in entries
    ]
    labels = [name for name, _ in entries]
    figure.legend(handles=handles, labels=labels, loc="outside lower center", handlelength=2.6)


def dashes(index: int) -> Dashes:
    """Return the dashes of a model by its position, from 0."""
    return DASHES[index % len(DASHES)]


def marker(index: int) -> str:
    """Return the marker of a model by its position, from 0."""
    return MARKERS[index % len(MARKERS)]


def _set_unit_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=xlabel, ylabel=ylabel)


def _thin_out(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return at most `MAX_CURVE_POINTS` points, spread evenly, with the first and the last."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(MAX_CURVE_POINTS, len(x))).round().astype(np.int64))
    return x[rows], y[rows]
