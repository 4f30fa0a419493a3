"""Plots have the right points for any input, are legible on white and on black, and are reproducible."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score

from distilkit.reports import plots
from distilkit.reports.plots import LatencyPoint, Line, TrainingCurve, inline, raster, vector
from distilkit.scores.statistics import Answers, Bin, confusion, quality, reliability, risk_coverage

HOSTILE = '_</text><script>alert(1)</script> $\\frac{$ " & 模型'


def answers(rows: int = 200, classes: int = 2, seed: int = 0) -> Answers:
    """Make answers better than chance, with every class where there are enough rows."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(rows) % classes)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.5
    odds = np.exp(logits)
    return Answers.from_probabilities(odds / odds.sum(axis=1, keepdims=True), labels)


def count_confusions(subject: Answers) -> Any:
    return confusion(subject, np.ones((1, len(subject.labels))))[0].astype(int)


def all_figures(subject: Answers, name: str) -> Iterator[tuple[str, Figure]]:
    """Yield every kind of plot that the answers allow."""
    classes = [f"{name} {i}" for i in range(subject.classes)]
    assert subject.confidence is not None
    yield "confusion", plots.confusion_matrix(count_confusions(subject), classes, name)
    yield "histogram", plots.confidence_histogram(subject, name)
    yield "reliability", plots.reliability_diagram(reliability(subject, subject.confidence), name)
    lines = [Line(name, index, *risk_coverage(subject, subject.confidence)) for index in range(2)]
    yield "risk", plots.risk_coverage_curves(lines)
    if line := plots.roc_line(name, 0, subject):
        yield "roc", plots.roc_curves([line])
    if line := plots.precision_recall_line(name, 0, subject):
        yield "precision-recall", plots.precision_recall_curves([line], 0.5)
    trades = [LatencyPoint(name, 0, 2.5, 0.9, 0.85, 0.95), LatencyPoint(name, 1, 40.0, 0.92, None, None)]
    yield "latency", plots.latency_plot(trades)
    courses = [
        TrainingCurve(name, 0, [1, 2, 3], [0.7, 0.8, 0.75], 2),
        TrainingCurve(name, 1, [1], [0.6], None),
    ]
    yield "history", plots.history_curves(courses, "accuracy")


SUBJECTS = {
    "two classes": answers(),
    "ten classes": answers(400, 10),
    "forty classes": answers(400, 40),
    "one row": answers(1),
    "one class": Answers.from_probabilities(answers().probabilities, np.zeros(200, dtype=np.int64)),
    "all right": Answers.from_probabilities(np.eye(2)[np.arange(50) % 2], np.arange(50) % 2),
    "all wrong": Answers.from_probabilities(np.eye(2)[np.arange(50) % 2], 1 - np.arange(50) % 2),
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_plot_can_be_drawn_for_any_answers(subject: str) -> None:
    """Names must not be parsed as formulas or as markup."""
    drawn = dict(all_figures(SUBJECTS[subject], HOSTILE))
    assert {"confusion", "histogram", "reliability", "risk", "latency", "history"} <= set(drawn)
    for name, figure in drawn.items():
        root = ElementTree.fromstring(inline(vector(figure), HOSTILE))
        assert len([element for element in root.iter() if str(element.tag).endswith(("path", "use"))]) > 5, (
            name
        )
        assert not [element for element in root.iter() if "script" in str(element.tag)]


def test_no_picture_is_blank_or_transparent() -> None:
    """A transparent PNG is illegible on black."""
    for name, figure in all_figures(SUBJECTS["two classes"], "model"):
        pixels = matplotlib.image.imread(io.BytesIO(raster(figure)))
        assert (pixels[..., 3] == 1).all(), name
        grey = pixels[20:-20, 20:-20, :3].mean(axis=2)
        assert len(np.unique(grey)) > 8 and (grey < 0.9).mean() > 0.005, name
        ground = re.search(r'id="patch_1">\s*<path [^>]*style="fill: ([^"]*)"', vector(figure))
        assert ground and ground[1] == "#ffffff"
        assert "#ffffff" not in inline(vector(figure), "")


def test_an_undefined_curve_is_not_drawn() -> None:
    assert plots.roc_line("a", 0, SUBJECTS["one class"]) is None
    assert plots.roc_line("a", 0, SUBJECTS["one row"]) is None
    unsure = Answers(np.array([0, 1]), np.array([0, 1]), None, None, 2)
    assert plots.roc_line("a", 0, unsure) is None and plots.precision_recall_line("a", 0, unsure) is None


@pytest.mark.parametrize("classes", [2, 5])
def test_the_areas_under_the_curves_are_those_of_scikit_learn(classes: int) -> None:
    """Curves of the wrong class, or swapped axes, would look plausible."""
    subject = answers(3_000, classes)
    assert subject.probabilities is not None
    scores = subject.probabilities[:, 1] if classes == 2 else subject.probabilities
    line = plots.roc_line("a", 0, subject)
    assert line is not None
    assert np.trapezoid(line.y, line.x) == pytest.approx(
        roc_auc_score(subject.labels, scores, multi_class="ovr"), abs=2e-3
    )
    line = plots.precision_recall_line("a", 0, subject)
    assert line is not None
    expected = average_precision_score(
        subject.labels if classes == 2 else np.eye(classes)[subject.labels], scores
    )
    assert np.trapezoid(line.y, line.x) == pytest.approx(expected, abs=8e-3)


def test_no_curve_is_drawn_where_a_class_has_no_rows_and_the_area_is_undefined() -> None:
    """A mean over the remaining classes would show a figure that no table has."""
    subject = answers(300, 4)
    assert subject.probabilities is not None
    there = subject.labels != 3
    kept = Answers.from_probabilities(subject.probabilities[there], subject.labels[there])
    assert plots.roc_line("a", 0, kept) is None and plots.precision_recall_line("a", 0, kept) is None
    figures = quality(kept, np.ones((1, len(kept.labels))))
    assert np.isnan(figures["roc_auc"]).all() and np.isnan(figures["average_precision"]).all()


def test_a_long_curve_is_thinned_out_and_keeps_its_ends() -> None:
    """The page of 25,000 reviews and five models would have tens of megabytes."""
    line = plots.roc_line("a", 0, answers(20_000))
    assert line is not None and len(line.x) <= plots.MAX_CURVE_POINTS
    assert (line.x[0], line.y[0], line.x[-1], line.y[-1]) == (0, 0, 1, 1)
    subject = answers(20_000)
    assert subject.confidence is not None
    figure = plots.risk_coverage_curves([Line("a", 0, *risk_coverage(subject, subject.confidence))])
    drawn: Any = figure.axes[0].lines[0].get_xydata()
    assert len(drawn) <= plots.MAX_CURVE_POINTS and drawn[-1, 0] == 1


def test_the_histogram_counts_every_row() -> None:
    """Also rows at both ends, and scores below 0.5, which a predictions file may have."""
    confidence = np.array([0.2, 0.5, 0.5, 0.7, 1.0, 1.0])
    labels, answer = np.zeros(6, dtype=np.int64), np.array([0, 0, 1, 1, 0, 1])
    figure = plots.confidence_histogram(Answers(labels, answer, confidence, None, 2), "a")
    heights = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
    assert heights == [3, 3]


def test_the_confusion_matrix_has_labels_as_rows_and_answers_as_columns() -> None:
    figure = plots.confusion_matrix(np.array([[5, 3], [0, 2]]), ["no", "yes"], "a")
    shown = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert shown == {(0, 0): "5\n62.5%", (1, 0): "3\n37.5%", (0, 1): "0\n0.0%", (1, 1): "2\n100.0%"}
    assert len(figure.axes[0].patches) == 3  # empty cells are not filled


def test_the_reliability_diagram_shows_only_bins_with_rows() -> None:
    bins = [Bin(0, 0.5, 0, None, None), Bin(0.5, 0.75, 4, 0.6, 0.5), Bin(0.75, 1, 12_000, 0.9, 0.95)]
    above, below = plots.reliability_diagram(bins, "a").axes
    assert above.lines[-1].get_xydata().tolist() == [[0.6, 0.5], [0.9, 0.95]]
    assert [text.get_text() for text in below.texts] == ["4", "12k"]
    low, high = above.lines[1].get_ydata()
    assert low < 0.5 < high and high - low > 0.5  # 4 rows give a wide interval


def test_the_best_epoch_has_the_ring() -> None:
    figure = plots.history_curves([TrainingCurve("a", 0, [1, 2, 4], [0.7, 0.9, 0.8], 2)], "accuracy")
    ring = figure.axes[0].lines[1]
    assert ring.get_xydata().tolist() == [[2, 0.9]] and ring.get_markerfacecolor() == "none"


def test_numbers_of_close_points_do_not_overlap() -> None:
    trades = [LatencyPoint(f"{n + 1} m", n, 2.0 + 0.001 * n, 0.9, 0.88, 0.92) for n in range(3)]
    figure = plots.latency_plot([*trades, LatencyPoint("4 t", 3, 30.0, 0.92, 0.9, 0.94)])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    overlaps = [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
    assert len(boxes) == 4 and not overlaps


@pytest.mark.parametrize("times", [(2.0, 30.0), (0.4, 0.5), (17.0, 17.0), (3.0, 4_000.0)])
def test_the_latency_axis_has_at_least_two_plain_ticks(times: tuple[float, float]) -> None:
    figure = plots.latency_plot(
        [LatencyPoint(str(n), n, time, 0.9, 0.9, 0.9) for n, time in enumerate(times)]
    )
    figure.canvas.draw()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    shown = [t.get_text() for t in axes.get_xticklabels() if low <= t.get_position()[0] <= high]
    assert len([text for text in shown if re.fullmatch(r"[\d.]+", text)]) >= 2, shown


# --- how it looks ------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Return the relative luminance as WCAG 2 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("colour", plots.PALETTE)
@pytest.mark.parametrize("page", ["#ffffff", "#0e1116"])
def test_every_colour_has_enough_contrast_on_light_and_dark_pages(colour: str, page: str) -> None:
    """WCAG 2.1, success criterion 1.4.11, requires 3 : 1 for graphics."""
    bright, dark = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 3


def test_twelve_models_differ_in_colour_and_dashes() -> None:
    looks = [(plots.colour(index), str(plots.dashes(index))) for index in range(12)]
    assert len(set(looks)) == 12
    assert all(first[1] != second[1] for first, second in pairwise(looks))


def test_inline_plots_take_the_text_colour_of_the_page() -> None:
    figure = plots.roc_curves([Line("a", 0, np.array([0.0, 1]), np.array([0.0, 1]))])
    element = inline(vector(figure), "what it is")
    assert "currentColor" in element and plots.INK not in element and "#000000" not in element
    head = element.partition(">")[0]
    assert 'aria-label="what it is"' in head and "width=" not in head and "min-width" not in head
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", element)
    assert '<g id="' not in element  # the same in every picture


def test_a_wide_plot_keeps_its_text_legible_on_a_phone() -> None:
    table = count_confusions(answers(400, 12))
    element = inline(vector(plots.confusion_matrix(table, [str(n) for n in range(12)], "a")), "")
    assert "min-width: " in element.partition(">")[0]


def test_a_name_with_a_leading_underscore_is_in_the_legend() -> None:
    """matplotlib leaves such names out of legends that it makes itself."""
    assert "_x $y$" in vector(plots.history_curves([TrainingCurve("_x $y$", 0, [1], [1.0], 1)], "loss"))


def test_matplotlib_settings_of_the_user_have_no_effect_and_are_restored() -> None:
    def drawn() -> tuple[bytes, str]:
        figure = plots.history_curves([TrainingCurve("a", 0, [1, 2], [1.0, 0.5], 2)], "loss")
        return raster(figure), vector(figure)

    plain = drawn()
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert drawn() == plain
        assert dict(matplotlib.rcParams) == before


def test_the_same_figure_is_the_same_file() -> None:
    """Also in another process with another hash seed: reports are compared and committed to git."""
    code = (
        "import sys; from distilkit.reports import plots; import numpy as np\n"
        "figure = plots.confusion_matrix(np.array([[3, 1], [2, 4]]), ['a', 'b'], 't')\n"
        "sys.stdout.write(plots.vector(figure))\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot keeps figures, and picks a window system'\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            timeout=60,
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop()) > 3_000


def test_a_long_name_loses_its_middle() -> None:
    assert plots.elide("runs/a") == "runs/a"
    assert plots.elide("x" * 30 + "\n" + "y" * 30, 20) == "xxxxxx…yyyyyyyyyyyyy"
    assert len(plots.elide("x" * 300)) == plots.SHORT_NAME_CHARACTERS
