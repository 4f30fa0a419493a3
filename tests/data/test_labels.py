"""Labels become ids by what they are, never by where they happen to stand."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilkit.data.labels import (
    canonical,
    decode_class_ids,
    label_ids,
    label_names,
    list_classes,
    match_labels,
    normalize_label,
    note_ids,
)
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
        (("1.0", "2.0", "unsure"), ("1", "2", "unsure"), [0, 1, 2]),
        ((1, 2.0), ("1.0", "2.0", "unsure"), [0, 1]),
        ((1, 2), ("01", "02"), [0, 1]),
        (("\u00a0Good", "very\u00a0bad"), ("good", "very bad"), [0, 1]),
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


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((1, 1.0, "1", "1.0", " 1.00 ", "+1", "1."), "1"),
        ((-1, -1.0, "-1.0"), "-1"),
        ((0, -0.0, "0.0", "-0"), "0"),
        ((True, "True", "TRUE", "true "), "true"),
        (("01",), "01"),
        (("0.5", 0.5, Decimal("0.5"), "5.0e-01"), "0.5"),
        ((Decimal("3"), Decimal("3.00"), "3.000000000000000000e+00"), "3"),
        (("1e5",), "1e5"),  # a code, as likely as a number
        (("1.10",), "1.10"),
        (("\u00a0a b ", "a b"), "a b"),
        ((None, float("nan"), "", " ", "\u00a0"), None),
    ],
)
def test_a_value_is_read_alike_whatever_else_is_in_its_column(
    values: tuple[Any, ...], name: str | None
) -> None:
    """A file is read with others that hold other values; judged by its column, "1.0" was two classes."""
    assert {normalize_label(value) for value in values} == {name}


def test_numbers_beside_a_word_are_the_same_classes_as_without_it() -> None:
    """Validation lacked the word, so its "1.0" was taken for an id: every row was scored as another class."""
    names = label_names(column("1.0", "2.0", "unsure"), "train.csv")
    assert names == ("1", "2", "unsure")
    for values in (("1.0", "2.0"), ("1", "2"), (1, 2), (1.0, 2.0)):
        assert label_ids(column(*values), names, "validation.csv").tolist() == [0, 1]


@pytest.mark.parametrize(
    "spellings",
    [
        ("Positive", "positive"),
        ("positive", "positive "),
        ("positive", "\u00a0positive"),
        ("very good", "very  good"),
        ("very good", "very\u00a0good"),
        ("pos", "positive"),
        ("1", "01"),
        ("1", " 1"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_one_class_in_several_spellings_is_refused_with_them(spellings: tuple[str, str]) -> None:
    """Two classes became eight, and a student learned to tell blanks apart."""
    with pytest.raises(UserError, match=r"train\.csv: one class is written in several ways") as error:
        label_names(column(*spellings, "x"), "train.csv", "stars")
    assert all(repr(spelling) in str(error.value) for spelling in spellings)
    assert "the column stars" in str(error.value)


def test_numbers_and_truth_values_have_many_spellings_and_are_one_class() -> None:
    assert label_names(column("1", "1.0", "2"), "f") == ("1", "2")
    assert label_names(column("True", "TRUE", "false"), "f") == ("false", "true")


def test_nearly_as_many_classes_as_rows_are_refused_and_few_rows_of_a_class_are_not() -> None:
    """`--label-column review_id` trained a model of 2,996 classes without a word."""
    with pytest.raises(UserError, match=r"f: 2,996 classes in 2,996 rows: is review_id the label\?"):
        label_names(column(*(f"r{row}" for row in range(2996))), "f", "review_id")
    with pytest.raises(UserError, match=r"is label the right column\?"):
        label_names(column(*(f"r{row}" for row in range(40))), "f")
    assert len(label_names(column(*(f"c{row % 77}" for row in range(154))), "f")) == 77


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((3.0, 3.5), "3.5"),
        (("3.0", "3.5"), "'3.5'"),
        (("1.1", "1.10"), "'1.1'"),
    ],
)
def test_fractions_are_measurements_unless_there_are_words_among_them(
    values: tuple[Any, ...], named: str
) -> None:
    with pytest.raises(UserError, match="is a measurement, not a class") as error:
        label_names(column(*values), "f")
    assert named in str(error.value)
    assert label_names(column("3.5", "3.0", "none given"), "f") == ("3", "3.5", "none given")


def test_a_number_that_a_float_cannot_hold_is_refused() -> None:
    """JSON's 2^64 and 2^64 + 1 are the same double, and became one class."""
    with pytest.raises(UserError, match="too large to be read exactly"):
        label_names(column(2.0**64, 1.0), "f")


def test_declared_classes_are_decoded_and_their_minus_one_is_no_class() -> None:
    ids = pa.chunked_array([[2, 0, -1], [None, 1, 7]], pa.int64())
    assert decode_class_ids(ids, ("c", "a", "b")).to_pylist() == ["b", "c", "-1", None, "a", "id 7"]
    assert decode_class_ids(ids, ("-1", "0", "1")).to_pylist()[:3] == ["1", "-1", None]


def test_ids_among_names_are_refused_unless_the_names_have_an_order() -> None:
    """In the order of the alphabet MRPC's 0, not_equivalent, becomes "equivalent"."""
    names = ("equivalent", "not_equivalent")
    with pytest.raises(UserError, match=r"validation\.csv, row 2: the label is '1', and the training labels"):
        note_ids(column("equivalent", "1"), names, "validation.csv", has_order=False)
    (note,) = note_ids(column(0, 1), names[::-1], "validation.csv", has_order=True)
    assert "0 = not_equivalent, 1 = equivalent" in note
    assert note_ids(column(*names), names, "validation.csv", has_order=False) == ()
    assert note_ids(column(0, 1), ("0", "1"), "validation.csv", has_order=False) == ()


def test_messages_name_eight_classes_and_count_the_rest() -> None:
    """Errors had 22,000 characters where the label column was a wrong one."""
    many = [f"class {row} {'x' * 500}" for row in range(3000)]
    assert list_classes([*many[:2], "a ", "b"]).endswith("…, 'a ', b")
    assert list_classes(many).endswith(" and 2,992 more")
    for data in (many, many[1:]):
        with pytest.raises(UserError) as error:
            match_labels([*many[:-1], "y"], data, "the teacher")
        assert len(str(error.value)) < 1000
    with pytest.raises(UserError) as error:
        label_ids(column("z" * 5000), many, "f")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("name", "same"),
    [("NEG ", "negative"), ("1.0", "1"), ("\uff11", "1"), ("a\u200b", "A"), ("007", "7"), ("000", "0")],
)
def test_names_are_compared_without_what_does_not_part_classes(name: str, same: str) -> None:
    assert canonical(name) == canonical(same)


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
