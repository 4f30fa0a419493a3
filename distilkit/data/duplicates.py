"""Digests of rows: repeats, rows shared between splits, texts seen before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from distilkit.data.checks import NO_CLASS


def contents(texts: Iterable[str], pairs: Iterable[str] | None) -> list[bytes]:
    """16 bytes for each row, whatever its case and white space; the order of a pair counts."""
    if pairs is None:
        return [_digest(_folded(text)) for text in texts]
    both = zip(texts, pairs, strict=True)
    return [_digest(f"{_folded(text)}\0{_folded(pair)}") for text, pair in both]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Repeats:
    """Rows that say what an earlier row says, and rows of a text that stands there with two labels or more.

    `example` is the number of the first contradicting row.
    """

    rows: int
    contradicting: int
    example: int | None


def repeats(keys: Sequence[bytes], ids: NDArray[np.int64] | None) -> Repeats:
    """How often the `contents` of rows come up again. Rows without a label (-1) contradict none.

    Args:
        ids: the classes of the rows, or `None` where there are no labels.
    """
    again = len(keys) - len(set(keys))
    if ids is None or not again:
        return Repeats(again, 0, None)
    labels: dict[bytes, int] = {}
    disputed: set[bytes] = set()
    for one, label in zip(keys, ids.tolist(), strict=True):
        if label != NO_CLASS and labels.setdefault(one, label) != label:
            disputed.add(one)
    rows = [row for row, one in enumerate(keys) if disputed and one in disputed and int(ids[row]) != NO_CLASS]
    return Repeats(again, len(rows), rows[0] if rows else None)


def shared(keys: Iterable[bytes], others: Sequence[bytes]) -> int:
    """How many of the `others` are among `keys`."""
    known = set(keys)
    return sum(one in known for one in others)


def same_pairs(texts: Iterable[str], pairs: Iterable[str]) -> int:
    """Pairs of which both texts are the same, whatever their case and white space."""
    return sum(_folded(text) == _folded(pair) for text, pair in zip(texts, pairs, strict=True))


REPEATED, UNCHANGED = "repeated", "unchanged"


def key(text: str, pair: str | None = None) -> bytes:
    """16 bytes for a row, whatever its case and white space, and whichever text of a pair is first."""
    folded = " ".join(text.casefold().split())
    if pair is not None:
        folded = "\0".join(sorted((folded, " ".join(pair.casefold().split()))))
    return blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Known:
    """The rows there are, to tell which new ones say nothing new."""

    def __init__(self) -> None:
        self._homes: dict[bytes, str] = {}

    def add(self, home: str, keys: Iterable[bytes]) -> None:
        """Rows of a split `home`; a row that is known already stays where it was first."""
        for one in keys:
            self._homes.setdefault(one, home)

    def refuse(self, new: bytes, old: bytes) -> str | None:
        """Where a row made of the row `old` is already, or `None`; then it is known from now on."""
        if new == old:
            return UNCHANGED
        home = self._homes.get(new)
        if home is None:
            self._homes[new] = REPEATED
        return home
