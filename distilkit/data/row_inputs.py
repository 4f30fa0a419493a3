"""What a command reads that answers rows: texts, stdin or files, as pieces of rows."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from distilkit.data.contents import open_bytes
from distilkit.data.formats import split_name
from distilkit.data.presets import PRESETS
from distilkit.data.streams import (
    TEXT,
    Piece,
    TextColumns,
    make_texts,
    open_lines,
    read_lines,
    read_rows,
    regroup,
)
from distilkit.runs.run import Run

STDIN_NAME = "stdin"
COUNTED_BYTES = 1 << 20


@dataclass(frozen=True)
class Position:
    """Say how far the inputs were read: all before `source`, and of that up to its row `row`, from 1."""

    source: int = 0
    row: int = 0


@dataclass(frozen=True)
class Inputs:
    """Where the rows come from. Without files they are texts; without these too, the lines of stdin."""

    files: tuple[Path, ...]
    texts: tuple[str, ...]
    columns: TextColumns

    @property
    def names(self) -> list[str]:
        """Return what messages call the sources."""
        return list(map(str, self.files)) or ["texts" if self.texts else STDIN_NAME]

    def read(self, rows: int, start: Position) -> Iterator[tuple[Position, Piece]]:
        """Yield pieces of `rows` rows each, but for the last of a source, and where each ends.

        Rows before `start` are read and left out.
        """
        for source in range(start.source, len(self.names)):
            begun = start.row if source == start.source else 0
            pieces = (piece.after(begun) for piece in self._read_source(source) if piece.end > begun)
            for piece in regroup(pieces, rows):
                yield Position(source, piece.end), piece

    def _read_source(self, source: int) -> Iterator[Piece]:
        if self.files:
            yield from read_rows(self.files[source], self.columns)
        elif self.texts:
            yield make_texts(self.texts, self.columns)
        else:
            yield from read_lines(open_lines(sys.stdin.buffer), self.columns, STDIN_NAME)

    def count(self) -> int:
        """Return about how many rows there are; 0 where that is not known before they are read."""
        if not self.files:
            return len(self.texts)
        counts = [_count_rows(file) for file in self.files]
        return sum(counts) if all(counts) else 0

    def describe(self) -> dict[str, object]:
        """Return what tells whether these are the same rows as an earlier command's."""
        digests = []
        for file in self.files:
            with file.open("rb") as content:
                digests.append(hashlib.file_digest(content, "sha256").hexdigest())
        return {
            "inputs": digests or list(self.texts) or STDIN_NAME,
            "columns": [*self.columns.candidates, self.columns.pair],
        }


def choose_columns(text_column: str | None, pair_column: str | None, run: Run | None) -> TextColumns:
    """Return the columns that are named, else those that a run was trained on, else `text`."""
    preset = PRESETS.get(run.config.dataset or "") if run else None
    trained = pair = None
    if run:
        trained = run.config.text_column or (preset.text if preset else None)
        pair = run.config.text_pair_column or (preset.pair if preset else None)
    candidates = (text_column,) if text_column else tuple(dict.fromkeys([trained or TEXT, TEXT]))
    return TextColumns(candidates, pair_column or pair)


def _count_rows(file: Path) -> int:
    """Return the rows of a Parquet file, or the lines of a text file, which may be more than its rows."""
    ending = split_name(file)[1]
    try:
        if ending == ".parquet":
            return int(pyarrow.parquet.read_metadata(file).num_rows)
        if ending == ".arrow":
            return 0
        with open_bytes(file) as stream:
            lines = 0
            while block := stream.read(COUNTED_BYTES):
                lines += block.count(b"\n")
        return lines
    except (OSError, pyarrow.ArrowException):  # reading says what is wrong
        return 0
