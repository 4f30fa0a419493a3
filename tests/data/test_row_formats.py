"""Rows and added columns in every format: what is written is what a reader gets back."""

import csv
import datetime
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilkit.data.files import read_file
from distilkit.data.row_formats import RowEncoder, write_parquet
from distilkit.data.streams import Piece
from distilkit.data.texts import Texts
from distilkit.errors import UserError

TEXTS = ['a "quoted" word', "tab\there, comma", "line\nbreak", "ünï 🙂", "=1+1", '"', "null", "\\"]


def piece(cells: Any, texts: list[str] | None = None) -> Piece:
    texts = texts or ["x"] * len(cells)
    return Piece(list(range(1, len(cells) + 1)), Texts(texts), cells, [], len(cells))


def answers(count: int, start: int = 0) -> dict[str, list[Any]]:
    return {
        "label": [None if i % 3 == 2 else f"class {i}" for i in range(start, start + count)],
        "score": [1 / (i + 2) for i in range(start, start + count)],
    }


def encode(ending: str, pieces: list[Piece], folder: Path) -> Path:
    """Write pieces as the command does: a new encoder for each, which knows the state of the one before."""
    file, state = folder / f"out{ending}", dict[str, Any]()
    content, start = b"", 0
    for part in pieces:
        encoder = RowEncoder(ending, json.loads(json.dumps(state)))
        content += encoder.encode(part, answers(len(part), start), "in")
        state, start = encoder.state, start + len(part)
    file.write_bytes(content)
    if ending == ".parquet":
        write_parquet(file, folder / "converted")
        return (folder / "converted").replace(file)
    return file


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", ["table", "objects"])
def test_our_own_reader_gets_every_text_and_label_back(tmp_path: Path, ending: str, kind: str) -> None:
    """Quotation marks, tabs and line breaks in a text must not move a label to another row."""
    cells: Any = [{"text": text, "n": str(i)} for i, text in enumerate(TEXTS)]
    parts: Any = [cells[:5], cells[5:]]
    if kind == "table":
        parts = [pa.Table.from_pylist(part) for part in parts]
    file = encode(ending, [piece(part) for part in parts], tmp_path)
    rows, names = read_file(file, ["text", "n", "label"])
    assert names.names == ("text", "n", "label", "score")
    assert rows["text"][:] == TEXTS
    labels = answers(len(TEXTS))["label"]
    missing = None if ending in (".jsonl", ".parquet") else ""
    assert rows["label"][:] == [missing if label is None else label for label in labels]
    assert rows["n"][:] == [str(i) for i in range(len(TEXTS))]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_scores_keep_every_bit(tmp_path: Path, ending: str) -> None:
    file = encode(ending, [piece([{"text": "a"}] * 50)], tmp_path)
    if ending == ".parquet":
        scores = pq.read_table(file)["score"].to_pylist()
    elif ending == ".csv":
        scores = [float(row["score"]) for row in csv.DictReader(io.StringIO(file.read_text()))]
    else:
        scores = [json.loads(line)["score"] for line in file.read_text().splitlines()]
    assert scores == answers(50)["score"]


def test_a_text_file_holds_labels_alone_a_line_each(tmp_path: Path) -> None:
    file = encode(".txt", [piece([{"text": "a", "label": "old"}] * 4)], tmp_path)
    assert file.read_text() == "class 0\nclass 1\n\nclass 3\n"


def test_types_of_a_table_stay_in_parquet_and_are_readable_elsewhere(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 2)
    table = pa.table({"day": [day], "deep": [{"a": [1]}], "raw": [b"x\xff"], "n": pa.array([1], pa.int8())})
    table = table.replace_schema_metadata({"huggingface": "{}", "pandas": "{}"})
    back = pq.read_table(encode(".parquet", [piece(table)], tmp_path))
    assert [str(field.type) for field in back.schema][:4] == [
        *("date32[day]", "struct<a: list<element: int64>>", "binary", "int8"),
    ]
    assert not {b"huggingface", b"pandas"} & set(back.schema.metadata or {}), "they would not know the labels"
    (line,) = encode(".jsonl", [piece(table)], tmp_path).read_text().splitlines()
    assert json.loads(line) == {
        **{"day": "2026-01-02", "deep": {"a": [1]}, "raw": "x\\xff", "n": 1},
        **{"label": "class 0", "score": 0.5},
    }
    text = encode(".csv", [piece(table)], tmp_path).read_text()
    assert text.splitlines()[1] == '2026-01-02,"{""a"": [1]}",x\\xff,1,class 0,0.5'


def test_objects_go_to_json_lines_as_they_are(tmp_path: Path) -> None:
    """Keys may differ from row to row, and a value's type too."""
    cells = [{"text": "a", "n": 1}, {"n": "x", "text": "b", "more": [None, True]}]
    lines = encode(".jsonl", [piece(cells)], tmp_path).read_text().splitlines()
    for line, cell, label in zip(lines, cells, answers(2)["label"], strict=True):
        assert json.loads(line).items() >= (cell | {"label": label}).items()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_column_that_comes_late_is_refused_and_one_that_is_missing_is_empty(
    tmp_path: Path, ending: str
) -> None:
    encoder = RowEncoder(ending)
    encoder.encode(piece([{"text": "a", "n": 1}]), answers(1), "in.jsonl")
    encoder.encode(piece([{"text": "a"}]), answers(1), "in.jsonl")
    with pytest.raises(UserError, match=r"in.jsonl: its column 'late' is not among .* Write .jsonl"):
        encoder.encode(piece([{"text": "a", "n": 1, "late": 2}]), answers(1), "in.jsonl")


def test_a_value_of_another_type_is_refused_in_parquet() -> None:
    encoder = RowEncoder(".parquet")
    encoder.encode(piece([{"n": 1}]), answers(1), "in.jsonl")
    with pytest.raises(UserError, match=r"in.jsonl: its column 'n' cannot be written as one type"):
        encoder.encode(piece([{"n": "x"}]), answers(1), "in.jsonl")


def test_labels_that_are_all_missing_in_the_first_piece_stay_texts() -> None:
    """The type of a column must not depend on which rows come first."""
    encoder = RowEncoder(".parquet")
    encoder.encode(piece([{"n": 1}]), {"label": [None], "score": [0.5]}, "in")
    encoder.encode(piece([{"n": 1}]), {"label": ["a"], "score": [0.5]}, "in")


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_column_that_is_there_is_not_written_over(ending: str) -> None:
    """A labelled file would lose its labels."""
    with pytest.raises(UserError, match=r"in: it has a column 'label' already.*--prefix predicted_"):
        RowEncoder(ending).encode(piece([{"text": "a", "label": "old"}]), answers(1), "in")
