"""Duplicate rows are recognised by content."""

import numpy as np
import pytest

from distilkit.data.duplicates import (
    UNCHANGED,
    Repeats,
    SeenRows,
    content_keys,
    count_repeats,
    count_same_pairs,
    count_shared,
)
from distilkit.data.texts import Texts


def test_repeats_and_contradictions_are_counted_by_content() -> None:
    keys = Texts(["x", "y", "X", "z", "y", "y ", "w", "w"]).keys(normalised=True)
    repeats = count_repeats(keys, np.array([0, 1, 0, 0, 0, -1, 1, -1]))
    assert repeats == Repeats(rows=4, contradicting=2, example=1)
    assert count_repeats(keys, None) == Repeats(4, 0, None)
    assert count_repeats(keys[:2], np.array([0, 1])) == Repeats(0, 0, None)


def test_shared_counts_rows_of_the_others() -> None:
    """Three copies of one leaked row flatter a score three times."""
    train = Texts(["a", "b"]).keys(normalised=True)
    assert count_shared(train, Texts(["A", "a ", "c", "b"]).keys(normalised=True)) == 3
    assert count_shared(train, []) == 0


def test_same_pairs_are_those_of_one_text_but_for_case_and_white_space() -> None:
    assert count_same_pairs(Texts(["a b", "c", "d"], ["A  B", "d", "c"])) == 1


def key_of(text: str, pair: str | None = None) -> bytes:
    return content_keys(Texts([text], None if pair is None else [pair]))[0]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (("a film",), ("A\tFilm ",), True),
        (("a film",), ("a film .",), False),
        (("STRASSE",), ("straße",), True),
        (("a", "b"), ("b", "a"), True),
        (("a", "b"), ("B ", " A"), True),
        (("a", "b"), ("a", "c"), False),
        (("a b",), ("a", "b"), False),
        (("a b", "c"), ("a", "b c"), False),
    ],
)
def test_which_rows_are_the_same(left: tuple[str, ...], right: tuple[str, ...], same: bool) -> None:
    """A test sentence in capitals, or a test pair turned round, is the test row all the same."""
    assert (key_of(*left) == key_of(*right)) is same


def test_a_row_is_refused_with_its_first_split_and_remembered_once_accepted() -> None:
    seen = SeenRows()
    seen.add("validation", [key_of("a"), key_of("b")])
    seen.add("train", [key_of("b"), key_of("c")])
    old = key_of("c")
    assert [seen.refuse(key_of(text), old) for text in ("a", "b", "c", "d", "D", "e")] == [
        "validation",
        "validation",
        UNCHANGED,
        None,
        "repeated",
        None,
    ]
