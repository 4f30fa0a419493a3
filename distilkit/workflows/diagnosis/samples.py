"""Samples of rows that `doctor` looks at."""

from dataclasses import replace

import datasets
import numpy as np

from distilkit.data.inputs import evenly
from distilkit.data.raw import RawData
from distilkit.data.sampling import stratified_order
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts, row_key

MAX_LABELLED_ROWS = 1000  # of the validation split, which a teacher reads


def sample_rows(data: TextData, split: str) -> Texts:
    """Read at most 5,000 rows of a split, evenly spread."""
    texts = data.texts(split)
    return texts.take(evenly(len(texts)))


def sample_labelled_rows(data: TextData) -> TextData | None:
    """Return at most 1,000 labelled validation rows, stratified; `None` with fewer than two classes."""
    ids = data.labels_of.get("validation", np.empty(0, np.int64))
    labelled = np.flatnonzero(ids >= 0)
    if len(np.unique(ids[labelled])) < 2:
        return None
    rows = np.sort(labelled[stratified_order(ids[labelled])[:MAX_LABELLED_ROWS]])
    splits = datasets.DatasetDict(validation=data.splits["validation"].select(rows))
    return replace(data, splits=splits, labels_of={"validation": ids[rows]})


def read_test_keys(raw: RawData) -> list[bytes]:
    """Return normalised keys of the test rows that have a text; their labels are not read."""
    if "test" not in raw.splits:
        return []
    columns = [raw.texts("test", column).to_pylist() for column in raw.columns]
    rows = [row for row in zip(*columns, strict=True) if all(text and text.strip() for text in row)]
    return [row_key(*row, normalised=True) for row in rows]
