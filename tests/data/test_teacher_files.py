"""A teacher's file is joined by content, and every fault of it is one error that says where it is."""

import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from distilkit.data import teacher_files
from distilkit.data.targets import softmax
from distilkit.data.teacher_files import TeacherFile, cover, find_disagreement, read_teacher_file
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.errors import UserError

NAMES = ("negative", "positive")
GOOD = [{"text": f"text {i}", "negative": 0.25, "positive": 0.75} for i in range(12)]


def read(file: Path, names: Any = NAMES, columns: Any = ("text", None), **options: Any) -> TeacherFile:
    return read_teacher_file(str(file), columns, names, **options)


def probabilities(file: TeacherFile, *texts: str) -> list[float]:
    """The probability of the second class of each text."""
    found = file.find(Texts(list(texts)))
    assert found.is_covered.all()
    return [round(float(value), 6) for value in softmax(found.logits)[:, 1]]


def data_of(texts: list[str], labels: list[int]) -> TextData:
    return TextData(
        name="toy",
        splits=datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": texts})),
        text_column="text",
        pair_column=None,
        label_column="label",
        names=NAMES,
        metric="accuracy",
        labels_of={"train": np.array(labels)},
        source_rows={"train": np.arange(10, 10 + len(texts))},
    )


# --- joined by content ----------------------------------------------------------------------------------


def test_rows_are_joined_by_their_texts_whatever_their_order(tmp_path: Path) -> None:
    values = [
        {"text": "a", "negative": 0.9, "positive": 0.1},
        {"text": "b", "negative": 0.2, "positive": 0.8},
    ]
    for order in (values, values[::-1]):
        assert probabilities(read(write_jsonl(tmp_path / "a.jsonl", order)), "b", "a", "b") == [0.8, 0.1, 0.8]


def test_pairs_are_joined_by_both_texts(tmp_path: Path) -> None:
    for columns in (("one", "two"), ("text", "text_pair")):
        values = [dict(zip(columns, pair, strict=True)) for pair in (("a", "b"), ("b", "a"), ("a", "c"))]
        values = [row | {"label": label} for row, label in zip(values, ("neg", "pos", "pos"), strict=True)]
        file = read(write_jsonl(tmp_path / "a.jsonl", values), columns=("one", "two"))
        found = file.find(Texts(["b", "a", "c"], ["a", "b", "a"]))
        assert found.is_covered.tolist() == [True, True, False]
        assert found.logits[:2].argmax(axis=1).tolist() == [1, 0] and np.isnan(found.logits[2]).all()


def test_the_text_may_be_called_text_whatever_the_data_call_it(tmp_path: Path) -> None:
    file = read(write_jsonl(tmp_path / "a.jsonl", GOOD), columns=("sentence", None))
    assert probabilities(file, "text 3") == [0.75]


def test_a_text_that_is_not_there_is_looked_up_without_case_and_white_space(tmp_path: Path) -> None:
    """Tools strip texts: SST-2's end with a blank. A text that is there is never joined to another one."""
    values = [
        {"text": "A film", "label": "neg"},
        {"text": "a film", "label": "pos"},
        {"text": "So so", "label": "neg"},
    ]
    file = read(write_jsonl(tmp_path / "a.jsonl", values))
    found = file.find(Texts(["A film", "a film", " so  so ", "other"]))
    assert found.logits[:3].argmax(axis=1).tolist() == [0, 1, 0] and found.loose == 1
    assert found.is_covered.tolist() == [True, True, True, False]


def test_repeats_with_different_targets_are_reported_and_averaged(tmp_path: Path) -> None:
    """The last, or the first, would silently win."""
    values = [
        {"text": text, "label": label} for text, label in (("a", 1), ("b", 0), ("a", 0), ("a", 1), ("b", 0))
    ]
    file = read(write_jsonl(tmp_path / "a.jsonl", values))
    assert probabilities(file, "a", "b") == [pytest.approx(2 / 3, abs=1e-6), 0]
    (note,) = [note for note in file.notes if "mean" in note]
    assert "different targets for 1 text, such as 'a' (rows 1, 3, 4)" in note
    logits = [{"text": "a", "logits": [1.0, -3.0]}, {"text": "a", "logits": [2.0, 4.0]}]
    file = read(write_jsonl(tmp_path / "b.jsonl", logits))
    assert file.find(Texts(["a"])).logits.tolist() == [[1.5, 0.5]]


def test_repeats_with_the_same_target_are_kept_to_the_bit(tmp_path: Path) -> None:
    values = [{"text": "a", "logits": [0.1, -0.3]}] * 3
    file = read(write_jsonl(tmp_path / "a.jsonl", values))
    assert np.array_equal(file.find(Texts(["a"])).logits, np.array([[0.1, -0.3]], np.float32))
    assert not [note for note in file.notes if "mean" in note]


def test_what_was_detected_is_said(tmp_path: Path) -> None:
    values = [*GOOD, {"text": "x", "negative": None, "positive": None}]
    file = read(write_jsonl(tmp_path / "a.jsonl", values))
    assert file.notes[0].endswith(
        "holds probabilities (a column per class) of negative, positive, 13 rows, 1 of them without a target"
    )
    assert len(file.texts) == 12 and not file.has_logits


# --- rows of a split ------------------------------------------------------------------------------------


def test_rows_that_the_file_lacks_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    file = read(write_jsonl(tmp_path / "a.jsonl", GOOD[:3]))
    data = data_of(["text 2", "new", "text 0", "other"], [0, 1, 1, 0])
    with pytest.raises(
        UserError, match=r"no target for 2 of 4 train rows, such as row 11, 'new'.*--missing skip"
    ):
        cover(data, "train", [file], "error")
    kept, (note,) = cover(data, "train", [file], "skip")
    assert list(kept.texts("train").first) == ["text 2", "text 0"]
    assert kept.labels("train").tolist() == [0, 1] and kept.source_rows["train"].tolist() == [10, 12]
    assert "left out 2 of 4 train rows" in note and kept.whole == {"train": 4}
    for missing in ("error", "skip"):
        with pytest.raises(UserError, match="target for none of the 1 train rows"):
            cover(data_of(["new"], [0]), "train", [file], missing)  # type: ignore[arg-type]


def test_labels_that_the_file_surely_contradicts_are_listed(tmp_path: Path) -> None:
    values = [("a", 0.05), ("b", 0.6), ("c", 0.97), ("d", 0.99)]
    rows = [{"text": text, "negative": 1 - p, "positive": p} for text, p in values]
    file = read(write_jsonl(tmp_path / "a.jsonl", rows))
    found = find_disagreement(file, data_of(["a", "b", "c", "d"], [0, 0, 0, 1]), "train")
    assert found is not None and (found.rows, found.sure) == (2, 1)
    assert "in 2 of 4 train rows, 1 of them with 0.9 or more" in found.sentence
    assert "row 12 'c' (negative; the file: positive 0.970), row 11 'b'" in found.sentence
    assert find_disagreement(file, data_of(["a", "d"], [0, 1]), "train") is None


# --- faults ---------------------------------------------------------------------------------------------


def changed(row: int = 7, **values: Any) -> list[dict[str, Any]]:
    """Twelve good rows, one of them (from 1) with other values; `...` drops one."""
    rows = [dict(values) for values in GOOD]
    rows[row - 1] |= values
    rows[row - 1] = {name: value for name, value in rows[row - 1].items() if value is not ...}
    return rows


def cells(column: str, good: Any, bad: Any) -> list[dict[str, Any]]:
    """Twelve rows with a cell each, the seventh another."""
    return [{"text": f"text {i}", column: bad if i == 6 else good} for i in range(12)]


OBJECT, PAIRS = {"positive": 0.75, "neg": 0.25}, [{"label": "pos", "score": 1.0}]
FAULTS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    # what is written, options, what the message says
    "no text column": ([{"review": "a", "label": 1}], {}, ("no column 'text'", "'review'")),
    "an empty text": (changed(text=" "), {}, ("column text, row 7", "empty")),
    "a text that is a number": ([{"text": 5, "label": 1}], {}, ("column text", "not text")),
    "no targets": ([{"text": "a", "id": 5}], {}, ("no column says", "'id'", "negative, positive", "label")),
    "nothing but texts": ([{"text": "a"}], {}, ("no column says", "nothing beside the text")),
    "no row with a target": ([{"text": "a", "label": None}], {}, ("column label", "no row has a label")),
    "a sum of two": (changed(negative=1.0, positive=1.0), {}, ("row 7", "1, 1", "add up to 2")),
    "a sum below one": (changed(negative=0.1), {}, ("row 7", "add up to 0.85")),
    "a probability below 0": (changed(negative=-0.5), {}, ("row 7", "negative", "-0.5")),
    "a probability in per cent": (changed(positive=75), {}, ("row 7", "positive", "75")),
    "not a number": (changed(positive=float("nan")), {}, ("row 7", "positive", "nan")),
    "an infinite number": (changed(positive=float("inf")), {}, ("row 7", "positive", "inf")),
    "a word among numbers": (changed(positive="high"), {}, ("row 7", "'high'", "'positive'")),
    "truth values": (
        [row | {"positive": True, "negative": False} for row in GOOD],
        {},
        ("row 1", "'False'", "negative"),
    ),
    "two kinds": (changed(negative=-3.5, positive=2.5), {}, ("row 7", "-3.5", "--targets logits")),
    "votes among probabilities": (changed(negative=3, positive=2), {}, ("row 7", "3", "no probability")),
    "two columns of a class": (
        [row | {"POS": 0.5} for row in GOOD],
        {},
        ("'positive' and 'POS'", "one class"),
    ),
    "a missing logit": (
        [row | {"negative": -1.5} for row in changed(positive=None)],
        {"targets": "logits"},
        ("row 7", "class positive", "missing"),
    ),
    "logits too large": (changed(positive=1e39), {"targets": "logits"}, ("row 7", "positive", "1e+39")),
    "a class column too many": (
        [row | {"logit_no": 1.5, "logit_negative": -1.5, "logit_positive": 0.5} for row in cells("id", 1, 2)],
        {},
        ("column 'logit_no'", "no, negative, positive", "the data negative, positive"),
    ),
    "a misspelled class column": (
        [{"text": "a", "id": 5, "positive": 0.75, "negativ": 0.25}],
        {},
        ("'negativ' is no class", "positive, negativ", "the data negative, positive"),
    ),
    "an unknown class in an object": (
        cells("probabilities", OBJECT, {"neutral": 0.5, "positive": 0.5}),
        {},
        ("row 7", "neutral is no class", "positive, neg, neutral", "the data negative, positive"),
    ),
    "an unknown label": (
        cells("label", "pos", "neutral"),
        {},
        ("row 7", "neutral is no class", "pos, neutral", "the data negative, positive"),
    ),
    "an id too many": (cells("label", 1, 2), {}, ("row 7", "2 is no class", "1, 2")),
    "a score above 1": (
        [{"text": f"text {i}", "label": "pos", "score": 95 if i == 6 else 0.9} for i in range(12)],
        {},
        ("row 7", "95", "no probability"),
    ),
    "a label without its score": (
        [{"text": f"text {i}", "label": "pos", "score": None if i == 6 else 0.9} for i in range(12)],
        {},
        ("row 7", "score None"),
    ),
    "negative votes": (cells("votes", {"pos": 3, "neg": 2}, {"pos": -1}), {}, ("row 7", "positive", "-1")),
    "no vote": (cells("votes", {"pos": 3, "neg": 2}, {"pos": 0, "neg": 0}), {}, ("row 7", "0, 0", "no vote")),
    "a ragged list": (cells("logits", [1.5, -2.0], [1.5]), {}, ("row 7", "[1.5]", "negative, positive")),
    "a list of three": (cells("logits", [1.5, -2.0], [1, 2, 3]), {}, ("row 7", "[1, 2, 3] has 3")),
    "a list of words": (cells("logits", [1.5, -2.0], [1.5, "low"]), {}, ("row 7", "'low' is no number")),
    "a list in a list": (cells("logits", [1.5, -2.0], [[1.5], [2.0]]), {}, ("row 7", "[1.5] is no number")),
    "a class named twice": (
        cells("scores", [{"label": "pos", "score": 1.0}], [{"label": "pos", "score": 0.5}] * 2),
        {},
        ("row 7", "pos twice"),
    ),
    "an answer without a score": (cells("scores", PAIRS, [{"label": "pos"}]), {}, ("row 7", "no score")),
    "two shapes": (
        cells("scores", PAIRS, {"pos": 1.0}),
        {},
        ("row 7", "an object", "row 1", "{label, score}"),
    ),
    "a label among lists": (cells("scores", [0.5, 0.5], "pos"), {}, ("row 7", "a label, 'pos'", "row 1")),
    "no JSON": (cells("scores", "[0.5, 0.5]", "[0.5, 0.5"), {}, ("row 7", "'[0.5, 0.5'", "JSON")),
    "a text of numpy": (cells("scores", "[0.5, 0.5]", "[0.5 0.5]"), {}, ("row 7", "'[0.5 0.5]'")),
    "labels where logits are named": (
        cells("label", "pos", "neg"),
        {"targets": "logits"},
        ("logits are", "'label'"),
    ),
    "confidence without a score": (
        cells("label", "pos", "neg"),
        {"targets": "confidence"},
        ("score", "label"),
    ),
    "a list where a label is named": (
        cells("logits", [1, 2], [2, 1]),
        {"targets": "label"},
        ("a list of numbers",),
    ),
    "numbers that may be two kinds": (
        [{"text": "a", "negative": 0.5, "positive": 2.5}],
        {},
        ("row 1", "2.5", "--targets logits"),
    ),
    "all scores of one class": (
        [row | {"negative": 0.9, "positive": 0.9} for row in GOOD],
        {},
        ("row 1", "0.9, 0.9", "add up to 1.8"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error_that_names_file_row_and_value(fault: str, tmp_path: Path) -> None:
    """What is not refused is learned."""
    values, options, named = FAULTS[fault]
    file = write_jsonl(tmp_path / "answers.jsonl", values)
    with pytest.raises(UserError) as error:
        read(file, **options)
    message = str(error.value)
    for part in ("answers.jsonl", *named):
        assert part in message, message
    assert len(message) < 700 and message.count("\n") == 0


LATIN = "text,label\ncafé,pos\n".encode("latin-1")
FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "no such format": ("a.xlsx", b"", ("a.xlsx: the ending must be",)),
    "no rows": ("a.csv", b"text,label\n", ("there is no row",)),
    "nothing": ("a.jsonl", b"", ("a.jsonl",)),
    "latin-1": ("a.csv", LATIN, ("column text, row 1", "latin-1", "'café'")),
    "utf-16": ("a.csv", "text,label\na,pos\n".encode("utf-16"), ("UTF-16",)),
    "parquet called csv": ("a.csv", b"PAR1" + b"\0" * 50, ("it is a Parquet file",)),
    "no parquet": ("a.parquet", b"text,label\na,pos\n", ("is not what its ending says",)),
    "semicolons": ("a.csv", b"text;label\na;pos\n", ("no column 'text'", "semicolons")),
    "a row too long": ("a.csv", b"text,label\na,b,pos\n", ("row 1 has 3 columns",)),
    "an array a line": ("a.jsonl", b'[{"label": "pos", "score": 1}]\n[]\n', ("array",)),
    "a number a line": ("a.jsonl", b'{"text": "a", "label": "pos"}\n5\n', ("row 2 is no object",)),
    "half a row": ("a.jsonl", b'{"text": "a", "label": "pos"}\n{"text": \n', ("row 2 is no JSON",)),
    "a text column twice": ("a.csv", b"text,text,label\na,b,pos\n", ("two columns 'text'",)),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_cannot_be_read_is_named(fault: str, tmp_path: Path) -> None:
    name, content, named = FILES[fault]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert name in str(error.value)
    for part in named:
        assert part in str(error.value), str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--teacher-file .*no\.csv: there is no such file"):
        read(tmp_path / "no.csv")


def test_an_error_in_parquet_names_the_row_as_in_every_format(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(
        [{"text": f"t{i}", "probs": {"neg": 0.5, "pos": 0.9 if i == 6 else 0.5}} for i in range(12)]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=re.escape("column probs, row 7, values 0.5, 0.9: they add up to 1.4")
    ):
        read(tmp_path / "a.parquet")


def test_faults_of_columns_that_are_not_read_never_matter(tmp_path: Path) -> None:
    values = [row | {"note": {"a": [1, "x"]} if i % 2 else 5} for i, row in enumerate(GOOD)]
    assert probabilities(read(write_jsonl(tmp_path / "a.jsonl", values)), "text 0") == [0.75]


def test_a_file_of_classes_in_metadata_is_read_by_their_names(tmp_path: Path) -> None:
    """`datasets` stores ids: without the names 0 would be taken for the data's first class."""
    features = {"label": {"names": ["positive", "negative"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "a.parquet")
    assert probabilities(read(tmp_path / "a.parquet"), "a", "b") == [1, 0]


# --- shards ---------------------------------------------------------------------------------------------


def write_shards(folder: Path, values: list[dict[str, Any]], size: int) -> Path:
    folder.mkdir()
    for start in range(0, len(values), size):
        table = pa.Table.from_pylist(values[start : start + size])
        pq.write_table(table, folder / f"part-{start:03}.parquet")
    return folder


def test_shards_say_what_one_file_says(tmp_path: Path) -> None:
    values = [
        {"text": f"text {i}", "logits": [float(i), -float(i)]} if i % 5 else {"text": "x", "logits": None}
        for i in range(12)
    ]
    texts = Texts([f"text {i}" for i in range(12)])
    folder = write_shards(tmp_path / "parts", values, 5)
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "all.parquet")
    expected = read(tmp_path / "all.parquet").find(texts)
    for name in (folder, folder / "*.parquet"):
        file = read(name)
        assert np.array_equal(file.find(texts).logits, expected.logits, equal_nan=True)
        assert "12 rows in 3 files, 3 of them without a target" in file.notes[0]


def test_a_label_that_is_rare_may_be_in_one_shard_alone(tmp_path: Path) -> None:
    """Taken from the first shard, the classes would lack one, and the run end hours later."""
    values = [{"text": f"text {i}", "label": ["bad", "fair", "good"][(i > 8) + (i % 2)]} for i in range(12)]
    file = read(write_shards(tmp_path / "parts", values, 4), None)
    assert file.class_names == ("bad", "fair", "good")
    assert softmax(file.find(Texts(["text 11"])).logits).argmax() == 2


def test_a_fault_in_a_shard_names_the_shard_and_its_row(tmp_path: Path) -> None:
    values = [{"text": f"text {i}", "negative": 0.5, "positive": 0.5 + (i == 9)} for i in range(12)]
    with pytest.raises(UserError, match=r"part-008.parquet, row 2, class positive: 1.5 is no probability"):
        read(write_shards(tmp_path / "parts", values, 4))


def test_texts_that_are_transfer_text_too_are_not_held_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 million rows they are 700 MB; those that are compared come from the shards that hold them."""
    values = [{"text": f"text {i}", "logit_negative": float(i), "logit_positive": 0.0} for i in range(12)]
    folder = write_shards(tmp_path / "parts", values, 4)
    file = read_teacher_file(str(folder), ("text", None), NAMES, is_transfer=True)
    opened: list[str] = []
    read_texts = teacher_files._read_texts

    def read_and_note(shard: Path, *columns: Any, **options: Any) -> Any:
        opened.append(shard.name)
        return read_texts(shard, *columns, **options)

    monkeypatch.setattr(teacher_files, "_read_texts", read_and_note)
    assert file.read_shard_texts is not None
    assert list(file.read_shard_texts(np.array([0, 3, 9])).first) == ["text 0", "text 3", "text 9"]
    assert len(opened) == 2
    assert list(file.texts.first) == [value["text"] for value in values] and len(opened) == 5
