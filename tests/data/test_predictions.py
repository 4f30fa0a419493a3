"""A file of answers is of the split's rows and classes, or it is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from distilkit.data.predictions import predicted, read_predictions
from distilkit.errors import UserError

NAMES = ("negative", "positive")


def test_labels_may_be_names_short_names_or_ids(tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "a.jsonl", [{"label": "positive", "score": 0.9}, {"label": "neg", "score": 1}]
    )
    found = read_predictions(file, NAMES, 2)
    assert found.answer.tolist() == [1, 0]
    assert found.score is not None and found.score.tolist() == [0.9, 1.0]
    assert predicted(["LABEL_1", "LABEL_0"], None, NAMES, "x").answer.tolist() == [1, 0]
    assert predicted([1, 0], None, NAMES, "x").answer.tolist() == [1, 0]
    assert predicted([1, "negative"], None, NAMES, "x").answer.tolist() == [1, 0]
    assert predicted(["LABEL_1"], None, ("LABEL_1", "LABEL_0"), "x").answer.tolist() == [0]


def test_answers_that_are_ids_are_noted_with_the_classes_they_are_taken_for() -> None:
    """Ids of another order of the classes would be scored as their opposites, and nobody would know."""
    for labels, pairs in (
        ([0, 1], "0 = negative, 1 = positive"),
        (["1.0", "0"], "0 = negative, 1 = positive"),
        (["LABEL_1"], "LABEL_0 = negative, LABEL_1 = positive"),
    ):
        (note,) = predicted(labels, None, NAMES, "--predictions a.csv").notes
        assert note.startswith("--predictions a.csv") and pairs in note
    assert predicted(["pos", "negative"], None, NAMES, "x").notes == ()
    assert predicted([1, "0"], None, ("0", "1"), "x").notes == ()


def test_answers_are_read_as_labels_are() -> None:
    assert predicted([2.0, "1"], None, ("1", "2", "unsure"), "x").answer.tolist() == [1, 0]
    assert predicted([True, "FALSE"], None, ("false", "true"), "x").answer.tolist() == [1, 0]


@pytest.mark.parametrize("names", [("1", "2", "3"), ("-1", "0", "1")])
def test_a_numbered_label_counts_classes_and_is_not_the_name_of_one(names: tuple[str, ...]) -> None:
    assert predicted(["LABEL_0", "LABEL_2", "LABEL_1"], None, names, "x").answer.tolist() == [0, 2, 1]
    with pytest.raises(UserError, match="unknown label 'LABEL_3'"):
        predicted(["LABEL_3"], None, names, "x")


def test_a_csv_without_scores_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,label\n7,negative\n8,positive\n")
    found = read_predictions(file, NAMES, 2)
    assert found.answer.tolist() == [0, 1] and found.score is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{"label": "positive"}], "it has 1 row, the split 2"),
        ([{"answer": "positive"}] * 2, "no column 'label'"),
        ([{"label": "positive"}, {"label": "good"}], "row 2: unknown label 'good'"),
        ([{"label": "positive", "score": 0.5}, {"label": "positive", "score": 1.5}], "row 2: score 1.5"),
        ([{"label": "positive", "score": 0.5}, {"label": "positive", "score": None}], "row 2: score None"),
    ],
)
def test_what_does_not_fit_is_named(values: Any, said: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", values)
    with pytest.raises(UserError, match=said) as told:
        read_predictions(file, NAMES, 2)
    assert "a.jsonl" in str(told.value)


def test_a_file_that_is_not_there_or_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path / "a.csv", NAMES, 2)
    with pytest.raises(UserError, match=r"\.jsonl"):
        read_predictions(tmp_path / "a.xlsx", NAMES, 2)


def test_answers_in_another_order_than_the_texts_of_the_split_are_refused(tmp_path: Path) -> None:
    """Shuffled or sorted answers would be scored against the labels of other rows."""
    texts = {"text": ["a great film", "no fun"], "other": ["x", "y"]}
    values = [{"text": "No  fun", "label": "neg"}, {"text": "a great film", "label": "pos"}]
    file = write_jsonl(tmp_path / "a.jsonl", values)
    with pytest.raises(
        UserError, match=r"row 1: its text is 'No  fun', in the split 'a great film'\. Put its"
    ):
        read_predictions(file, NAMES, 2, texts)
    file = write_jsonl(tmp_path / "a.jsonl", values[::-1])
    assert read_predictions(file, NAMES, 2, texts).answer.tolist() == [1, 0]
    file = write_jsonl(tmp_path / "a.jsonl", [{"label": "pos"}, {"label": "neg"}])
    assert read_predictions(file, NAMES, 2, texts | {"label": ["x", "y"]}).answer.tolist() == [1, 0]
