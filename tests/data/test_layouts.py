"""A file that is there is read or refused: a validation file that is passed over is scored by nobody."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets as hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilkit.config import DataConfig, TrainConfig
from distilkit.data.layouts import find_splits
from distilkit.data.sources import load_for_evaluation, load_for_training
from distilkit.errors import UserError

ROWS = [{"text": f"row {i}", "label": ["neg", "pos"][i % 2]} for i in range(10)]
OTHERS = [{"text": f"other {i}", "label": ["neg", "pos"][i % 2]} for i in range(4)]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    return "".join(["text,label\n", *(f"{row['text']},{row['label']}\n" for row in rows)]).encode()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(location: Path) -> dict[str, list[str]]:
    """The texts of each split."""
    data = load_for_training(DataConfig(data_dir=location), None)
    assert data.names == ("neg", "pos")
    return {split: list(data.texts(split).first) for split in data.splits}


TRAIN, VALIDATION = [row["text"] for row in ROWS], [row["text"] for row in OTHERS]


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validate", "eval", "validation", "Dev", "VALID"])
def test_every_usual_name_of_a_validation_split_is_one(name: str, tmp_path: Path) -> None:
    """Passed over, a tenth of train would be held out and printed as the dataset's validation split."""
    fill(tmp_path, {"train.csv": as_csv(ROWS), f"{name}.csv": as_csv(OTHERS)})
    assert read(tmp_path) == {"train": TRAIN, "validation": VALIDATION}
    scored = load_for_evaluation(DataConfig(data_dir=tmp_path), "validation", [("neg", "pos")])
    assert list(scored.texts("validation").first) == VALIDATION and not scored.notes


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("validation.csv.zip", "Unpack it"),
        ("validation.xlsx", "Convert it"),
        ("dev.txt", "Convert it"),
        ("validation", "Convert it"),
        ("validation_old.csv", "rename it to validation.csv"),
        ("dev_matched.tsv", "rename it to validation.tsv"),
        ("Val-2.jsonl.gz", "rename it to validation.jsonl.gz"),
        ("testing.csv", "rename it to test.csv"),
        ("validation_matched/state.json", "rename it to validation,"),
        ("dev_2.parquet/part-00000.parquet", "rename it to validation.parquet"),
        ("dev/labels.xlsx", "Convert it"),
        ("train2.csv", "Move it out"),
    ],
)
def test_a_file_that_begins_like_a_split_and_is_not_read_is_named(
    name: str, remedy: str, tmp_path: Path
) -> None:
    fill(tmp_path, {"train.csv": as_csv(ROWS), name: b"?"})
    with pytest.raises(UserError, match="begins like the split") as error:
        find_splits(tmp_path)
    assert name.partition("/")[0] in str(error.value) and remedy.lower() in str(error.value).lower()


def test_files_that_only_look_a_little_like_splits_do_no_harm(tmp_path: Path) -> None:
    """A README, a log, a backup or another word in a data folder is no mistake."""
    names = (
        "README.md",
        "train.log",
        "test.py",
        "trainer.csv",
        "values.csv",
        "developers.json",
        "train.csv~",
    )
    fill(tmp_path, {"train.csv": as_csv(ROWS), "dev.csv": as_csv(OTHERS)} | dict.fromkeys(names, b"?"))
    (tmp_path / "test").mkdir()
    assert set(find_splits(tmp_path)) == {"train", "validation"}


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "train.jsonl"),
        ("train.csv", "Train.CSV"),
        ("train.csv", "train.csv.gz"),
        ("dev.csv", "validation.csv"),
        ("train.csv", "train-00000-of-00001.csv"),
        ("train.csv", "train/part-0.csv"),
        ("train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"),
    ],
    ids=" ".join,
)
def test_two_files_for_one_split_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    """Whichever was taken, the other would be passed over."""
    fill(tmp_path, dict.fromkeys(names, as_csv(ROWS)))
    with pytest.raises(UserError, match="Keep one of them"):
        find_splits(tmp_path)


HALVES = {
    "train-00000-of-00002.parquet": as_parquet(ROWS[:5]),
    "train-00001-of-00002.parquet": as_parquet(ROWS[5:]),
}
LAYOUTS: dict[str, dict[str, bytes]] = {
    "shards of the Hub": HALVES | {"validation-00000-of-00001.parquet": as_parquet(OTHERS)},
    "shards below data": {
        f"data/{name}": content
        for name, content in {**HALVES, "validation.parquet": as_parquet(OTHERS)}.items()
    }
    | {"README.md": b"# data"},
    "shards with a hash": {
        name.replace(".parquet", "-0123456789abcdef.parquet"): content for name, content in HALVES.items()
    }
    | {"valid.parquet": as_parquet(OTHERS)},
    "the Hub's converter": {
        "train/0000.parquet": as_parquet(ROWS[:5]),
        "train/0001.parquet": as_parquet(ROWS[5:]),
        "validation/0000.parquet": as_parquet(OTHERS),
    },
    "Spark": {
        "train.parquet/_SUCCESS": b"",
        "train.parquet/part-00000-c000.snappy.parquet": as_parquet(ROWS[:5]),
        "train.parquet/.part-00000-c000.snappy.parquet.crc": b"?",
        "train.parquet/part-00001-c000.snappy.parquet": as_parquet(ROWS[5:]),
        "validation.parquet/part-00000-c000.snappy.parquet": as_parquet(OTHERS),
    },
    "Spark's CSV with an empty part": {
        "train/part-00000.csv": b"",
        "train/part-00001.csv": as_csv(ROWS),
        "dev/part-00000.csv.gz": gzip.compress(as_csv(OTHERS)),
    },
    "upper case": {"TRAIN.CSV": as_csv(ROWS), "Validation.Jsonl": as_jsonl(OTHERS)},
    "ndjson and json": {"train.ndjson": as_jsonl(ROWS), "validation.json": as_jsonl(OTHERS)},
    "an array": {
        "train.json": json.dumps(ROWS).encode(),
        "validation.jsonl": json.dumps(OTHERS, indent=1).encode(),
    },
    "gzip": {"train.csv.gz": gzip.compress(as_csv(ROWS)), "valid.jsonl.gz": gzip.compress(as_jsonl(OTHERS))},
    "other compressions": {
        "train.csv.zst": pa.compress(as_csv(ROWS), codec="zstd", asbytes=True),
        "valid.jsonl.bz2": __import__("bz2").compress(as_jsonl(OTHERS)),
    },
}


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
def test_usual_layouts_give_the_same_rows_in_the_same_order(files: dict[str, bytes], tmp_path: Path) -> None:
    assert read(fill(tmp_path, files)) == {"train": TRAIN, "validation": VALIDATION}


def test_what_save_to_disk_writes_is_read_without_its_caches(tmp_path: Path) -> None:
    """`datasets` keeps files of rows beside the data: read too, rows would come up twice."""
    train, validation = hub.Dataset.from_list(ROWS), hub.Dataset.from_list(OTHERS)
    hub.DatasetDict(train=train, validation=validation).save_to_disk(
        tmp_path / "both", num_shards={"train": 3, "validation": 1}
    )
    (tmp_path / "both" / "train" / "cache-0123.arrow").write_bytes(b"?")
    assert read(tmp_path / "both") == {"train": TRAIN, "validation": VALIDATION}
    train.save_to_disk(tmp_path / "alone")
    alone = read(tmp_path / "alone")
    assert sorted(alone["train"] + alone["validation"]) == TRAIN
    (tmp_path / "alone" / "state.json").write_text("[")
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        read(tmp_path / "alone")


def test_an_arrow_file_is_read_in_both_of_its_formats(tmp_path: Path) -> None:
    table, other = pa.Table.from_pylist(ROWS), pa.Table.from_pylist(OTHERS)
    with (
        pa.OSFile(str(tmp_path / "train.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    with pa.OSFile(str(tmp_path / "dev.arrow"), "wb") as sink, pa.ipc.new_file(sink, other.schema) as stream:
        stream.write_table(other)
    assert read(tmp_path) == {"train": TRAIN, "validation": VALIDATION}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """Half a training split looks like a whole one."""
    fill(tmp_path, {"train-00000-of-00003.parquet": b"", "train-00002-of-00003.parquet": b""})
    with pytest.raises(UserError, match=r"2 of 3 files of train: train-00001-of-00003\.parquet is missing"):
        find_splits(tmp_path)


def test_one_file_is_the_training_split_and_gives_the_data_its_name(tmp_path: Path) -> None:
    file = fill(tmp_path, {"customer_reviews.csv": as_csv(ROWS)}) / "customer_reviews.csv"
    config = TrainConfig(data_dir=file, output_dir=tmp_path / "out")
    data = load_for_training(config, None)
    assert data.name == "customer_reviews"
    assert sorted([*data.texts("train").first, *data.texts("validation").first]) == TRAIN


def test_one_file_of_several_splits_is_refused_but_a_test_file_alone_is_the_test_split(
    tmp_path: Path,
) -> None:
    """`--data-dir d/train.csv` would hold out a tenth though d/dev.csv is there."""
    fill(tmp_path, {"train.csv": as_csv(ROWS), "dev.csv": as_csv(OTHERS), "alone/test.csv": as_csv(OTHERS)})
    with pytest.raises(UserError, match=rf"dev\.csv is beside it.* --data-dir {tmp_path}"):
        find_splits(tmp_path / "train.csv")
    scored = load_for_evaluation(
        DataConfig(data_dir=tmp_path / "alone" / "test.csv"), "test", [("neg", "pos")]
    )
    assert list(scored.texts("test").first) == VALIDATION


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, ["The folder is empty"]),
        (
            {"customer_reviews.csv": b"?"},
            ["It holds customer_reviews.csv", "--data-dir", "customer_reviews.csv"],
        ),
        ({"sst2/train.tsv": b"?", "mrpc/train.tsv": b"?"}, ["mrpc/, sst2/", "Did you mean", "mrpc"]),
        ({f"{i}.txt": b"" for i in range(20)}, ["and 12 more"]),
    ],
)
def test_where_nothing_is_found_the_message_lists_what_there_is(
    files: dict[str, bytes], named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has no file for train, validation or test") as error:
        find_splits(fill(tmp_path, files))
    assert all(text in str(error.value) for text in named) and len(str(error.value)) < 1000


def test_shards_that_differ_in_a_column_or_its_type_are_named(tmp_path: Path) -> None:
    """Joined by force, texts would become numbers or rows lose their labels."""
    for part, told in (
        (pa.table({"text": ["a"]}), "has no column 'label'"),
        (pa.table({"text": ["a"], "label": [1]}), "holds int64"),
    ):
        fill(tmp_path, HALVES)
        pq.write_table(part, tmp_path / "train-00001-of-00002.parquet")
        with pytest.raises(UserError, match=rf"train-00001-of-00002\.parquet.* {told}"):
            read(tmp_path)
