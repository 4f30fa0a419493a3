"""Counts of what is wrong with texts and labels: each against a way of counting that can be seen through."""

import itertools
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from conftest import tiny_tokenizer

from distilkit.data import checks, labels
from distilkit.data.labels import canonical
from distilkit.errors import UserError


def column(*values: Any) -> pa.ChunkedArray:
    """A column in two chunks, as a file of some size is read."""
    whole = pa.array(values)
    return pa.chunked_array([whole[:1], whole[1:]])


def test_texts_are_missing_when_there_is_nothing_to_read_in_them() -> None:
    texts = column("a", "", None, " \t\n", "\u3000", " b ")
    assert checks.missing_texts(texts).tolist() == [False, True, True, True, True, False]
    assert checks.blank_texts(texts) == 2


def test_every_row_without_a_class_is_told_by_why() -> None:
    """Loading stops at the first; a person with 12 hidden and 3 unknown labels wants to know of all."""
    found = checks.read_labels(column("pos", "-1", "neg", "", "maybe", None, "1", "maybe"), ("neg", "pos"))
    assert found.ids.tolist() == [1, -1, 0, -1, -1, -1, 1, -1]
    assert (found.hidden.tolist(), found.missing.tolist()) == ([1], [3, 5])
    assert found.unknown == {"maybe": 2}


@pytest.mark.parametrize(
    ("values", "names", "ids"),
    [
        ((1, 0, -1), ("neg", "pos"), [1, 0, -1]),
        ((1.0, float("nan"), -1.0), ("neg", "pos"), [1, -1, -1]),
        ((True, False), ("false", "true"), [1, 0]),
        (("1.0", "0.0", "-1.0"), ("neg", "pos"), [1, 0, -1]),
        ((-1, 0, 1), ("-1", "0", "1"), [0, 1, 2]),
        ((7, 0), ("neg", "pos"), [-1, 0]),
    ],
)
def test_labels_are_read_as_loading_reads_them(values: Any, names: tuple[str, ...], ids: list[int]) -> None:
    """-1 may be a class where the data says so; and a gap makes floats of a column."""
    assert checks.read_labels(column(*values), names).ids.tolist() == ids


def test_labels_beside_a_word_are_counted_as_training_reads_them() -> None:
    """One value of a column at a time was read otherwise than all: 60 rows of a class were called none."""
    names = checks.class_names(column("1.0", "2.0", "unsure", "1.0"), "x", "label")
    found = checks.read_labels(column("1.0", "2", "unsure", "1"), names)
    assert (names, found.ids.tolist(), found.unknown) == (("1", "2", "unsure"), [0, 1, 2, 0], {})


def test_the_classes_are_those_of_the_rows_that_have_a_label() -> None:
    assert checks.class_names(column("b", None, "a", " "), "x", "label") == ("a", "b")
    assert checks.class_names(column(10, 9, None), "x", "label") == ("9", "10")
    for nothing in (column(None, None), column("a", "a")):
        with pytest.raises(UserError):
            checks.class_names(nothing, "x", "label")


def test_spellings_of_one_class_are_told_and_read_as_one() -> None:
    """`doctor` goes on with its other checks, where `train` stops."""
    raw = column("Good", "bad", "good ", "GOOD", "bad")
    names = checks.class_names(raw, "x", "label")
    assert checks.spellings(raw) == [["GOOD", "Good", "good "]]
    assert len(names) == 2 and len(set(checks.read_labels(raw, names).ids.tolist())) == 2


def test_the_work_grows_with_the_number_of_classes_and_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong label column has thousands of classes, and a lookup for each of them takes hours."""
    calls = 0

    def count(name: str) -> str:
        nonlocal calls
        calls += 1
        return canonical(name)

    monkeypatch.setattr(labels, "canonical", count)

    def count_calls(classes: int) -> int:
        nonlocal calls
        calls = 0
        names = [f"class {index}" for index in range(classes)]
        raw = column(*names, *names, *(f"unknown {index}" for index in range(classes)))
        assert len(checks.read_labels(raw, names).unknown) == classes
        return calls

    assert count_calls(400) <= 4.1 * count_calls(100)


def test_a_column_with_sentences_is_text_and_ids_names_and_constants_are_not() -> None:
    rows = datasets.Dataset.from_dict(
        {
            "text": [f"the text {number} of all" for number in range(10)],
            "other": [f"another text {number} here" for number in range(10)],
            "url": [f"http://site/{number}" for number in range(10)],
            "source": ["one and the same long source"] * 10,
            "number": list(range(10)),
            "gaps": [None] * 8 + ["a text with words", "some other words here"],
        }
    )
    assert checks.other_text_columns(rows, ("text",)) == ["other"]
    assert checks.other_text_columns(rows, ("text", "other")) == []


def test_lowercases_asks_the_tokenizer_not_its_name() -> None:
    tokenizer: Any = tiny_tokenizer()
    assert checks.lowercases(tokenizer)
    tokenizer.backend_tokenizer.normalizer = None
    assert not checks.lowercases(tokenizer)
    assert checks.with_capitals(["a b", "A b", "ä", "Ä"]) == 2


def test_skill_finds_the_best_order_of_all_and_the_level_of_chance() -> None:
    """Against all orders tried one by one, and Cohen's kappa by scikit-learn."""
    from sklearn.metrics import cohen_kappa_score

    random = np.random.default_rng(0)
    for classes in (2, 3, 5):
        ids = random.integers(classes, size=300)
        moved = random.permutation(classes)
        answers = np.where(random.random(300) < 0.7, moved[ids], random.integers(classes, size=300))
        found = checks.skill(answers, ids, classes)
        orders = itertools.permutations(range(classes))
        best = max(int((np.array(order)[answers] == ids).sum()) for order in orders)
        assert (found.ordered, found.right) == (best, int((answers == ids).sum()))
        assert int((np.array(found.order)[answers] == ids).sum()) == best
        assert found.answered == np.bincount(answers, minlength=classes).tolist()
        assert found.majority == np.bincount(ids).max() / 300
        kappa = (found.accuracy - found.chance) / (1 - found.chance)
        assert kappa == pytest.approx(cohen_kappa_score(ids, answers))
    with pytest.raises(ValueError, match="do not fit"):
        checks.skill(np.array([0]), np.array([0, 1]), 2)


def test_class_counts_leave_out_rows_without_a_class() -> None:
    assert checks.class_counts(np.array([0, 2, -1, 2]), 4) == [1, 0, 2, 0]
