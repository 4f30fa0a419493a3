"""Labels: a raw column to class ids with names, and two models' classes matched by name."""

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilkit.errors import UserError

# The Hub writes SST-2's classes out and IMDB's short; they are the same two classes.
_SAME = {"neg": "negative", "pos": "positive"}


def label_names(column: pa.ChunkedArray, where: str) -> tuple[str, ...]:
    """Return the classes of a training column, sorted: numbers by value, texts by alphabet.

    Raises:
        UserError: on values that are no classes, and when there are fewer than two classes.
    """
    names = tuple(map(str, _in_order(_plain_values(column, where))))
    if len(names) < 2:
        raise UserError(f"{where}: two classes or more are needed, but every label is {names[0]!r}.")
    return names


def label_codes(column: pa.ChunkedArray, where: str) -> NDArray[np.int64]:
    """Numbers, int64 `[N]`, of a raw column's values in the order of `label_names`: whoever gives the ids.

    Of a column with values that are no classes, which `label_ids` refuses, they are those of its values as
    text.
    """
    values: list[Any]
    try:
        values = _plain_values(column, where)
    except UserError:
        values = [str(value) for value in column.to_pylist()]
    code = {value: code_of_value for code_of_value, value in enumerate(_in_order(values))}
    return np.array([code[value] for value in values], dtype=np.int64)


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values: numbers by value, texts by alphabet."""
    different = set(values)
    return sorted(different, key=int if all(_is_integer(str(value)) for value in different) else str)


def scored_names(
    column: pa.ChunkedArray, trained: Sequence[str], models: Sequence[Sequence[str]], where: str
) -> tuple[tuple[str, ...], bool]:
    """Return the classes of a scored column, which may lack some, and whether it holds class ids.

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
    labels = {str(value) for value in _plain_values(column, where)}
    in_words = [tuple(names) for names in models if not any(map(_is_integer, names))]
    answered = next(
        (names for names in in_words if not are_numbered(names)), tuple(models[0]) if models else ()
    )
    if "-1" in trained and len(answered) == len(trained) - 1:
        trained = [name for name in trained if name != "-1"]  # which stands for a label that is hidden
    fits = len(trained) == len(answered)
    said_by_id = fits and answered in in_words and are_ids(trained)
    if _know(trained, labels) and not said_by_id and (fits or not _know(answered, labels)):
        return tuple(trained), False
    if _know(answered, labels):
        return answered, False
    ids = {str(class_id) for class_id in range(len(answered))}
    if answered in in_words and labels <= ids:
        if not said_by_id and "0" not in labels:
            raise UserError(
                f"{where}: the labels are numbers, and none is 0: they may be ids of {', '.join(answered)}, "
                "or count from 1. Write names in their place, or put the training split beside it."
            )
        check_order(models, where)
        return answered, True
    for names in (tuple(trained), answered):  # of what is known in part, or hidden, `label_ids` names the row
        if names and ("-1" in labels or any(_know(names, {label}) for label in labels)):
            return names, False
    return label_names(column, where), False


def check_order(models: Sequence[Sequence[str]], where: str) -> None:
    """Raise `UserError` where models have the same classes in different orders, and labels are ids."""
    orders = {tuple(map(canonical, names)): names for names in models if not are_numbered(names)}
    for (source, names), (other_source, other_names) in combinations(orders.items(), 2):
        if set(source) == set(other_source):
            raise UserError(
                f"{where}: the labels are numbers, and one model has the classes {', '.join(names)}, "
                f"another {', '.join(other_names)}. Write names instead of the numbers."
            )


def are_ids(names: Sequence[str]) -> bool:
    """Return whether the values are 0, 1 … in this order."""
    return list(names) == [str(index) for index in range(len(names))]


def _know(names: Sequence[str], labels: Iterable[str]) -> bool:
    by_name = _lookup(names)
    return all(label in by_name or canonical(label) in by_name for label in labels)


def label_ids(column: pa.ChunkedArray, names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Class ids, int64 `[N]`, of a raw column in terms of `names`.

    A label is matched by name, be it a text or a number; where no name is a number, a number is an id.

    Raises:
        UserError: naming the row of the first label that is missing, hidden (-1), not a class or unknown.
    """
    by_name = _lookup(names)
    numbers_are_ids = not any(_is_integer(name) for name in names)
    ids = np.empty(len(column), dtype=np.int64)
    for row, value in enumerate(_plain_values(column, where)):
        name = str(value)
        class_id = by_name.get(name, by_name.get(canonical(name)))
        if class_id is None and numbers_are_ids and _is_integer(name) and 0 <= int(name) < len(names):
            class_id = int(name)
        if class_id is None and name == "-1":
            raise UserError(
                f"{where}, row {row + 1}: the label is -1, which stands for a hidden label. "
                "There is nothing to learn from or to score; use a split with labels."
            )
        if class_id is None:
            raise UserError(f"{where}, row {row + 1}: unknown label {value!r}. Known are {', '.join(names)}.")
        ids[row] = class_id
    return ids


def _is_integer(name: str) -> bool:
    return re.fullmatch(r"-?\d+", name) is not None


def _plain_values(column: pa.ChunkedArray, where: str) -> list[Any]:
    """Python ints or strings. Whole-number floats count as ints (a gap in a CSV makes floats of a column)."""
    values: list[Any] = column.to_pylist()
    for row, value in enumerate(values):
        if value is None or value != value:
            raise UserError(f"{where}, row {row + 1}: the label is missing. Fill it in or drop the row.")
        if isinstance(value, bool):
            values[row] = str(value).lower()
        elif isinstance(value, float):
            if not value.is_integer():
                raise UserError(
                    f"{where}, row {row + 1}: label {value!r} is a measurement, not a class. "
                    "Use whole numbers or names."
                )
            values[row] = int(value)
        elif isinstance(value, str):
            if not value.strip():
                raise UserError(f"{where}, row {row + 1}: the label is missing. Fill it in or drop the row.")
        elif not isinstance(value, int):
            raise UserError(f"{where}, row {row + 1}: label {value!r} is neither a number nor a text.")
    if all(isinstance(value, str) and value.lower() in ("true", "false") for value in values):
        return [value.lower() for value in values]  # Python, pandas and JSON spell them differently
    if any(isinstance(value, str) and "." in value for value in values) and all(
        isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value.strip()) for value in values
    ):  # floats, spelled out in a CSV
        return _plain_values(pa.chunked_array([[float(value) for value in values]]), where)
    return values


def _lookup(names: Sequence[str]) -> dict[str, int]:
    """Ids by name as it stands and, where that is not ambiguous, by canonical name."""
    plain = [canonical(name) for name in names]
    alike = {name: index for index, name in enumerate(plain) if plain.count(name) == 1}
    return alike | {name: index for index, name in enumerate(names)}


def canonical(name: str) -> str:
    """Return a class name as it is compared: without case and outer blanks."""
    plain = name.strip().casefold()
    return _SAME.get(plain, plain)


def match_labels(model_names: Sequence[str], data_names: Sequence[str], who: str) -> tuple[list[int], bool]:
    """Return the model's column for each class of the data, and whether names decided it.

    Where only one side has names and the other `LABEL_0`, `LABEL_1` … or 0, 1 …, ids are all there is to go
    by, and the second value is false so that the caller can say so.

    Raises:
        UserError: when both sides have names and they are not the same set, or their numbers differ.
    """
    if len(model_names) != len(data_names):
        raise UserError(
            f"{who} tells {len(model_names)} classes apart ({', '.join(model_names)}), the data "
            f"{len(data_names)} ({', '.join(data_names)}). Use a model that was trained on these classes."
        )
    pairs = ((model_names, data_names), (data_names, model_names))
    by_name = _lookup(model_names)
    columns = [by_name.get(name, by_name.get(canonical(name))) for name in data_names]
    matched_columns = [column for column in columns if column is not None]
    if len(set(matched_columns)) == len(data_names):
        return matched_columns, True
    if any(are_ids(left) and not any(map(_is_integer, right)) for left, right in pairs) or any(
        are_numbered(left) for left, _ in pairs
    ):
        return list(range(len(data_names))), False
    raise UserError(
        f"{who} has classes {', '.join(model_names)}, the data {', '.join(data_names)}: they cannot be "
        "matched by name. Rename the labels in the data or in the model's config.json (id2label)."
    )


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether these are placeholder names of classes (LABEL_0 …)."""
    return all(name.startswith("LABEL_") for name in names)
