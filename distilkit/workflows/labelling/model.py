"""Rows and a model's logits, block by block."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from distilkit.config.labelling import LabelConfig, Part
from distilkit.data.row_inputs import Inputs, Position
from distilkit.data.streams import Piece
from distilkit.data.texts import Texts
from distilkit.engine.inference.labeller import Labeller, Logits
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import check_precision
from distilkit.hardware.threads import using_threads
from distilkit.models.classifier import load_classifier, with_max_length
from distilkit.progress import Reporter
from distilkit.runs.locating import find_model
from distilkit.runs.run import Run
from distilkit.workflows.labelling.blocks import Block, class_columns, keep_faults, keep_texts, take_rows
from distilkit.workflows.labelling.inputs import read_pieces
from distilkit.workflows.labelling.tally import TASK, Tally

# With so many pieces for each part, a part takes whole pieces: it does not read the tokens of all.
PIECES_PER_PART = 8


def prepare_labeller(config: LabelConfig, reporter: Reporter) -> tuple[Labeller, Run | None]:
    """Load the model, and return its run if distilkit trained it.

    Raises:
        UserError: when it cannot be loaded, or does not fit the options.
    """
    assert config.model
    device = select_device(config.device, reporter)
    check_precision(config.precision, device)
    source = find_model(config.model)
    classifier = with_max_length(load_classifier(source), config.max_length)
    labeller = Labeller(classifier, config.precision, device)
    reporter.note_all(labeller.notes)
    return labeller, source.run


def label_with_model(
    config: LabelConfig, labeller: Labeller, inputs: Inputs, tally: Tally, reporter: Reporter
) -> Iterator[Block]:
    """Yield the rows after those that are counted already, with their logits.

    The logits are those that one process computes for all rows.
    """
    part, before, rows = config.part_of, tally.rows, inputs.count()
    total = rows // part.total if part else rows
    takes_pieces = part is not None and rows >= PIECES_PER_PART * part.total * labeller.piece_rows

    def read() -> Iterator[tuple[tuple[Position, Piece], Texts]]:
        start = Position(tally.source, tally.row)
        pieces = read_pieces(config, inputs, labeller.piece_rows, start)
        for index, (position, piece) in enumerate(pieces, start=tally.pieces):
            piece = _take_share(piece, labeller, part, index if takes_pieces else None)
            yield (position, keep_texts(piece, inputs.columns)), piece.texts

    def advance(done: int) -> None:
        reporter.advance(TASK, before + done, max(total, before + done + 1) if total else 0)

    with using_threads(config.threads):
        for (position, piece), logits in labeller.label_stream(read(), advance):
            yield make_logit_block(position, piece, logits, labeller.class_names)


def make_logit_block(position: Position, piece: Piece, logits: Logits, class_names: tuple[str, ...]) -> Block:
    """Return rows with a column of logits for each class."""
    columns = class_columns("logit", class_names, logits, np.ones(logits.shape, bool), pa.float32())
    return Block(position, piece, columns, [class_names[i] for i in logits.argmax(axis=1)])


def _take_share(piece: Piece, labeller: Labeller, part: Part | None, index: int | None) -> Piece:
    """Return what a part labels of a piece: some of its batches, or all or nothing by the piece's index."""
    if part is None:
        return piece
    if index is None:
        positions = labeller.share(piece.texts, part.ordinal, part.total).tolist()
    else:
        positions = list(range(len(piece))) if index % part.total == part.ordinal - 1 else []
    return keep_faults(take_rows(piece, positions), part)
