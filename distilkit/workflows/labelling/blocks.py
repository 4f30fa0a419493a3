"""`Block`: rows and what a teacher says of them, as they are written."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilkit.config.labelling import Part
from distilkit.data.row_inputs import Position
from distilkit.data.streams import Piece, TextColumns


class Block(NamedTuple):
    """Some rows of the input, in order, with the teacher's answers.

    Attributes:
        position: up to where the input was read.
        piece: the rows, of which only the texts are kept.
        columns: what is added to them, one value a row; null where a row is unlabelled.
        labels: the likeliest class of each row, `None` where it is unlabelled.
    """

    position: Position
    piece: Piece
    columns: Mapping[str, pa.Array]
    labels: Sequence[str | None]


def keep_texts(piece: Piece, columns: TextColumns) -> Piece:
    """Return a piece without the columns that hold no texts: one of them could look like a class."""
    names = list(dict.fromkeys(_text_columns(piece, columns)))
    if isinstance(piece.cells, list):
        return Piece(
            piece.row_numbers,
            piece.texts,
            [{name: row[name] for name in names} for row in piece.cells],
            piece.faults,
            piece.end,
        )
    return Piece(piece.row_numbers, piece.texts, piece.cells.select(names), piece.faults, piece.end)


def _text_columns(piece: Piece, columns: TextColumns) -> Iterator[str]:
    if isinstance(piece.cells, list):
        present = set(piece.cells[0]) if piece.cells else set()
    else:
        present = set(piece.cells.column_names)
    yield next((name for name in columns.candidates if name in present), columns.candidates[0])
    if columns.pair:
        yield columns.pair


def take_rows(piece: Piece, positions: Sequence[int]) -> Piece:
    """Return the rows of a piece at these positions."""
    cells = (
        [piece.cells[position] for position in positions]
        if isinstance(piece.cells, list)
        else piece.cells.take(pa.array(positions, pa.int64()))
    )
    row_numbers = [piece.row_numbers[position] for position in positions]
    return Piece(row_numbers, piece.texts.take(positions), cells, piece.faults, piece.end)


def keep_faults(piece: Piece, part: Part) -> Piece:
    """Return a piece with every N-th of its faults, so that the parts together report each once."""
    faults = [fault for fault in piece.faults if fault[0] % part.total == part.ordinal % part.total]
    return Piece(piece.row_numbers, piece.texts, piece.cells, faults, piece.end)


def take_part(piece: Piece, part: Part | None) -> Piece:
    """Return every N-th row of a piece, for teachers that answer row by row."""
    if part is None:
        return piece
    rows = [i for i, row in enumerate(piece.row_numbers) if row % part.total == part.ordinal % part.total]
    return keep_faults(take_rows(piece, rows), part)


def class_columns(
    prefix: str,
    class_names: Sequence[str],
    values: NDArray[Any],
    is_given: NDArray[np.bool_],
    type_: pa.DataType,
) -> dict[str, pa.Array]:
    """Return a column for each class, called by `prefix` and its name.

    Args:
        values: `[N, C]`.
        is_given: bool `[N, C]`; false becomes null.
    """
    return {
        f"{prefix}_{name}": pa.array(values[:, i], type_, mask=~is_given[:, i])
        for i, name in enumerate(class_names)
    }
