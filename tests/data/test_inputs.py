"""What rows look like to a model."""

import pytest
from conftest import tiny_tokenizer

from distilkit.data.inputs import evenly, measure_inputs, tokens
from distilkit.data.texts import Texts


def test_tokens_are_counted_uncut_and_special_ones_are_no_content() -> None:
    tokenizer = tiny_tokenizer()
    found = tokens(tokenizer, Texts(["a great film", "zebra film", "great " * 100]))
    assert found.lengths.tolist() == [5, 4, 102]
    assert (found.unknown, found.content) == (1, 105)
    assert (found.cut(5), found.cut(4), found.cut(101), found.cut(102)) == (1, 2, 1, 0)
    assert (found.fitting(0.5), found.fitting(0.99)) == (5, 102)
    pairs = tokens(tokenizer, Texts(["a great film"], ["zebra"]))
    assert (pairs.lengths.tolist(), pairs.unknown, pairs.content) == ([7], 1, 4)


def test_a_split_is_measured_as_the_model_reads_it() -> None:
    found = measure_inputs(tiny_tokenizer(), Texts(["a great film", "zebra film", "great " * 100]), 5)
    assert (found.rows, found.tokens_mean, found.truncated) == (3, 37.0, pytest.approx(1 / 3))
    assert found.unknown == pytest.approx(1 / 105)


@pytest.mark.parametrize(("rows", "most"), [(1, 5), (5, 5), (7, 3), (10_000, 5_000), (5_001, 5_000)])
def test_rows_are_spread_from_the_first_to_the_last_each_once(rows: int, most: int) -> None:
    found = evenly(rows, most)
    assert len(set(found.tolist())) == len(found) == min(rows, most)
    assert (found[0], found[-1]) == (0, rows - 1)
