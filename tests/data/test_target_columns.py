"""Targets are read from whichever columns hold them, and go to the right classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from distilkit.data.target_columns import FileTargets, read_targets
from distilkit.data.targets import softmax

NAMES = ("negative", "positive")
BELIEFS = np.array([[0.75, 0.25], [0.125, 0.875], [0.5, 0.5]])
LOGITS = [[1.5, -0.5], [-2.25, 3.0], [0.125, 0.25]]


def read(file: Path, names: Any = NAMES, **options: Any) -> FileTargets:
    columns = pd.read_json(file, lines=True).columns if file.suffix == ".jsonl" else _columns(file)
    known: dict[str, Any] = {"label_column": None, "targets": None, "where": file.name}
    return read_targets(file, [name for name in columns if name != "text"], names, **(known | options))


def _columns(file: Path) -> list[str]:
    return list((pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)).columns)


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    """Rows of a text and of a value from each of the columns."""
    return [
        {"text": f"t{i}"} | dict(zip(columns, values, strict=True))
        for i, values in enumerate(zip(*columns.values(), strict=True))
    ]


def pairs(values: Any, names: Any = ("Positive", "NEGATIVE")) -> list[dict[str, Any]]:
    return [{"label": name, "score": value} for name, value in zip(names, values, strict=True)]


NEGATIVE, POSITIVE = BELIEFS.T.tolist()
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "a column per class": rows(POSITIVE=POSITIVE, Negative=NEGATIVE),
    "short names": rows(pos=POSITIVE, neg=NEGATIVE),
    "a prefix": rows(prob_positive=POSITIVE, prob_negative=NEGATIVE),
    "numbers beside": rows(id=[7, 8, 9], cost=[0.1, 0.2, 0.3], positive=POSITIVE, negative=NEGATIVE),
    "labels beside": rows(label=["positive"] * 3, positive=POSITIVE, negative=NEGATIVE),
    "ids": rows(**{"0": NEGATIVE, "1": POSITIVE}),
    "placeholders": rows(LABEL_1=POSITIVE, LABEL_0=NEGATIVE),
    "a list": rows(probabilities=BELIEFS.tolist()),
    "an object": rows(probs=[{"pos": p, "neg": n} for n, p in BELIEFS.tolist()]),
    "pairs": rows(scores=[pairs(row[::-1]) for row in BELIEFS.tolist()]),
    "a batch of pairs": rows(scores=[[pairs(row[::-1])] for row in BELIEFS.tolist()]),
    "placeholders in pairs": rows(scores=[pairs(row, ("LABEL_0", "LABEL_1")) for row in BELIEFS.tolist()]),
    "votes": rows(
        votes=[{"negative": 6, "positive": 2}, {"positive": 7, "negative": 1}, {"neg": 4, "pos": 4}]
    ),
    "votes in columns": rows(negative=[6, 1, 4], positive=[2, 7, 4]),
    "the best of two": rows(scores=[pairs([0.75], ["neg"]), pairs([0.875], ["pos"]), pairs([0.5], ["neg"])]),
    "label and score": rows(label=["neg", "POSITIVE", 1], score=[0.75, 0.875, 0.5]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_every_layout_in_every_format_says_the_same(layout: str, ending: str, tmp_path: Path) -> None:
    """Swapped columns, or an id read as a probability, would teach nonsense without an error."""
    values = LAYOUTS[layout]
    if layout == "label and score":
        values = [row | {"label": str(row["label"])} for row in values]
    file = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        write_jsonl(file, values)
    elif ending == "csv":
        pd.DataFrame(values).to_csv(file, index=False)  # lists and objects as Python writes them
    else:
        pq.write_table(pa.Table.from_pylist(values), file)
    found = read(file)
    assert softmax(found.soft.logits) == pytest.approx(BELIEFS, abs=1e-6)
    assert found.class_names == NAMES and found.has_target.all()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_logits_survive_every_format_to_the_bit(ending: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    frame = pd.DataFrame(
        {"text": [f"t{i}" for i in range(20)], "positive": values[:, 1], "negative": values[:, 0]}
    )
    file = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        write_jsonl(
            file,
            json.loads(
                frame.astype({"positive": float, "negative": float}).to_json(
                    orient="records", double_precision=15
                )
            ),
        )
    elif ending == "csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file)
    found = read(file)
    assert found.kind == "logits" and np.array_equal(found.soft.logits, values)


def test_a_map_as_spark_writes_it_is_an_object(tmp_path: Path) -> None:
    votes = pa.array([[("pos", 4), ("neg", 1)], [("neg", 5)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"text": ["a", "b"], "votes": votes}), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert softmax(found.soft.logits) == pytest.approx(np.array([[0.2, 0.8], [1, 0]]), abs=1e-6)


def test_objects_whose_classes_differ_after_a_thousand_rows_are_one_column(tmp_path: Path) -> None:
    values = [{"text": f"t{i}", "votes": {"neg": 1} if i < 1500 else {"pos": 2}} for i in range(3000)]
    found = read(write_jsonl(tmp_path / "a.jsonl", values))
    assert softmax(found.soft.logits).argmax(axis=1).tolist() == [0] * 1500 + [1] * 1500


def test_the_probability_of_one_class_of_two_is_enough(tmp_path: Path) -> None:
    found = read(write_jsonl(tmp_path / "a.jsonl", rows(id=[1, 2, 3], positive=POSITIVE)))
    assert softmax(found.soft.logits) == pytest.approx(BELIEFS, abs=1e-6)


def test_predictions_come_before_labels_that_may_be_those_of_the_data(tmp_path: Path) -> None:
    """A file that was made of the dataset has its labels too: they would be learned as the teacher's."""
    values = rows(label=["pos"] * 3, prediction=["neg", "pos", "neg"], confidence=[0.75, 0.875, 0.5])
    found = read(write_jsonl(tmp_path / "a.jsonl", values))
    assert found.kind == "confidence" and softmax(found.soft.logits) == pytest.approx(BELIEFS, abs=1e-6)
    assert read(write_jsonl(tmp_path / "a.jsonl", values), targets="label").layout == "column label"


def test_one_answer_per_row_is_a_label_and_its_probability(tmp_path: Path) -> None:
    """An endpoint answers a row with `{"label", "score"}`."""
    answers = [{"label": "neg", "score": 0.75}, {"label": "pos", "score": 0.875}]
    found = read(write_jsonl(tmp_path / "a.jsonl", rows(answers=answers)))
    assert softmax(found.soft.logits) == pytest.approx(BELIEFS[:2], abs=1e-6)


def test_what_order_decided_is_noted(tmp_path: Path) -> None:
    """Ids in another order than the data's are opposites, and nothing else would show it."""
    for layout in ("ids", "placeholders", "a list", "placeholders in pairs"):
        notes = read(write_jsonl(tmp_path / "a.jsonl", LAYOUTS[layout])).notes
        assert any("negative" in note for note in notes), layout
    for layout in ("a column per class", "an object", "pairs"):
        assert read(write_jsonl(tmp_path / "a.jsonl", LAYOUTS[layout])).notes == ()


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    (note,) = read(write_jsonl(tmp_path / "a.jsonl", LAYOUTS["numbers beside"])).notes
    assert note.endswith("not read: 'id', 'cost'")


def test_the_kind_that_is_named_decides_which_columns_are_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", LAYOUTS["labels beside"])
    assert read(file).kind == "probabilities"
    found = read(file, targets="label")
    assert found.kind == "label" and softmax(found.soft.logits).argmax(axis=1).tolist() == [1, 1, 1]
    assert read(file, targets="votes").kind == "votes"
    found = read(write_jsonl(tmp_path / "a.jsonl", rows(logits=LOGITS)), targets="logits")
    assert found.soft.logits.tolist() == LOGITS


def test_the_name_of_a_column_says_what_it_holds(tmp_path: Path) -> None:
    """Logits whose rows happen to look like log-probabilities are logits where the file says so."""
    values = np.log(BELIEFS).tolist()
    assert read(write_jsonl(tmp_path / "a.jsonl", rows(logits=values))).kind == "logits"
    assert read(write_jsonl(tmp_path / "a.jsonl", rows(scores=values))).kind == "log-probabilities"


def test_labels_may_be_those_of_the_column_that_the_data_have(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", rows(stars=[0, 1, 1]))
    found = read(file, label_column="stars")
    assert softmax(found.soft.logits).argmax(axis=1).tolist() == [0, 1, 1]
    assert "0 = negative" in found.notes[0]


def test_rows_left_unlabelled_are_no_mistake(tmp_path: Path) -> None:
    """A teacher that answers with no class leaves the row empty; the others are worth having."""
    for values in (
        rows(label=["neg", None, "pos"]),
        rows(label=["neg", " ", "pos"], score=[0.9, None, 0.8]),
        rows(negative=[0.2, None, 0.4], positive=[0.8, None, 0.6]),
        rows(negative=[0.2, float("nan"), 0.4], positive=[0.8, float("nan"), 0.6]),
        rows(label=["neg", float("nan"), "pos"]),
        rows(votes=[{"neg": 2}, {}, {"pos": 1}]),
        rows(logits=[[1.0, -2.0], None, [0.5, -0.5]]),
    ):
        assert read(write_jsonl(tmp_path / "a.jsonl", values)).has_target.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (rows(id=[1, 2, 3], no=NEGATIVE, yes=POSITIVE), ("no", "yes")),
        (rows(prob_no=NEGATIVE, prob_yes=POSITIVE), ("no", "yes")),
        (rows(votes=[{"yes": 1}, {"no": 2}, {"yes": 1}]), ("no", "yes")),
        (
            rows(scores=[pairs(row, ("LABEL_10", "LABEL_2")) for row in BELIEFS.tolist()]),
            ("LABEL_2", "LABEL_10"),
        ),
        (rows(label=["yes", "no", "yes"]), ("no", "yes")),
        (rows(logits=LOGITS), ("0", "1")),
    ],
)
def test_a_file_that_alone_knows_the_classes_names_them_in_an_order_of_their_own(
    values: Any, names: tuple[str, ...], tmp_path: Path
) -> None:
    """Not in the order of the rows: a shuffled file would make another student."""
    for order in (values, values[::-1]):
        assert read(write_jsonl(tmp_path / "a.jsonl", order), None).class_names == names
