"""Duplicate rows: repeats within a split, rows shared between splits, new rows that are not new."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilkit.data.labels import NO_CLASS
from distilkit.data.texts import Texts, normalise

REPEATED, UNCHANGED = "repeated", "unchanged"


def content_keys(texts: Texts) -> list[bytes]:
    """Return keys that are equal for rows with the same content.

    Case, white space and the order of a pair make no difference.
    """
    return texts.keys(normalised=True, ordered=False)


def find_shared(texts: Texts, rows: Texts) -> NDArray[np.bool_]:
    """Return which of `texts` have the same content as one of `rows`, bool `[N]`; few rows are in memory."""
    keys = set(content_keys(rows))
    shared = (key in keys for chunk in texts.chunks() for key in content_keys(chunk))
    return np.fromiter(shared, bool, len(texts))


@dataclass(frozen=True)
class Repeats:
    """Count rows that repeat an earlier row, and rows whose text occurs with two labels or more.

    `example` is the position of the first contradicting row.
    """

    rows: int
    contradicting: int
    example: int | None


def count_repeats(keys: Sequence[bytes], ids: NDArray[np.int64] | None) -> Repeats:
    """Count the rows whose key came before, and those that contradict each other.

    Rows without a label (-1) contradict no row.

    Args:
        keys: normalised `Texts.keys`.
        ids: the classes of the rows, or `None` where there are no labels.
    """
    repeated = len(keys) - len(set(keys))
    if ids is None or not repeated:
        return Repeats(repeated, 0, None)
    labels: dict[bytes, int] = {}
    disputed: set[bytes] = set()
    for key, label in zip(keys, ids.tolist(), strict=True):
        if label != NO_CLASS and labels.setdefault(key, label) != label:
            disputed.add(key)
    rows = [row for row, key in enumerate(keys) if key in disputed and int(ids[row]) != NO_CLASS]
    return Repeats(repeated, len(rows), rows[0] if rows else None)


def count_shared(keys: Iterable[bytes], other_keys: Sequence[bytes]) -> int:
    """Count the rows with `other_keys` whose key is among `keys`."""
    distinct = set(keys)
    return sum(key in distinct for key in other_keys)


def count_same_pairs(texts: Texts) -> int:
    """Count the pairs whose two texts are the same but for case and white space; single texts are none."""
    if texts.second is None:
        return 0
    return sum(normalise(first) == normalise(second) for first, second in texts.rows())


class SeenRows:
    """Remember rows by key, to recognise new rows that add nothing."""

    def __init__(self) -> None:
        self._splits: dict[bytes, str] = {}

    def add(self, split: str, keys: Iterable[bytes]) -> None:
        """Remember rows of a split; a row that was added before stays with its first split."""
        for key in keys:
            self._splits.setdefault(key, split)

    def refuse(self, new: bytes, old: bytes) -> str | None:
        """Return where the row `new`, made of the row `old`, is already; remember it if it is new.

        Returns:
            `UNCHANGED`, a split, `REPEATED`, or `None` for a new row.
        """
        if new == old:
            return UNCHANGED
        split = self._splits.get(new)
        if split is None:
            self._splits[new] = REPEATED
        return split
