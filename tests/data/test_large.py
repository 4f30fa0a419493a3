"""Rows too large for memory: an array in a file holds what one in memory does, and every row comes once."""

import numpy as np
import pytest
from numpy.typing import NDArray

from distilkit.data import large
from distilkit.data.large import ArrayWriter, LongArray, release_pages, shuffle_blocks


def write(pieces: list[NDArray[np.generic]], row_shape: tuple[int, ...] = ()) -> LongArray:
    writer = ArrayWriter(np.float32, row_shape)
    for piece in pieces:
        writer.append(piece)
    return writer.finish()


@pytest.mark.parametrize("row_shape", [(), (3,)])
def test_an_array_in_a_file_holds_what_one_in_memory_does(
    monkeypatch: pytest.MonkeyPatch, row_shape: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    pieces: list[NDArray[np.generic]] = [random.random((n, *row_shape)) for n in (5, 0, 700, 1)]
    in_memory = write(pieces, row_shape)
    monkeypatch.setattr(large, "MEMORY_BYTES", 64)
    in_file = write(pieces, row_shape)
    assert in_memory.mapping is None and in_file.mapping is not None
    assert np.array_equal(in_memory.values, in_file.values) and in_file.values.dtype == np.float32
    assert in_file.values.shape == (706, *row_shape)
    release_pages([in_file.mapping])
    assert np.array_equal(in_memory.values, in_file.values), "what was dropped from memory is read again"


def test_an_array_without_pieces_has_its_shape() -> None:
    assert write([], (2,)).values.shape == (0, 2)


@pytest.mark.parametrize("rows", [1, 999, 1000, 7321])
def test_every_row_comes_once_and_a_buffer_holds_rows_from_all_over(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Shards are often sorted, by class or by day: batches of neighbours would be learned from in turn."""
    monkeypatch.setattr(large, "BLOCK_ROWS", 10)
    monkeypatch.setattr(large, "BUFFER_BLOCKS", 16)
    buffers = list(shuffle_blocks(rows, np.random.default_rng(1)))
    assert sorted(np.concatenate(buffers).tolist()) == list(range(rows))
    assert max(map(len, buffers)) <= 160
    if rows > 2000:
        assert all(np.ptp(buffer) > rows / 2 for buffer in buffers[:-1])
        assert (np.diff(buffers[0]) != 1).mean() > 0.9
    again = list(shuffle_blocks(rows, np.random.default_rng(1)))
    assert all(np.array_equal(*pair) for pair in zip(buffers, again, strict=True))
