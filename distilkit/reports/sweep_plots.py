"""Draw a sweep: a score against an option, settings across options, quality against cost, runs over time.

The style, and how colours are used, are those of `plots`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from distilkit.reports.plots import (
    HEIGHT,
    INK,
    WIDTH,
    add_legend,
    colour,
    dashes,
    draw_point,
    elide,
    make_figure,
    marker,
    styled,
)

LOG_RATIO = 20  # of the largest to the smallest value, from which on an axis is logarithmic
MAX_TICKS = 8  # values that an axis of parallel coordinates names
MIN_TICK_DISTANCE = 0.07  # share of the axis
MAX_BAR_HEIGHT = 0.12  # inches
MAX_TIMELINE_HEIGHT = 5.0  # inches


@dataclass(frozen=True)
class OptionCurve:
    """Hold scores against the values of an option.

    Attributes:
        means: a mean per value.
        ends: interval of each mean, `None` with a single seed.
        seeds: the single scores of each value.
    """

    name: str
    index: int
    values: Sequence[float]
    means: Sequence[float]
    ends: Sequence[tuple[float, float] | None]
    seeds: Sequence[Sequence[float]]


@dataclass(frozen=True)
class CostPoint:
    """Hold what a student costs, and its best score with the ends of its interval."""

    name: str
    index: int
    cost: float
    score: float
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class TimelineBar:
    """Hold when a run began and ended, in minutes from the first begin of all."""

    start: float
    end: float
    labels_only: bool


def option_curves(
    curves: Sequence[OptionCurve], option: str, metric: str, teacher: float | None = None
) -> Figure:
    """Draw the mean with its interval as a band, and a dot for each seed.

    Args:
        teacher: drawn as a line where it does not squeeze the curves.
    """
    with styled():
        figure = make_figure(len(curves) if len(curves) > 1 else 0)
        axes: Axes = figure.add_subplot()
        for curve in curves:
            _draw_curve(axes, curve)
        values = [value for curve in curves for value in curve.values]
        if min(values) > 0 and max(values) > LOG_RATIO * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        scores = [score for curve in curves for seeds in curve.seeds for score in seeds]
        low, high = min(scores), max(scores)
        if teacher is not None and low - 2 * (high - low) <= teacher <= high + 2 * (high - low):
            axes.axhline(teacher, color=INK, lw=1, ls=":")
            axes.annotate(
                "teacher",
                (1, teacher),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 3),
                textcoords="offset points",
                ha="right",
                fontsize=9,
            )
        axes.margins(x=0.05, y=0.1)
        axes.set(xlabel=option, ylabel=f"validation {metric}")
        if len(curves) > 1:
            add_legend(figure, [(elide(curve.name, 40), curve.index) for curve in curves], marked=True)
        return figure


def _draw_curve(axes: Axes, curve: OptionCurve) -> None:
    shade = colour(curve.index)
    bands = [(value, *ends) for value, ends in zip(curve.values, curve.ends, strict=True) if ends]
    if len(bands) > 1:
        x, low, high = zip(*bands, strict=True)
        axes.fill_between(x, low, high, color=shade, alpha=0.15, lw=0)
    for value, mean, ends, seeds in zip(curve.values, curve.means, curve.ends, curve.seeds, strict=True):
        axes.plot([value] * len(seeds), seeds, color=shade, marker=".", ms=5, alpha=0.6, ls="")
        if ends is not None and len(bands) == 1:
            axes.errorbar(value, mean, [[mean - ends[0]], [ends[1] - mean]], color=shade, capsize=3)
    axes.plot(
        curve.values,
        curve.means,
        color=shade,
        ls=dashes(curve.index),
        marker=marker(curve.index),
        ms=5.5,
    )


def parallel_coordinates(
    columns: Sequence[tuple[str, Sequence[object]]], scores: Sequence[float], metric: str, best: int | None
) -> Figure:
    """Draw a line per setting across its options to its score; the best one is thick.

    Args:
        columns: for each option its name and a value per setting, numbers or texts.
        scores: of the settings.
        best: position of the best setting.
    """
    axes_of = [*columns, (metric, list(scores))]
    with styled():
        figure = Figure(figsize=(max(WIDTH, 1.5 * len(axes_of)), HEIGHT + 0.4))
        axes: Axes = figure.add_subplot()
        heights = [_scale(values) for _, values in axes_of]
        order = np.argsort([i == best for i in range(len(scores))], kind="stable")
        for i in order:
            axes.plot(
                range(len(axes_of)),
                [positions[i] for positions, _ in heights],
                color=colour(1 if i == best else 0),
                lw=3 if i == best else 1.2,
                alpha=1 if i == best else 0.6,
                marker=marker(1 if i == best else 0),
                ms=6 if i == best else 3.5,
            )
        for x, (_, ticks) in enumerate(heights):
            axes.axvline(x, color=INK, lw=0.8, alpha=0.5)
            for height, text in _spread_out(ticks):
                axes.annotate(
                    text,
                    (x, height),
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=8.5,
                    va="bottom",
                )
        axes.set_xticks(range(len(axes_of)), [elide(name, 16) for name, _ in axes_of])
        axes.set_yticks([])
        axes.set(xlim=(-0.1, len(axes_of) - 0.5), ylim=(-0.06, 1.12))
        axes.grid(False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        return figure


def _scale(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the height of each value between 0 and 1, and the ticks of the axis.

    Numbers keep their distances, on a logarithmic scale where they are far apart; texts are spread evenly.
    """
    figures = [float(value) for value in values if isinstance(value, int | float)]
    if len(figures) < len(values):
        texts = list(dict.fromkeys(map(str, values)))
        height = {text: i / max(1, len(texts) - 1) for i, text in enumerate(texts)}
        ticks = [(height[text], elide(text, 14)) for text in texts[:: -(-len(texts) // MAX_TICKS)]]
        return [height[str(value)] for value in values], ticks
    low, high = min(figures), max(figures)
    is_log = low > 0 and high > LOG_RATIO * low
    scaled = np.log(figures) if is_log else np.asarray(figures)
    span = float(scaled.max() - scaled.min()) or 1.0
    positions = ((scaled - scaled.min()) / span).tolist()
    distinct = dict(sorted(zip(figures, positions, strict=True)))
    ticks = [(height, f"{value:.4g}") for value, height in distinct.items()]
    return positions, ticks if len(ticks) <= MAX_TICKS else [ticks[0], ticks[-1]]


def _spread_out(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the ticks from the top down without those whose text would cover that of another."""
    shown: list[tuple[float, str]] = []
    for tick in sorted(ticks, reverse=True):
        if not shown or shown[-1][0] - tick[0] >= MIN_TICK_DISTANCE:
            shown.append(tick)
    return shown


def cost_plot(
    points: Sequence[CostPoint],
    quantity: str,
    metric: str,
    *,
    higher_is_better: bool,
    cost_limit: float | None = None,
    score_limit: float | None = None,
) -> Figure:
    """Draw the score of each student against its cost; a line joins those that no other beats in both.

    Args:
        cost_limit: drawn as a dotted line, as is `score_limit`.
    """
    with styled():
        figure = make_figure(len(points))
        axes: Axes = figure.add_subplot()
        frontier = _find_frontier(points, higher_is_better)
        axes.plot(
            [point.cost for point in frontier],
            [point.score for point in frontier],
            color=INK,
            lw=1,
            alpha=0.5,
            drawstyle="steps-post",
        )
        for point in points:
            bar = None
            if point.ends is not None:
                bar = [[point.score - point.ends[0]], [point.ends[1] - point.score]]
            draw_point(axes, point.cost, point.score, bar, point.index)
        costs = [point.cost for point in points]
        if cost_limit is not None:
            axes.axvline(cost_limit, color=INK, lw=1, ls=":")
            costs.append(cost_limit)
        if score_limit is not None:
            axes.axhline(score_limit, color=INK, lw=1, ls=":")
        if min(costs) > 0 and max(costs) > 4 * min(costs):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xticks(sorted(set(costs)) if len(set(costs)) <= 5 else [min(costs), max(costs)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.margins(x=0.15, y=0.15)
        axes.set(xlabel=quantity, ylabel=f"validation {metric}")
        add_legend(
            figure, [(elide(point.name, 40), point.index) for point in points], marked=True, dashed=False
        )
        return figure


def _find_frontier(points: Sequence[CostPoint], higher_is_better: bool) -> list[CostPoint]:
    """Return the points that no cheaper point equals in score, by cost."""
    sign = 1 if higher_is_better else -1
    frontier: list[CostPoint] = []
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.score)):
        if not frontier or sign * point.score > sign * frontier[-1].score:
            frontier.append(point)
    return frontier


def timeline(bars: Sequence[TimelineBar]) -> Figure:
    """Draw a bar per run from its begin to its end, in the order of the begins."""
    with styled():
        height = min(MAX_TIMELINE_HEIGHT, 1.2 + MAX_BAR_HEIGHT * len(bars))
        figure = Figure(figsize=(WIDTH, max(HEIGHT - 0.6, height) + 0.2))
        axes: Axes = figure.add_subplot()
        for row, bar in enumerate(sorted(bars, key=lambda bar: (bar.start, bar.end))):
            axes.barh(
                row,
                bar.end - bar.start,
                0.8,
                bar.start,
                color=colour(1 if bar.labels_only else 0),
                hatch="////" if bar.labels_only else None,
                edgecolor=INK,
                lw=0.3,
            )
        axes.invert_yaxis()
        axes.set_yticks([])
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="minutes since the first run began", ylabel="runs")
        axes.set_xlim(left=0)
        handles = []
        if not all(bar.labels_only for bar in bars):
            handles.append(Patch(facecolor=colour(0), edgecolor=INK, lw=0.3, label="with the teacher"))
        if any(bar.labels_only for bar in bars):
            handles.append(
                Patch(facecolor=colour(1), edgecolor=INK, lw=0.3, hatch="////", label="labels alone")
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        return figure
