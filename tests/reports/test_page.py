"""The page of an evaluation is complete, loads nothing, escapes all text, and allows for missing figures."""

import csv
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilkit import UserError
from distilkit.reports import page, parts, plots
from distilkit.reports.document import EvaluationDocument
from distilkit.reports.page import escape_formula, write_report
from distilkit.reports.parts import check_report_dir
from distilkit.reports.published import PUBLISHED
from distilkit.scores.comparison import Contestant, compare, coverage, mistakes, per_class, slices
from distilkit.scores.statistics import Answers, confusion, reliability

HOSTILE = (
    "</title></svg></style><script>alert(1)</script><img src=http://x.example/a.png onerror=a()> --> $x$ \"'&"
)
CLASS_SCORES = ("rows", "precision", "recall", "f1")
MODEL_COST = {
    "parameters": 12_484_250,
    "parameters_without_embeddings": 763_802,
    "bytes": 49_938_224,
    "rows_per_second": 1503.7,
    "peak_memory_bytes": 1_052_995_584,
    "latency_p50_ms": 2.84,
    "latency_p95_ms": 7.44,
    "latency_p99_ms": 10.96,
}


def answers(rows: int = 60, classes: int = 2, seed: int = 0) -> Answers:
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1
    odds = np.exp(logits)
    return Answers.from_probabilities(odds / odds.sum(axis=1, keepdims=True), labels)


def make_document(
    all_answers: Sequence[Answers],
    *,
    mark: str = "",
    costs: Sequence[dict[str, Any] | None] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return the JSON of `evaluate --json` for these answers; the first model is the teacher of the rest."""
    names = [f"runs/{mark}model-{i}" for i in range(len(all_answers))]
    classes = [f"{mark}class {i}" for i in range(all_answers[0].classes)]
    rows = len(all_answers[0].labels)
    contestants = [
        Contestant(name, answer, None if index == 0 else 0)
        for index, (name, answer) in enumerate(zip(names, all_answers, strict=True))
    ]
    figures, pairs = compare(contestants, seed=1, replicates=40)
    entries = []
    for index, (name, answer, figure) in enumerate(zip(names, all_answers, figures, strict=True)):
        cost = (costs or [MODEL_COST] * len(all_answers))[index]
        confidence = answer.confidence
        bins = None if confidence is None else [vars(bar) for bar in reliability(answer, confidence)]
        inputs = {"rows": rows, "tokens_mean": 25.2, "tokens_p95": 44.0, "truncated": 0.0, "unknown": 0.1}
        entries.append(
            {
                "model": name,
                "kind": "model" if cost else "predictions",
                "architecture": f"{mark}Bert" if cost else None,
                "fingerprint": "ab" * 32 if cost else None,
                "max_length": 128 if cost else None,
                "teacher": names[0] if index else None,
                "labels_only": None,
                "metrics": {key: value.value for key, value in figure.items()},
                "intervals": {key: [value.low, value.high] for key, value in figure.items()},
                "cost": {**(cost or dict.fromkeys(MODEL_COST)), "speed_up": None},
                "inputs": inputs if cost else None,
                "home": {"dataset": f"{mark}home", "accuracy": 0.9, "drop": 0.125, "inputs": inputs}
                if cost
                else None,
                "per_class": [
                    {"class": scores.name} | {name: getattr(scores, name) for name in CLASS_SCORES}
                    for scores in per_class(answer, classes)
                ],
                "confusion": confusion(answer, np.ones((1, rows)))[0].astype(int).tolist(),
                "coverage": None
                if confidence is None
                else [vars(point) for point in coverage(answer, confidence)],
                "calibration": None if bins is None else {"bins": bins, "temperature": None},
                "slices": [vars(part) for part in slices(answer, np.arange(rows) + 1, classes)],
                "mistakes": [
                    {
                        "row": int(row),
                        "text": f"{mark}text {row}",
                        "text_pair": f"{mark}pair {row}",
                        "label": classes[int(answer.labels[row])],
                        "answer": classes[int(answer.answer[row])],
                        "confidence": None if confidence is None else float(confidence[row]),
                    }
                    for row in mistakes(answer)
                ],
                "right": "".join(map(str, answer.right.astype(int).tolist())),
            }
        )
    compared = [
        {"first": pair.first, "second": pair.second, "difference": vars(pair.difference)}
        | vars(pair.test)
        | {"sentence": pair.sentence}
        for pair in pairs
    ]
    counts = np.bincount(all_answers[0].labels, minlength=len(classes)).tolist()
    document = {
        "schema": "distilkit.evaluation/2",
        "dataset": f"{mark}data",
        "split": "validation",
        "rows": rows,
        "sampled_from": None,
        "fingerprint": "cd" * 32,
        "classes": [{"name": name, "rows": count} for name, count in zip(classes, counts, strict=True)],
        "device": f"{mark}cpu",
        "precision": "bf16",
        "threads": 1,
        "confidence": 0.95,
        "replicates": 40,
        "seed": 1,
        "models": entries,
        "pairs": compared,
        "gates": [],
    }
    return document | more


class ParsedPage(HTMLParser):
    """Parse elements, attributes and text as a browser does."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def write_and_parse(folder: Path, document: dict[str, Any], all_answers: Sequence[Answers]) -> ParsedPage:
    index = write_report(folder, EvaluationDocument.model_validate(document), all_answers)
    parsed = ParsedPage(index.read_text(encoding="utf-8"))
    assert not parsed.open
    return parsed


def fetched_addresses(parsed: ParsedPage) -> list[str]:
    """Return the addresses that a browser would fetch."""
    carriers = ("src", "srcset", "data", "poster", "action", "xlink:href", "background")
    addresses = [value for _, name, value in parsed.attributes if name in carriers]
    addresses += [value for tag, name, value in parsed.attributes if name == "href" and tag != "a"]
    return [value for value in addresses if not value.startswith(("#", "data:"))]


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
    stems = {*of_models, "latency", "roc", "precision-recall", "risk-coverage"}
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
    assert f"{pair['only_second']} {pair['only_first']} " in words[words.index("right: student only") :]
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
