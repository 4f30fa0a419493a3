"""The report of a sweep is complete, loads nothing, escapes all text, and is written whole or not at all."""

import csv
import json
from pathlib import Path

import pandas
import pytest
from parsed_pages import ParsedPage, fetched_addresses
from sweep_documents import FAILURE, describe, example, make_runs

from distilkit import UserError
from distilkit.reports import sweep_page
from distilkit.reports.sweep_document import SweepDocument
from distilkit.reports.sweep_frame import frame
from distilkit.reports.sweep_page import draw_pictures, write_sweep_report
from distilkit.reports.sweep_plots import CostPoint, _find_frontier, _scale
from distilkit.reports.sweep_summary import make_document


def write_and_parse(folder: Path, document: SweepDocument) -> ParsedPage:
    index, *_ = write_sweep_report(folder, document)
    parsed = ParsedPage(index.read_text(encoding="utf-8"))
    assert not parsed.open
    return parsed


def stems(document: SweepDocument) -> list[str]:
    return [picture.stem for picture in draw_pictures(document)]


def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    parsed = write_and_parse(tmp_path / "report", example())
    assert fetched_addresses(parsed) == [] and "script" not in parsed.tags
    assert "tiny<bert>" in parsed.words and "bert>" not in parsed.tags
    anchors = [value[1:] for tag, name, value in parsed.attributes if (tag, name) == ("a", "href")]
    assert anchors and set(anchors) <= set(parsed.values("id"))


def test_the_page_says_everything_that_the_document_says(tmp_path: Path) -> None:
    document = example()
    words = write_and_parse(tmp_path / "report", document).words
    assert all(sentence in words for sentence in document.verdict)
    assert all(entry.name in words for entry in document.settings)
    assert all(run.folder in words for run in document.runs)
    assert "ended early" in words and "out of memory" in words


def test_every_file_is_written_and_named(tmp_path: Path) -> None:
    document = example()
    files = write_sweep_report(tmp_path / "report", document)
    written = {file for file in (tmp_path / "report").rglob("*") if file.is_file()}
    assert set(files) == written
    pictures = [file.name for file in files if file.suffix == ".png"]
    assert pictures == ["alpha.png", "parallel-coordinates.png", "students.png", "timeline.png"]
    saved = SweepDocument.model_validate_json((tmp_path / "report" / "sweep.json").read_text())
    assert saved == document


def test_the_same_document_is_the_same_report_to_the_byte(tmp_path: Path) -> None:
    """A sweep that was killed and resumed must give the report of one that was not."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        write_sweep_report(folder, example())
    names = sorted(file.relative_to(folders[0]) for file in folders[0].rglob("*") if file.is_file())
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    write_sweep_report(tmp_path / "report", example())
    write_sweep_report(tmp_path / "report", example())
    (tmp_path / "report" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        write_sweep_report(tmp_path / "report", example())


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep_report(tmp_path / "report", example())
    before = {file: file.read_bytes() for file in (tmp_path / "report").rglob("*") if file.is_file()}

    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("planted")

    monkeypatch.setattr(sweep_page, "render", fail)
    with pytest.raises(RuntimeError, match="planted"):
        write_sweep_report(tmp_path / "report", make_document(describe(), []))
    assert before == {file: file.read_bytes() for file in (tmp_path / "report").rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "document",
    [
        make_document(describe(), []),
        make_document(describe(), [], failures=[FAILURE], missing=3),
        make_document(describe(), make_runs([0.8], alpha=1.0)),
        make_document(describe(), make_runs([0.8, 0.8], alpha=0.5) + make_runs([0.8, 0.8], alpha=1.0)),
        make_document(
            describe("learning_rate", metric="loss", higher_is_better=False),
            make_runs([0.3, 0.31], learning_rate=1e-5) + make_runs([0.4, 0.42], learning_rate=1e-2),
        ),
        make_document(
            describe("recipe"), make_runs([0.3, 0.31], recipe=["a", "b"]) + make_runs([0.4], recipe=None)
        ),
        make_document(
            describe("kd", "deep"), make_runs([0.1, 0.2], kd=True, deep=1) + make_runs([0.4], kd=False)
        ),
    ],
    ids=["empty", "only failures", "one run", "all equal", "loss", "lists", "missing option"],
)
def test_every_kind_of_sweep_has_a_page(document: SweepDocument, tmp_path: Path) -> None:
    parsed = write_and_parse(tmp_path / "report", document)
    assert document.verdict[0] in parsed.words


def test_pictures_are_drawn_where_there_is_something_to_show() -> None:
    runs = make_runs([0.8, 0.81], student="bilstm") + make_runs([0.85, 0.86], student="tinybert")
    assert stems(make_document(describe("student"), runs)) == ["students", "timeline"]
    runs = make_runs([0.8, 0.81], alpha=0.5) + make_runs([0.85, 0.86], alpha=1.0)
    assert stems(make_document(describe("alpha"), runs)) == ["alpha", "timeline"]


def test_latency_is_drawn_only_where_all_students_were_timed() -> None:
    """A size in megabytes beside milliseconds would be a point in the wrong place."""
    runs = make_runs([0.8, 0.81], student="bilstm") + make_runs([0.85, 0.86], student="tinybert")
    timed = [run.model_copy(update={"latency_p50_ms": 1.5}) for run in runs]
    headings = [
        draw_pictures(make_document(describe("student"), group))[0].heading for group in (runs, timed)
    ]
    assert headings == ["Quality against size.", "Quality against latency."]


def test_the_frontier_has_the_students_that_none_beats() -> None:
    points = [
        CostPoint(name, 0, cost, score, None)
        for name, cost, score in (("a", 1, 0.8), ("b", 2, 0.7), ("c", 3, 0.9), ("d", 3, 0.85))
    ]
    assert [point.name for point in _find_frontier(points, higher_is_better=True)] == ["a", "c"]
    assert [point.name for point in _find_frontier(points, higher_is_better=False)] == ["a", "b"]


def test_an_axis_keeps_the_distances_of_numbers() -> None:
    assert _scale([0.0, 0.25, 1.0])[0] == [0.0, 0.25, 1.0]
    assert _scale([1e-5, 1e-4, 1e-3])[0] == pytest.approx([0.0, 0.5, 1.0])
    assert _scale(["a", "b", "a"])[0] == [0.0, 1.0, 0.0]


# --- the table --------------------------------------------------------------------------------------------


def test_the_frame_has_a_row_per_run_and_a_column_per_option() -> None:
    document = example()
    table = frame(document)
    assert len(table) == len(document.runs)
    assert list(table.columns[:5]) == ["cell", "alpha", "student", "seed", "validation_accuracy"]
    assert table.columns.is_unique
    means = table[table.student == "bilstm"].groupby("alpha").score.mean()
    assert means[0.25] == pytest.approx(document.entry("alpha 0.25, student bilstm").mean)


def test_both_files_hold_the_frame(tmp_path: Path) -> None:
    document = example()
    write_sweep_report(tmp_path / "report", document)
    table = frame(document)
    saved = pandas.read_parquet(tmp_path / "report" / "results.parquet")
    pandas.testing.assert_frame_equal(saved, table, check_dtype=False)
    with (tmp_path / "report" / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["score"]) for row in rows] == table.score.tolist()


def test_values_of_several_kinds_are_written_as_text(tmp_path: Path) -> None:
    """Parquet refuses a column with numbers and texts, after hours of training."""
    runs = make_runs([0.8, 0.81], warmup="auto") + make_runs([0.8, 0.83], warmup=0.1)
    runs += make_runs([0.8], warmup=["a", 1]) + make_runs([0.7], warmup=None)
    write_sweep_report(tmp_path / "report", make_document(describe("warmup"), runs))
    saved = pandas.read_parquet(tmp_path / "report" / "results.parquet")
    assert {*saved.warmup.dropna()} == {"auto", "0.1", "a+1"}


def test_a_spreadsheet_computes_nothing_of_what_a_name_holds(tmp_path: Path) -> None:
    runs = make_runs([0.8], student="=1+1") + make_runs([0.7], student="b")
    write_sweep_report(tmp_path / "report", make_document(describe("student"), runs))
    assert ",=1+1" not in (tmp_path / "report" / "results.csv").read_text()


def test_the_document_is_valid_json_with_the_schema_first(tmp_path: Path) -> None:
    write_sweep_report(tmp_path / "report", example())
    values = json.loads((tmp_path / "report" / "sweep.json").read_text())
    assert next(iter(values.items())) == ("schema", "distilkit.sweep/1")
