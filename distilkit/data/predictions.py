"""Answers that something else gave: a label a row and, where it said so, how sure it was."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilkit.data.files import read_file
from distilkit.data.formats import READABLE, is_readable, shorten
from distilkit.data.labels import are_ids, label_ids, list_pairs, note_ids
from distilkit.data.texts import normalise
from distilkit.errors import UserError, pluralize

LABEL, SCORE = "label", "score"
MAX_LOW_SCORE_SHARE = 0.05  # of the scores for two classes that may be below one half


@dataclass(frozen=True)
class PredictionsFile:
    """`answer` int64 `[N]`, class ids; `score` float64 `[N]`, the probability of that class, or `None`.

    `notes` say which classes the labels are taken for, where they are ids and not names.
    """

    answer: NDArray[np.int64]
    score: NDArray[np.float64] | None
    notes: tuple[str, ...] = ()


def read_predictions(
    file: Path, names: Sequence[str], rows: int, texts: Mapping[str, Sequence[str]] | None = None
) -> PredictionsFile:
    """Read a file of `rows` rows, in the order of the split, with a column `label` and perhaps one `score`.

    Args:
        texts: the split's columns of texts by name; where the file has one of them too, it must be the same.

    Raises:
        UserError: naming the file and what is wrong: another number of rows, a label that is no class of
            `names`, a score that is no probability, texts in another order.
    """
    texts = {name: column for name, column in (texts or {}).items() if name not in (LABEL, SCORE)}
    if not is_readable(file):
        raise UserError(f"--predictions {file}: the ending must be one of {READABLE}.")
    if not file.is_file():
        raise UserError(f"--predictions {file}: there is no such file.")
    table, column_names = read_file(file, [LABEL, SCORE, *texts])
    column_names.require(
        LABEL,
        f"--predictions {file}",
        f"It needs {LABEL!r}, and {SCORE!r} for the probability of that label.",
    )
    if len(table) != rows:
        raise UserError(
            f"--predictions {file}: it has {pluralize(len(table), 'row')}, the split {rows:,}. "
            "It needs a row for each row of the split, in the same order."
        )
    for name in texts:
        if name in table.column_names:
            _check_order(table[name], texts[name], f"--predictions {file}", name)
    labels = table.data.column(LABEL).to_pylist()
    scores = table.data.column(SCORE).to_pylist() if SCORE in table.column_names else None
    return predicted(labels, scores, names, f"--predictions {file}")


def _check_order(column: Sequence[Any], expected: Sequence[str], where: str, name: str) -> None:
    """Raise `UserError` where a row has another text than the split, case and white space aside."""
    for row, (text, right) in enumerate(zip(column, expected, strict=True), start=1):
        if normalise(str(text)) != normalise(right):
            raise UserError(
                f"{where}, row {row}: its {name} is {shorten(str(text))!r}, in the split "
                f"{shorten(right)!r}. Put its rows in the order of the split; if they are and only the texts "
                f"differ, leave out the column {name}."
            )


def predicted(
    labels: Sequence[Any], scores: Sequence[Any] | None, names: Sequence[str], where: str
) -> PredictionsFile:
    """Labels as names, ids or `LABEL_0`, `LABEL_1` … and their scores, checked. Raises `UserError`."""
    column, notes = read_answers(labels, names, where)
    answer = label_ids(column, names, where)
    return PredictionsFile(answer, None if scores is None else _probabilities(scores, where), notes)


def read_answers(
    labels: Sequence[Any], names: Sequence[str], where: str
) -> tuple[pa.ChunkedArray, tuple[str, ...]]:
    """Return labels as `label_ids` takes them, and notes on those that are matched by order, not by name.

    `LABEL_0`, `LABEL_1` … become `names`, unless these are such placeholders too.
    """
    plain = list(labels)
    is_numbered = False
    if not any(name.startswith("LABEL_") for name in names):
        for row, label in enumerate(plain):
            match = re.fullmatch(r"LABEL_([0-9]+)", label.strip()) if isinstance(label, str) else None
            if match and int(match[1]) < len(names):
                plain[row], is_numbered = names[int(match[1])], True
    column = pa.chunked_array([pa.array(_alike(plain))])
    notes = note_ids(column, names, where, has_order=True)
    if is_numbered and not are_ids(names):
        placeholders = [f"LABEL_{index}" for index in range(len(names))]
        notes += (f"{where}: its labels are taken for the classes: {list_pairs(placeholders, names)}",)
    return column, notes


def note_low_scores(predictions: PredictionsFile, classes: int, where: str) -> tuple[str, ...]:
    """Return a note on scores that seem to be the probability of one class in every row.

    Of two classes the predicted one has a probability of at least 0.5, so many scores below it are of the
    other class: calibration, loss and ROC AUC would look like numbers and mean nothing.
    """
    if predictions.score is None or classes != 2:
        return ()
    low = int((predictions.score < 0.5).sum())
    if low <= MAX_LOW_SCORE_SHARE * len(predictions.score):
        return ()
    return (
        f"{where}: {low:,} of {len(predictions.score):,} scores are below 0.5. A score must be the "
        "probability of the predicted label, not of the same class in every row; otherwise calibration, "
        "loss and ROC AUC are meaningless",
    )


def _alike(labels: Sequence[Any]) -> list[Any]:
    """Give all values one type, as Arrow asks: texts, unless all are numbers."""
    if all(
        (isinstance(label, int | float) and not isinstance(label, bool)) or label is None for label in labels
    ):
        return list(labels)
    return [None if label is None else str(label) for label in labels]


def _probabilities(scores: Sequence[Any], where: str) -> NDArray[np.float64]:
    for row, score in enumerate(scores):
        try:
            fits = 0.0 <= float(score) <= 1.0
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise UserError(
                f"{where}, row {row + 1}: score {score!r} is no probability. "
                "It has to be that of the label, between 0 and 1; leave the column out if there is none."
            )
    return np.asarray([float(score) for score in scores])
