"""The page of an evaluation is complete, loads nothing, escapes all text, and allows for missing figures."""

import csv
import html
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import MODEL_COST, answers, make_document
from parsed_pages import ParsedPage, fetched_addresses

from distilkit import UserError
from distilkit.reports import page, parts, plots
from distilkit.reports.document import EvaluationDocument
from distilkit.reports.page import escape_formula, write_report
from distilkit.reports.parts import check_report_dir
from distilkit.reports.published import PUBLISHED
from distilkit.scores.statistics import Answers

HOSTILE = (
    "</title></svg></style><script>alert(1)</script><img src=http://x.example/a.png onerror=a()> --> $x$ \"'&"
)


def write_and_parse(folder: Path, document: dict[str, Any], all_answers: Sequence[Answers]) -> ParsedPage:
    index = write_report(folder, EvaluationDocument.model_validate(document), all_answers)
    parsed = ParsedPage(index.read_text(encoding="utf-8"))
    assert not parsed.open
    return parsed


THREE = [answers(seed=seed) for seed in range(3)]
ONE_CLASS = Answers.from_probabilities(THREE[0].probabilities, np.zeros(60, dtype=np.int64))
ALL_RIGHT = Answers.from_probabilities(np.eye(2)[THREE[0].labels], THREE[0].labels)
LABELS_ONLY = Answers(THREE[0].labels, THREE[1].answer, None, None, 2)
SCORED = Answers(THREE[0].labels, THREE[1].answer, np.linspace(0.3, 1, 60), None, 2)


@pytest.fixture
def no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the PNG files, which take half of the time."""
    monkeypatch.setattr(plots, "raster", lambda figure: b"")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], ParsedPage]:
    """Write a report of three models with hostile names, texts and classes."""
    folder = tmp_path_factory.mktemp("reports") / "one"
    document = make_document(THREE, mark=HOSTILE)
    gate = {"model": HOSTILE, "kind": "baseline", "metric": "f1", "threshold": 0.9, "value": 0.8}
    document["gates"] = [gate | {"passed": passed, "why": HOSTILE} for passed in (True, False)]
    return folder, document, write_and_parse(folder, document, THREE)


def test_the_page_loads_nothing(report: tuple[Path, dict[str, Any], ParsedPage]) -> None:
    """It is mailed, and opened without a network; a request would also reveal its readers."""
    folder, _, parsed = report
    assert fetched_addresses(parsed) == []
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert not {"script", "iframe", "object", "embed", "img", "base"} & set(parsed.tags)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert [value for value in parsed.values("clip-path") if not value.startswith("url(#")] == []
    assert "default-src 'none'" in " ".join(parsed.values("content"))


def test_names_and_texts_are_escaped_everywhere(report: tuple[Path, dict[str, Any], ParsedPage]) -> None:
    folder, document, parsed = report
    assert "script" not in parsed.tags and not [
        name for _, name, _ in parsed.attributes if name.startswith("on")
    ]
    plain = " ".join(HOSTILE.split())
    mistake = document["models"][0]["mistakes"][0]
    texts = mistake["text"], mistake["text_pair"], mistake["answer"]
    for text in (*texts, f"runs/{plain}model-0", f"{plain}home"):
        assert " ".join(text.split()) in parsed.words
    assert parsed.words.count("passed " + plain) == 1 and parsed.words.count("missed " + plain) == 1
    for file in (folder / "plots").glob("*.svg"):
        assert "<script" not in file.read_text(encoding="utf-8")


def test_the_page_fits_phones_and_has_a_dark_mode(report: tuple[Path, dict[str, Any], ParsedPage]) -> None:
    parsed = report[2]
    assert "width=device-width, initial-scale=1" in parsed.values("content")
    assert "light dark" in parsed.values("content")
    text = (report[0] / "index.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text and 'lang="en"' in text
    # A table that is wider than the screen scrolls in its own box.
    assert text.count("<table>") == text.count('<div class="scroll" tabindex="0"') > 10


def test_every_picture_is_in_the_page_and_in_the_folder_and_has_a_description(
    report: tuple[Path, dict[str, Any], ParsedPage],
) -> None:
    folder, _, parsed = report
    of_models = [f"{n}-{what}" for n in (1, 2, 3) for what in ("confusion", "confidence", "reliability")]
    stems = {*of_models, "latency", "roc", "precision-recall", "risk-coverage", "fallback"}
    files = {file.name for file in (folder / "plots").iterdir()}
    assert files == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert parsed.tags.count("svg") == parsed.tags.count("figcaption") == len(stems)
    described = [value for tag, name, value in parsed.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(described) == len(stems) and all(len(text) > 20 for text in described)
    levels = [int(tag[1]) for tag in parsed.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_folder_has_the_figures_and_the_answers(
    report: tuple[Path, dict[str, Any], ParsedPage],
) -> None:
    folder, document, _ = report
    assert {file.name for file in folder.iterdir()} == {
        "index.html",
        "evaluation.json",
        "answers.csv",
        "plots",
    }
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == document
    with (folder / "answers.csv").open(encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    names = [entry["model"] for entry in document["models"]]
    assert head == [
        "row",
        "label",
        *(f"{name} {what}" for name in names for what in ("answer", "confidence")),
    ]
    assert len(rows) == 60 and {len(row) for row in rows} == {8}
    classes = [entry["name"] for entry in document["classes"]]
    for row in rows[::7]:
        i = int(row[0]) - 1
        assert row[1] == classes[int(THREE[0].labels[i])]
        for model, model_answers in enumerate(THREE):
            assert model_answers.confidence is not None
            assert row[2 + 2 * model] == classes[int(model_answers.answer[i])]
            assert float(row[3 + 2 * model]) == pytest.approx(model_answers.confidence[i], rel=1e-5)


@pytest.mark.usefixtures("no_png")
def test_the_page_shows_the_figures_of_the_right_model(tmp_path: Path) -> None:
    """Figures in another model's row would mislead without a trace."""
    document = make_document(THREE)
    document["models"][1]["cost"] |= {"latency_p50_ms": 1.25, "bytes": 12_300_000}
    document["models"][1]["cost"]["speed_up"] = {"rows_per_second": 5.5, "latency_p50_ms": None}
    document["models"][2]["calibration"] |= {"temperature": 1.618, "ece_unscaled": 0.1234}
    document["models"][2]["calibration"] |= {"brier_unscaled": 0.25, "loss_unscaled": None}
    words = write_and_parse(tmp_path / "a", document, THREE).words
    second = document["models"][1]
    low, high = second["intervals"]["accuracy"]
    assert f"runs/model-1 {second['metrics']['accuracy']:.4f} {low:.3f} to {high:.3f}" in words
    assert "runs/model-1 1.25 7.44 11 1,504 5.5 times 12,484,250 763,802 12.3 MB 1,053.0 MB" in words
    pair = document["pairs"][0]
    assert pair["sentence"] in words
    assert f"{100 * second['metrics']['agreement']:.1f} %" in words
    # The second model is the student: its count comes first.
    assert (
        f"{pair['only_second']} {pair['only_first']} " in words[words.index("student right, teacher wrong") :]
    )
    assert f"as trained 0.1234 0.2500 {parts.UNKNOWN} logits divided by 1.62" in words
    assert "accuracy is 12.5 points lower than on the training data" in words
    assert "bf16" in words and "1 thread" in words and "40 samples" in words and "McNemar" in words


@pytest.mark.parametrize(
    ("all_answers", "costs"),
    [
        ([answers(1)], ()),
        ([answers(classes=10, rows=40)], ()),
        ([ONE_CLASS], ()),
        ([LABELS_ONLY], [None]),
        ([SCORED], [None]),
        ([LABELS_ONLY, THREE[0], SCORED], [None, MODEL_COST, None]),
        ([answers(classes=3), Answers(answers(classes=3).labels, np.ones(60, np.int64), None, None, 3)], ()),
        ([ALL_RIGHT] * 2, ()),
    ],
    ids=["one row", "ten classes", "one class", "labels", "scores", "mixed", "three", "all right"],
)
@pytest.mark.usefixtures("no_png")
def test_missing_figures_are_left_out_or_a_dash(
    all_answers: list[Answers], costs: list[Any], tmp_path: Path
) -> None:
    document = make_document(all_answers, costs=costs)
    parsed = write_and_parse(tmp_path / "a", document, all_answers)
    assert "None" not in parsed.words and "nan" not in parsed.words.split()
    with_confidence = sum(model_answers.confidence is not None for model_answers in all_answers)
    assert parsed.tags.count("svg") >= len(all_answers) + 2 * with_confidence
    assert fetched_addresses(parsed) == []


@pytest.mark.usefixtures("no_png")
def test_a_document_with_every_optional_figure_null_renders(tmp_path: Path) -> None:
    """A predictions file without scores has no more than that."""
    document = make_document([LABELS_ONLY], costs=[None])
    (entry,) = document["models"]
    entry["metrics"] = dict.fromkeys(entry["metrics"]) | {"accuracy": 0.5}
    entry["intervals"] = {name: [None, None] for name in entry["intervals"]}
    entry["per_class"] = [
        scores | dict.fromkeys(("precision", "recall", "f1")) for scores in entry["per_class"]
    ]
    words = write_and_parse(tmp_path / "a", document, [LABELS_ONLY]).words
    assert "None" not in words and "answers from a file" in words


def test_the_same_document_is_the_same_report_to_the_byte(tmp_path: Path) -> None:
    """A date, a random name or an object's address would make each report differ from the last."""
    all_answers = THREE[:1]
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        write_report(folder, EvaluationDocument.model_validate(make_document(all_answers)), all_answers)
    first, second = ({f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()} for folder in folders)
    assert first == second and len(first) == 3 + 2 * 7


def test_answers_of_another_number_of_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 models answered, and 3"):
        write_report(tmp_path / "a", EvaluationDocument.model_validate(make_document(THREE)), THREE[:2])


# --- the verdict --------------------------------------------------------------------------------------------


def cards(folder: Path) -> list[str]:
    """Return the text of each card, in order."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    found = re.findall(r'<div class="card(?: \w+)?">(.*?)</div>', text, re.S)
    return [" ".join(html.unescape(re.sub("<[^>]+>", " ", card)).split()) for card in found]


@pytest.mark.usefixtures("no_png")
def test_the_page_begins_with_the_verdict(tmp_path: Path) -> None:
    """Whoever decides reads the first screen: what is kept, how much faster and smaller, and the gates."""
    costs = [MODEL_COST, MODEL_COST | {"bytes": 24_969_112}]
    document = make_document(THREE[:2], costs=costs)
    document["models"][1]["cost"]["speed_up"] = {"rows_per_second": 5.5, "latency_p50_ms": 3.5}
    gate = {"model": "m", "kind": "fail_under", "metric": "f1", "threshold": 0.9, "value": 0.8, "why": "w"}
    document["gates"] = [gate | {"passed": passed} for passed in (True, False, True)]
    words = write_and_parse(tmp_path / "a", document, THREE[:2]).words
    student = document["models"][1]
    low, high = student["intervals"]["accuracy_kept"]
    kept = f"{100 * student['metrics']['accuracy_kept']:.1f} %"
    assert cards(tmp_path / "a") == [
        f"{kept} of its teacher's accuracy 95% interval {100 * low:.1f} % to {100 * high:.1f} %",
        "3.5 times faster than its teacher a row takes 2.84 ms instead of 2.84",
        "50 % smaller than its teacher 25.0 MB instead of 49.9 MB",
        "2 of 3 gates passed",
    ]
    assert words.index(document["pairs"][0]["sentence"]) < words.index("Quality")


@pytest.mark.usefixtures("no_png")
def test_a_slower_and_larger_student_is_not_called_faster(tmp_path: Path) -> None:
    costs = [MODEL_COST | {"bytes": 24_969_112}, MODEL_COST]
    document = make_document(THREE[:2], costs=costs)
    document["models"][1]["cost"]["speed_up"] = {"rows_per_second": 0.5, "latency_p50_ms": None}
    write_and_parse(tmp_path / "a", document, THREE[:2])
    _, speed, size = cards(tmp_path / "a")
    assert speed.startswith("2.0 times slower than its teacher") and "rows/s instead of" in speed
    assert size.startswith("100 % larger than its teacher")


@pytest.mark.usefixtures("no_png")
def test_a_constant_student_is_denounced_before_anything_else(tmp_path: Path) -> None:
    """Its accuracy, agreement and calibration look excellent where one class is frequent."""
    labels = (np.arange(60) % 10 > 0).astype(np.int64)
    constant = Answers.from_probabilities(np.tile([0.1, 0.9], (60, 1)), labels)
    document = make_document([constant, constant])
    words = write_and_parse(tmp_path / "a", document, [constant, constant]).words
    sentence = "answer `class 1` to every row: no better than the most frequent class (90.0 %)."
    assert words.index(sentence) < words.index("of its teacher's accuracy")
    assert "always class 1 reference: no model 0.9000" in words


@pytest.mark.usefixtures("no_png")
def test_many_models_are_compared_in_a_matrix(tmp_path: Path) -> None:
    """21 sentences say less than a table, and the first students stand for all."""
    all_answers = [answers(seed=seed) for seed in range(7)]
    document = make_document(all_answers)
    words = write_and_parse(tmp_path / "a", document, all_answers).words
    assert "in points; * where interval and McNemar's test both show a difference" in words
    assert words.count(document["pairs"][-1]["sentence"]) == 0
    assert "2 more: see Summary" in words, "of six students four have cards"


@pytest.mark.usefixtures("no_png")
def test_every_model_has_a_colour_of_its_own_in_all_its_pictures(tmp_path: Path) -> None:
    """Blue for the teacher in one picture and for right answers in the next says two things at once."""
    write_and_parse(tmp_path / "a", make_document(THREE), THREE)
    for index in range(3):
        used = {other for other in range(12) if other != index}
        for picture in ("confusion", "confidence", "reliability"):
            svg = (tmp_path / "a" / "plots" / f"{index + 1}-{picture}.svg").read_text(encoding="utf-8")
            assert plots.colour(index) in svg
            assert not [other for other in used if plots.colour(other) in svg], picture


# --- rows and where they are --------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_png")
def test_mistakes_and_answers_lead_to_the_row_in_its_file(tmp_path: Path) -> None:
    """A number that counts within the split finds another text in the file."""
    document = make_document(THREE[2:])
    parsed_folder = tmp_path / "a"
    source_rows = [{"source_row": i + 2_001, "text": f"text, {i}", "id": f"x{i}"} for i in range(60)]
    index = write_report(
        parsed_folder, EvaluationDocument.model_validate(document), THREE[2:], iter(source_rows)
    )
    words = ParsedPage(index.read_text(encoding="utf-8")).words
    mistakes = document["models"][0]["mistakes"]
    assert f"row {mistakes[0]['source_row']:,} of train.csv: label" in words
    left = document["models"][0]["right"].count("0") - len(mistakes)
    assert left > 0 and f"{left} more mistakes: see answers.csv in this folder." in words
    with (parsed_folder / "answers.csv").open(encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    assert head[:5] == ["row", "source_row", "text", "id", "label"]
    assert rows[3][:4] == ["4", "2004", "text, 3", "x3"] and len(rows) == 60


@pytest.mark.usefixtures("no_png")
def test_the_page_says_what_made_it(tmp_path: Path) -> None:
    words = write_and_parse(tmp_path / "a", make_document(THREE[:1]), THREE[:1]).words
    assert "Generated by distilkit 0.1.0 on 2026-11-25." in words
    assert "Data /data/train.csv" in words and "Command distilkit evaluate" in words and "Xeon" in words


@pytest.mark.usefixtures("no_png")
def test_a_document_of_an_earlier_version_renders(tmp_path: Path) -> None:
    """Evaluations that are stored lack the fields that came later."""
    document = make_document(THREE[:2])
    for name in ("majority", "provenance"):
        del document[name]
    for entry in document["models"]:
        for name in ("constant_answer", "training_rows", "selection_rows"):
            del entry[name]
        for mistake in entry["mistakes"]:
            del mistake["source_row"]
    words = write_and_parse(tmp_path / "a", document, THREE[:2]).words
    assert "Generated by distilkit." in words and "always" not in words


# --- published figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", PUBLISHED)
@pytest.mark.usefixtures("no_png")
def test_published_figures_are_marked_as_such(dataset: str, tmp_path: Path) -> None:
    """A published figure must never look like a measurement."""
    words = write_and_parse(tmp_path / "a", make_document(THREE[:1], dataset=dataset), THREE[:1]).words
    assert words.count("measured here") >= 2
    for figure in PUBLISHED[dataset]:
        assert 0.5 < figure.value < 1
        parameters = figure.parameters or parts.UNKNOWN
        shown = f"{100 * figure.value:.1f} % {figure.split} {parameters} published: {figure.source}"
        assert shown in words
    assert words.count("published: ") == len(PUBLISHED[dataset])


def test_an_unknown_dataset_has_no_table_of_published_figures(
    report: tuple[Path, dict[str, Any], ParsedPage],
) -> None:
    assert "published: " not in report[2].words and 'id="published"' not in str(report[2].attributes)


# --- the folder --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_png")
def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    all_answers = THREE[:1]
    folder = tmp_path / "deep" / "report"
    check_report_dir(folder)
    assert not folder.parent.exists()
    write_report(folder, EvaluationDocument.model_validate(make_document(all_answers)), all_answers)
    old = folder / "plots" / "1-of-an-older-report.png"
    old.write_bytes(b"")
    check_report_dir(folder)
    write_report(folder, EvaluationDocument.model_validate(make_document(all_answers)), all_answers)
    assert not old.exists()
    assert [file.name for file in folder.parent.iterdir()] == ["report"]


@pytest.mark.parametrize("stray", ["notes.txt", "plots/notes.txt", "plots/deep/a.png", ".git"])
@pytest.mark.usefixtures("no_png")
def test_a_report_with_files_of_the_user_is_not_replaced(stray: str, tmp_path: Path) -> None:
    """Replacing it would delete the user's files."""
    write_report(tmp_path / "a", EvaluationDocument.model_validate(make_document(THREE[:1])), THREE[:1])
    file = tmp_path / "a" / stray
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=r"--report .*would be lost"):
        check_report_dir(tmp_path / "a")
    with pytest.raises(UserError, match="would be lost"):
        write_report(tmp_path / "a", EvaluationDocument.model_validate(make_document(THREE[:1])), THREE[:1])
    assert file.read_text() == "mine"


@pytest.mark.usefixtures("no_png")
def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_answers = THREE[:1]
    index = write_report(
        tmp_path / "a", EvaluationDocument.model_validate(make_document(all_answers)), all_answers
    )
    before = index.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_pictures", full)
    with pytest.raises(UserError, match=r"--report .*No space left on device. Nothing was kept"):
        write_report(
            tmp_path / "a", EvaluationDocument.model_validate(make_document(all_answers, seed=2)), all_answers
        )
    assert index.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *(
            (text, f"'{text}")
            for text in ("=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1", "-")
        ),
        *((text, text) for text in ("-1", "+2.5", "-1e3", "", "good", "a=b")),
    ],
)
def test_a_spreadsheet_computes_nothing_of_what_a_label_holds(text: str, cell: str) -> None:
    """A class or model called `=HYPERLINK(…)` would be a formula in answers.csv."""
    assert escape_formula(text) == cell
