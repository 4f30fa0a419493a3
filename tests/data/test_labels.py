"""Labels become ids by what they are, never by where they happen to stand."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilkit.data.labels import label_ids, label_names, match_labels
from distilkit.errors import UserError

POLARITY = ("negative", "positive")


def column(*values: Any) -> pa.ChunkedArray:
    """A raw column in two chunks, as large files give them."""
    whole = pa.array(values)
    return pa.chunked_array([whole[:1], whole[1:]])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((10, 2, 1, 2), ("1", "2", "10")),
        ((1.0, 0.0, 2.0), ("0", "1", "2")),
        ((True, False, True), ("false", "true")),
        (("pos", "neg", "meh", "pos"), ("meh", "neg", "pos")),
        (("10", "9"), ("9", "10")),
    ],
)
def test_names_are_sorted_so_that_the_order_of_rows_decides_nothing(
    values: tuple[Any, ...], names: tuple[str, ...]
) -> None:
    """Teacher and student may see the rows in other orders; their class ids must be the same."""
    assert label_names(column(*values), "f") == names
    assert label_names(column(*reversed(values)), "f") == names


@pytest.mark.parametrize(
    ("values", "names", "ids"),
    [
        ((0, 1, 1), POLARITY, [0, 1, 1]),
        ((1.0, 0.0), POLARITY, [1, 0]),
        (("positive", "negative"), POLARITY, [1, 0]),
        ((" Positive", "NEG"), POLARITY, [1, 0]),
        (("neg", "pos"), ("neg", "pos"), [0, 1]),
        ((5, 1, 3), ("1", "3", "5"), [2, 0, 1]),
        (("5", "1"), ("1", "3", "5"), [2, 0]),
        ((1, 0), ("1", "0"), [0, 1]),
        ((True, False), ("false", "true"), [1, 0]),
        ((2, 0, 1), ("a", "b", "c"), [2, 0, 1]),
    ],
)
def test_ids_follow_the_names(values: tuple[Any, ...], names: tuple[str, ...], ids: list[int]) -> None:
    """Numbers that are themselves names (stars 1, 3, 5) are matched as names, not used as ids."""
    assert label_ids(column(*values), names, "f").tolist() == ids


def test_dictionary_encoded_labels_read_as_their_values() -> None:
    """Pandas writes categories so; their codes are not class ids."""
    encoded = pa.chunked_array([pa.array(["b", "a", "b"]).dictionary_encode()])
    names = label_names(encoded, "f")
    assert (names, label_ids(encoded, names, "f").tolist()) == (("a", "b"), [1, 0, 1])


@pytest.mark.parametrize(
    ("values", "row", "named"),
    [
        ((0, 1, None), 3, "missing"),
        ((0.0, float("nan")), 2, "missing"),
        ((0.0, 0.5), 2, "0.5"),
        ((0.0, float("inf")), 2, "inf"),
        (("pos", "  "), 2, "missing"),
        ((b"pos", b"neg"), 1, "b'pos'"),
        ((Decimal("1.5"), Decimal("1.0")), 1, "1.5"),
        (([0], [1]), 1, "[0]"),
    ],
)
def test_a_value_that_is_no_class_is_named_with_its_row(
    values: tuple[Any, ...], row: int, named: str
) -> None:
    for read in (label_names, lambda raw, where: label_ids(raw, POLARITY, where)):
        with pytest.raises(UserError) as error:
            read(column(*values), "train.csv")
        assert f"train.csv, row {row}:" in str(error.value) and named in str(error.value)


@pytest.mark.parametrize("value", [2, "2", "maybe", -2, 2.0, True])
def test_an_unknown_label_is_named_with_its_row_and_the_known_ones(value: Any) -> None:
    known: Any = "positive" if isinstance(value, str) else 1
    if value is True:
        known = False
    with pytest.raises(UserError) as error:
        label_ids(column(known, value), POLARITY, "validation.csv")
    message = str(error.value)
    assert "unknown label" in message and "validation.csv, row " in message
    assert "negative, positive" in message


def test_labels_of_minus_one_are_refused_and_not_scored() -> None:
    """GLUE hides its test labels behind -1; scoring them gives accuracy .279 and F1 0."""
    with pytest.raises(UserError, match=r"test, row 2: the label is -1.*hidden"):
        label_ids(column(1, -1), POLARITY, "test")


def test_minus_one_is_a_class_where_the_names_say_so() -> None:
    """Tweets are often labelled -1, 0, 1."""
    names = label_names(column(-1, 0, 1), "f")
    assert names == ("-1", "0", "1")
    assert label_ids(column(1, -1, 0), names, "f").tolist() == [2, 0, 1]


def test_one_class_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="'spam'"):
        label_names(column("spam", "spam"), "train.csv")


@given(st.lists(st.sampled_from(["pos", "Pos", " pos", "positive", "neg", "NEG", "x"]), min_size=2))
def test_labels_that_differ_only_in_case_or_blanks_do_not_make_a_class_without_rows(raw: list[str]) -> None:
    """ "pos" and " pos" are one class or a mistake; two classes, one of them empty, are neither."""
    values = column(*raw)
    try:
        names = label_names(values, "f")
    except UserError:
        return
    assert set(label_ids(values, names, "f").tolist()) == set(range(len(names)))


@pytest.mark.parametrize(
    ("model", "data", "columns", "by_name"),
    [
        (POLARITY, POLARITY, [0, 1], True),
        (("positive", "negative"), POLARITY, [1, 0], True),
        (("neg", "pos"), POLARITY, [0, 1], True),
        (("POS", "neg "), ("Negative", "positive"), [1, 0], True),
        (("c", "a", "b"), ("a", "b", "c"), [1, 2, 0], True),
        (("1", "0"), ("0", "1"), [1, 0], True),
        (("LABEL_0", "LABEL_1"), POLARITY, [0, 1], False),
        (POLARITY, ("0", "1"), [0, 1], False),
        (("LABEL_0", "LABEL_1"), ("LABEL_0", "LABEL_1"), [0, 1], True),
    ],
)
def test_classes_are_matched_by_name_and_by_id_only_where_there_is_no_name(
    model: tuple[str, ...], data: tuple[str, ...], columns: list[int], by_name: bool
) -> None:
    """A teacher with the classes the other way round would teach the opposite of what it knows."""
    assert match_labels(model, data, "t") == (columns, by_name)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (("cat", "dog"), POLARITY),
        (("negative", "neutral"), POLARITY),
        (("negative", "neutral", "positive"), POLARITY),
        (("negative",), POLARITY),
        (("LABEL_0", "LABEL_1", "LABEL_2"), POLARITY),
        (("pos", "positive"), POLARITY),
    ],
)
def test_classes_that_cannot_be_matched_are_refused_with_both_sides_named(
    model: tuple[str, ...], data: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as error:
        match_labels(model, data, "the teacher t")
    message = str(error.value)
    assert "the teacher t" in message and ", ".join(model) in message and ", ".join(data) in message


@given(st.permutations(["a", "b", "c", "d", "e"]), st.permutations(["a", "b", "c", "d", "e"]))
def test_the_matched_column_of_a_class_is_the_models_column_of_that_name(
    model: list[str], data: list[str]
) -> None:
    columns, by_name = match_labels(model, data, "t")
    assert by_name and [model[index] for index in columns] == data


def test_numbers_that_only_overlap_are_refused_and_not_matched_by_place() -> None:
    """A teacher of 0, 1, 2 and data of 1, 2, 3 share two classes; by place, all three are wrong."""
    with pytest.raises(UserError, match="cannot be matched"):
        match_labels(("0", "1", "2"), ("1", "2", "3"), "the teacher")
