"""Labels: a raw column to class ids with names, and two models' classes matched by name."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilkit.errors import UserError, join_first, pluralize

# The Hub writes SST-2's classes out and IMDB's short; they are the same two classes.
_SAME = {"neg": "negative", "pos": "positive"}

_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))(?:\.0*)?")  # not 007, which is a code
_SCIENTIFIC = re.compile(r"[+-]?[0-9]+\.[0-9]*e[+-]?[0-9]+", re.IGNORECASE)  # as numpy writes text files
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+")
_LARGEST_EXACT_FLOAT = 2.0**53
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))

SHOWN_CHARACTERS = 40  # of a name

MANY_CLASSES = 20  # fewer are never too many for their rows
HIDDEN = "-1"  # stands for a label that is hidden, as in the tests of GLUE
NO_CLASS = -1  # the id of a row that has no label


# --- values of a column ---------------------------------------------------------------------------------


def normalize_label(value: object) -> str | None:
    """Return a label as its class is called, whatever else is in its column; `None` for one that is missing.

    A whole number is written without a point, a truth value in lower case, a text without outer blanks: 1,
    1.0, "1.0", "+1" and "1.0e+00" are "1"; True and "TRUE" are "true".
    """
    if value is None or value != value:
        return None
    if isinstance(value, float | Decimal):
        return str(int(value)) if _is_whole(value) else str(value)
    text = str(value).strip()
    if _SCIENTIFIC.fullmatch(text):
        return normalize_label(float(text))
    if text.lower() in ("true", "false"):
        return text.lower()
    if whole := _WHOLE.fullmatch(text):
        return str(int(whole[1]))
    return text or None


def _is_whole(value: float | Decimal) -> bool:
    return math.isfinite(value) and value == int(value)


@dataclass(frozen=True)
class DistinctLabels:
    """The distinct values of a raw column, and which of them each row has.

    Attributes:
        values: as they are stored.
        names: `normalize_label` of each value.
        codes: the index of each row's value, int64 `[N]`.
    """

    values: list[Any]
    names: list[str | None]
    codes: NDArray[np.int64]

    @classmethod
    def from_column(cls, column: pa.ChunkedArray) -> "DistinctLabels":
        """Find the distinct values of a column of any type, in order of appearance."""
        if pa.types.is_dictionary(column.type):  # a dictionary may hold values that no row has
            column = column.cast(column.type.value_type)
        try:
            encoded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
        except pa.ArrowNotImplementedError:  # lists and the like, which are no labels
            values = column.to_pylist()
            codes = np.arange(len(values))
        else:
            if isinstance(encoded, pa.ChunkedArray):
                encoded = encoded.combine_chunks()
            values, codes = encoded.dictionary.to_pylist(), np.asarray(encoded.indices, np.int64)
        return cls(values, [normalize_label(value) for value in values], codes)

    def present(self) -> list[str]:
        """Return the names of the rows that have one."""
        return [name for name in self.names if name is not None]

    def counts(self) -> NDArray[np.int64]:
        """Count the rows of each value."""
        return np.bincount(self.codes, minlength=len(self.values))

    def first(self, codes: Iterable[int]) -> tuple[int, Any]:
        """Return the first row, counted from 1, that has one of these values, and its value."""
        row = int(np.isin(self.codes, list(codes)).argmax())
        return row + 1, self.values[self.codes[row]]

    def spellings(self) -> list[list[str]]:
        """Return the groups of texts that differ in no more than case, blanks or leading zeros."""
        groups: dict[str, set[str]] = {}
        for value, name in zip(self.values, self.names, strict=True):
            if name is not None:
                is_text = isinstance(value, str) and value.strip() == name
                groups.setdefault(canonical(name), set()).add(value if is_text else name)
        return [sorted(group) for group in groups.values() if len(group) > 1]

    def fractions(self) -> list[int]:
        """Return the codes of numbers that are not whole; none where there are texts among the labels."""
        fractions = []
        for code, (value, name) in enumerate(zip(self.values, self.names, strict=True)):
            if name is None or _is_integer(name):
                continue
            if not isinstance(value, float | Decimal) and not _FRACTION.fullmatch(name):
                return []
            fractions.append(code)
        return fractions

    def check(self, where: str) -> None:
        """Raise `UserError` naming the first row whose value is missing or can be no label."""
        faults = {}
        for code, (value, name) in enumerate(zip(self.values, self.names, strict=True)):
            if name is None:
                faults[code] = "the label is missing (empty, null or NaN). Fill it in or drop the row."
            elif not isinstance(value, str | int | float | Decimal):
                faults[code] = f"label {_shorten(value)} is neither a number nor a text."
            elif isinstance(value, float) and _is_whole(value) and abs(value) > _LARGEST_EXACT_FLOAT:
                faults[code] = f"label {value!r} is too large to be read exactly. Write it as a text."
        if faults:
            row, value = self.first(faults)
            raise UserError(f"{where}, row {row}: {faults[self.codes[row - 1]]}")


def label_names(column: pa.ChunkedArray, where: str, label_column: str = "label") -> tuple[str, ...]:
    """Return the classes of a training column, sorted: numbers by value, texts by alphabet.

    Args:
        label_column: what the column is called, for messages.

    Raises:
        UserError: on values that are no classes, on classes that are spelled in several ways, when there are
            fewer than two classes, and when there are nearly as many as rows.
    """
    labels = DistinctLabels.from_column(column)
    labels.check(where)
    names = distinct_names(labels, where, label_column)
    if spellings := labels.spellings():
        raise UserError(
            f"{where}: {describe_spellings(spellings)}. Give each class one spelling in the column "
            f"{label_column}."
        )
    return names


def distinct_names(labels: DistinctLabels, where: str, label_column: str) -> tuple[str, ...]:
    """Return the names of `labels` in the order of `label_names`; rows without a label are passed over.

    Raises:
        UserError: when they are measurements, fewer than two, or nearly as many as rows.
    """
    names = set(labels.present())
    if not names:
        raise UserError(f"{where}: no row has a label. Name the column that has them: --label-column COLUMN.")
    if fractions := labels.fractions():
        row, value = labels.first(fractions)
        raise UserError(
            f"{where}, row {row}: label {_shorten(value)} is a measurement, not a class. "
            f"Use whole numbers or names, such as 'grade {labels.names[fractions[0]]}'."
        )
    if len(names) < 2:
        raise UserError(f"{where}: two classes or more are needed, but every label is {names.pop()!r}.")
    rows = int(np.isin(labels.codes, [code for code, name in enumerate(labels.names) if name]).sum())
    if len(names) >= MANY_CLASSES and len(names) > rows / 2:
        what = "label" if label_column != "label" else "right column"
        raise UserError(
            f"{where}: {len(names):,} classes in {pluralize(rows, 'row')}: is {label_column} the {what}? "
            "Name the column that has the classes: --label-column COLUMN."
        )
    return tuple(sort_names(names))


def label_codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Numbers, int64 `[N]`, of a raw column's values in the order of `label_names`: whoever gives the ids."""
    labels = DistinctLabels.from_column(column)
    names = [str(name) for name in labels.names]
    code = {name: code_of_name for code_of_name, name in enumerate(sort_names(set(names)))}
    return np.array([code[name] for name in names], dtype=np.int64)[labels.codes]


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort numbers by value, texts by alphabet."""
    names = list(names)
    return sorted(names, key=int) if all(map(_is_integer, names)) else sorted(names)


def _is_integer(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", name) is not None


# --- classes of a column --------------------------------------------------------------------------------


def decode_class_ids(column: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Return the classes of a column of `datasets.ClassLabel`, which stores ids and declares their names.

    -1 stays what it is, a hidden label, and so does an id that no name is declared for.
    """
    encoded = pc.dictionary_encode(column.combine_chunks())
    hidden = None if HIDDEN in names else HIDDEN
    classes = [
        names[class_id] if 0 <= class_id < len(names) else hidden if class_id == -1 else f"id {class_id}"
        for class_id in encoded.dictionary.to_pylist()
    ]
    return pa.chunked_array([pa.array(classes, pa.string()).take(encoded.indices)])


def labelled_rows(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the labels that are not missing."""
    labels = DistinctLabels.from_column(column)
    present = [code for code, name in enumerate(labels.names) if name is not None]
    return column.filter(pa.array(np.isin(labels.codes, present)))


def scored_names(
    column: pa.ChunkedArray, trained: Sequence[str], models: Sequence[Sequence[str]], where: str
) -> tuple[str, ...]:
    """Return the classes of a scored column, which may lack some.

    They are those of the training column, so that they do not depend on which model is named first, unless a
    model that knows the labels tells other classes apart; else those of the models. Numbers from 0 are ids of
    the models' classes, where these have names. Where neither side knows the labels they are classes of their
    own.

    Args:
        trained: the classes of the training column, empty where it is not there or has none.
        models: those of each model that is scored.

    Raises:
        UserError: as `label_names`, and for ids of classes that models have in different orders.
    """
    distinct = DistinctLabels.from_column(column)
    distinct.check(where)
    labels = set(distinct.present())
    in_words = [tuple(names) for names in models if not _hold_numbers(names)]
    answered = next(
        (names for names in in_words if not are_numbered(names)), tuple(models[0]) if models else ()
    )
    if HIDDEN in trained and len(answered) == len(trained) - 1:
        trained = [name for name in trained if name != HIDDEN]
    fits = len(trained) == len(answered)
    said_by_id = fits and answered in in_words and are_ids(trained)
    if knows(trained, labels) and not said_by_id and (fits or not knows(answered, labels)):
        return tuple(trained)
    if knows(answered, labels):
        return answered
    ids = {str(class_id) for class_id in range(len(answered))}
    if answered in in_words and labels <= ids:
        if not said_by_id and "0" not in labels:
            raise UserError(
                f"{where}: the labels are numbers, and none is 0: they may be ids of "
                f"{list_classes(answered)}, or count from 1. Write names instead of the numbers, or put the "
                "training split beside it."
            )
        check_order(models, where)
        return answered
    for names in (tuple(trained), answered):  # of what is known in part, or hidden, `label_ids` names the row
        by_name = _lookup(names)
        if names and (HIDDEN in labels or any(_find(by_name, label) is not None for label in labels)):
            return names
    return label_names(column, where)


def fit_teacher(names: Sequence[str], teacher_names: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of labels that no loss reads: -1 may be hidden, and classes may have no row.

    The teacher's classes are returned where the labels are some of them, by name.
    """
    labelled = [name for name in names if name != HIDDEN or HIDDEN in teacher_names]
    if len(labelled) < len(names) and len(labelled) != len(teacher_names):
        labelled = labelled if knows(teacher_names, labelled) else list(names)
    is_part = len(labelled) < len(teacher_names) and knows(teacher_names, labelled)
    return tuple(teacher_names if is_part else labelled)


def check_order(models: Sequence[Sequence[str]], where: str) -> None:
    """Raise `UserError` where models have the same classes in different orders, and labels are ids."""
    orders = {tuple(map(canonical, names)): names for names in models if not are_numbered(names)}
    for (source, names), (other_source, other_names) in combinations(orders.items(), 2):
        if set(source) == set(other_source):
            raise UserError(
                f"{where}: the labels are numbers, and one model has the classes {list_classes(names)}, "
                f"another {list_classes(other_names)}. Write names instead of the numbers."
            )


def are_ids(names: Sequence[str]) -> bool:
    """Return whether the values are 0, 1 … in this order."""
    return list(names) == [str(index) for index in range(len(names))]


def knows(names: Sequence[str], labels: Iterable[str]) -> bool:
    """Return whether each label is the name of a class."""
    by_name = _lookup(names)
    return all(_find(by_name, label) is not None for label in labels)


def label_ids(column: pa.ChunkedArray, names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Class ids, int64 `[N]`, of a raw column in terms of `names`.

    A label is matched by name, be it a text or a number; where no name is a number, a number is an id.

    Raises:
        UserError: naming the row of the first label that is missing, hidden (-1), not a class or unknown.
    """
    labels = DistinctLabels.from_column(column)
    labels.check(where)
    ids = class_ids(labels, names)
    if unknown := np.flatnonzero(ids == NO_CLASS).tolist():
        row, value = labels.first(unknown)
        if normalize_label(value) == HIDDEN:
            raise UserError(
                f"{where}, row {row}: the label is -1, which stands for a hidden label. "
                "There is nothing to learn from or to score; use a split with labels."
            )
        raise UserError(
            f"{where}, row {row}: unknown label {_shorten(value)}. Known are {list_classes(names)}."
        )
    return ids[labels.codes]


def class_ids(labels: DistinctLabels, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class id of each distinct label, int64; `NO_CLASS` for one that is no class."""
    by_name = _lookup(names)
    by_id = {} if _hold_numbers(names) else {str(index): index for index in range(len(names))}
    ids = []
    for name in labels.names:
        class_id = None if name is None else _find(by_name, name)
        if class_id is None and name is not None:
            class_id = by_id.get(name)
        ids.append(NO_CLASS if class_id is None else class_id)
    return np.array(ids, dtype=np.int64)


def are_class_ids(column: pa.ChunkedArray, names: Sequence[str]) -> bool:
    """Return whether every label is a number that `label_ids` takes for the id of a class."""
    labels = DistinctLabels.from_column(column)
    ids = [str(index) for index in range(len(names))]
    return not _hold_numbers(names) and all(name in ids for name in labels.names)


def first_id(column: pa.ChunkedArray, names: Sequence[str]) -> tuple[int, Any] | None:
    """Return the row, from 1, and value of the first number that `label_ids` takes for the id of a class."""
    labels = DistinctLabels.from_column(column)
    by_name = _lookup(names)
    ids = class_ids(labels, names)
    taken = [
        code
        for code, name in enumerate(labels.names)
        if name is not None and ids[code] != NO_CLASS and _find(by_name, name) is None
    ]
    return labels.first(taken) if taken else None


def note_ids(
    column: pa.ChunkedArray, names: Sequence[str], where: str, *, has_order: bool
) -> tuple[str, ...]:
    """Return a note on numbers that `label_ids` takes for ids of the classes, if there are any.

    Args:
        has_order: whether the order of `names` was declared with the data or by a model; that of the
            alphabet says nothing of what an id stands for.

    Raises:
        UserError: on such numbers where the names have no order.
    """
    taken = first_id(column, names)
    if taken is None:
        return ()
    if not has_order:
        row, value = taken
        raise UserError(
            f"{where}, row {row}: the label is {value!r}, and the training labels are names "
            f"({list_classes(names)}). A number does not say which of them it stands for: write the names."
        )
    return (f"{where}: its labels 0, 1 … are taken for ids of the classes: {list_id_pairs(names)}",)


def _lookup(names: Sequence[str]) -> dict[str, int]:
    """Ids by name as it stands and, where that is not ambiguous, by canonical name."""
    by_canonical: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_canonical.setdefault(canonical(name), []).append(index)
    alike = {name: indices[0] for name, indices in by_canonical.items() if len(indices) == 1}
    return alike | {name: index for index, name in enumerate(names)}


def _find(by_name: Mapping[str, int], name: str) -> int | None:
    """Return the id of a class in a `_lookup`, as the name stands or by its canonical name."""
    return by_name.get(name, by_name.get(canonical(name)))


def _hold_numbers(names: Iterable[str]) -> bool:
    return any(_is_integer(canonical(name)) for name in names)


def canonical(name: str) -> str:
    """Return a class name as it is compared: without case, leading zeros and all blanks but one."""
    plain = " ".join(unicodedata.normalize("NFKC", name).translate(_INVISIBLE).casefold().split())
    plain = re.sub(r"^([+-]?)0+(?=[0-9]+$)", r"\1", plain)
    plain = normalize_label(plain) or plain
    return _SAME.get(plain, plain)


# --- classes in messages --------------------------------------------------------------------------------


def list_classes(names: Iterable[str]) -> str:
    """Return the first names of a list of classes, for messages, and how many follow."""
    return join_first([show_name(name) for name in names])


def list_pairs(left: Sequence[str], right: Sequence[str]) -> str:
    """Return which class of one side is taken for which of the other: "LABEL_0 = negative, …"."""
    return join_first([f"{show_name(a)} = {show_name(b)}" for a, b in zip(left, right, strict=True)])


def list_id_pairs(names: Sequence[str]) -> str:
    """Return which id stands for which class."""
    return list_pairs([str(index) for index in range(len(names))], names)


def describe_counts(names: Sequence[str], counts: Sequence[int]) -> str:
    """Return classes and how many rows each has: "negative 1,080, positive 1,916"."""
    return join_first([f"{show_name(name)} {count:,}" for name, count in zip(names, counts, strict=True)])


def describe_spellings(spellings: Sequence[Sequence[str]]) -> str:
    """Say which texts are one class, given `DistinctLabels.spellings`."""
    groups = [" and ".join(map(_shorten, group[:4])) + " and more" * (len(group) > 4) for group in spellings]
    more = f"; {len(groups) - 3:,} more classes too" if len(groups) > 3 else ""
    return f"one class is written in several ways: {'; '.join(groups[:3])}{more}"


def show_name(name: str) -> str:
    """Return a name as messages show it: in quotation marks where blanks or marks would mislead, and cut."""
    is_plain = name.isprintable() and name == name.strip() and name and "," not in name
    return name if is_plain and len(name) <= SHOWN_CHARACTERS else _shorten(name)


def _shorten(value: object) -> str:
    """Return `repr` of a value, cut."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


# --- classes of models ----------------------------------------------------------------------------------


def match_labels(model_names: Sequence[str], data_names: Sequence[str], who: str) -> tuple[list[int], bool]:
    """Return the model's column for each class of the data, and whether names decided it.

    Where only one side has names and the other `LABEL_0`, `LABEL_1` … or 0, 1 …, ids are all there is to go
    by, and the second value is false so that the caller can say so.

    Raises:
        UserError: when both sides have names and they are not the same set, or their numbers differ.
    """
    if len(model_names) != len(data_names):
        raise UserError(
            f"{who} tells {len(model_names):,} classes apart ({list_classes(model_names)}), the data "
            f"{len(data_names):,} ({list_classes(data_names)}). Use a model that was trained on these "
            "classes."
        )
    pairs = ((model_names, data_names), (data_names, model_names))
    by_name = _lookup(model_names)
    columns = [_find(by_name, name) for name in data_names]
    matched_columns = [column for column in columns if column is not None]
    if len(set(matched_columns)) == len(data_names):
        return matched_columns, True
    if any(are_ids(left) and not _hold_numbers(right) for left, right in pairs) or any(
        are_numbered(left) for left, _ in pairs
    ):
        return list(range(len(data_names))), False
    raise UserError(
        f"{who} has classes {list_classes(model_names)}, the data {list_classes(data_names)}: they cannot be "
        "matched by name. Rename the labels in the data or in the model's config.json (id2label)."
    )


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether these are placeholder names of classes (LABEL_0 …)."""
    return all(name.startswith("LABEL_") for name in names)
