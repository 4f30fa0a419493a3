"""`Texts`: rows are read in order, whether they are in memory or on disk, and have one digest."""

from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilkit.data import texts as module
from distilkit.data.texts import Texts, row_key

FIRST, SECOND = [f"first {row}" for row in range(7)], [f"second {row}" for row in range(7)]


def make_texts(kind: str) -> Texts:
    if kind == "lists":
        return Texts(FIRST, SECOND)
    return Texts.from_dataset(datasets.Dataset.from_dict({"a": FIRST, "b": SECOND}), "a", "b")


@pytest.mark.parametrize("kind", ["lists", "dataset"])
@pytest.mark.parametrize("chunk_rows", [1, 3, 7, 1024])
def test_every_reader_gives_all_rows_in_order(
    kind: str, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row lost or moved between chunks would get another row's label or logits."""
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    texts = make_texts(kind)
    assert len(texts) == 7
    assert list(texts.rows()) == list(zip(FIRST, SECOND, strict=True))
    assert list(texts.strings()) == FIRST + SECOND
    assert max(len(chunk) for chunk in texts.chunks()) == min(7, chunk_rows)
    assert texts.keys() == [row_key(*row) for row in zip(FIRST, SECOND, strict=True)]


def test_a_column_of_many_files_is_selected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selected again for each chunk, 10 million rows of 100 files took longer to read than to train on."""
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    parts = [datasets.Dataset.from_dict({"a": [text], "b": [text]}) for text in FIRST]
    rows = datasets.concatenate_datasets(parts)
    selected: list[list[str]] = []
    select = datasets.table.ConcatenationTable.select
    monkeypatch.setattr(
        datasets.table.ConcatenationTable,
        "select",
        lambda table, names, *rest: selected.append(names) or select(table, names, *rest),
    )
    texts = Texts.from_dataset(rows, "a", None)
    assert [list(chunk.first) for chunk in texts.chunks()] == [FIRST[i : i + 2] for i in range(0, 7, 2)]
    assert list(texts.first) == FIRST and texts.take([3]).first == [FIRST[3]]
    assert selected == [["a"]]


@pytest.mark.parametrize("kind", ["lists", "dataset"])
@pytest.mark.parametrize("positions", [[5, 0, 0, 3], np.array([6, 2]), range(0, 7, 3), []])
def test_rows_are_taken_in_the_order_of_the_positions(kind: str, positions: Any) -> None:
    taken = make_texts(kind).take(positions)
    assert taken == Texts([FIRST[row] for row in positions], [SECOND[row] for row in positions])


def test_pairs_need_as_many_second_texts_as_first_texts() -> None:
    with pytest.raises(ValueError, match="7 first texts, but 6 second texts"):
        Texts(FIRST, SECOND[1:])


def test_the_digest_of_a_row_never_changes() -> None:
    """Every teacher-logit cache on disk uses these bytes: with others they are silently useless."""
    assert row_key("a great film").hex() == "a5e96e7ba0b138f6a9c7362aa36fa835"
    assert row_key("premise", "hypothesis").hex() == "b13a350665013e1fda897c28bf1d1dec"
    assert row_key("").hex() == "c804ce198ec337e3dc762bdd1a09aece"


texts = st.text(st.characters(codec=None), max_size=12)


@given(one=st.tuples(texts, texts), other=st.tuples(texts, texts))
@settings(max_examples=200, deadline=None)
def test_a_row_key_is_equal_exactly_for_equal_rows(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (row_key(*one) == row_key(*other)) == (one == other)
    assert row_key(one[0]) != row_key(*one)


@given(text=st.text(min_size=2, max_size=12), cut=st.integers(0, 12), other=st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_a_row_key_tells_where_the_first_text_ends(text: str, cut: int, other: int) -> None:
    """("ab", "c") and ("a", "bc") are different rows with the same letters in a row."""
    one, two = (text[:cut], text[cut:]), (text[:other], text[other:])
    assert (row_key(*one) == row_key(*two)) == (one == two)
    assert row_key("ab", "c") != row_key("a", "bc")


def test_lone_surrogates_of_broken_files_have_a_key_too() -> None:
    assert row_key("a\ud800") != row_key("a\ud801")


def test_contents_fold_case_and_white_space_and_keep_the_order_of_a_pair() -> None:
    """Folded too far, different rows are repeats; and the order of premise and hypothesis means something."""
    same = Texts(["A  film", " a film\n", "a\tFILM"]).keys(normalised=True)
    assert len(set(same)) == 1
    assert len(set(Texts(["a film", "a fil m", "afilm", "a film ."]).keys(normalised=True))) == 4
    assert len(set(Texts(["a", "b", "a b", ""], ["b", "a", "", "a b"]).keys(normalised=True))) == 4
