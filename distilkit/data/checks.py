"""What there is of each fault in texts and labels, as counts: nothing here judges them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from distilkit.data.encoding import Tokenizer
from distilkit.data.labels import (
    HIDDEN,
    NO_CLASS,
    DistinctLabels,
    canonical,
    class_ids,
    distinct_names,
    labelled_rows,
)

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


def read_labels(column: pa.ChunkedArray, names: Sequence[str]) -> Labels:
    """Return `label_ids` of the rows that have a class, and what is wrong with the other rows."""
    labels = DistinctLabels.from_column(column)
    ids, counts = class_ids(labels, names), labels.counts()
    hidden, missing = [], []
    unknown: Counter[str] = Counter()
    for code, name in enumerate(labels.names):
        if name is None:
            missing.append(code)
        elif ids[code] == NO_CLASS and name == HIDDEN:
            hidden.append(code)
        elif ids[code] == NO_CLASS:
            unknown[str(labels.values[code])] += int(counts[code])
    return Labels(
        ids=ids[labels.codes],
        hidden=np.flatnonzero(np.isin(labels.codes, hidden)),
        missing=np.flatnonzero(np.isin(labels.codes, missing)),
        unknown=dict(unknown),
    )


def class_names(column: pa.ChunkedArray, where: str, label_column: str) -> tuple[str, ...]:
    """Return the classes of the rows that have a label, one name for each that is spelled in several ways.

    Raises:
        UserError: as `label_names`.
    """
    labels = DistinctLabels.from_column(labelled_rows(column))
    labels.check(where)
    names = distinct_names(labels, where, label_column)
    first_spelling = {canonical(name): name for name in reversed(names)}
    return tuple(first_spelling.values())[::-1]


def spellings(column: pa.ChunkedArray) -> list[list[str]]:
    """Return the groups of labels that are one class spelled in several ways."""
    return DistinctLabels.from_column(column).spellings()


def class_counts(ids: NDArray[np.int64], classes: int) -> list[int]:
    """Count the rows of each class; rows without one are not counted."""
    counts: list[int] = np.bincount(ids[ids >= 0], minlength=classes).tolist()
    return counts


def other_text_columns(rows: datasets.Dataset, taken: Sequence[str]) -> list[str]:
    """Columns beside the `taken` ones that hold sentences: three words or more, seldom the same twice."""
    strings = [
        column
        for column, feature in rows.features.items()
        if column not in taken and getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    if not strings:
        return []
    some = rows.select_columns(strings)[: min(LOOKED_AT, len(rows))]
    columns_with_text = []
    for column in strings:
        texts = [value for value in some[column] if value is not None]
        if not texts or len(texts) < len(some[column]) / 2:
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
