"""Unlabelled text: every format reads alike, labels stay unread, and validation rows never come in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BAD, GOOD, pair_rows, rows, write_jsonl

from distilkit import DistillConfig, UserError
from distilkit.data import transfer
from distilkit.data.text_data import TextData

TEXTS = ["one more film", 'a "quoted" line, with a comma', "ünïcode — too"]
NAMES = ("negative", "positive")


@pytest.fixture
def load(sst2_dir: Path, tmp_path: Path) -> Callable[..., TextData]:
    def call(*files: object, **options: Any) -> TextData:
        known: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "teacher": "t", "alpha": 0.5}
        config = DistillConfig(
            **(known | options), transfer=tuple(map(str, files)), output_dir=tmp_path / "run"
        )
        return transfer.load(config, labelled=config.alpha > 0, names=NAMES)

    return call


def write(file: Path, column: str = "sentence") -> Path:
    quoted = [text.replace('"', '""') for text in TEXTS]
    if file.suffix == ".txt":
        text = "\n\n".join(f"  {text} " for text in TEXTS)
        file.write_text(text, encoding="utf-8-sig")  # as Windows' editors begin a file
    elif file.suffix == ".jsonl":
        write_jsonl(file, [{"n": 1, column: text, "label": "unread"} for text in TEXTS])
    elif file.suffix == ".csv":
        file.write_text(f"{column},label\n" + "".join(f'"{text}",-1\n' for text in quoted), encoding="utf-8")
    elif file.suffix == ".tsv":
        file.write_text(f"label\t{column}\n" + "".join(f"?\t{text}\n" for text in TEXTS), encoding="utf-8")
    else:
        pq.write_table(pa.table({column: TEXTS, "source": [1, 2, 3]}), file)
    return file


@pytest.mark.parametrize("column", ["sentence", "text"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows(
    ending: str, column: str, load: Callable[..., TextData], tmp_path: Path
) -> None:
    data = load(write(tmp_path / f"more{ending}", column))
    assert list(data.texts("transfer").first) == TEXTS
    assert len(data.splits["train"]) == 16
    assert any(note == f"transfer: 3 rows of more{ending}, without labels" for note in data.notes)


def test_texts_as_pandas_writes_them_are_texts(load: Callable[..., TextData], tmp_path: Path) -> None:
    """Pandas' Parquet holds large strings, which are cast, and beside other files they are as good."""
    table = pa.table({"sentence": pa.array(TEXTS, pa.large_string()), "label": [-1] * 3})
    pq.write_table(table, tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet", write(tmp_path / "b.txt"))
    assert list(data.texts("transfer").first) == TEXTS * 2
    assert data.splits["transfer"].data.nbytes > 0
    pq.write_table(table, tmp_path / "unsupervised.parquet")
    write_jsonl(tmp_path / "train.jsonl", rows())
    assert list(load("unsupervised", data_dir=tmp_path).texts("transfer").first) == TEXTS


def test_several_files_come_in_their_order(load: Callable[..., TextData], tmp_path: Path) -> None:
    first, second = write(tmp_path / "b.txt"), write(tmp_path / "a.jsonl")
    assert list(load(first, second).texts("transfer").first) == TEXTS * 2


def test_rows_of_validation_are_left_out_whatever_their_case_and_spaces(
    load: Callable[..., TextData], tmp_path: Path
) -> None:
    """A student that has learned what the teacher says of them would be judged on what it has seen."""
    file = tmp_path / "more.txt"
    file.write_text(f"{GOOD[0].upper()}\nnew\n {BAD[0].replace(' ', '   ')}\n", encoding="utf-8")
    data = load(file)
    assert list(data.texts("transfer").first) == ["new"]
    assert "transfer: left out 2 rows that validation has too" in data.notes
    file.write_text(f"{GOOD[0]}\n", encoding="utf-8")
    with pytest.raises(UserError, match="every row is a row of the validation split"):
        load(file)


def test_a_pair_is_left_out_as_a_pair(load: Callable[..., TextData], mrpc_dir: Path, tmp_path: Path) -> None:
    first, second = pair_rows(1)[0], {"sentence1": GOOD[0], "sentence2": "new"}
    file = write_jsonl(tmp_path / "more.jsonl", [second, first])
    data = load(file, dataset="mrpc", data_dir=mrpc_dir)
    assert list(data.texts("transfer").first) == [GOOD[0]] and list(data.texts("transfer").second or []) == [
        "new"
    ]


def test_the_unsupervised_split_of_the_dataset(load: Callable[..., TextData], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "imdb" / "train.jsonl", rows())
    write_jsonl(tmp_path / "imdb" / "unsupervised.jsonl", [{"sentence": text, "label": -1} for text in TEXTS])
    data = load("unsupervised", data_dir=tmp_path / "imdb")
    assert list(data.texts("transfer").first) == TEXTS
    assert {split: len(split_rows) for split, split_rows in data.splits.items()} == {
        "train": 15,
        "validation": 1,
        "transfer": 3,
    }


@pytest.mark.parametrize("split", ["test", "validation", "train"])
def test_no_other_split_is_taken(split: str, load: Callable[..., TextData]) -> None:
    with pytest.raises(UserError, match=f"--transfer {split}: the only split"):
        load(split)


def test_without_a_dataset_some_text_is_held_out_the_same_rows_every_time(
    load: Callable[..., TextData], tmp_path: Path
) -> None:
    file = tmp_path / "more.txt"
    file.write_text("".join(f"line {number}\n" for number in range(40)), encoding="utf-8")
    options: dict[str, Any] = {"dataset": None, "data_dir": None, "alpha": 0}
    data = load(file, **options)
    held_out, trained_on = list(data.texts("validation").first), list(data.texts("train").first)
    assert len(held_out) == 4 and len(trained_on) == 36 and not set(held_out) & set(trained_on)
    assert held_out == list(load(file, **options, seed=1).texts("validation").first)
    assert len(load(file, **options, max_eval_samples=2).splits["validation"]) == 2
    assert (data.metric, data.names, data.labels_of, data.name) == ("agreement", NAMES, {}, "more")
    file.write_text("one line\n", encoding="utf-8")
    with pytest.raises(UserError, match="one row cannot be split"):
        load(file, **options)


def test_validation_alone_is_enough_where_no_label_is_trained_on(
    load: Callable[..., TextData], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows(1))
    file = write(tmp_path / "more.txt")
    data = load(file, data_dir=tmp_path / "data", alpha=0)
    assert list(data.texts("train").first) == TEXTS and len(data.labels("validation")) == 8
    with pytest.raises(UserError, match="no train split"):
        load(file, data_dir=tmp_path / "data", alpha=0.5)


def test_rows_that_only_a_sample_of_validation_lacks_are_left_out_too(
    load: Callable[..., TextData], tmp_path: Path
) -> None:
    """Who evaluates on a sample while trying out must not have trained on the rest of the split."""
    judged = write_jsonl(tmp_path / "judged.jsonl", [{"sentence": text} for text in (*GOOD, *BAD, "new")])
    assert list(load(judged, max_eval_samples=2).texts("transfer").first) == ["new"]


def test_without_a_dataset_no_row_is_both_trained_on_and_held_out(
    load: Callable[..., TextData], tmp_path: Path
) -> None:
    """Text collected from anywhere repeats itself; agreement on repeats would say nothing."""
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(f"line {number % 50}" for number in range(200)), encoding="utf-8")
    data = load(file, dataset=None, data_dir=None, alpha=0)
    train, validation = set(data.texts("train").first), set(data.texts("validation").first)
    assert train and len(data.splits["validation"]) == 20 and not train & validation
    assert any("that validation has too" in note for note in data.notes)


@pytest.mark.parametrize("dataset", [True, False])
def test_text_that_is_the_training_split_is_sampled_as_one(
    dataset: bool, load: Callable[..., TextData], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows(1))
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(f"line {number}" for number in range(100)), encoding="utf-8")
    where: dict[str, Any] = (
        {"data_dir": tmp_path / "data"} if dataset else {"dataset": None, "data_dir": None}
    )
    data = load(file, **where, alpha=0, max_train_samples=7)
    assert len(data.splits["train"]) == 7
    assert any("train: a random sample of 7 of " in note for note in data.notes)
    assert list(load(file, **where, alpha=0, max_train_samples=7).texts("train").first) == list(
        data.texts("train").first
    )


def test_a_ratio_to_training_rows_needs_training_rows(load: Callable[..., TextData], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows(1))
    more = write(tmp_path / "more.txt")
    with pytest.raises(UserError, match=r"--transfer-ratio 2 .* no train split: leave it out"):
        load(more, data_dir=tmp_path / "data", alpha=0, transfer_ratio=2)


def test_with_a_ratio_text_is_kept_for_the_epochs_there_are(
    load: Callable[..., TextData], tmp_path: Path
) -> None:
    """The teacher must not label what no epoch comes to; what it comes to must not depend on the number."""
    file = tmp_path / "more.txt"
    lines = [f"line {number}" for number in range(100)]
    file.write_text("\n".join(lines), encoding="utf-8")
    data = load(file, transfer_ratio=1)
    texts = list(data.texts("transfer").first)
    assert sorted(texts) == sorted(lines) and texts != lines, "an epoch would read the file's beginning alone"
    some = transfer.enough(data, 32)
    assert list(some.texts("transfer").first) == texts[:32]
    assert some.notes[-1] == "transfer: using a random 32 of 100 rows (all that the epochs read)"
    assert transfer.enough(data, 100) is data


def test_shards_are_the_rows_of_one_file(load: Callable[..., TextData], tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        pq.write_table(pa.table({"sentence": [text]}), tmp_path / f"part-{i}.parquet")
    for name in (tmp_path, tmp_path / "part-*.parquet"):
        data = load(name)
        assert list(data.texts("transfer").first) == TEXTS
        assert f"transfer: 3 rows of 3 files of {name}, without labels" in data.notes


def test_an_error_in_a_shard_names_it(load: Callable[..., TextData], tmp_path: Path) -> None:
    """The row of a hundred files together would be found by nobody."""
    pq.write_table(pa.table({"sentence": ["good"]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"sentence": ["good", " "]}), tmp_path / "part-1.parquet")
    with pytest.raises(UserError, match=r"part-1.parquet, column sentence, row 2: the text is missing"):
        load(tmp_path)
