"""Samples of rows that `doctor` looks at."""

from dataclasses import replace

import datasets
import numpy as np
from numpy.typing import NDArray

from distilkit.data.inputs import evenly
from distilkit.data.raw import RawData
from distilkit.data.sampling import stratified_order
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts, row_key

JUDGED = 1000  # validation rows that a teacher reads, at most


TIMED_STEPS = 8  # of training, after as many that are not timed


def _spread(order: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    """Batches of neighbours in `order`, as training makes them of rows of like length, evenly chosen."""
    batches = np.array_split(order, max(1, len(order) // batch))
    count = min(TIMED_STEPS, len(batches))
    return [batches[int((number + 0.5) * len(batches) / count)] for number in range(count)]


def _some(data: TextData, split: str) -> Texts:
    """Read at most 5,000 rows of a split, evenly spread."""
    texts = data.texts(split)
    return texts.take(evenly(len(texts)))


def _judged(data: TextData) -> TextData | None:
    """At most 1,000 validation rows with labels, stratified; `None` if these are not of two classes."""
    ids = data.labels_of.get("validation", np.empty(0, np.int64))
    known = np.flatnonzero(ids >= 0)
    if len(np.unique(ids[known])) < 2:
        return None
    rows = np.sort(known[stratified_order(ids[known])[:JUDGED]])
    splits = datasets.DatasetDict(validation=data.splits["validation"].select(rows))
    return replace(data, splits=splits, labels_of={"validation": ids[rows]})


def _test_contents(raw: RawData) -> list[bytes]:
    """Return normalised keys of the test rows that have a text; their labels are not read."""
    if "test" not in raw.splits:
        return []
    columns = [raw.texts("test", column).to_pylist() for column in raw.columns]
    rows = [row for row in zip(*columns, strict=True) if all(text and text.strip() for text in row)]
    return [row_key(*row, normalised=True) for row in rows]
