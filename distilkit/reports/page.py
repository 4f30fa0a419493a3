"""Write the page of an evaluation: `evaluate --report`."""

import csv
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from distilkit.config import FIDELITY
from distilkit.errors import pluralize
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
from distilkit.reports.summary import (
    MATRIX_CAPTION,
    MAX_SENTENCES,
    describe_lacking_skill,
    describe_pairs,
    describe_temperature,
    describe_warnings,
    device_settings,
    format_interval,
    majority_name,
)
from distilkit.reports.verdict import count_more_students, gates_card, make_verdicts
from distilkit.runs.folder import write_json, write_text, writing_folder
from distilkit.scores.fallback import trace_fallback
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
# Shown first, as wide as a page; the others follow in a table of their own.
MAIN_QUALITY = ("accuracy", "f1", "f1_macro", "mcc", "roc_auc", "loss", "ece")
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


def write_report(
    folder: Path,
    document: EvaluationDocument,
    answers: Sequence[Answers],
    source_rows: Iterable[Mapping[str, object]] | None = None,
) -> Path:
    """Write an evaluation's page, figures, answers and pictures: whole, or not at all.

    Args:
        folder: made, or replaced where it holds an earlier report.
        answers: of the document's models, in their order.
        source_rows: what `answers.csv` shows of each row before its label: its number in the source file
            and its texts, by column.

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
        _write_answers(draft / ANSWERS, document, answers, source_rows)
        context, pictures = _page(document, answers)
        write_pictures(draft, pictures)
        write_text(draft / INDEX, render("evaluation.html", **context))
    return folder / INDEX


def _write_answers(
    file: Path,
    document: EvaluationDocument,
    answers: Sequence[Answers],
    source_rows: Iterable[Mapping[str, object]] | None,
) -> None:
    class_names = [entry.name for entry in document.classes]
    models = [entry.model for entry in document.models]
    labels = answers[0].labels.tolist()
    with file.open("w", encoding="utf-8", errors="replace", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for row, source in enumerate(source_rows or ({} for _ in labels)):
            if row == 0:
                head = [*source, "label"]
                head += [f"{model} {column}" for model in models for column in ("answer", "confidence")]
                writer.writerow(["row", *map(escape_formula, head)])
            cells: list[str] = []
            for answer in answers:
                confidence = "" if answer.confidence is None else f"{answer.confidence[row]:.6g}"
                cells += [class_names[int(answer.answer[row])], confidence]
            texts = (class_names[labels[row]], *cells)
            sources = (escape_formula(cell) if isinstance(cell, str) else cell for cell in source.values())
            writer.writerow([row + 1, *sources, *map(escape_formula, texts)])


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
        "verdicts": make_verdicts(document),
        "more_students": count_more_students(document),
        "gates_card": gates_card(document),
        "alarms": describe_lacking_skill(document),
        "warnings": describe_warnings(document)[len(describe_lacking_skill(document)) :],
        "confidence": f"{document.confidence:.0%}",
        "gates": document.gates,
        "summary": [*_quality_tables(document), _fidelity_table(document), _cost_table(document)],
        "pairs": _pair_items(document),
        "matrix": _matrix_table(document),
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
        "footer": _footer(document),
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


def _pair_items(document: EvaluationDocument) -> list[dict[str, str]]:
    """Return a sentence and counts for each pair; of many pairs the matrix says it."""
    if describe_pairs(document).matrix:
        return []
    items = [
        {
            "sentence": pair.sentence,
            "counts": f"Only {pair.first} is right on {pluralize(pair.only_first, 'row')}, only "
            f"{pair.second} on {pair.only_second:,}.",
        }
        for pair in document.pairs[:MAX_SENTENCES]
    ]
    more = len(document.pairs) - len(items)
    left_out = {
        "sentence": f"{pluralize(more, 'more pair')}: see evaluation.json in this folder.",
        "counts": "",
    }
    return [*items, left_out] if more else items


def _matrix_table(document: EvaluationDocument) -> Table:
    """Show the differences between many models."""
    matrix = describe_pairs(document).matrix or [[]]
    rows = [
        [Cell(row[0], index=index), *(Cell(text) for text in row[1:])] for index, row in enumerate(matrix[1:])
    ]
    return Table(MATRIX_CAPTION, matrix[0], rows)


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
    if curves := _fallback_curves(document, answers, names):
        text = (
            "If the student answers its most confident rows, and the teacher the rest: the share of answers "
            "that are the teacher's, with its 95 % lower bound (dotted, for each point alone), and the "
            "accuracy of all answers. On the left all are the teacher's. `serve --fallback` does so."
        )
        figure = plots.fallback_curves(curves)
        pictures.append(Picture("fallback", "A teacher for the rest.", text, figure))
    return pictures


def _fallback_curves(
    document: EvaluationDocument, answers: Sequence[Answers], names: Sequence[str]
) -> list[plots.FallbackCurve]:
    """Return the curve of each model that has a teacher here and confidences."""
    models = [entry.model for entry in document.models]
    curves = []
    for index, (entry, answer, name) in enumerate(zip(document.models, answers, names, strict=True)):
        if entry.teacher in models and answer.confidence is not None:
            teacher = answers[models.index(entry.teacher)]
            points = trace_fallback(answer.confidence, answer.answer, teacher.answer, answer.labels)
            curves.append(plots.FallbackCurve(name, index, points))
    return curves


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
    figure = plots.confusion_matrix(np.asarray(entry.confusion), class_names, name, index)
    text = "Rows by label, columns by answer; darker cells hold a larger share of their label."
    pictures = [Picture(f"{index + 1}-confusion", "Confusion.", text, figure)]
    if answers.confidence is not None:
        figure = plots.confidence_histogram(answers, name, index)
        text = "Confidence on right (top) and wrong (bottom, hatched) answers; separate y axes."
        pictures.append(Picture(f"{index + 1}-confidence", "Confidence.", text, figure))
    if entry.calibration:
        figure = plots.reliability_diagram(entry.calibration.bins, name, index)
        text = (
            "Accuracy by confidence bin, with Wilson's interval; a perfectly calibrated model lies on the "
            "diagonal. Below: rows per bin."
        )
        pictures.append(Picture(f"{index + 1}-reliability", "Reliability.", text, figure))
    return pictures


# --- tables of all models ---------------------------------------------------------------------------------


def _quality_tables(document: EvaluationDocument) -> list[Table]:
    """Return the main figures, with the reference of the most frequent class, and then the others."""
    secondary = [name for name in QUALITY if name not in MAIN_QUALITY]
    captions = ("Quality", MAIN_QUALITY), ("More figures of quality", secondary)
    tables = [_with_majority(_figures_table(document, *table), document, table[1]) for table in captions]
    return [table for table in tables if len(table.head) > 1]


def _with_majority(table: Table, document: EvaluationDocument, metrics: Sequence[str]) -> Table:
    if document.majority is None:
        return table
    shown = [name for name in metrics if HEADINGS.get(name, name) in table.head]
    figures = [Cell(format_figure(document.majority.metrics.get(name))) for name in shown]
    label = Cell(majority_name(document), "reference: no model", kind="reference")
    return Table(table.caption, table.head, [*table.rows, [label, *figures]])


def _fidelity_table(document: EvaluationDocument) -> Table:
    """Show agreement with the teacher, and the rows that only one of the two has right."""
    figures = _figures_table(document, "Fidelity to the teacher", FIDELITY)
    rows = []
    for row, entry in zip(figures.rows, document.models, strict=True):
        if entry.teacher is not None:
            student_alone, teacher_alone = _right_alone(document, entry.model, entry.teacher)
            name = Cell(row[0].text, f"teacher: {entry.teacher}", row[0].index)
            rows.append([name, *row[1:], Cell(student_alone), Cell(teacher_alone)])
    head = [*figures.head, "student right, teacher wrong", "teacher right, student wrong"]
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
    if document.models and document.models[0].metrics.get("f1") is not None:
        # For two classes the macro figures add little.
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
        "mistakes": [_mistake(mistake, document) for mistake in entry.mistakes],
        "mistakes_left": _describe_other_mistakes(entry),
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
                    Cell(f"logits {describe_temperature(calibration.temperature)}, as the run saved it"),
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
    in_domain, caption = entry.in_domain, "Inputs"
    if not (entry.inputs or in_domain):
        return Table(caption, [], [])
    head = ["texts", f"here: {document.dataset}"]
    columns = [_input_figures(entry.inputs, entry.metrics.get("accuracy"))]
    if in_domain:
        head.append(f"training data: {in_domain.dataset}")
        columns.append(_input_figures(in_domain.inputs, in_domain.accuracy))
        if in_domain.drop > 0:
            caption += f"; accuracy is {100 * in_domain.drop:.1f} points lower than on the training data"
    names = ("accuracy", "tokens, mean", "tokens, 95th percentile", "rows truncated", "unknown tokens")
    rows = [
        [Cell(name), *(Cell(column[i]) for column in columns)]
        for i, name in enumerate(names)
        if any(column[i] != UNKNOWN for column in columns)
    ]
    return Table(caption, head, rows)


def _input_figures(inputs: InputStatistics | None, accuracy: float | None) -> list[str]:
    if inputs is None:
        return [format_figure(accuracy), *[UNKNOWN] * 4]
    tokens = f"{inputs.tokens_mean:.1f}", f"{inputs.tokens_p95:.0f}"
    return [
        format_figure(accuracy),
        *tokens,
        format_percent(inputs.truncated),
        format_percent(inputs.unknown),
    ]


def _mistake(mistake: MistakeEntry, document: EvaluationDocument) -> dict[str, object]:
    confidence = "" if mistake.confidence is None else f", confidence {format_figure(mistake.confidence)}"
    where = f"row {mistake.row:,}"
    if mistake.source_row is not None and document.provenance:
        where = f"row {mistake.source_row:,} of {Path(document.provenance.data).name}"
    return {
        "texts": [text for text in (mistake.text, mistake.text_pair) if text is not None],
        "summary": f"{where}: label {mistake.label}, answer {mistake.answer}{confidence}",
    }


def _describe_other_mistakes(entry: ModelEntry) -> str:
    more = entry.right.count("0") - len(entry.mistakes)
    return f"{pluralize(more, 'more mistake')}: see answers.csv in this folder." if more > 0 else ""


# --- how it was measured ----------------------------------------------------------------------------------


def _settings(document: EvaluationDocument) -> list[tuple[str, str]]:
    made = document.provenance
    facts = (
        [
            ("Data", made.data),
            ("Made", f"{made.time}, distilkit {made.distilkit}"),
            ("Command", shlex.join(made.command_line)),
            ("Processor", made.cpu or UNKNOWN),
            ("Git commit of the working directory", made.git_commit or UNKNOWN),
        ]
        if made
        else []
    )
    return [
        *facts,
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
        "of the rows with replacement, the same samples for every model. They reflect the sampling of rows, "
        "not the variance between training seeds.",
        "Pairs: McNemar's exact test, two-sided, on the rows that only one of the two models has right; the "
        "interval is that of the difference on the same samples. p-values are not corrected for multiple "
        "comparisons.",
        "Milliseconds: one row at a time, from text to logits, after a warm-up. Rows/s: all rows, in "
        "batches, after a warm-up. Both depend on this device and these settings.",
        "ECE: 15 bins of equal width. Macro figures are means over classes; with more than two classes "
        "ROC AUC and average precision are means over one-vs-rest.",
    ]


def _footer(document: EvaluationDocument) -> str:
    made = document.provenance
    by = f" {made.distilkit} on {made.time[:10]}" if made else ""
    return (
        f"Generated by distilkit{by}. Files next to this page: evaluation.json (all figures), answers.csv "
        "(the answers to every row), plots/ (the pictures as PNG and SVG)."
    )
