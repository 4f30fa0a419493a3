"""Stratified samples, the same whatever the seed."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilkit.data.texts import Texts

# Which rows are held out or sampled does not depend on --seed: teacher and student, and every seed of a
# study, must train and validate on the same rows.
DATA_SEED = 42


class CorpusSize(NamedTuple):
    """How much text there is: rows, and words of a row on average, pairs together."""

    rows: int
    words: float

    @classmethod
    def of(cls, texts: Texts) -> "CorpusSize":
        """Count the rows, and the words of at most a thousand of them, evenly spread."""
        sample = texts.take(range(0, len(texts), -(-len(texts) // 1000)))
        words = sum(len(text.split()) for text in sample.strings())
        return cls(len(texts), words / len(sample))


def stratified_order(labels: NDArray[Any], seed: int = DATA_SEED) -> NDArray[np.int64]:
    """Row numbers in a seeded order of which every prefix has nearly the class shares of the whole.

    Each class is shuffled and its rows spread evenly over [0, 1); rows are then taken by their place.
    """
    random = np.random.default_rng(seed)
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        rank[rows] = (np.arange(len(rows)) + random.random()) / len(rows)
    return np.argsort(rank, kind="stable")


def value_codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the number of each value, `[N]`, counted by first appearance; -1 for null."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    return np.asarray(encoded.indices.fill_null(-1))
