"""`Texts`: the rows of a split, and the one digest of a row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

# Rows read at a time: reading a column on disk row by row takes ten times as long, and a thousand rows keep
# a tokenizer's threads busy without showing in memory.
CHUNK_ROWS = 1024


def normalise(text: str) -> str:
    """Return `text` without case and with single spaces, as duplicates are compared."""
    return " ".join(text.casefold().split())


def row_key(text: str, pair: str | None = None, *, normalised: bool = False, ordered: bool = True) -> bytes:
    """Digest a row: 16 bytes that stand for its content. This is the only digest of a row there is.

    The bytes for the default options are the keys of every teacher-logit cache on disk: changing them would
    silently make all of these caches useless.

    Args:
        normalised: digest the `normalise`d texts, so that case and white space make no difference.
        ordered: whether (a, b) and (b, a) are different rows.
    """
    parts = [text] if pair is None else [text, pair]
    if normalised:
        parts = [normalise(part) for part in parts]
    if not ordered:
        parts.sort()
    digest = blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))  # else ("ab", "c") and ("a", "bc") would be equal
        digest.update(encoded)
    return digest.digest()


class DatasetColumn(Sequence[str]):
    """A column of a dataset that stays on disk until it is read.

    It is selected once. `datasets.Column` selects it at every access, which takes as long as the dataset has
    blocks: to read 10 million rows of 100 files in chunks took longer than to train on them.
    """

    def __init__(self, rows: datasets.Dataset, name: str) -> None:
        self._rows, self._name = rows.select_columns([name]), name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        """Return a text, or a list of texts for a slice or an array of positions."""
        return self._rows[key][self._name]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK_ROWS):
            yield from self[start : start + CHUNK_ROWS]

    def __eq__(self, value: object) -> bool:
        return isinstance(value, Sequence) and list(self) == list(value)


@dataclass(frozen=True)
class Texts:
    """Store the rows of a split: first texts, and second texts where rows are pairs.

    The columns are lists, or columns of a dataset that stay on disk until they are read.
    """

    first: Sequence[str]
    second: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.second is not None and len(self.second) != len(self.first):
            raise ValueError(f"{len(self.first)} first texts, but {len(self.second)} second texts")

    @classmethod
    def from_dataset(cls, rows: datasets.Dataset, text_column: str, pair_column: str | None) -> "Texts":
        """Refer to the text columns of a dataset, without reading them."""
        return cls(
            DatasetColumn(rows, text_column), DatasetColumn(rows, pair_column) if pair_column else None
        )

    def __len__(self) -> int:
        return len(self.first)

    @property
    def columns(self) -> tuple[Sequence[str], ...]:
        """Return the one or two columns of texts."""
        return (self.first,) if self.second is None else (self.first, self.second)

    def take(self, positions: Sequence[int] | NDArray[np.int64]) -> "Texts":
        """Read the rows at `positions`, in that order, into memory."""
        return Texts(*(_take(column, positions) for column in self.columns))

    def chunks(self) -> Iterator["Texts"]:
        """Read all rows, at most `CHUNK_ROWS` of them into memory at a time."""
        for start in range(0, len(self), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            yield Texts(*(list(column[chunk]) for column in self.columns))

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Read row by row: a text, or the two texts of a pair."""
        for chunk in self.chunks():
            yield from zip(*chunk.columns, strict=True)

    def strings(self) -> Iterator[str]:
        """Read all first texts and then all second texts."""
        for column in self.columns:
            for chunk in Texts(column).chunks():
                yield from chunk.first

    def key_array(self, *, normalised: bool = False, ordered: bool = True) -> NDArray[np.bytes_]:
        """Return `row_key` of every row, S16 `[N]`: 16 bytes a row, where a list of `bytes` takes 57."""
        keys = np.empty(len(self), "S16")
        start = 0
        for chunk in self.chunks():
            parts = chunk.keys(normalised=normalised, ordered=ordered)
            keys[start : start + len(parts)] = np.frombuffer(b"".join(parts), "S16")
            start += len(parts)
        return keys

    def keys(self, *, normalised: bool = False, ordered: bool = True) -> list[bytes]:
        """Return `row_key` of every row."""
        return [row_key(*row, normalised=normalised, ordered=ordered) for row in self.rows()]


def _take(column: Sequence[str], positions: Sequence[int] | NDArray[np.int64]) -> list[str]:
    if isinstance(column, list | tuple):
        return [column[position] for position in positions]
    # A column of a dataset reads all rows of its file at once, where one by one would take ten times as long.
    rows: list[str] = column[np.asarray(positions, np.int64)]  # type: ignore[call-overload]
    return rows
