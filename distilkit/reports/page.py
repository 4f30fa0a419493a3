"""Write the page of an evaluation: `evaluate --report`."""

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from distilkit.config import FIDELITY
from distilkit.reports import plots
from distilkit.reports.document import EvaluationDocument, InputStatistics, MistakeEntry, ModelEntry
from distilkit.reports.parts import (
    ANSWERS,
    EVALUATION,
    INDEX,
    UNKNOWN,
    Cell,
    Picture,
    Table,
    check_report_dir,
    format_bytes,
    format_count,
    format_figure,
    format_millions,
    format_milliseconds,
    format_percent,
    render,
    short_names,
    write_pictures,
)
from distilkit.reports.published import PUBLISHED
from distilkit.reports.summary import device_settings, format_interval, pluralize
from distilkit.runs.folder import write_json, write_text, writing_folder
from distilkit.scores.statistics import QUALITY, Answers, risk_coverage

HEADINGS = {
    "f1": "F1",
    "f1_macro": "F1, macro",
    "precision_macro": "precision, macro",
    "recall_macro": "recall, macro",
    "mcc": "MCC",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "loss": "log loss",
    "brier": "Brier score",
    "ece": "ECE",
    "agreement": "agreement",
    "kl": "KL, nats",
    "accuracy_kept": "accuracy kept",
    "gap_recovered": "gap recovered",
}
SHARES = ("agreement", "accuracy_kept", "gap_recovered")  # shown in per cent
KINDS = {"model": "", "predictions": "answers from a file", "endpoint": "answers from an endpoint"}
# Heading, name of the cost, format.
COST_COLUMNS: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("ms p50", "latency_p50_ms", format_milliseconds),
    ("ms p95", "latency_p95_ms", format_milliseconds),
    ("ms p99", "latency_p99_ms", format_milliseconds),
    ("rows/s", "rows_per_second", format_count),
    ("parameters", "parameters", format_count),
    ("without embeddings", "parameters_without_embeddings", format_count),
    ("size", "bytes", format_bytes),
    ("peak memory", "peak_memory_bytes", format_bytes),
)


def write_report(folder: Path, document: EvaluationDocument, answers: Sequence[Answers]) -> Path:
    """Write an evaluation's page, figures, answers and pictures: whole, or not at all.

    Args:
        folder: made, or replaced where it holds an earlier report.
        answers: of the document's models, in their order.

    Returns:
        The file to open.

    Raises:
        UserError: as `check_report_dir`, or when the disk refuses.
    """
    if len(answers) != len(document.models):
        raise ValueError(f"{len(answers)} models answered, and {len(document.models)} were measured")
    check = partial(check_report_dir, folder)
    with writing_folder(folder, "--report", "report", check) as draft:
        write_json(draft / EVALUATION, document.as_dict())
        _write_answers(draft / ANSWERS, document, answers)
        context, pictures = _page(document, answers)
        write_pictures(draft, pictures)
        write_text(draft / INDEX, render("evaluation.html", **context))
    return folder / INDEX


def _write_answers(file: Path, document: EvaluationDocument, answers: Sequence[Answers]) -> None:
    class_names = [entry.name for entry in document.classes]
    models = [entry.model for entry in document.models]
    head = ["row", "label", *(f"{model} {column}" for model in models for column in ("answer", "confidence"))]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([escape_formula(cell) for cell in head])
        for row, label in enumerate(answers[0].labels.tolist()):
            cells: list[str] = []
            for answer in answers:
                confidence = "" if answer.confidence is None else f"{answer.confidence[row]:.6g}"
                cells += [class_names[int(answer.answer[row])], confidence]
            writer.writerow([row + 1, *map(escape_formula, (class_names[label], *cells))])


def escape_formula(text: str) -> str:
    """Return a cell's text so that a spreadsheet shows it: an apostrophe before what it would compute."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text  # a number, such as the label -1


# --- the page ---------------------------------------------------------------------------------------------


def _page(
    document: EvaluationDocument, answers: Sequence[Answers]
) -> tuple[dict[str, object], list[Picture]]:
    """Return what the template shows, and all pictures."""
    names = short_names([entry.model for entry in document.models])
    shared_pictures = _shared_pictures(document, answers, names)
    class_names = [entry.name for entry in document.classes]
    model_pictures = [
        _model_pictures(entry, answer, name, index, class_names)
        for index, (entry, answer, name) in enumerate(zip(document.models, answers, names, strict=True))
    ]
    context: dict[str, object] = {
        "title": f"{document.dataset}, {document.split}: {pluralize(len(document.models), 'model')}",
        "lead": _lead(document),
        "confidence": f"{document.confidence:.0%}",
        "gates": document.gates,
        "summary": [_quality_table(document), _fidelity_table(document), _cost_table(document)],
        "pairs": [
            {
                "sentence": pair.sentence,
                "counts": f"Only {pair.first} is right on {pluralize(pair.only_first, 'row')}, only "
                f"{pair.second} on {pair.only_second:,}.",
            }
            for pair in document.pairs
        ],
        "pictures": shared_pictures,
        "published": _published_table(document),
        "models": [
            _model_section(document, entry, name, index, pictures)
            for index, (entry, name, pictures) in enumerate(
                zip(document.models, names, model_pictures, strict=True)
            )
        ],
        "settings": _settings(document),
        "method": _method(document),
    }
    return context, [*shared_pictures, *(picture for pictures in model_pictures for picture in pictures)]


def _lead(document: EvaluationDocument) -> str:
    counts = ", ".join(f"{entry.name} {entry.rows:,}" for entry in document.classes)
    classes = counts if len(document.classes) <= 4 else f"{len(document.classes)} classes"
    sample = f" (a sample of {document.sampled_from:,})" if document.sampled_from else ""
    precision = f" in {document.precision}" if document.precision else ""
    return (
        f"{pluralize(document.rows, 'row')}{sample} of {document.dataset}, split {document.split} "
        f"({classes}), evaluated on {document.device}{precision}."
    )


def _shared_pictures(
    document: EvaluationDocument, answers: Sequence[Answers], names: Sequence[str]
) -> list[Picture]:
    """Return the pictures that overlay all models, each with the models that have its figures."""
    pictures = []
    models = list(zip(names, range(len(names)), answers, strict=True))
    binary = len(document.classes) == 2
    subject = (
        f"For class {document.classes[1].name}" if binary else "Mean over the classes, each against the rest"
    )
    if points := _latency_points(document, names):
        text = "Accuracy with its interval, and the latency of a single row. Up and to the left is better."
        pictures.append(Picture("latency", "Quality against latency.", text, plots.latency_plot(points)))
    if lines := [line for model in models if (line := plots.roc_line(*model))]:
        text = f"{subject}. Up and to the left is better; the diagonal is chance."
        pictures.append(Picture("roc", "ROC.", text, plots.roc_curves(lines)))
    if lines := [line for model in models if (line := plots.precision_recall_line(*model))]:
        prevalence = document.classes[1].rows / document.rows if binary else 1 / len(document.classes)
        text = f"{subject}. Up and to the right is better; the horizontal line is random guessing."
        figure = plots.precision_recall_curves(lines, prevalence)
        pictures.append(Picture("precision-recall", "Precision and recall.", text, figure))
    lines = [
        plots.Line(name, index, *risk_coverage(answer, answer.confidence))
        for name, index, answer in models
        if answer.confidence is not None
    ]
    if lines:
        text = (
            "Error rate if only the most confident rows are answered and the rest is passed on to a person "
            "or a larger model. Lower is better."
        )
        figure = plots.risk_coverage_curves(lines)
        pictures.append(Picture("risk-coverage", "Risk and coverage.", text, figure))
    return pictures


def _latency_points(document: EvaluationDocument, names: Sequence[str]) -> list[plots.LatencyPoint]:
    points = []
    for index, (name, entry) in enumerate(zip(names, document.models, strict=True)):
        accuracy = entry.metrics["accuracy"]
        if entry.cost.latency_p50_ms is not None and accuracy is not None:
            low, high = entry.intervals["accuracy"]
            points.append(plots.LatencyPoint(name, index, entry.cost.latency_p50_ms, accuracy, low, high))
    return points


def _model_pictures(
    entry: ModelEntry, answers: Answers, name: str, index: int, class_names: Sequence[str]
) -> list[Picture]:
    figure = plots.confusion_matrix(np.asarray(entry.confusion), class_names, name)
    text = "Rows by label, columns by answer; darker cells hold a larger share of their label."
    pictures = [Picture(f"{index + 1}-confusion", "Confusion.", text, figure)]
    if answers.confidence is not None:
        figure = plots.confidence_histogram(answers, name)
        text = "Distribution of the confidence of right and of wrong answers; the y axes differ."
        pictures.append(Picture(f"{index + 1}-confidence", "Confidence.", text, figure))
    if entry.calibration:
        figure = plots.reliability_diagram(entry.calibration.bins, name)
        text = (
            "Accuracy against confidence by bin, with Wilson's interval; a perfectly calibrated model lies "
            "on the diagonal. Below: rows per bin."
        )
        pictures.append(Picture(f"{index + 1}-reliability", "Reliability.", text, figure))
    return pictures


# --- tables of all models ---------------------------------------------------------------------------------


def _quality_table(document: EvaluationDocument) -> Table:
    return _figures_table(document, "Quality", QUALITY)


def _fidelity_table(document: EvaluationDocument) -> Table:
    """Show agreement with the teacher, and the rows that only one of the two has right."""
    figures = _figures_table(document, "Fidelity to the teacher", FIDELITY)
    rows = []
    for row, entry in zip(figures.rows, document.models, strict=True):
        if entry.teacher is not None:
            student_alone, teacher_alone = _right_alone(document, entry.model, entry.teacher)
            name = Cell(row[0].text, f"teacher: {entry.teacher}", row[0].index)
            rows.append([name, *row[1:], Cell(student_alone), Cell(teacher_alone)])
    head = [*figures.head, "right: student only", "right: teacher only"]
    return Table(figures.caption, head, rows)


def _right_alone(document: EvaluationDocument, first: str, second: str) -> tuple[str, str]:
    for pair in document.pairs:
        if (pair.first, pair.second) == (first, second):
            return format_count(pair.only_first), format_count(pair.only_second)
        if (pair.second, pair.first) == (first, second):
            return format_count(pair.only_second), format_count(pair.only_first)
    return UNKNOWN, UNKNOWN


def _figures_table(document: EvaluationDocument, caption: str, metrics: Sequence[str]) -> Table:
    """Show a row per model, with those of the figures that any model has."""
    shown = [
        name for name in metrics if any(entry.metrics.get(name) is not None for entry in document.models)
    ]
    if "f1" in shown:  # for two classes the macro figures add little
        shown = [name for name in shown if name not in ("precision_macro", "recall_macro")]
    rows = [
        [Cell(entry.model, index=index), *(_figure_cell(entry, name) for name in shown)]
        for index, entry in enumerate(document.models)
    ]
    return Table(caption, ["model", *(HEADINGS.get(name, name) for name in shown)], rows)


def _figure_cell(entry: ModelEntry, name: str) -> Cell:
    interval = entry.intervals.get(name)
    if name in SHARES:
        return Cell(format_percent(entry.metrics.get(name)), format_interval(interval, format_percent))
    return Cell(format_figure(entry.metrics.get(name)), format_interval(interval, "{:.3f}".format))


def _cost_table(document: EvaluationDocument) -> Table:
    columns = [
        (heading, name, format_value)
        for heading, name, format_value in COST_COLUMNS
        if any(entry.cost.value(name) is not None for entry in document.models)
    ]
    rows = []
    for index, entry in enumerate(document.models):
        speed_up = entry.cost.speed_up.model_dump() if entry.cost.speed_up else {}
        notes = {name: f"{value:.1f} times" for name, value in speed_up.items() if value is not None}
        cells = [
            Cell(format_value(entry.cost.value(name)), notes.get(name, ""))
            for _, name, format_value in columns
        ]
        if any(entry.cost.value(name) is not None for _, name, _ in columns):
            rows.append([Cell(entry.model, index=index), *cells])
    caption = f"Cost on {', '.join(device_settings(document))}"
    if any(entry.cost.speed_up for entry in document.models):
        caption += "; “times”: speed relative to the teacher"
    return Table(caption, ["model", *(heading for heading, _, _ in columns)], rows)


def _published_table(document: EvaluationDocument) -> Table:
    """Show published figures below ours of the same metric."""
    # A sample's figures are not comparable with those of the whole split.
    published = () if document.sampled_from else PUBLISHED.get(document.dataset, ())
    rows = []
    for metric in ("accuracy", "f1"):
        figures = [figure for figure in published if figure.metric == metric]
        heading = Cell(HEADINGS.get(metric, metric))
        for index, entry in enumerate(document.models if figures else ()):
            value = entry.metrics.get(metric)
            if value is not None:
                rows.append(
                    [
                        Cell(entry.model, index=index, kind="ours"),
                        heading,
                        Cell(format_percent(value)),
                        Cell(document.split),
                        Cell(format_millions(entry.cost.parameters)),
                        Cell("measured here", wide=True),
                    ]
                )
        rows += [
            [
                Cell(figure.model),
                heading,
                Cell(format_percent(figure.value)),
                Cell(figure.split),
                Cell(figure.parameters or UNKNOWN),
                Cell(f"published: {figure.source}", wide=True),
            ]
            for figure in figures
        ]
    head = ["model", "metric", "value", "split", "parameters", "source"]
    return Table(f"{document.dataset}: published figures, and figures measured here", head, rows)


# --- the section of a model -------------------------------------------------------------------------------


def _model_section(
    document: EvaluationDocument, entry: ModelEntry, name: str, index: int, pictures: list[Picture]
) -> dict[str, object]:
    facts = [
        KINDS[entry.kind],
        entry.architecture,
        f"reads at most {entry.max_length:,} tokens" if entry.max_length else None,
        f"teacher: {entry.teacher}" if entry.teacher else None,
        f"labels-only baseline: {entry.labels_only}" if entry.labels_only else None,
        f"weights {entry.fingerprint[:12]}" if entry.fingerprint else None,
    ]
    return {
        "name": entry.model,
        "short": name,
        "index": index,
        "facts": "; ".join(fact for fact in facts if fact),
        "pictures": pictures,
        "tables": [
            _classes_table(entry),
            _calibration_table(entry),
            _coverage_table(entry),
            _slices_table(document, entry),
            _inputs_table(document, entry),
        ],
        "mistakes": [_mistake(mistake) for mistake in entry.mistakes],
    }


def _classes_table(entry: ModelEntry) -> Table:
    rows = [
        [
            Cell(scores.class_name),
            Cell(format_count(scores.rows)),
            *(Cell(format_figure(value)) for value in (scores.precision, scores.recall, scores.f1)),
        ]
        for scores in entry.per_class
    ]
    return Table("By class", ["class", "rows", "precision", "recall", "F1"], rows)


def _calibration_table(entry: ModelEntry) -> Table:
    """Compare calibration with and without the temperature that a run fitted."""
    calibration, rows = entry.calibration, []
    if calibration and calibration.temperature:
        unscaled = (calibration.ece_unscaled, calibration.brier_unscaled, calibration.loss_unscaled)
        scaled = [entry.metrics.get(name) for name in ("ece", "brier", "loss")]
        if any(value is not None for value in unscaled):
            rows = [
                [Cell("as trained"), *(Cell(format_figure(value)) for value in unscaled)],
                [
                    Cell(f"logits divided by {calibration.temperature:.2f}, as the run saved it"),
                    *(Cell(format_figure(value)) for value in scaled),
                ],
            ]
    head = ["calibration", *(HEADINGS[name] for name in ("ece", "brier", "loss"))]
    return Table("Effect of the fitted temperature (lower is better)", head, rows)


def _coverage_table(entry: ModelEntry) -> Table:
    rows = [
        [
            Cell(f"most confident {format_percent(point.coverage)}"),
            Cell(format_count(point.rows)),
            Cell(format_figure(point.confidence)),
            Cell(format_figure(point.accuracy)),
        ]
        for point in entry.coverage or ()
    ]
    caption = "Accuracy if only the most confident rows are answered"
    return Table(caption, ["answered", "rows", "confidence ≥", "accuracy"], rows)


def _slices_table(document: EvaluationDocument, entry: ModelEntry) -> Table:
    rows = [
        [
            Cell(part.slice),
            Cell(format_count(part.rows)),
            Cell(format_figure(part.accuracy), format_interval((part.low, part.high), format_figure)),
        ]
        for part in entry.slices
    ]
    caption = f"Accuracy by length and by label, with Wilson's {document.confidence:.0%} interval"
    return Table(caption, ["rows with", "rows", "accuracy"], rows)


def _inputs_table(document: EvaluationDocument, entry: ModelEntry) -> Table:
    """Show how the model reads the rows, here and, where it was trained on another dataset, there."""
    in_domain, caption, rows = entry.in_domain, "Inputs", []
    accuracy = entry.metrics.get("accuracy")
    if entry.inputs or in_domain:
        rows.append(_inputs_row(f"here: {document.dataset}", entry.inputs, accuracy))
    if in_domain:
        rows.append(_inputs_row(f"training data: {in_domain.dataset}", in_domain.inputs, in_domain.accuracy))
        if in_domain.drop > 0:
            caption += f"; accuracy is {100 * in_domain.drop:.1f} points lower than on the training data"
    head = ["texts", "tokens, mean", "p95", "truncated", "unknown", "accuracy"]
    return Table(caption, head, rows)


def _inputs_row(name: str, inputs: InputStatistics | None, accuracy: float | None) -> list[Cell]:
    cells = [UNKNOWN] * 4
    if inputs:
        shares = format_percent(inputs.truncated), format_percent(inputs.unknown)
        cells = [f"{inputs.tokens_mean:.1f}", f"{inputs.tokens_p95:.0f}", *shares]
    return [Cell(name), *map(Cell, cells), Cell(format_figure(accuracy))]


def _mistake(mistake: MistakeEntry) -> dict[str, object]:
    confidence = "" if mistake.confidence is None else f", confidence {format_figure(mistake.confidence)}"
    return {
        "texts": [text for text in (mistake.text, mistake.text_pair) if text is not None],
        "summary": f"row {mistake.row:,}: label {mistake.label}, answer {mistake.answer}{confidence}",
    }


# --- how it was measured ----------------------------------------------------------------------------------


def _settings(document: EvaluationDocument) -> list[tuple[str, str]]:
    return [
        ("Device", document.device),
        ("Precision", document.precision or UNKNOWN),
        ("Threads", format_count(document.threads)),
        ("Rows", format_count(document.rows)),
        ("Seed of the intervals", str(document.seed)),
        ("Fingerprint of the rows", document.fingerprint[:12]),
        ("Schema of evaluation.json", document.schema_version),
    ]


def _method(document: EvaluationDocument) -> list[str]:
    return [
        f"Intervals: percentile bootstrap, {document.confidence:.0%}, over {document.replicates:,} samples "
        "of the rows with replacement, the same samples for every model. They cover the choice of rows, and "
        "not the variance between training seeds.",
        "Pairs: McNemar's exact test, two-sided, on the rows that only one of the two models has right; the "
        "interval is that of the difference on the same samples. There is no correction for multiple "
        "comparisons.",
        "Milliseconds: one row at a time, from text to logits, after a warm-up. Rows/s: all rows, in "
        "batches, after a warm-up. Both depend on this device and these settings.",
        "ECE: 15 bins of equal width. Macro figures are means over classes; with more than two classes "
        "ROC AUC and average precision are means over one-vs-rest.",
    ]
