"""Only what is read matters: it is read right, or refused with the file, the row and a remedy."""

import json
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilkit.data.checks import other_text_columns
from distilkit.data.files import check_texts, read_file, read_files, read_lines
from distilkit.errors import UserError

COLUMNS = ["text", "label"]


def texts_of(file: Path) -> list[str]:
    rows, _ = read_file(file, COLUMNS)
    return list(rows["text"])


def write_parquet(file: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def write_features(file: Path, table: pa.Table, features: object) -> Path:
    """A Parquet file with what `datasets` would write about its columns."""
    metadata = {
        "huggingface": features
        if isinstance(features, bytes)
        else json.dumps({"info": {"features": features}})
    }
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file


UNREAD: dict[str, Any] = {
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "uuid": pa.array([b"0" * 16, b"1" * 16], pa.uuid()),
    "list view": pa.array([[1], []], pa.list_view(pa.int64())),
    "bytes that are no text": pa.array([b"\xff", b"\xfe"]).cast(pa.binary()),
    "an image": pa.array([{"bytes": b"no image", "path": None}] * 2),
}


@pytest.mark.parametrize("column", UNREAD.values(), ids=UNREAD)
def test_a_parquet_column_that_nobody_reads_may_hold_anything(column: Any, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", odd=column, text=["a", "b"], label=[0, 1])
    rows, column_names = read_file(file, COLUMNS)
    assert rows.column_names == COLUMNS and rows["label"][:] == [0, 1]
    assert column_names.names == ("odd", "text", "label")
    assert other_text_columns(read_files([file], COLUMNS, with_texts=True)[0], COLUMNS) == []


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_names_that_stand_twice_matter_only_where_they_are_read(ending: str, tmp_path: Path) -> None:
    """Kaggle's spam collection has three columns without a name."""

    def write(names: list[str]) -> Path:
        file = tmp_path / f"a{ending}"
        values = [str(i) for i in range(len(names))]
        if ending == ".csv":
            file.write_text(f"{','.join(names)}\n{','.join(values)}\n")
        elif ending == ".parquet":
            pq.write_table(pa.Table.from_arrays([pa.array([value]) for value in values], names=names), file)
        else:
            file.write_text(
                "{"
                + ", ".join(f'"{name}": "{value}"' for name, value in zip(names, values, strict=True))
                + "}\n"
            )
        return file

    assert texts_of(write(["label", "text", "", "", "x", "x"])) == ["1"]
    with pytest.raises(UserError, match="'label'"):
        read_file(write(["label", "text", "label"]), COLUMNS)


@pytest.mark.parametrize(
    "features",
    [
        b"{",
        b"\xff",
        b"[]",
        b'{"info": null}',
        b'{"info": {"features": {"text": 5, "label": []}}}',
        b"[" * 100_000,
        {"text": {"dtype": "string", "_type": "Unheard"}, "label": {"_type": "ClassLabel", "names": "ab"}},
        {"gone": {"dtype": "string", "_type": "Value"}, "label": {"_type": "ClassLabel", "names": [1, 2]}},
        {"label": {"_type": "ClassLabel", "names": ["a", "a"]}},
    ],
)
def test_damaged_or_unknown_metadata_of_datasets_never_matters(features: Any, tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "label": [0, 1]})
    rows, _ = read_file(write_features(tmp_path / "a.parquet", table, features), COLUMNS)
    assert rows["text"][:] == ["a", "b"] and rows.features["label"] == hub.Value("int64")


@pytest.mark.parametrize("kind", ["int64", "uint8"])
def test_names_that_a_file_gives_to_ids_survive(kind: str, tmp_path: Path) -> None:
    """Without them the classes are called 0 and 1, and matched with a teacher's by place."""
    label = {"names": ["no", "yes"], "_type": "ClassLabel"}
    table = pa.table({"text": ["a", "b"], "label": pa.array([1, 0], kind)})
    file = write_features(tmp_path / "a.parquet", table, {"label": label, "odd": {"_type": "Unheard"}})
    rows, _ = read_file(file, COLUMNS)
    assert rows.features["label"] == hub.ClassLabel(names=["no", "yes"]) and rows["label"][:] == [1, 0]
    words = write_features(
        tmp_path / "b.parquet", table.set_column(1, "label", [["x", "y"]]), {"label": label}
    )
    assert read_file(words, COLUMNS)[0].features["label"] == hub.Value("string")
    other = write_features(tmp_path / "c.parquet", table, {"label": label | {"names": ["yes", "no"]}})
    with pytest.raises(UserError, match=r"c\.parquet gives other names"):
        read_files([file, other], COLUMNS)


@pytest.mark.parametrize(
    "type_",
    [
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
        pa.large_string(),
    ],
    ids=str,
)
def test_texts_are_texts_however_they_are_stored(type_: pa.DataType, tmp_path: Path) -> None:
    """As DataFusion, old Spark and pandas' categories store them, with another dictionary in each part."""
    texts = ["naïve 😀", "b", "naïve 😀"]
    for ending, batches in ((".parquet", 1), (".arrow", 2)):
        file = tmp_path / f"a{ending}"
        encoded = [text.encode() for text in texts] if "binary" in str(type_) else texts
        table = pa.table(
            {
                "text": pa.array(encoded).cast(type_)
                if "dictionary" in str(type_)
                else pa.array(encoded, type_),
                "label": [0, 1, 0],
            }
        )
        if ending == ".parquet":
            pq.write_table(table, file)
        else:
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as stream:
                stream.write_table(table, max_chunksize=batches)
        assert texts_of(file) == texts


BAD = "café".encode("latin-1")


def check_not_utf8(file: Path, row: int, *named: str) -> None:
    with pytest.raises(UserError) as error:
        read_lines(file, "text") if file.suffix == ".txt" else read_file(file, COLUMNS)
    for part in (str(file), f"row {row}", "column text", "not UTF-8", *named):
        assert part in str(error.value), error.value


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet", ".arrow", ".txt"])
def test_bytes_that_are_not_utf8_are_named_with_row_and_remedy(ending: str, tmp_path: Path) -> None:
    """Rows have the same number whatever the format: a header is none."""
    file = tmp_path / f"a{ending}"
    lines = [b"good"] * 2000 + [BAD]
    if ending in (".parquet", ".arrow"):
        text = pa.array(lines, pa.binary()).view(pa.string())
        table = pa.table({"text": text, "label": [0] * 2001})
        if ending == ".parquet":
            pq.write_table(table, file)
        else:
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
        check_not_utf8(file, 2001, "'café'", "Write the file again")
        return
    mark = {".csv": b",0\n", ".tsv": b"\t0\n", ".txt": b"\n", ".jsonl": b'", "label": 0}\n'}[ending]
    head = {".csv": b"text,label\n", ".tsv": b"text\tlabel\n"}.get(ending, b"")
    start = b'{"text": "' if ending == ".jsonl" else b""
    file.write_bytes(head + b"".join(start + line + mark for line in lines))
    check_not_utf8(file, 2001, "latin-1", "'café'", f"iconv -f LATIN1 -t UTF-8 {file}")
    file.write_bytes(head + start + "“quoted”".encode("cp1252") + mark)
    check_not_utf8(file, 1, "Windows-1252", "“quoted”", "iconv -f CP1252")
    file.write_bytes((head + start + b"good" + mark).decode().encode("utf-16"))
    with pytest.raises(UserError, match=r"is UTF-16.* iconv -f UTF-16"):
        read_lines(file, "text") if ending == ".txt" else read_file(file, COLUMNS)


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_bytes_of_a_column_that_nobody_reads_do_not_matter(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{ending}"
    file.write_bytes(
        b"text,label,odd\na,0," + BAD + b"\n"
        if ending == ".csv"
        else b'{"text": "a", "odd": "' + BAD + b'"}\n'
    )
    assert texts_of(file) == ["a"]
    assert read_files([file], COLUMNS, with_texts=True)[0]["odd"][:] == [None]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_byte_order_mark_is_no_part_of_the_first_name_or_row(ending: str, tmp_path: Path) -> None:
    """As Excel writes it; also where a JSON column needs each of its values looked at."""
    content = {
        ".csv": "text,label\na,0\n",
        ".tsv": "text\tlabel\na\t0\n",
        ".jsonl": '{"text": "a", "odd": 1}\n{"text": "b", "odd": "x"}\n',
        ".json": '[{"text": "a"}]',
    }[ending]
    (tmp_path / f"a{ending}").write_text(content, encoding="utf-8-sig")
    assert texts_of(tmp_path / f"a{ending}")[0] == "a"


@pytest.mark.parametrize("place", [10, 100_000])
def test_a_nul_within_a_text_is_a_character_wherever_it_stands(place: int, tmp_path: Path) -> None:
    rows = ["a good film"] * (place // 10 + 20)
    rows[place // 20] = "a\0b"
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{row},0\n" for row in rows))
    assert texts_of(tmp_path / "a.csv") == rows


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".tsv", ".parquet", ".arrow"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in, please</body></html>\n", "a web page"),
        (b"\xef\xbb\xbf<HTML lang='en'><head>404, not found</head></HTML>\n", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is XML"),
        (b"%PDF-1.7\n1 0 obj", "it is a PDF"),
        (b"PK\x03\x04\x14\0\6\0", "Excel workbook"),
    ],
)
def test_a_download_that_is_something_else_is_named_as_what_it_is(
    content: bytes, named: str, ending: str, tmp_path: Path
) -> None:
    """A pointer or the page of a login has no rows; "no column 'text'" would send people to their columns."""
    file = tmp_path / f"a{ending}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"is not what its ending says: .*{named}"):
        read_file(file, COLUMNS)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet", ".arrow", ".json", ".tsv", ".csv.gz"])
def test_damaged_files_give_one_error_and_never_a_traceback(ending: str, tmp_path: Path) -> None:
    """Bytes changed, removed and doubled at random; the other tests say what a right file gives."""
    table = pa.table({"text": ["a good film", 'so "so"', "x" * 50] * 5, "label": [0, 1, 2] * 5})
    label = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    file = write_features(tmp_path / "right.parquet", table, label)
    if ending == ".arrow":
        file = tmp_path / "right.arrow"
        with (
            pa.OSFile(str(file), "wb") as sink,
            pa.ipc.new_stream(sink, pq.read_table(tmp_path / "right.parquet").schema) as stream,
        ):
            stream.write_table(
                table.replace_schema_metadata(pq.read_table(tmp_path / "right.parquet").schema.metadata)
            )
    elif ending != ".parquet":
        import gzip

        rows = table.to_pylist()
        mark = "\t" if ending == ".tsv" else ","
        content = f"text{mark}label\n" + "".join(f"{row['text']}{mark}{row['label']}\n" for row in rows)
        if ending.startswith(".json"):
            content = json.dumps(rows) if ending == ".json" else "\n".join(map(json.dumps, rows))
        file.write_bytes(gzip.compress(content.encode()) if ending == ".csv.gz" else content.encode())
    right = bytearray(file.read_bytes())
    generator = np.random.default_rng(0)
    damaged = tmp_path / f"a{ending}"
    for _ in range(150):
        content_bytes = bytearray(right)
        for _ in range(generator.integers(1, 4)):
            start = int(generator.integers(len(content_bytes)))
            kind = generator.integers(3)
            if kind == 0:
                content_bytes[start] = int(generator.integers(256))
            elif kind == 1:
                del content_bytes[start : start + int(generator.integers(1, 20))]
            else:
                content_bytes[start:start] = content_bytes[start : start + 30]
            content_bytes = content_bytes or bytearray(b"{")
        damaged.write_bytes(content_bytes)
        try:
            rows_read, _ = read_file(damaged, COLUMNS)
            if "text" in rows_read.column_names:
                list(rows_read["text"])
        except UserError as error:
            assert str(damaged) in str(error) and len(str(error)) < 1000


def test_all_empty_texts_are_counted_and_the_first_rows_named() -> None:
    """One at a time, each would need a run of its own to be found."""
    texts = ["a", "", None, " \t"] * 4
    with pytest.raises(UserError, match=r"here, rows 2, 3, 4, 6, 7, 8, 10, 11 …: 12 of 16 texts are missing"):
        check_texts(pa.chunked_array([texts[:5], texts[5:]]), "here")
    with pytest.raises(UserError, match="here, row 3: the text is missing or empty"):
        check_texts(pa.chunked_array([["a", "b"], [None]]), "here")


def test_a_type_that_is_no_text_is_named_in_few_letters(tmp_path: Path) -> None:
    struct = pa.array([{f"field {i}": i for i in range(100)}])
    rows, _ = read_file(write_parquet(tmp_path / "a.parquet", text=struct, label=[0]), COLUMNS)
    with pytest.raises(UserError, match=r"it holds struct<.*…, not text") as error:
        check_texts(rows.data.column("text"), "here")
    assert len(str(error.value)) < 200


def test_a_column_of_nothing_but_gaps_is_text_that_is_missing(tmp_path: Path) -> None:
    rows, _ = read_file(write_parquet(tmp_path / "a.parquet", text=pa.nulls(3), label=[0, 1, 0]), COLUMNS)
    with pytest.raises(UserError, match="3 of 3 texts are missing"):
        check_texts(rows.data.column("text"), "here")


def test_missing_columns_are_refused_with_names_in_quotes_cut_and_counted(tmp_path: Path) -> None:
    names = [f"{i}" + "x" * 300 for i in range(50)]
    (tmp_path / "a.csv").write_text(",".join([" label", *names]) + "\n")
    _, column_names = read_file(tmp_path / "a.csv", ["text"])
    with pytest.raises(UserError, match=r"no column 'text', only ' label', '0x.*… and|43 more") as error:
        column_names.require("text", "here", "Name it.")
    assert len(str(error.value)) < 600


# --- files that end too early ------------------------------------------------------------------------------

ROWS = [{"text": f"row {i} {i * 7919 % 10007}", "label": i % 2} for i in range(3000)]


def write_whole_file(file: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    if file.name.endswith(".parquet"):
        pq.write_table(table, file, row_group_size=500)
        return
    if file.name.endswith(".arrow"):
        new = pa.ipc.new_file if file.name.startswith("file") else pa.ipc.new_stream
        with new(str(file), table.schema) as stream:
            for batch in table.to_batches(500):
                stream.write_batch(batch)
        return
    lines = [json.dumps(row) for row in ROWS]
    text = "\n".join(lines) if "jsonl" in file.name else f"[{', '.join(lines)}]"
    if "csv" in file.name:
        text = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
    compression = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(file.suffix)
    with pa.output_stream(str(file), compression=compression) as stream:
        stream.write(text.encode())


@pytest.mark.parametrize(
    "name",
    [
        *("a.parquet", "file.arrow", "stream.arrow", "a.json", "a.jsonl"),
        *(f"a.{ending}.{compression}" for ending in ("csv", "jsonl") for compression in ("gz", "bz2", "zst")),
    ],
)
def test_a_file_that_ends_too_early_is_called_incomplete(name: str, tmp_path: Path) -> None:
    """A download that broke off was told in the words of a library, or read in part."""
    file = tmp_path / name
    write_whole_file(file)
    content = file.read_bytes()
    assert len(read_file(file, ["text", "label"])[0]) == len(ROWS)
    for size in (0, 3, 10, len(content) // 2, len(content) - 5, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(UserError) as refused:
            read_file(file, ["text", "label"])
        message = str(refused.value)
        assert message.startswith(f"{file} is " + ("incomplete or damaged (" if size else "empty."))
        assert message.endswith("opy, download or write it again.")


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "a.csv.gz", "a.jsonl.bz2", "a.csv.zst"])
def test_a_file_with_altered_bytes_is_called_damaged(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    write_whole_file(file)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    file.write_bytes(content)
    with pytest.raises(UserError, match="incomplete or damaged"):
        read_file(file, ["text", "label"])


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.jsonl.zst"])
def test_a_text_file_under_another_ending_is_not_called_damaged(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("text,label\na,1\n")
    with pytest.raises(UserError, match="is not what its ending says"):
        read_file(tmp_path / name, ["text", "label"])


def test_a_csv_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label")
    with pytest.raises(UserError, match=r"a\.csv has no rows"):
        read_file(tmp_path / "a.csv", ["text", "label"])


NESTED = [{"a": 1.5}, [0.1, None], None, [{"label": "x", "score": 0.5}], {"b": {"c": [1]}}]


def test_lists_and_objects_are_read_as_json_where_that_is_asked_for(tmp_path: Path) -> None:
    """Their shapes differ from row to row, and no type of Arrow holds them all."""
    values = [{"text": str(i), "cell": cell} for i, cell in enumerate(NESTED * 600)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    rows, _ = read_file(file, ["text", "cell"], nested_as_json=True)
    cells = rows["cell"][:]
    assert [None if cell is None else json.loads(cell) for cell in cells] == NESTED * 600
    with pytest.raises(UserError, match="'cell'"):
        read_file(file, ["text", "cell"])


def test_nan_is_kept_in_lists_and_among_numbers_where_json_is_asked_for(tmp_path: Path) -> None:
    """One number that is none, among those of a row, must be found and not be taken for a missing value."""
    file = tmp_path / "a.jsonl"
    values = [{"list": [0.5, float("nan")], "number": float("nan"), "label": float("nan")}]
    write_rows = [*values, {"list": [0.5, 0.5], "number": 1.5, "label": "pos"}]
    file.write_text("".join(json.dumps(value) + "\n" for value in write_rows), encoding="utf-8")
    rows, _ = read_file(file, ["list", "number", "label"], nested_as_json=True)
    assert rows["list"][0] == "[0.5, NaN]" and np.isnan(rows["number"][0]) and rows["label"][0] is None
    assert read_file(file, ["number"])[0]["number"][0] is None


def test_nested_columns_of_parquet_are_read_as_json_too(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "a.parquet",
        text=["a", "b"],
        list=pa.array([[0.25, None], None], pa.list_(pa.float32())),
        map=pa.array([[("x", 1)], []], pa.map_(pa.string(), pa.int64())),
        number=[1.5, 2.5],
    )
    rows, _ = read_file(file, ["list", "map", "number"], nested_as_json=True)
    assert rows["list"][:] == ["[0.25, null]", None] and rows["map"][:] == ['{"x": 1}', "{}"]
    assert rows["number"][:] == [1.5, 2.5]
