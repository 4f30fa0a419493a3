"""`Tally`: what was labelled so far, and where a later process goes on."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from distilkit.workflows.labelling.blocks import Block

TASK = "rows labelled"
MAX_REPORTED = 100  # rows that were left out: more would fill the terminal


@dataclass
class Tally:
    """Count rows.

    Attributes:
        source, row: up to where the input was read.
        pieces: of the input, so far.
        skipped: rows that were left out; `skipped_rows` describes the first.
        unlabelled: rows whose answer names no class.
        truncated: rows with a class that the server's likeliest tokens lack.
        labels: rows of each class.
        layout: the classes of an endpoint's answers; empty for labels with a score; `None` before the first.
        encoder: the state of the file's format.
    """

    source: int = 0
    row: int = 0
    pieces: int = 0
    rows: int = 0
    skipped: int = 0
    skipped_rows: list[str] = field(default_factory=list)
    unlabelled: int = 0
    truncated: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    layout: list[str] | None = None
    encoder: dict[str, Any] = field(default_factory=dict)

    def add(self, block: Block) -> list[str]:
        """Count a block; return the descriptions of left-out rows that are to be shown."""
        self.source, self.row = block.position.source, block.position.row
        self.pieces += 1
        self.rows += len(block.piece)
        self.skipped += len(block.piece.faults)
        shown = [
            message for _, message in block.piece.faults[: max(0, MAX_REPORTED - len(self.skipped_rows))]
        ]
        self.skipped_rows += shown
        counts = Counter(block.labels)
        self.unlabelled += counts.pop(None, 0)
        self.labels = dict(Counter(self.labels) + Counter({str(name): n for name, n in counts.items()}))
        return shown
