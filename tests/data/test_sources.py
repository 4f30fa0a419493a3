"""The same rows whatever the file, the same split whatever the seed, and never a look at the test split."""

import csv
import dataclasses
import json
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import pair_rows, rows, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from distilkit.config import DataConfig, TrainConfig
from distilkit.data import presets
from distilkit.data.sampling import stratified_order
from distilkit.data.sources import load_for_augmentation, load_for_evaluation, load_for_training
from distilkit.data.text_data import TextData
from distilkit.errors import UserError

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl")
# Texts that a reader of tables may take for something else, and texts that a bad reader cuts.
AWKWARD = (
    "null",
    "NA",
    "nan",
    "None",
    "12",
    "1e5",
    "0012",
    "true",
    "2020-01-01",
    "  blanks around  ",
    'with "quotes" inside',
    "a comma, inside",
    "a tab\tinside",
    "a line\nbreak",
    "naïve café 😀",
    "a back\\slash",
    "# no comment",
    "it's",
)


def write(file: Path, values: list[dict[str, Any]]) -> Path:
    """`values` as the kind of file that its ending says, as a person's own tool would write it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        return write_jsonl(file, values)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), file)
        return file
    with file.open("w", newline="", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, list(values[0]))
        else:
            writer = csv.DictWriter(
                stream, list(values[0]), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None
            )
        writer.writeheader()
        writer.writerows(values)
    return file


def both(folder: Path, values: list[dict[str, Any]], ending: str = ".jsonl") -> DataConfig:
    """A person's own data: the same rows for training and validation."""
    write(folder / f"train{ending}", values)
    write(folder / f"validation{ending}", values)
    return DataConfig(data_dir=folder)


def many(count: int, positive: int, text: str = "text") -> list[dict[str, Any]]:
    """Distinct rows sorted by label, as IMDB's are."""
    return [{text: f"row {i}", "label": int(i >= count - positive)} for i in range(count)]


def counts(data: TextData, split: str) -> Counter[int]:
    return Counter(data.labels(split).tolist())


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_file_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    """A text that looks like a missing value, a number or a date stays that text."""
    texts = [
        text for text in AWKWARD if ending != ".tsv" or not set("\t\n") & set(text)
    ]  # it has none of them
    values = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    data = load_for_training(both(tmp_path / ending, values, ending), None)
    assert data.texts("train").first == texts
    assert data.labels("train").tolist() == [i % 2 for i in range(len(texts))]
    assert data.labels("train").dtype == torch.int64
    assert data.names == ("0", "1")
    reference = load_for_training(both(tmp_path / "reference", values), None)
    assert data.fingerprint("train") == reference.fingerprint("train")


def test_an_unbalanced_quotation_mark_in_a_tsv_swallows_no_rows(tmp_path: Path) -> None:
    """GLUE's files are not quoted; read as if they were, everything up to the next mark becomes one text."""
    texts = ['"so he said', "and on", "and on it went", 'till "he stopped', "here"]
    config = both(tmp_path, [{"text": text, "label": i % 2} for i, text in enumerate(texts)], ".tsv")
    assert load_for_training(config, None).texts("train").first == texts


def test_numbers_in_a_csv_are_the_classes_that_they_are_among_texts(tmp_path: Path) -> None:
    """With "4+" in train its 1, 2, 3 are names; read as ids in validation, every label is off by one."""
    write(tmp_path / "train.csv", [{"text": f"t{name}", "label": name} for name in ("1", "2", "3", "4+")])
    write(tmp_path / "validation.csv", [{"text": f"v{name}", "label": name} for name in ("1", "2", "3")])
    data = load_for_training(DataConfig(data_dir=tmp_path), None)
    assert data.names == ("1", "2", "3", "4+")
    assert data.labels("validation").tolist() == [0, 1, 2]


def test_a_rare_class_that_is_held_out_is_still_known_and_errors_name_rows_of_the_file(
    tmp_path: Path,
) -> None:
    """Cut before it is checked, a split has lost classes and its rows have other numbers."""
    values = [{"text": f"t{i}", "label": f"c{i % 2}"} for i in range(100)]
    rare = [{"text": f"r{i}", "label": f"rare{i}"} for i in range(15)]
    write(tmp_path / "a" / "train.csv", values + rare)
    data = load_for_training(DataConfig(data_dir=tmp_path / "a"), None)
    assert len(data.names) == 17
    values[49]["label"] = ""
    write(tmp_path / "b" / "train.csv", values)
    with pytest.raises(UserError, match="row 50: the label is missing"):
        load_for_training(DataConfig(data_dir=tmp_path / "b"), None)


@pytest.mark.parametrize("ending", [".csv"])
def test_line_breaks_in_texts_survive_in_a_file_of_many_blocks(ending: str, tmp_path: Path) -> None:
    """Large files are cut into blocks at line ends, of which some are inside a text."""
    texts = [f"{i}\n" * 200 for i in range(3000)]
    config = both(tmp_path, [{"text": text, "label": i % 2} for i, text in enumerate(texts)], ending)
    assert (tmp_path / f"train{ending}").stat().st_size > 2 << 20
    assert load_for_training(config, None).texts("train").first == texts


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "texts",
    [["12", "13"], ["null", "NA"], ["true", "false"], ["2020-01-01", "2021-12-31"], ["1.50", "nan"]],
    ids=" ".join,
)
def test_a_column_of_nothing_but_look_alikes_is_still_text(
    texts: list[str], ending: str, tmp_path: Path
) -> None:
    config = both(tmp_path, [{"text": text, "label": i} for i, text in enumerate(texts)], ending)
    assert load_for_training(config, None).texts("train").first == texts


@pytest.mark.parametrize("ending", ENDINGS)
def test_label_names_are_read_alike_from_every_kind_of_file(ending: str, tmp_path: Path) -> None:
    """`true` in a CSV, in JSON and in Parquet are the same class, and so are 1 and 1.0."""
    for name, values in {
        "bool": [True, False],
        "int": [3, 1],
        "float": [3.0, 1.0],
        "name": ["spam", "ham"],
        "number as text": ["3", "1"],
    }.items():
        config = both(tmp_path / name, [{"text": f"t{v}", "label": v} for v in values], ending)
        data = load_for_training(config, None)
        wanted = {"bool": ("false", "true"), "name": ("ham", "spam")}.get(name, ("1", "3"))
        assert (data.names, data.labels("train").tolist()) == (wanted, [1, 0]), name


def test_a_preset_brings_columns_names_and_metric(sst2_dir: Path, mrpc_dir: Path) -> None:
    sst2 = load_for_training(DataConfig(dataset="sst2", data_dir=sst2_dir), None)
    assert (sst2.name, sst2.names, sst2.metric) == ("sst2", ("negative", "positive"), "accuracy")
    assert sst2.texts("train").first == [row["sentence"] for row in rows()]
    assert sst2.labels("train").tolist() == [row["label"] for row in rows()]
    assert sst2.texts("train").second is None
    mrpc = load_for_training(DataConfig(dataset="mrpc", data_dir=mrpc_dir), None)
    assert (mrpc.names, mrpc.metric) == (("not_equivalent", "equivalent"), "f1")
    assert mrpc.texts("validation").second == [row["sentence2"] for row in pair_rows(1)]
    assert mrpc.texts("validation").first == [row["sentence1"] for row in pair_rows(1)]


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"label_column": "text"}, "--text-column", "--label-column"),
        ({"text_column": "label"}, "--text-column", "--label-column"),
        ({"text_pair_column": "text"}, "--text-column", "--text-pair-column"),
        ({"text_pair_column": "label"}, "--text-pair-column", "--label-column"),
        ({"dataset": "mrpc", "text_column": "sentence2"}, "--text-column", "--text-pair-column"),
    ],
)
def test_two_options_never_name_one_column(
    options: dict[str, Any], first: str, second: str, tmp_path: Path
) -> None:
    """A text that is its own label is learned by heart, and a text paired with itself says nothing."""
    write_jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}] * 10)
    with pytest.raises(UserError, match=f"{first} and {second} are the same column"):
        load_for_training(DataConfig(data_dir=tmp_path, **options), None)


def test_own_columns_win_over_the_presets_and_over_the_defaults(tmp_path: Path) -> None:
    """A column named `text` that is not the text must not be read for it."""
    values = [
        {"text": "wrong", "label": 0, "review": f"right {i}", "title": f"t{i}", "stars": 5 - i}
        for i in range(4)
    ]
    both(tmp_path, values)
    for dataset in (None, "rotten_tomatoes"):
        names = {"text_column": "review", "text_pair_column": "title"}
        if dataset is None:
            names["label_column"] = "stars"
        data = load_for_training(DataConfig(data_dir=tmp_path, dataset=dataset, **names), None)
        assert data.texts("train").first == [f"right {i}" for i in range(4)]
        assert data.texts("train").second == [f"t{i}" for i in range(4)]
        if dataset is None:
            assert data.names == ("2", "3", "4", "5")
            assert data.labels("train").tolist() == [3, 2, 1, 0]


def test_the_names_of_train_decide_the_ids_of_validation(tmp_path: Path) -> None:
    """Names read anew from a validation split that lacks a class would shift every id after it."""
    write(tmp_path / "train.csv", [{"text": name, "label": name} for name in ("a", "b", "c")])
    write(tmp_path / "validation.csv", [{"text": name, "label": name} for name in ("c", "b")])
    data = load_for_training(DataConfig(data_dir=tmp_path), None)
    assert data.labels("validation").tolist() == [2, 1]
    for of_model in (("c", "b", "a"), ("a", "b", "c"), ("LABEL_0", "LABEL_1", "LABEL_2"), ()):
        models = [of_model] if of_model else []
        scored = load_for_evaluation(DataConfig(data_dir=tmp_path), "validation", models)
        assert scored.names == ("a", "b", "c") and scored.labels("validation").tolist() == [2, 1]


def test_a_label_of_validation_that_train_lacks_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [{"text": name, "label": name} for name in ("a", "b")])
    write(tmp_path / "validation.csv", [{"text": name, "label": name} for name in ("a", "d")])
    with pytest.raises(UserError, match=r"validation\.csv, row 2: unknown label 'd'"):
        load_for_training(DataConfig(data_dir=tmp_path), None)


@pytest.fixture
def imdb_dir(tmp_path: Path) -> Path:
    """IMDB's layout: sorted by label, no validation split; the test split is garbage."""
    write(tmp_path / "imdb" / "train.parquet", many(100, 30))
    (tmp_path / "imdb" / "test.jsonl").write_text("garbage \0 {")
    return tmp_path / "imdb"


def test_training_never_opens_the_test_split(imdb_dir: Path) -> None:
    """XtremeDistil picks its best stage on the test split; here it could be missing or garbage."""
    data = load_for_training(DataConfig(dataset="imdb", data_dir=imdb_dir), None)
    assert set(data.splits) == set(data.labels_of) == {"train", "validation"}
    with pytest.raises(UserError, match=r"test\.jsonl"):
        load_for_evaluation(DataConfig(dataset="imdb", data_dir=imdb_dir), "test", [data.names])


def test_the_held_out_tenth_is_stratified_and_disjoint_from_what_is_trained_on(imdb_dir: Path) -> None:
    data = load_for_training(DataConfig(dataset="imdb", data_dir=imdb_dir), None)
    assert counts(data, "validation") == {0: 7, 1: 3}
    assert counts(data, "train") == {0: 63, 1: 27}
    train, validation = set(data.texts("train").first), set(data.texts("validation").first)
    assert not train & validation and len(train | validation) == 100
    truth = {row["text"]: row["label"] for row in many(100, 30)}
    for split in ("train", "validation"):
        assert data.labels(split).tolist() == [truth[text] for text in data.texts(split).first]
    assert any("no validation split" in note for note in data.notes)


def test_the_held_out_tenth_is_the_same_for_every_seed_and_for_evaluate(
    imdb_dir: Path, tmp_path: Path
) -> None:
    """Were it not, a teacher would have been trained on rows that its student is validated on."""
    prints = set()
    for seed in (0, 1, 42):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        config = TrainConfig(dataset="imdb", data_dir=imdb_dir, seed=seed, output_dir=tmp_path / "o")
        prints.add(load_for_training(config, None).fingerprint("validation"))
        prints.add(load_for_training(config, 10).fingerprint("validation"))
        prints.add(load_for_training(config, None, train_labels=False).fingerprint("validation"))
    scored = load_for_evaluation(
        DataConfig(dataset="imdb", data_dir=imdb_dir), "validation", [("neg", "pos")]
    )
    assert prints == {scored.fingerprint("validation")}


def test_the_held_out_tenth_does_not_depend_on_the_order_of_the_classes(tmp_path: Path) -> None:
    """`evaluate` would score rows that were trained on."""
    names = ("joy", "anger", "fear")
    write(tmp_path / "train.jsonl", [{"text": str(row), "label": names[row % 3]} for row in range(60)])
    config = DataConfig(data_dir=tmp_path)
    own = load_for_training(config, None)
    for order in (names, names[::-1]):
        of_teacher = load_for_training(config, None, train_labels=False, names=order)
        assert of_teacher.names == own.names
        assert of_teacher.texts("validation").first == own.texts("validation").first
        assert of_teacher.labels("validation").tolist() == own.labels("validation").tolist()
    kept = load_for_augmentation(config, None)
    assert kept.rows.tolist() == [int(text) for text in own.texts("train").first]


def test_a_jsonl_column_that_nobody_reads_may_hold_anything(tmp_path: Path) -> None:
    """Arrow reads them all, and wants each of one type."""
    values: list[dict[str, Any]] = [
        {"text": f"a\u2028{row}", "label": row % 2, "zip": row} for row in range(9)
    ]
    values[-1]["zip"] = "AB12"
    write(tmp_path / "train.jsonl", values)
    write(tmp_path / "validation.jsonl", many(4, 2))
    data = load_for_training(DataConfig(data_dir=tmp_path), None)
    assert data.texts("train").first == [one["text"] for one in values]
    assert data.labels("train").tolist() == [one["label"] for one in values]
    with pytest.raises(UserError, match="no column 'body', only 'text', 'label', 'zip'"):
        load_for_training(DataConfig(data_dir=tmp_path, text_column="body"), None)
    for wrong, told in (
        ("yes", "row 6 has 'yes' for 'label', and a row before it 0"),
        ([1], "row 6 has [1] for 'label', and a row before it 0"),
        ("\ud800", "column label, row 6: the text holds '\\ud800', a lone surrogate"),
    ):
        values[5]["label"] = wrong
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, values)))
        with pytest.raises(UserError, match=re.escape(told)):
            load_for_training(DataConfig(data_dir=tmp_path), None)


def test_both_columns_are_asked_for_in_one_message(tmp_path: Path) -> None:
    """Whoever is told of the text alone types the command twice, and loads everything twice."""
    write(tmp_path / "train.jsonl", [{"message": "a film", "topic": "good"}] * 4)
    write(tmp_path / "labelled.jsonl", many(4, 2))
    config = DataConfig(data_dir=tmp_path / "train.jsonl")
    with pytest.raises(
        UserError, match=r"Name it with --text-column, and the column of .* --label-column\.$"
    ):
        load_for_training(config, None)
    config = DataConfig(data_dir=tmp_path / "labelled.jsonl", text_column="body")
    with pytest.raises(UserError, match=r"'label'\. Name it with --text-column\.$"):
        load_for_training(config, None)


@pytest.mark.parametrize(
    ("file", "split", "advice"),
    [
        (
            "reviews.jsonl",
            "test",
            "only train. A single file is one split: .* a file or folder with test.par",
        ),
        ("dev.jsonl", "test", "only validation. A single file is one split: "),
        ("test.jsonl", "validation", "no validation split, only test. To score that, add --split test"),
        ("data/test.jsonl", "validation", "no validation split, only test. To score that, add --split test"),
        ("data/train.jsonl", "test", "only train. Add test.parquet, .csv, .tsv or .jsonl there"),
    ],
)
def test_a_missing_split_to_score_is_answered_by_what_to_type(
    file: str, split: str, advice: str, tmp_path: Path
) -> None:
    """Nothing can be added "there" to a single file, and a lone test file needs no training rows."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    write(path, many(20, 2))
    data_dir = path.parent if "/" in file else path
    with pytest.raises(UserError, match=advice):
        load_for_evaluation(DataConfig(data_dir=data_dir), split, [("0", "1")])


def test_the_held_out_tenth_does_not_depend_on_the_kind_of_file(imdb_dir: Path, tmp_path: Path) -> None:
    write(tmp_path / "csv" / "train.csv", many(100, 30))
    one, other = (
        load_for_training(DataConfig(dataset="imdb", data_dir=folder), None)
        for folder in (imdb_dir, tmp_path / "csv")
    )
    assert one.fingerprint("validation") == other.fingerprint("validation")


def test_a_sample_of_data_sorted_by_label_has_every_class_in_proportion(tmp_path: Path) -> None:
    """The first 20 of IMDB's rows are all negative."""
    write(tmp_path / "train.jsonl", many(200, 50))
    write(tmp_path / "validation.jsonl", many(80, 40))
    data = load_for_training(DataConfig(data_dir=tmp_path, max_eval_samples=10), 20)
    assert counts(data, "train") == {0: 15, 1: 5}
    assert counts(data, "validation") == {0: 5, 1: 5}
    truth = {row["text"]: row["label"] for row in many(200, 50)}
    assert data.labels("train").tolist() == [truth[text] for text in data.texts("train").first]
    assert len(data.notes) == 2
    scored = load_for_evaluation(
        DataConfig(data_dir=tmp_path, max_eval_samples=10), "validation", [("0", "1")]
    )
    assert scored.fingerprint("validation") == data.fingerprint("validation")


def test_a_smaller_sample_is_part_of_a_larger_one(tmp_path: Path) -> None:
    """Else a learning curve over --max-train-samples compares other rows, not more rows."""
    config = both(tmp_path, many(60, 20))
    samples = [set(load_for_training(config, size).texts("train").first) for size in (3, 10, 59, 60, 1000)]
    assert [len(sample) for sample in samples] == [3, 10, 59, 60, 60]
    assert all(small <= large for small, large in pairwise(samples))


def test_an_unlabelled_sample_is_seeded_too_and_not_the_first_rows(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": f"row {i}"} for i in range(50)])
    write(tmp_path / "validation.jsonl", many(4, 2))
    config = DataConfig(data_dir=tmp_path)
    first = load_for_training(config, 10, train_labels=False).texts("train").first
    assert first == load_for_training(config, 10, train_labels=False).texts("train").first
    assert len(first) == 10 and first != [f"row {i}" for i in range(10)]


def test_alpha_0_needs_no_label_column_in_train(tmp_path: Path) -> None:
    """The loss of alpha 0 reads no label, so unlabelled text must do. Names come from validation then."""
    write(tmp_path / "train.jsonl", [{"text": "a"}, {"text": "b"}])
    write(tmp_path / "validation.jsonl", many(4, 2))
    config = DataConfig(data_dir=tmp_path)
    data = load_for_training(config, None, train_labels=False)
    assert "train" not in data.labels_of and data.names == ("0", "1")
    assert data.texts("train").first == ["a", "b"]
    with pytest.raises(UserError, match="no column 'label'"):
        load_for_training(config, None)


def test_a_training_file_without_labels_and_without_validation_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "a"}, {"text": "b"}])
    with pytest.raises(UserError, match="no column 'label', only 'text'"):
        load_for_training(DataConfig(data_dir=tmp_path), None)


def test_alpha_0_does_not_look_at_labels_that_are_there(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"sentence": "a", "label": -1}, {"sentence": "b", "label": -1}])
    write(tmp_path / "validation.jsonl", many(4, 2, text="sentence"))
    config = DataConfig(dataset="sst2", data_dir=tmp_path)
    assert "train" not in load_for_training(config, None, train_labels=False).labels_of


@pytest.mark.parametrize(
    ("train", "validation", "teacher", "names", "ids"),
    [
        (["neg", "pos"], ["pos", "neg"], ("LABEL_0", "LABEL_1"), ("neg", "pos"), [1, 0]),
        ([1, 2, 3], [2, 1], ("LABEL_0", "LABEL_1", "LABEL_2"), ("1", "2", "3"), [1, 0]),
        (["b", "a"], ["a", "b"], ("b", "a"), ("a", "b"), [0, 1]),
        (["a", "b"], ["c", "a"], ("c", "b", "a"), ("c", "b", "a"), [0, 2]),  # the teacher knows more by name
        ([-1, 0, 1], [1, 0], ("LABEL_0", "LABEL_1"), ("0", "1"), [1, 0]),
        ([-1, 0, 1], [-1, 0], ("LABEL_0", "LABEL_1", "LABEL_2"), ("-1", "0", "1"), [0, 1]),
        (["a", "b", "-1"], ["c", "a"], ("a", "b", "c"), ("a", "b", "c"), [2, 0]),
        ([None, None], ["neg", "pos"], ("LABEL_0", "LABEL_1"), ("neg", "pos"), [0, 1]),
        ([None, None], ["pos", "pos"], ("neg", "pos"), ("neg", "pos"), [1, 1]),
    ],
)
def test_at_alpha_0_training_labels_name_the_classes_as_they_do_at_any_alpha(
    train: list[Any],
    validation: list[Any],
    teacher: tuple[str, ...],
    names: tuple[str, ...],
    ids: list[int],
    tmp_path: Path,
) -> None:
    """In terms of LABEL_0, LABEL_1 … labels of 1 to n were scored one class too high, and names refused."""
    for split, labels in (("train", train), ("validation", validation)):
        write(
            tmp_path / f"{split}.jsonl", [{"text": f"{i}", "label": label} for i, label in enumerate(labels)]
        )
    data = load_for_training(DataConfig(data_dir=tmp_path), None, train_labels=False, names=teacher)
    assert (data.names, data.labels("validation").tolist()) == (names, ids)


def write_declared(file: Path, ids: list[int], names: list[str] | None) -> None:
    """Parquet as `datasets` and the Hub write it: ids, and the names of the classes in the schema."""
    label = hub.ClassLabel(names=names) if names else hub.Value("int64")
    features = hub.Features({"text": hub.Value("string"), "label": label})
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"{file.stem} {row}" for row in range(len(ids))]
    hub.Dataset.from_dict({"text": texts, "label": ids}, features=features).to_parquet(file)


NLI = ["entailment", "neutral", "contradiction"]


def test_classes_that_a_file_declares_are_read_by_name_in_the_declared_order(tmp_path: Path) -> None:
    """Read as bare ids, a teacher with the same names in another order was wrong in every row, silently."""
    for split in ("train", "validation", "test"):
        write_declared(tmp_path / f"{split}.parquet", [0, 1, 2, 1], NLI)
    config = DataConfig(data_dir=tmp_path)
    data = load_for_training(config, None)
    assert data.names == tuple(NLI) and data.labels("train").tolist() == [0, 1, 2, 1]
    for teacher in (tuple(sorted(NLI)), ("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "1", "2")):
        at_alpha_0 = load_for_training(config, None, train_labels=False, names=teacher)
        assert at_alpha_0.names == tuple(NLI) and at_alpha_0.notes == ()
        scored = load_for_evaluation(config, "test", [teacher])
        assert [scored.names[class_id] for class_id in scored.labels("test").tolist()][:3] == NLI
        assert scored.notes == ()
    (tmp_path / "train.parquet").unlink()
    scored = load_for_evaluation(config, "test", [("LABEL_0", "LABEL_1", "LABEL_2")])
    assert scored.names == tuple(NLI)


def test_each_split_is_decoded_by_the_names_that_it_declares(tmp_path: Path) -> None:
    """Encoded split by split, the same id is another class in a split that lacks one."""
    write_declared(tmp_path / "train.parquet", [0, 1, 2], sorted(NLI))
    write_declared(tmp_path / "validation.parquet", [0, 1], ["entailment", "neutral"])
    data = load_for_training(DataConfig(data_dir=tmp_path), None)
    assert data.names == tuple(sorted(NLI)) and data.labels("validation").tolist() == [1, 2]


def test_minus_one_where_classes_are_declared_is_a_hidden_label(tmp_path: Path) -> None:
    """SNLI's -1 became a third class of the two that the file knows."""
    for split in ("train", "validation"):
        write_declared(tmp_path / f"{split}.parquet", [0, 1, -1], ["neg", "pos"])
    with pytest.raises(UserError, match=r"train\.parquet, row 3: the label is -1, which stands for a hidden"):
        load_for_training(DataConfig(data_dir=tmp_path), None)


def test_a_declared_class_without_rows_is_still_a_class(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_declared(tmp_path / f"{split}.parquet", [0, 2], NLI)
    data = load_for_training(DataConfig(data_dir=tmp_path), None)
    assert data.names == tuple(NLI) and data.labels("train").tolist() == [0, 2]


def test_declared_names_choose_the_same_held_out_rows_as_their_ids(tmp_path: Path) -> None:
    """Names sort otherwise than ids; a teacher trained on the other rows would have seen the validation."""
    ids = [row % 3 for row in range(90)]
    write_declared(tmp_path / "names" / "train.parquet", ids, NLI)
    write_declared(tmp_path / "ids" / "train.parquet", ids, None)
    by_name, by_id = (
        load_for_training(DataConfig(data_dir=tmp_path / kind), 20) for kind in ("names", "ids")
    )
    for split in ("train", "validation"):
        assert by_name.texts(split).first == by_id.texts(split).first


def test_ids_beside_declared_names_are_those_ids_and_beside_others_they_are_refused(tmp_path: Path) -> None:
    """By alphabet MRPC's 0 becomes "equivalent"; by a declared order it is what the file says."""
    write_declared(tmp_path / "declared" / "train.parquet", [0, 1, 2], NLI)
    write(tmp_path / "declared" / "validation.csv", [{"text": "a", "label": 2}, {"text": "b", "label": 0}])
    write(tmp_path / "declared" / "test.csv", [{"text": "a", "label": 2}, {"text": "b", "label": 0}])
    config = DataConfig(data_dir=tmp_path / "declared")
    for data, split in (
        (load_for_training(config, None), "validation"),
        (load_for_evaluation(config, "test", [tuple(sorted(NLI))]), "test"),
    ):
        assert [data.names[class_id] for class_id in data.labels(split).tolist()] == [NLI[2], NLI[0]]
        assert any("0 = entailment, 1 = neutral, 2 = contradiction" in note for note in data.notes)
    write(tmp_path / "own" / "train.csv", [{"text": name, "label": name} for name in NLI])
    write(tmp_path / "own" / "validation.csv", [{"text": "a", "label": "neutral"}, {"text": "b", "label": 2}])
    with pytest.raises(
        UserError, match=r"validation\.csv, row 2: the label is '2', and the training labels are"
    ):
        load_for_training(DataConfig(data_dir=tmp_path / "own"), None)


def test_a_column_with_a_value_for_nearly_every_row_is_no_label(tmp_path: Path) -> None:
    config = both(tmp_path, [{"text": f"t{row}", "label": row % 2, "review_id": row} for row in range(60)])
    with pytest.raises(UserError, match=r"60 classes in 60 rows: is review_id the label\?"):
        load_for_training(config.model_copy(update={"label_column": "review_id"}), None)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_hidden_labels_are_refused_in_every_split(split: str, tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        hidden = {"label": -1} if name == split else {}
        write(tmp_path / f"{name}.jsonl", [row | hidden for row in rows(1)])
    config = DataConfig(dataset="sst2", data_dir=tmp_path)
    with pytest.raises(UserError, match=rf"{split}\.jsonl, row 1: the label is -1"):
        if split == "test":
            load_for_evaluation(config, split, [("negative", "positive")])
        else:
            load_for_training(config, None)


def test_the_fingerprint_tells_apart_what_is_not_the_same_data(tmp_path: Path) -> None:
    base = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    others = [
        [base[1], base[0]],
        [base[0] | {"label": 1}, base[1] | {"label": 0}],
        [base[0], base[1] | {"text": "c"}],
        [*base, base[0]],
    ]
    prints = [
        load_for_training(both(tmp_path / str(i), values), None).fingerprint("train")
        for i, values in enumerate([base, *others])
    ]
    assert len(set(prints)) == len(prints)


@pytest.fixture
def hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rotten Tomatoes as a dataset repository is laid out on the Hub, in a local folder."""
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "repository"
    for split, count in (("train", 20), ("validation", 8), ("test", 6)):
        write(folder / "data" / f"{split}-00000-of-00001.parquet", many(count, count // 2))
    preset = dataclasses.replace(presets.PRESETS["rotten_tomatoes"], hub=str(folder), hub_name=None)
    monkeypatch.setitem(presets.PRESETS, "rotten_tomatoes", preset)
    return folder


def test_a_preset_without_a_folder_is_loaded_as_the_hub_lays_it_out(hub_repository: Path) -> None:
    data = load_for_training(DataConfig(dataset="rotten_tomatoes"), 10)
    assert set(data.splits) == {"train", "validation"} and data.names == ("neg", "pos")
    assert counts(data, "train") == {0: 5, 1: 5}
    assert data.texts("validation").first == [f"row {i}" for i in range(8)]
    assert data.labels("validation").tolist() == [0] * 4 + [1] * 4
    scored = load_for_evaluation(DataConfig(dataset="rotten_tomatoes"), "test", [data.names])
    assert len(scored.texts("test").first) == 6


def test_a_mistake_in_hub_data_names_the_repository_and_the_split(hub_repository: Path) -> None:
    config = DataConfig(dataset="rotten_tomatoes", text_column="sentence")
    with pytest.raises(UserError) as error:
        load_for_training(config, None)
    for text in (str(hub_repository), "split train", "'sentence'", "--text-column"):
        assert text in str(error.value)


def test_a_dataset_that_cannot_be_had_from_the_hub_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    preset = dataclasses.replace(presets.PRESETS["sst2"], hub="distilkit-tests/no-such-dataset")
    monkeypatch.setitem(presets.PRESETS, "sst2", preset)
    with pytest.raises(UserError) as error:
        load_for_training(DataConfig(dataset="sst2"), None)
    assert "distilkit-tests/no-such-dataset" in str(error.value) and "--data-dir" in str(error.value)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 2**32 - 1))
def test_every_prefix_of_the_stratified_order_has_the_shares_of_the_whole(
    values: list[int], seed: int
) -> None:
    """A sample of any size, and the held-out tenth, must not be short of a class.

    Row i of a class of n rows stands at (i + u) / n, so of the rows up to place t a class has n*t + d with d
    between -1 and 1; a prefix of k rows ends at t = (k - sum of d) / N. Of C classes, one with the share p is
    therefore off p*k by less than (1 - p) + p * (C - 1) = 1 + p * (C - 2): by one row where there are two.
    """
    labels = np.array(values)
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert (order == stratified_order(labels, seed)).all()
    classes, totals = np.unique(labels, return_counts=True)
    shares = totals / len(labels)
    taken = np.cumsum(labels[order][:, None] == classes, axis=0)
    ideal = shares * np.arange(1, len(labels) + 1)[:, None]
    assert (np.abs(taken - ideal) <= 1 + shares * (len(classes) - 2) + 1e-9).all()


def test_the_stratified_order_is_random_within_a_class() -> None:
    """Sorted data often has more order than its labels: IMDB's reviews of one film stand together."""
    order = stratified_order(np.repeat([0, 1], 50))
    negatives = [row for row in order.tolist() if row < 50]
    assert negatives != sorted(negatives)
    assert negatives != [row for row in stratified_order(np.repeat([0, 1], 50), seed=1).tolist() if row < 50]


NUMBERED = tuple(f"LABEL_{number}" for number in range(5))
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")


@pytest.mark.parametrize(
    ("labels", "of_model", "names"),
    [
        (["pos", "neg"], ("LABEL_0", "LABEL_1"), ("neg", "pos")),  # of a model that nobody named
        (["pos", "neg"], (), ("neg", "pos")),
        (["pos", "pos"], ("negative", "positive"), ("negative", "positive")),  # a class is not there
        ([0, 1], ("negative", "positive"), ("negative", "positive")),  # ids
        ([0, 0], ("negative", "positive"), ("negative", "positive")),
        ([4, 1, 3, 2], NUMBERED, "none is 0"),  # of 1 to 5: as ids they would be one too high
        ([1, 1], ("negative", "positive"), "none is 0"),
        ([5, 4, 1, 3, 2], STARS, ("1", "2", "3", "4", "5")),
        ([1, 2], ("2", "1", "0"), ("2", "1", "0")),
    ],
)
def test_the_classes_of_a_split_without_training_data(
    labels: list[Any], of_model: tuple[str, ...], names: Any, tmp_path: Path
) -> None:
    write(tmp_path / "test.jsonl", [{"text": str(row), "label": one} for row, one in enumerate(labels)])
    if isinstance(names, str):
        with pytest.raises(UserError, match=names):
            load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [of_model])
        return
    found = load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [of_model] if of_model else [])
    assert found.names == names
    assert any("are taken for" in note for note in found.notes) == (labels in ([0, 1], [0, 0]))


def test_numbers_of_classes_that_models_have_in_different_orders_are_refused(tmp_path: Path) -> None:
    """Else the model that is named first decides what is right."""
    write(tmp_path / "test.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    one, other = ("neg", "pos"), ("Positive", "Negative")
    with pytest.raises(UserError, match="Write names instead of the numbers"):
        load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [one, other])
    write(tmp_path / "train.jsonl", many(20, 10))
    with pytest.raises(UserError, match="Write names instead of the numbers"):
        load_for_evaluation(DataConfig(data_dir=tmp_path), "validation", [one, other])
    assert load_for_evaluation(DataConfig(data_dir=tmp_path), "validation", [one, one]).names == ("0", "1")
    found = load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [("LABEL_0", "LABEL_1"), other])
    assert found.names == other


@pytest.mark.parametrize(
    ("train", "test", "of_model", "names"),
    [
        (["neg", "pos"], ["neg", "pos"], ("negative", "neutral", "positive"), "of_model"),  # it knows more
        ([-1, 0, 1, -1], [0, 1], ("negative", "positive"), "of_model"),  # -1: hidden, as alpha 0 allows
        ([-1, 0, 1], [0, 1], ("down", "same", "up"), ("-1", "0", "1")),  # -1: a class
        (["low", "medium", "high"], [1, 2], ("high", "low", "medium"), "none is 0"),
        (["a", "b"], ["a", "d"], (), "row 2: unknown label 'd'"),
    ],
)
def test_the_classes_of_a_split_beside_training_data(
    train: list[Any], test: list[Any], of_model: tuple[str, ...], names: Any, tmp_path: Path
) -> None:
    for split, labels in (("train", train), ("test", test)):
        write(
            tmp_path / f"{split}.jsonl", [{"text": f"{row}", "label": one} for row, one in enumerate(labels)]
        )
    if isinstance(names, str) and names != "of_model":
        with pytest.raises(UserError, match=names):
            load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [of_model] if of_model else [])
        return
    found = load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [of_model])
    assert found.names == (of_model if names == "of_model" else names)


def test_classes_that_only_training_labels_show_are_those_of_every_split(tmp_path: Path) -> None:
    """A test split of 1 to 4 stars is no reason to take them for ids, nor to miss that there are five."""
    write(tmp_path / "train.jsonl", [{"text": str(one), "label": one} for one in (1, 2, 3, 4, 5)])
    write(tmp_path / "test.jsonl", [{"text": str(one), "label": one} for one in (4, 1, 3, 2)])
    for of_model in (NUMBERED, STARS, ()):
        models = [of_model] if of_model else []
        found = load_for_evaluation(DataConfig(data_dir=tmp_path), "test", models)
        assert found.names == ("1", "2", "3", "4", "5") and found.labels("test").tolist() == [3, 0, 2, 1]


def test_training_rows_without_labels_do_not_stop_an_evaluation(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "a"}, {"text": "b"}])
    write(tmp_path / "test.jsonl", [{"text": "c", "label": "b"}, {"text": "d", "label": "c"}])
    found = load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [("a", "b", "c")])
    assert found.names == ("a", "b", "c") and found.labels("test").tolist() == [1, 2]
    with pytest.raises(UserError, match=r"test\.jsonl, row 2: unknown label 'c'"):
        load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [("a", "b")])


def test_a_model_with_names_gives_them_to_ids_that_training_labels_are(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": str(one), "label": one} for one in (0, 1)])
    write(tmp_path / "test.jsonl", [{"text": "a", "label": 1}])
    found = load_for_evaluation(DataConfig(data_dir=tmp_path), "test", [("negative", "positive")])
    assert found.names == ("negative", "positive") and found.labels("test").tolist() == [1]
