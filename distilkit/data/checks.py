"""What there is of each fault in texts and labels, as counts: nothing here judges them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from distilkit.data.encoding import Tokenizer
from distilkit.data.labels import label_ids, label_names
from distilkit.errors import UserError

NO_CLASS = -1  # the id of a row that has no label


LOOKED_AT = 1000  # rows that tell whether a column holds texts


def missing_texts(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return which texts are missing, empty or white space only, bool `[N]`."""
    parts = [pc.fill_null(pc.equal(pc.utf8_trim_whitespace(chunk), ""), True) for chunk in column.chunks]
    return np.concatenate([np.empty(0, bool), *(part.to_numpy(zero_copy_only=False) for part in parts)])


def blank_texts(column: pa.ChunkedArray) -> int:
    """Count the texts that are not empty but white space only."""
    return int(missing_texts(column).sum()) - int((pc.fill_null(pc.equal(column, ""), True)).to_numpy().sum())


@dataclass(frozen=True)
class Labels:
    """A raw column read row by row: class ids int64 `[N]`, -1 for none, and why a row has none.

    `hidden` and `missing` are row numbers from 0; `unknown` counts the rows of each value that is no class.
    """

    ids: NDArray[np.int64]
    hidden: NDArray[np.int64]
    missing: NDArray[np.int64]
    unknown: dict[str, int]


def read_labels(column: pa.ChunkedArray, names: Sequence[str], where: str) -> Labels:
    """Return `label_ids` of the rows that have a class, and what is wrong with the other rows."""
    values, codes = _distinct(column)
    hidden, missing = [], []
    unknown: dict[str, int] = {}
    ids = np.full(len(values) + 1, NO_CLASS)  # the last one is that of code -1, a missing value
    for code, value in enumerate(values):
        if _is_missing(value):
            missing.append(code)
            continue
        try:
            ids[code] = label_ids(pa.chunked_array([[value]]), names, where)[0]
        except UserError:
            if str(value).strip() in ("-1", "-1.0"):
                hidden.append(code)
            else:
                unknown[str(value)] = int(np.count_nonzero(codes == code))
    return Labels(
        ids=ids[codes].astype(np.int64),
        hidden=np.flatnonzero(np.isin(codes, hidden)),
        missing=np.flatnonzero(np.isin(codes, [*missing, -1])),
        unknown=unknown,
    )


def class_names(column: pa.ChunkedArray, where: str) -> tuple[str, ...]:
    """Return the classes of a column as `label_names` does, from the rows that have a label.

    Raises:
        UserError: when that leaves fewer than two classes, or something that is no class.
    """
    values, _ = _distinct(column)
    labels = [value for value in values if not _is_missing(value)]
    if not labels:
        raise UserError(f"{where}: no row has a label.")
    return label_names(pa.chunked_array([labels]), where)


def _distinct(column: pa.ChunkedArray) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values of a column, and the index of each row's value; -1 is none."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.fill_null(-1), np.int64)


def _is_missing(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def class_counts(ids: NDArray[np.int64], classes: int) -> list[int]:
    """Count the rows of each class; rows without one are not counted."""
    counts: list[int] = np.bincount(ids[ids >= 0], minlength=classes).tolist()
    return counts


def other_text_columns(rows: datasets.Dataset, taken: Sequence[str]) -> list[str]:
    """Columns beside the `taken` ones that hold sentences: three words or more, seldom the same twice."""
    some = rows[: min(LOOKED_AT, len(rows))]
    columns_with_text = []
    for column in rows.column_names:
        texts = [value for value in some[column] if isinstance(value, str)]
        if column in taken or not texts or len(texts) < len(some[column]) / 2:
            continue
        words = np.median([len(text.split()) for text in texts])
        if words >= 3 and len(set(texts)) > len(texts) / 2:
            columns_with_text.append(column)
    return columns_with_text


def lowercases(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer reads "A" as "a"."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return bool(getattr(tokenizer, "do_lower_case", False))
    return backend.normalizer is not None and backend.normalizer.normalize_str("A") == "a"


def with_capitals(texts: Iterable[str]) -> int:
    """Texts with a letter that is not lower case."""
    return sum(text != text.lower() for text in texts)


@dataclass(frozen=True)
class AnswerSkill:
    """How right a model's answers are, and how right they would be if they had nothing to do with the rows.

    `majority` is the share of the most frequent class, `chance` that of right answers if the same answers
    were dealt out at random, as in Cohen's kappa. `order` holds the class that each answer best stands for,
    `ordered` the right answers then; `answered` counts the answers of each class.
    """

    rows: int
    right: int
    majority: float
    chance: float
    answered: list[int]
    order: list[int]
    ordered: int

    @property
    def accuracy(self) -> float:
        """Return the share of correct predictions."""
        return self.right / self.rows


def skill(answers: NDArray[np.int64], ids: NDArray[np.int64], classes: int) -> AnswerSkill:
    """Hold answers, int64 `[N]`, against the classes of the rows, int64 `[N]` with no -1."""
    if answers.shape != ids.shape or not len(ids):
        raise ValueError(f"answers {answers.shape} do not fit labels {ids.shape}")
    confusion = np.bincount(answers * classes + ids, minlength=classes**2).reshape(classes, classes)
    answered, real = confusion.sum(axis=1), confusion.sum(axis=0)
    _, order = linear_sum_assignment(confusion, maximize=True)
    return AnswerSkill(
        rows=len(ids),
        right=int(np.trace(confusion)),
        majority=float(real.max() / len(ids)),
        chance=float((answered * real).sum() / len(ids) ** 2),
        answered=answered.tolist(),
        order=order.tolist(),
        ordered=int(confusion[np.arange(classes), order].sum()),
    )
