"""JSON of every shape: read, or refused in one sentence that says how to write it."""

import json
from pathlib import Path
from typing import Any

import pytest

from distilkit.data.files import read_file, read_files
from distilkit.errors import UserError

COLUMNS = ["text", "label"]
ROWS: list[dict[str, Any]] = [{"text": f"row {i}", "label": i % 2} for i in range(3000)]


def read(tmp_path: Path, content: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    file = tmp_path / "train.jsonl"
    file.write_text(content, encoding="utf-8")
    rows: list[dict[str, Any]] = read_file(file, columns or COLUMNS)[0].to_list()
    return rows


@pytest.mark.parametrize("indent", [None, 2])
def test_one_array_is_read_as_lines_are(indent: int | None, tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(ROWS, indent=indent)) == ROWS
    assert read(tmp_path, "\r\n\r\n".join(map(json.dumps, ROWS))) == ROWS


def test_nan_is_a_missing_value_among_texts_and_numbers(tmp_path: Path) -> None:
    """Pandas writes an empty cell so; told to "write all as text", a user would make it a class "nan"."""
    content = '{"text": "a", "label": NaN}\n{"text": NaN, "label": "pos"}\n'
    expected = [{"text": "a", "label": None}, {"text": None, "label": "pos"}]
    assert read(tmp_path, content) == expected
    assert read(tmp_path, f"[{', '.join(content.splitlines())}]") == expected
    assert read(tmp_path, '{"text": "a", "label": NaN}\n{"text": "b", "label": 1}\n') == [
        {"text": "a", "label": None},
        {"text": "b", "label": 1},
    ]


REFUSED: dict[str, tuple[str, str]] = {
    "columns": (
        '{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}',
        "holds whole columns.* orient='records'",
    ),
    "lists": ('{"text": ["a", "b"], "label": [0, 1]}', "holds whole columns.* orient='records'"),
    "trailing commas": ('{"text": "a", "label": 0},\n{"text": "b", "label": 1}\n', "row 1 ends with a comma"),
    "over lines": ('{\n "text": "a",\n "label": 0\n}\n', "goes over several lines.* jq -c . train.jsonl"),
    "lines of arrays": ('["a", 0]\n["b", 1]\n', "row 1 is an array"),
    "an array of arrays": ('[["a", 0], ["b", 1]]', "row 1 of its array is no object"),
    "a number": ('{"text": "a"}\n5\n', "row 2 is no object"),
    "array cut short": ('[{"text": "a"},', "incomplete or damaged .*never ends"),
    "row cut short": (
        '{"text": "a", "label": 1}\n{"text": "b", "lab',
        "incomplete or damaged .*middle of row 2",
    ),
    "a comma at the very end": ('{"text": "a", "label": 0},', "row 1 ends with a comma"),
    "a fault before the end": ('[{"text": "a", "label": 0} {"text": "b", "la', "is no JSON: Expecting"),
    "nested deeply": ('{"text": "a", "odd": ' + "[" * 100_000, "row 1 is nested too deeply"),
    "array nested deeply": ("[" * 100_000, "nested too deeply"),
    "a lone surrogate": (
        '{"text": "great"}\n{"text": "film \\ud83d"}',
        r"column text, row 2.*'\\ud83d', a lone surrogate",
    ),
    "the second half": ('{"text": "\\udc80 film"}', r"'\\udc80', a lone surrogate"),
    "a huge number": (
        '{"text": "a", "label": 1}\n{"text": "b", "label": 18446744073709551617}',
        "row 2 .*too large",
    ),
    "a name twice": ('{"text": "a", "label": 0, "text": "b"}', "row 1: 'text' stands there twice"),
    "a list for a label": (
        '{"text": "a", "label": 0}\n{"text": "b", "label": [1]}',
        r"row 2 has \[1\] for 'label', and a row before it 0",
    ),
}


@pytest.mark.parametrize(("content", "told"), REFUSED.values(), ids=REFUSED)
def test_other_shapes_are_refused_with_how_to_write_them(content: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"train\.jsonl.*{told}") as error:
        read(tmp_path, content)
    assert len(str(error.value)) < 1000


def test_rows_below_a_name_are_pointed_out(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"version": 1, "data": ROWS}))
    _, column_names = read_file(file, COLUMNS)
    with pytest.raises(UserError, match=r"only 'version', 'data'.* jq -c '\.data\[\]'"):
        column_names.require("text", str(file), "Name it.")


@pytest.mark.parametrize(
    ("values", "read_as"),
    [
        ([0, 1.5], [0.0, 1.5]),
        ([None, "a"], [None, "a"]),
        (["2020-01-01", "2021-01-01"], ["2020-01-01", "2021-01-01"]),
        ([True, False], [True, False]),
        ([2**62 + 1, 2**62], [2**62 + 1, 2**62]),
    ],
)
def test_labels_keep_their_values_also_where_their_type_shows_late(
    values: list[Any], read_as: list[Any], tmp_path: Path
) -> None:
    """The second value stands in a later piece than the first."""
    rows = [{"text": "a", "label": values[0]}] * 2000 + [{"text": "a", "label": values[1]}]
    labels = [row["label"] for row in read(tmp_path, "\n".join(map(json.dumps, rows)))]
    assert labels[0] == read_as[0] and labels[-1] == read_as[1] and len(labels) == 2001


@pytest.mark.parametrize("place", [1, 1500])
def test_a_label_of_another_type_is_named_with_its_row_wherever_it_stands(place: int, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
    rows[place]["label"] = "yes"
    with pytest.raises(UserError, match=f"row {place + 1} has 'yes' for 'label', and a row before it 0"):
        read(tmp_path, "\n".join(map(json.dumps, rows)))


def test_a_column_that_comes_late_is_missing_in_the_rows_before(tmp_path: Path) -> None:
    """Pieces without it must not shift its values to other rows."""
    rows: list[dict[str, Any]] = [{"id": i} for i in range(2000)] + [{"text": "late", "label": 1}]
    values = read(tmp_path, "\n".join(map(json.dumps, rows)))
    assert len(values) == 2001 and values[0] == {"text": None, "label": None}
    assert values[-1] == {"text": "late", "label": 1}


def test_columns_of_texts_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"text": "a", "title": "t", "id": 1, "odd": {}}\n{"text": "b", "title": null, "odd": 5}\n'
    )
    rows, _ = read_files([file], COLUMNS, with_texts=True)
    assert rows["title"][:] == ["t", None] and rows["text"][:] == ["a", "b"]
