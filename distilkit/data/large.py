"""Sets of rows too large for memory: arrays in files, and an order of rows whose reads stay local."""

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distilkit.errors import UserError

# From here on the order of training rows is that of `shuffle_blocks`, whatever memory there is: the figures
# of a run must not depend on the machine.
LARGE_ROWS = 1 << 22
# Neighbouring rows that are read together, and blocks of them, from all over, that are shuffled together.
BLOCK_ROWS, BUFFER_BLOCKS = 4096, 64
MEMORY_BYTES = 64 << 20  # of an array; a longer one is kept in a file, and holds the same values


@dataclass(frozen=True)
class LongArray:
    """An array of any length: in memory, or in a file that the system removes once nothing maps it."""

    values: NDArray[np.generic]
    mapping: mmap.mmap | None = None


class ArrayWriter:
    """Append pieces to an array that may become too long for memory.

    Args:
        row_shape: of what stands behind the first axis.
    """

    def __init__(self, dtype: DTypeLike, row_shape: Sequence[int] = ()) -> None:
        self._dtype, self._row_shape = np.dtype(dtype), tuple(row_shape)
        self._pieces: list[NDArray[np.generic]] = []
        self._bytes = 0
        self._descriptor: int | None = None

    def append(self, piece: NDArray[np.generic]) -> None:
        """Append values along the first axis."""
        piece = np.ascontiguousarray(piece, self._dtype)
        self._bytes += piece.nbytes
        self._pieces.append(piece)
        if self._bytes > MEMORY_BYTES:
            self._spill()

    def finish(self) -> LongArray:
        """Return the array of all pieces."""
        if self._descriptor is None:
            empty = np.empty((0, *self._row_shape), self._dtype)
            return LongArray(np.concatenate([empty, *self._pieces]))
        mapping = mmap.mmap(self._descriptor, self._bytes)
        os.close(self._descriptor)
        values = np.frombuffer(mapping, self._dtype).reshape(-1, *self._row_shape)
        return LongArray(values, mapping)

    def _spill(self) -> None:
        try:
            if self._descriptor is None:
                self._descriptor, name = tempfile.mkstemp(prefix="distilkit-", suffix=".array")
                os.unlink(name)
            for piece in self._pieces:
                rest = piece.tobytes()
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: the rows cannot be kept there while they are used: {error}. "
                "Set TMPDIR to a folder with space."
            ) from None
        self._pieces.clear()


def release_pages(mappings: Sequence[mmap.mmap]) -> None:
    """Drop from this process's memory what was read of files; the next read takes it from the file again."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapping in mappings:
            mapping.madvise(mmap.MADV_DONTNEED)


def shuffle_blocks(rows: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers below `rows` in a random order, each once, a buffer at a time.

    A buffer holds `BUFFER_BLOCKS` blocks of neighbouring rows, which are drawn from all over the rows and
    shuffled together: what is read for it is read in long pieces, and rows of a shard are spread widely.
    """
    blocks = random.permutation(-(-rows // BLOCK_ROWS))
    for start in range(0, len(blocks), BUFFER_BLOCKS):
        first_rows = np.sort(blocks[start : start + BUFFER_BLOCKS]) * BLOCK_ROWS
        buffer = (first_rows[:, None] + np.arange(BLOCK_ROWS)).reshape(-1)
        yield random.permutation(buffer[buffer < rows])
