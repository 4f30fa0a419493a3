"""A page that shows an evaluation: `evaluate --report`."""

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distilkit.config import FIDELITY
from distilkit.reports import plots, summary
from distilkit.reports.parts import (
    ANSWERS,
    EVALUATION,
    INDEX,
    UNKNOWN,
    Cell,
    Picture,
    Table,
    check_report_dir,
    counted,
    digits,
    number,
    percent,
    render,
    short_names,
    shortened,
    size,
    write_pictures,
)
from distilkit.reports.published import PUBLISHED
from distilkit.runs import folder as run
from distilkit.scores.statistics import QUALITY, Answers, Bin, risk_coverage

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


def write_report(folder: Path, document: Mapping[str, Any], answers: Sequence[Answers]) -> Path:
    """Write an evaluation's page, figures, answers and pictures: whole, or not at all.

    Args:
        folder: made, or replaced where it holds an earlier report.
        document: of schema distilkit.evaluation/2.
        answers: of its models, in their order.

    Returns:
        The file to open.

    Raises:
        UserError: as `check_report_dir`, or when the disk refuses.
    """
    if len(answers) != len(document["models"]):
        raise ValueError(f"{len(answers)} models answered, and {len(document['models'])} were measured")
    check = partial(check_report_dir, folder)
    with run.writing_folder(folder, "--report", "report", check) as draft:
        run.write_json(draft / EVALUATION, document)
        _write_answers(draft / ANSWERS, document, answers)
        context, pictures = _evaluation(document, answers)
        write_pictures(draft, pictures)
        run.write_text(draft / INDEX, render("evaluation.html", **context))
    return folder / INDEX


def _write_answers(file: Path, document: Mapping[str, Any], answers: Sequence[Answers]) -> None:
    classes = [one["name"] for one in document["classes"]]
    names = [one["model"] for one in document["models"]]
    head = ["row", "label", *(f"{name} {what}" for name in names for what in ("answer", "confidence"))]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        for row, label in enumerate(answers[0].labels.tolist()):
            said: list[str] = []
            for one in answers:
                sure = "" if one.confidence is None else f"{one.confidence[row]:.6g}"
                said += [classes[int(one.answer[row])], sure]
            writer.writerow([row + 1, classes[label], *said])


# --- the page of an evaluation ----------------------------------------------------------------------------


def _evaluation(
    document: Mapping[str, Any], answers: Sequence[Answers]
) -> tuple[dict[str, Any], list[Picture]]:
    """What the template shows, and all pictures."""
    entries = document["models"]
    names = short_names([one["model"] for one in entries])
    shared = _overlays(document, answers, names)
    own = [
        _pictures_of(entry, one, name, place, [known["name"] for known in document["classes"]])
        for place, (entry, one, name) in enumerate(zip(entries, answers, names, strict=True))
    ]
    rows = summary.many(document["rows"], "row")
    known = document["classes"]
    listed = ", ".join(f"{one['name']} {one['rows']:,}" for one in known)
    classes = listed if len(known) <= 4 else f"{len(known)} classes"
    whole = document["sampled_from"]
    sample = f", a sample of {whole:,}," if whole else ""
    precision = f" in {document['precision']}" if document["precision"] else ""
    context = {
        "title": f"{document['dataset']}, {document['split']}: {summary.many(len(entries), 'model')}",
        "lead": f"{rows}{sample} of {document['dataset']}, split {document['split']} ({classes}), answered "
        f"on {document['device']}{precision}.",
        "confidence": f"{document['confidence']:.0%}",
        "gates": document["gates"],
        "summary": [_quality(document), _fidelity(document), _cost(document)],
        "pairs": [_pair(pair) for pair in document["pairs"]],
        "pictures": shared,
        "published": _published(document),
        "models": [
            _model(document, entry, name, place, pictures)
            for place, (entry, name, pictures) in enumerate(zip(entries, names, own, strict=True))
        ],
        "setting": _setting(document),
        "method": _method(document),
    }
    return context, [*shared, *(one for pictures in own for one in pictures)]


def _overlays(document: Mapping[str, Any], answers: Sequence[Answers], names: Sequence[str]) -> list[Picture]:
    """All models in one picture, for what can be drawn of at least one."""
    found = []
    numbered = [(name, place, one) for place, (name, one) in enumerate(zip(names, answers, strict=True))]
    two = len(document["classes"]) == 2
    positive = document["classes"][1]["name"] if two else ""
    what = f"Of {positive}" if two else "Mean over the classes, each against the rest"
    trades = [
        plots.Trade(
            name,
            place,
            entry["cost"]["latency_p50_ms"],
            entry["metrics"]["accuracy"],
            *entry["intervals"]["accuracy"],
        )
        for place, (name, entry) in enumerate(zip(names, document["models"], strict=True))
        if entry["cost"].get("latency_p50_ms") is not None
    ]
    if trades:
        text = (
            "Accuracy with its interval, and the time that a row takes alone. Up and to the left is better."
        )
        found.append(Picture("latency", "Quality against latency.", text, plots.latency_picture(trades)))
    if lines := [line for one in numbered if (line := plots.roc_line(*one))]:
        text = f"{what}. Up and to the left is better; the diagonal is chance."
        found.append(Picture("roc", "ROC.", text, plots.roc_curves(lines)))
    if lines := [line for one in numbered if (line := plots.precision_recall_line(*one))]:
        level = document["classes"][1]["rows"] / document["rows"] if two else 1 / len(document["classes"])
        text = f"{what}. Up and to the right is better; the level line is an answer at random."
        figure = plots.precision_recall_curves(lines, level)
        found.append(Picture("precision-recall", "Precision and recall.", text, figure))
    lines = [
        plots.Line(name, place, *risk_coverage(one, one.confidence))
        for name, place, one in numbered
        if one.confidence is not None
    ]
    if lines:
        text = (
            "Wrong answers if only the surest rows are answered and the rest is left to a person or a larger "
            "model. Lower is better."
        )
        found.append(Picture("risk-coverage", "Risk and coverage.", text, plots.risk_coverage_curves(lines)))
    return found


def _pictures_of(
    entry: Mapping[str, Any], answers: Answers, name: str, place: int, classes: Sequence[str]
) -> list[Picture]:
    """A model's own."""
    table = np.asarray(entry["confusion"])
    figure = plots.confusion_matrix(table, classes, name)
    text = "Rows by label, columns by answer; the darker, the greater the share of the label."
    found = [Picture(f"{place + 1}-confusion", "Confusion.", text, figure)]
    if answers.confidence is not None:
        figure = plots.confidence_histogram(answers, name)
        text = "How sure it was of its right answers and, on a scale of their own, of its wrong ones."
        found.append(Picture(f"{place + 1}-confidence", "Confidence.", text, figure))
    if entry["calibration"]:
        figure = plots.reliability_diagram([Bin(**one) for one in entry["calibration"]["bins"]], name)
        text = (
            "Accuracy of the rows that it was about so sure of, with Wilson's interval; on the diagonal, a "
            "confidence is the chance to be right. Below, how many rows these are."
        )
        found.append(Picture(f"{place + 1}-reliability", "Reliability.", text, figure))
    return found


def _quality(document: Mapping[str, Any]) -> Table:
    return _figures(document, "Quality", QUALITY)


def _fidelity(document: Mapping[str, Any]) -> Table:
    """Agreement with the teacher, and the rows on which one of them alone is right."""
    measured = _figures(document, "Fidelity to the teacher", FIDELITY)
    rows = []
    for row, entry in zip(measured.rows, document["models"], strict=True):
        if entry["teacher"] is not None:
            student, teacher = _alone(document, entry["model"], entry["teacher"])
            name = Cell(row[0].text, f"of {entry['teacher']}", row[0].place)
            rows.append([name, *row[1:], Cell(student), Cell(teacher)])
    head = [*measured.head, "only it is right", "only the teacher is"]
    return Table(measured.caption, head, rows)


def _alone(document: Mapping[str, Any], first: str, second: str) -> tuple[str, str]:
    for pair in document["pairs"]:
        if (pair["first"], pair["second"]) == (first, second):
            return counted(pair["only_first"]), counted(pair["only_second"])
        if (pair["second"], pair["first"]) == (first, second):
            return counted(pair["only_second"]), counted(pair["only_first"])
    return UNKNOWN, UNKNOWN


def _figures(document: Mapping[str, Any], caption: str, names: Sequence[str]) -> Table:
    """A row per model, with those of the figures that any model has."""
    entries = document["models"]
    shown = [name for name in names if any(one["metrics"].get(name) is not None for one in entries)]
    if "f1" in shown:  # two classes: their means say little beside it
        shown = [name for name in shown if name not in ("precision_macro", "recall_macro")]
    rows = []
    for place, entry in enumerate(entries):
        cells = [_interval(entry, name) for name in shown]
        rows.append([Cell(entry["model"], place=place), *cells])
    return Table(caption, ["model", *(HEADINGS.get(name, name) for name in shown)], rows)


def _interval(entry: Mapping[str, Any], name: str) -> Cell:
    form, short = (percent, percent) if name in SHARES else (number, "{:.3f}".format)
    return Cell(form(entry["metrics"].get(name)), summary.between(entry, name, short))


def _cost(document: Mapping[str, Any]) -> Table:
    entries = document["models"]
    columns = [
        (heading, name, form)
        for heading, name, form in (
            ("ms p50", "latency_p50_ms", digits),
            ("ms p95", "latency_p95_ms", digits),
            ("ms p99", "latency_p99_ms", digits),
            ("rows/s", "rows_per_second", counted),
            ("parameters", "parameters", counted),
            ("without embeddings", "parameters_without_embeddings", counted),
            ("size", "bytes", size),
            ("peak memory", "peak_memory_bytes", size),
        )
        if any(entry["cost"].get(name) is not None for entry in entries)
    ]
    rows = []
    for place, entry in enumerate(entries):
        cost, faster = entry["cost"], entry["cost"].get("speed_up") or {}
        notes = {name: f"{value:.1f} times" for name, value in faster.items() if value is not None}
        cells = [Cell(form(cost.get(name)), notes.get(name, "")) for _, name, form in columns]
        if any(cost.get(name) is not None for _, name, _ in columns):
            rows.append([Cell(entry["model"], place=place), *cells])
    caption = f"Cost on {', '.join(summary.setting(document))}"
    if any(entry["cost"].get("speed_up") for entry in entries):
        caption += "; “times”: as fast as the teacher"
    return Table(caption, ["model", *(heading for heading, _, _ in columns)], rows)


def _pair(pair: Mapping[str, Any]) -> dict[str, str]:
    counts = (
        f"Only {pair['first']} is right on {pair['only_first']:,} rows, only {pair['second']} on "
        f"{pair['only_second']:,}."
    )
    return {"sentence": pair["sentence"], "counts": counts}


def _published(document: Mapping[str, Any]) -> Table:
    """Others' figures below ours of the same metric."""
    known = () if document["sampled_from"] else PUBLISHED.get(document["dataset"], ())
    rows = []
    for metric in ("accuracy", "f1"):
        others = [one for one in known if one.metric == metric]
        for place, entry in enumerate(document["models"] if others else ()):
            value = entry["metrics"].get(metric)
            if value is not None:
                name = Cell(entry["model"], place=place, kind="ours")
                rows.append(
                    [
                        name,
                        Cell(HEADINGS.get(metric, metric)),
                        Cell(percent(value)),
                        Cell(document["split"]),
                        Cell(shortened(entry["cost"].get("parameters"))),
                        Cell("measured here", wide=True),
                    ]
                )
        rows += [
            [
                Cell(one.model),
                Cell(HEADINGS.get(metric, metric)),
                Cell(percent(one.value)),
                Cell(one.split),
                Cell(one.parameters or UNKNOWN),
                Cell(f"published: {one.source}", wide=True),
            ]
            for one in others
        ]
    head = ["model", "metric", "value", "split", "parameters", "source"]
    return Table(f"{document['dataset']}: published by others, and measured here", head, rows)


def _model(
    document: Mapping[str, Any], entry: Mapping[str, Any], name: str, place: int, pictures: list[Picture]
) -> dict[str, Any]:
    """What the page says of one model alone."""
    facts = [
        {"model": "", "predictions": "answers from a file", "endpoint": "answers from an endpoint"}[
            entry["kind"]
        ],
        entry["architecture"],
        f"reads {entry['max_length']:,} tokens at most" if entry["max_length"] else None,
        f"teacher: {entry['teacher']}" if entry["teacher"] else None,
        f"gap recovered counts from {entry['labels_only']}" if entry["labels_only"] else None,
        f"weights {entry['fingerprint'][:12]}" if entry["fingerprint"] else None,
    ]
    tables = [_classes(entry), _calibration(entry), _coverage(entry), _slices(document, entry)]
    return {
        "name": entry["model"],
        "short": name,
        "place": place,
        "facts": "; ".join(fact for fact in facts if fact),
        "pictures": pictures,
        "tables": [*tables, _inputs(document, entry)],
        "mistakes": [_mistake(one) for one in entry["mistakes"]],
    }


def _classes(entry: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(one["class"]),
            Cell(counted(one["rows"])),
            *(Cell(number(one[name])) for name in ("precision", "recall", "f1")),
        ]
        for one in entry["per_class"]
    ]
    return Table("By class", ["class", "rows", "precision", "recall", "F1"], rows)


def _calibration(entry: Mapping[str, Any]) -> Table:
    """What the temperature that a run fitted does on these rows."""
    found = entry["calibration"] or {}
    names = ("ece", "brier", "loss")
    rows = []
    if found.get("temperature") and any(found.get(f"{name}_unscaled") is not None for name in names):
        before = [Cell(number(found.get(f"{name}_unscaled"))) for name in names]
        after = [Cell(number(entry["metrics"].get(name))) for name in names]
        rows = [
            [Cell("as trained"), *before],
            [Cell(f"logits divided by {found['temperature']:.2f}, as the run saved it"), *after],
        ]
    head = ["calibration", *(HEADINGS[name] for name in names)]
    return Table("What the fitted temperature does here (lower is better)", head, rows)


def _coverage(entry: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(f"surest {percent(one['coverage'])}"),
            Cell(counted(one["rows"])),
            Cell(number(one["confidence"])),
            Cell(number(one["accuracy"])),
        ]
        for one in entry["coverage"] or ()
    ]
    caption = "Accuracy if only the surest rows are answered"
    return Table(caption, ["answered", "rows", "confidence ≥", "accuracy"], rows)


def _slices(document: Mapping[str, Any], entry: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(one["slice"]),
            Cell(counted(one["rows"])),
            Cell(number(one["accuracy"]), f"{number(one['low'])} to {number(one['high'])}"),
        ]
        for one in entry["slices"]
    ]
    caption = f"Accuracy by length and by label, with Wilson's {document['confidence']:.0%} interval"
    return Table(caption, ["rows with", "rows", "accuracy"], rows)


def _inputs(document: Mapping[str, Any], entry: Mapping[str, Any]) -> Table:
    """What the rows are like to the model and, on a dataset that it did not learn, what its own were like."""
    home, rows = entry["home"], []
    places = [(f"here: {document['dataset']}", entry["inputs"], entry["metrics"].get("accuracy"))]
    if home:
        places.append((f"at home: {home['dataset']}", home["inputs"], home["accuracy"]))
    for what, found, accuracy in places:
        if found or home:
            read = [UNKNOWN] * 4
            if found:
                tokens = f"{found['tokens_mean']:.1f}", f"{found['tokens_p95']:.0f}"
                read = [*tokens, percent(found["truncated"]), percent(found["unknown"])]
            rows.append([Cell(what), *map(Cell, read), Cell(number(accuracy))])
    caption = "What it reads"
    if home and home["drop"] > 0:
        caption += f"; accuracy is {100 * home['drop']:.1f} points lower than at home"
    head = ["texts", "tokens, mean", "p95", "cut", "unknown", "accuracy"]
    return Table(caption, head, rows)


def _mistake(one: Mapping[str, Any]) -> dict[str, Any]:
    sure = "" if one["confidence"] is None else f", confidence {number(one['confidence'])}"
    return {
        "texts": [text for text in (one["text"], one["text_pair"]) if text is not None],
        "said": f"row {one['row']:,}: {one['label']}, answered {one['answer']}{sure}",
    }


def _setting(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Device", str(document["device"])),
        ("Precision", str(document["precision"] or UNKNOWN)),
        ("Threads", counted(document["threads"])),
        ("Rows", counted(document["rows"])),
        ("Seed of the intervals", str(document["seed"])),
        ("Fingerprint of the rows", str(document["fingerprint"])[:12]),
        ("Schema of evaluation.json", str(document["schema"])),
    ]


def _method(document: Mapping[str, Any]) -> list[str]:
    level, times = f"{document['confidence']:.0%}", f"{document['replicates']:,}"
    return [
        f"Intervals: the middle {level} of the figure over {times} samples of the rows with replacement "
        "(percentile bootstrap), the same samples for every model. They say how far other rows of the same "
        "kind may move a figure, and nothing of other training seeds.",
        "Pairs: McNemar's exact test, two-sided, on the rows that only one of the two has right; the "
        "interval is of the difference within the same samples. Many pairs are not corrected for.",
        "Milliseconds: one row at a time, text in and logits out, after a warm-up. Rows/s: all rows, in "
        "batches, after a warm-up. Both hold for this device and these settings alone.",
        "ECE: 15 bins of equal width. Macro figures are means over classes; with more than two classes "
        "ROC AUC and average precision are means over one against the rest.",
    ]
