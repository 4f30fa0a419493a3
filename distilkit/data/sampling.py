"""Stratified samples, the same whatever the seed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Which rows are held out or sampled does not depend on --seed: teacher and student, and every seed of a
# study, must train and validate on the same rows.
DATA_SEED = 42


class CorpusSize(NamedTuple):
    """How much text there is: rows, and words of a row on average, pairs together."""

    rows: int
    words: float

    @classmethod
    def of(cls, rows: datasets.Dataset, columns: Sequence[str]) -> "CorpusSize":
        """Of `rows`; their words are those of a thousand of them, evenly chosen."""
        some = rows[range(0, len(rows), -(-len(rows) // 1000))]
        words = sum(len(text.split()) for column in columns for text in some[column])
        return cls(len(rows), words / len(some[columns[0]]))


def stratified_order(labels: NDArray[Any], seed: int = DATA_SEED) -> NDArray[np.int64]:
    """Row numbers in a seeded order of which every prefix has nearly the class shares of the whole.

    Each class is shuffled and its rows spread evenly over [0, 1); rows are then taken by their place.
    """
    random = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + random.random()) / len(rows)
    return np.argsort(place, kind="stable")


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    encoded = pc.dictionary_encode(column.combine_chunks())
    return np.asarray(encoded.indices.fill_null(-1))
