"""A stream of rows: in order, nothing lost, bad rows named by their place in the file, little in memory."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilkit.data import delimited, streams
from distilkit.data.streams import Piece, TextColumns, make_texts, open_lines, read_lines, read_rows, regroup
from distilkit.errors import UserError

PAIRS = TextColumns(("text",), "reply")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": str(i), "text": f"text {i}, with a comma", "reply": f'"{i}"'} for i in range(1, count + 1)]


def write(file: Path, values: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the ending says."""
    ending = file.suffix
    if ending in (".csv", ".tsv"):
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(values[0]), delimiter="," if ending == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(values)
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), file)
    elif ending == ".arrow":
        table = pa.Table.from_pylist(values)
        with pa.ipc.new_file(file, table.schema) as sink:
            sink.write_table(table)
    elif ending == ".json":
        file.write_text(json.dumps(values), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return file


def cells(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [
        row
        for piece in pieces
        for row in (piece.cells if isinstance(piece.cells, list) else piece.cells.to_pylist())
    ]


def texts(pieces: list[Piece]) -> list[tuple[str, ...]]:
    return [row for piece in pieces for row in piece.texts.rows()]


KINDS = [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow"]


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("size", [1, 700, 1024, 5000])
def test_every_row_comes_once_in_order_with_all_its_columns(tmp_path: Path, ending: str, size: int) -> None:
    values = rows(2500)
    pieces = list(regroup(read_rows(write(tmp_path / f"a{ending}", values), PAIRS), size))
    assert cells(pieces) == values
    assert texts(pieces) == [(row["text"], row["reply"]) for row in values]
    assert [row for piece in pieces for row in piece.row_numbers] == list(range(1, 2501))
    assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1) and len(pieces[-1]) <= size
    assert [piece.end for piece in pieces] == [piece.row_numbers[-1] for piece in pieces]


@pytest.mark.parametrize("ending", KINDS)
def test_a_row_without_a_text_is_a_fault_with_its_number_and_the_rows_around_it_stay(
    tmp_path: Path, ending: str
) -> None:
    values = rows(2000)
    for row in (1, 1024, 1025, 2000):
        values[row - 1]["text"] = "" if row % 2 else "  "
    values[7]["reply"] = ""
    pieces = list(regroup(read_rows(write(tmp_path / f"a{ending}", values), PAIRS), 600))
    faults = [row for piece in pieces for row, _ in piece.faults]
    assert faults == [1, 8, 1024, 1025, 2000]
    assert cells(pieces) == [row for row in values if row["text"].strip() and row["reply"]]
    assert pieces[-1].end == 2000
    assert pieces[0].faults[0][1] == f"{tmp_path / ('a' + ending)}, row 1: the text is missing or empty"


@pytest.mark.parametrize("ending", [*KINDS, ".txt"])
@pytest.mark.parametrize("row", [0, 1, 599, 600, 1023, 1500, 1999, 2000])
def test_what_comes_after_a_row_is_the_rest_faults_included(tmp_path: Path, ending: str, row: int) -> None:
    """A command that goes on must neither repeat nor lose a row, and report each bad row once."""
    file = tmp_path / f"a{ending}"
    if ending == ".txt":
        file.write_text("".join(f"line {i}\n" if i % 600 else "\n" for i in range(1, 2001)), encoding="utf-8")
    else:
        write(
            file,
            [values | {"text": ""} if i % 600 == 0 else values for i, values in enumerate(rows(2000), 1)],
        )
    whole = list(read_rows(file, TextColumns()))
    rest = [piece.after(row) for piece in read_rows(file, TextColumns()) if piece.end > row]
    numbers = [number for piece in whole for number in piece.row_numbers if number > row]
    assert [number for piece in rest for number in piece.row_numbers] == numbers
    assert len(cells(rest)) == len(texts(rest)) == len(numbers)
    assert [number for piece in rest for number, _ in piece.faults] == [
        number for number in (600, 1200, 1800) if number > row
    ]


def test_rows_with_too_many_or_too_few_columns_are_faults_with_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    lines = ["id,text", "1,good", "2", "3,fine", "4,a,b", "", "5,bad", "6,x,y,z"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (piece,) = regroup(read_rows(file, TextColumns()), 100)
    assert piece.row_numbers == [1, 3, 5] and piece.texts.first == ["good", "fine", "bad"]
    assert [row for row, _ in piece.faults] == [2, 4, 6] and piece.end == 6
    assert "row 2 has 1 column, the header 2 columns" in piece.faults[0][1]
    assert "row 6 has 4 columns" in piece.faults[2][1]


def test_lines_that_are_no_json_are_faults_with_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = ['{"text": "a"}', "{", "[1]", '{"text": 5}', '{"id": 1}', '{"text": "b", "text": "c"}']
    lines += ['{"text": "\\ud800"}', '{"text": "d", "n": {"deep": [1]}}']
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (piece,) = regroup(read_rows(file, TextColumns()), 100)
    assert piece.texts.first == ["a", "d"] and piece.row_numbers == [1, 8]
    assert [row for row, _ in piece.faults] == [2, 3, 4, 5, 6, 7]
    assert piece.cells[1] == {"text": "d", "n": {"deep": [1]}}


@pytest.mark.parametrize("ending", [".csv", ".txt", ".jsonl", ".parquet"])
def test_bytes_that_are_not_utf8_are_a_fault_of_their_row(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    word = b"caf\xe9"
    if ending == ".parquet":
        pq.write_table(pa.table({"text": pa.array([b"good", word, b"fine"], pa.binary())}), file)
    elif ending == ".csv":
        file.write_bytes(b"text,note\ngood,x\n" + word + b",x\nfine,y\nbad," + word + b"\n")
    elif ending == ".jsonl":
        file.write_bytes(b'{"text": "good"}\n{"text": "' + word + b'"}\n{"text": "fine"}\n')
    else:
        file.write_bytes(b"good\n" + word + b"\nfine\n")
    pieces = list(regroup(read_rows(file, TextColumns()), 100))
    assert texts(pieces) == [("good",), ("fine",)]
    assert [row for piece in pieces for row, _ in piece.faults] == ([2, 4] if ending == ".csv" else [2])
    assert "UTF-8" in pieces[0].faults[0][1]


def test_blank_lines_are_faults_but_not_at_the_end() -> None:
    """A file that ends in an empty line has no bad row."""
    lines = io.StringIO("a\n\n \nb\n\n\n")
    (piece,) = read_lines(lines, TextColumns(), "stdin")
    assert piece.texts.first == ["a", "b"] and piece.row_numbers == [1, 4]
    assert piece.faults == [
        (2, "stdin, row 2: the text is missing or empty"),
        (3, "stdin, row 3: the text is missing or empty"),
    ]


def test_lines_are_texts_as_they_stand_but_for_the_line_break() -> None:
    stream = open_lines(io.BytesIO(b"\xef\xbb\xbfone\r\n  two\t \nthr\xc3\xa9e"))
    (piece,) = read_lines(stream, TextColumns(("body",)), "stdin")
    assert piece.cells == [{"body": "one"}, {"body": "  two\t "}, {"body": "thrée"}]


def test_the_lines_of_a_file_are_named_as_those_of_stdin(tmp_path: Path) -> None:
    """They have no column that the run was trained on."""
    (tmp_path / "a.txt").write_text("good\n", encoding="utf-8")
    (piece,) = read_rows(tmp_path / "a.txt", TextColumns(("sentence", "text")))
    assert piece.cells == [{"text": "good"}]


def test_compressed_files_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(b"text\ngood\n"))
    assert texts(list(read_rows(file, TextColumns()))) == [("good",)]


def test_a_missing_column_is_refused_by_name(tmp_path: Path) -> None:
    for ending in KINDS:
        file = write(tmp_path / f"a{ending}", rows(3))
        with pytest.raises(UserError, match=r"no column 'body', only 'id', 'text', 'reply'.*--text-column"):
            list(read_rows(file, TextColumns(("body",))))
        with pytest.raises(UserError, match=r"no column 'other'.*--text-pair-column"):
            list(read_rows(file, TextColumns(("text",), "other")))


def test_the_first_candidate_that_is_there_is_the_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", rows(2))
    assert texts(list(read_rows(file, TextColumns(("sentence", "reply", "text"))))) == [('"1"',), ('"2"',)]


def test_a_column_that_holds_no_text_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [{"text": 1}])
    with pytest.raises(UserError, match="column text: it holds int64, not text"):
        list(read_rows(file, TextColumns()))


def test_columns_without_a_name_and_coded_columns_are_kept(tmp_path: Path) -> None:
    """pandas writes its index without a name, and a categorical column as codes."""
    file = tmp_path / "a.csv"
    file.write_text(",text\n0,good\n", encoding="utf-8")
    assert cells(list(read_rows(file, TextColumns()))) == [{"": "0", "text": "good"}]
    coded = pa.array(["x", "x"]).dictionary_encode()
    pq.write_table(pa.table({"text": ["a", "b"], "kind": coded}), tmp_path / "b.parquet")
    assert cells(list(read_rows(tmp_path / "b.parquet", TextColumns())))[1] == {"text": "b", "kind": "x"}


def test_a_row_that_is_longer_than_a_block_is_read_once(tmp_path: Path, monkeypatch: Any) -> None:
    """The file is read again with longer blocks, from its beginning."""
    monkeypatch.setattr(streams, "BLOCK_BYTES", (64, 4096))
    values = [{"id": str(i), "text": "word " * (200 if i == 9 else 2)} for i in range(20)]
    pieces = list(read_rows(write(tmp_path / "a.csv", values), TextColumns()))
    assert cells(pieces) == values
    assert [row for piece in pieces for row in piece.row_numbers] == list(range(1, 21))
    monkeypatch.setattr(streams, "BLOCK_BYTES", (64,))
    with pytest.raises(UserError, match="a row is longer"):
        list(read_rows(tmp_path / "a.csv", TextColumns()))
    assert delimited.BLOCK_BYTES[0] > 4096


def test_texts_of_arguments_are_numbered() -> None:
    piece = make_texts(["a", "b"], TextColumns())
    assert piece.row_numbers == [1, 2] and piece.cells == [{"text": "a"}, {"text": "b"}]
    assert piece.end == 2 and not piece.faults


@pytest.mark.parametrize("opener", [read_lines, None], ids=["lines", "regrouped"])
def test_nothing_is_read_before_it_is_asked_for(opener: Callable[..., Iterator[Piece]] | None) -> None:
    """Memory stays flat only if rows are read as they are used: here, counted."""
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for i in range(100_000):
            read += 1
            yield f"line {i}\n"

    pieces = read_lines(lines(), TextColumns(), "stdin")
    taken = 0
    for piece in pieces if opener else regroup(pieces, 3000):
        taken += len(piece)
        assert read - taken <= streams.PIECE_ROWS
        if taken > 20_000:
            break
    assert read < 30_000
