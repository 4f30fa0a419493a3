"""`predict`: the classes of texts, or of the rows of files, in their order and in constant memory."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distilkit import __version__
from distilkit.config import PredictConfig
from distilkit.data.row_formats import RowEncoder, write_parquet
from distilkit.data.row_inputs import Inputs, Position
from distilkit.data.streams import Piece
from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions, Predictor
from distilkit.errors import UserError
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import check_precision
from distilkit.hardware.threads import using_threads
from distilkit.models.classifier import Classifier, with_max_length
from distilkit.models.exported import load_any
from distilkit.progress import SILENT, Reporter
from distilkit.runs.folder import check_home
from distilkit.runs.locating import find_model
from distilkit.runs.resumable import ResumableFile, open_resumable
from distilkit.workflows.prediction.inputs import choose_inputs

SCHEMA = "distilkit.prediction/1"
TASK = "rows predicted"
MAX_REPORTED = 100  # rows that were left out: more would fill the terminal
# Options that all rows of a file depend on, besides the model and the inputs.
LASTING = ("scores", "top_k", "threshold", "prefix")

WriteRows = Callable[[str], None]


@dataclass
class Tally:
    """Count what was predicted so far, and where a later process goes on.

    `labels` counts the rows of each class, `abstained` those without a label. `skipped` rows were left out;
    `skipped_rows` describes the first of them.
    """

    source: int = 0
    row: int = 0
    rows: int = 0
    skipped: int = 0
    skipped_rows: list[str] = field(default_factory=list)
    abstained: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)

    def add(self, position: Position, piece: Piece, labels: Sequence[str | None]) -> list[str]:
        """Count a piece; return the descriptions of left-out rows that are to be shown."""
        self.source, self.row = position.source, position.row
        self.rows += len(piece)
        self.skipped += len(piece.faults)
        shown = [message for _, message in piece.faults[: max(0, MAX_REPORTED - len(self.skipped_rows))]]
        self.skipped_rows += shown
        counts = Counter(labels)
        self.abstained += counts.pop(None, 0)
        self.labels = dict(Counter(self.labels) + Counter({str(name): n for name, n in counts.items()}))
        return shown


@dataclass(frozen=True)
class Prediction:
    """What `predict` wrote, and how fast. `resumed_rows` were there from an earlier command."""

    model: str
    output: Path | None
    tally: Tally
    class_names: tuple[str, ...]
    precision: str
    resumed_rows: int
    seconds: float
    rows_per_second: float | None

    def document(self, written: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the versioned JSON document.

        Args:
            written: what a `write` was called with, as JSON lines; the document then holds the rows too.
        """
        rows = {"predictions": [json.loads(line) for part in written or () for line in part.split("\n")[:-1]]}
        return {
            "schema": SCHEMA,
            "model": self.model,
            "output": None if self.output is None else str(self.output),
            "rows": self.tally.rows,
            "skipped": self.tally.skipped,
            "skipped_rows": self.tally.skipped_rows,
            "abstained": self.tally.abstained,
            "labels": {name: self.tally.labels.get(name, 0) for name in self.class_names},
            "precision": self.precision,
            "resumed_rows": self.resumed_rows,
            "seconds": self.seconds,
            "rows_per_second": self.rows_per_second,
            **(rows if written is not None else {}),
        }


def predict(config: PredictConfig, reporter: Reporter = SILENT, write: WriteRows | None = None) -> Prediction:
    """Classify the texts of `config`, and write them with their answers to `config.output`.

    Args:
        write: takes the rows, a piece at a time, where there is no output.

    Raises:
        UserError: when options, model or inputs do not fit, or a row has no text and `on_error` is `fail`.
    """
    started = time.perf_counter()
    if config.output is None and write is None:
        raise UserError("output: name a file. For answers in memory: distilkit.load(MODEL).predict(texts)")
    device = select_device(config.device, reporter)
    check_precision(config.precision, device)
    source = find_model(config.model)
    inputs = choose_inputs(config, source.run)
    check_prediction_output(config, inputs.files)
    classifier = with_max_length(load_any(source), config.max_length)
    _check_top_k(config, classifier)
    with using_threads(config.threads), ExitStack() as stack:
        predictor = Predictor(classifier, config.precision, device)
        reporter.note_all(predictor.notes)
        file = None
        if config.output is not None:
            identity = _describe_origin(config, classifier, predictor, inputs)
            file = stack.enter_context(
                open_resumable(
                    config.output, identity, reporter, resume=config.resume, overwrite=config.overwrite
                )
            )
        tally = Tally(**file.state) if file else Tally()
        resumed_rows, begun = tally.rows, time.perf_counter()
        if resumed_rows:
            reporter.note(f"{config.output}: goes on after {resumed_rows:,} rows")
        if not (file and file.is_complete):
            _predict_rows(config, predictor, inputs, tally, reporter, file or write)
        seconds = time.perf_counter() - begun
        if not tally.rows:
            raise UserError(f"{inputs.names[0]}: there is no row to predict{_count_skipped(tally)}.")
        if file:
            file.finish(write_parquet if config.output_ending == ".parquet" else None)
    rows = tally.rows - resumed_rows
    return Prediction(
        model=config.model,
        output=config.output,
        tally=tally,
        class_names=classifier.class_names,
        precision=predictor.precision,
        resumed_rows=resumed_rows,
        seconds=round(time.perf_counter() - started, 3),
        rows_per_second=round(rows / seconds, 1) if rows else None,
    )


def check_prediction_output(config: PredictConfig, files: Sequence[Path]) -> None:
    """Refuse an output that cannot be written, or that is an input, before any work."""
    output = config.output
    if output is None:
        return
    if output.is_dir():
        raise UserError(f"--output {output} is a folder. Name a file in it.")
    if any(output.exists() and output.samefile(file) for file in files):
        raise UserError(f"--output {output} is read too. Name another file.")
    check_home(output, "--output")


def _check_top_k(config: PredictConfig, classifier: Classifier) -> None:
    classes = len(classifier.class_names)
    if config.top_k and config.top_k > classes:
        raise UserError(
            f"--top-k {config.top_k}: {config.model} has {classes} classes. Use {classes} or less."
        )


def _count_skipped(tally: Tally) -> str:
    return f": {tally.skipped:,} rows were left out" if tally.skipped else ""


def _predict_rows(
    config: PredictConfig,
    predictor: Predictor,
    inputs: Inputs,
    tally: Tally,
    reporter: Reporter,
    target: ResumableFile | WriteRows | None,
) -> None:
    """Write all rows after those that are counted already."""
    encoder = RowEncoder(config.output_ending, tally.encoder)
    total, before = inputs.count(), tally.rows

    def read() -> Iterator[tuple[tuple[Position, Piece], Texts]]:
        start = Position(tally.source, tally.row)
        for position, piece in inputs.read(predictor.piece_rows, start):
            if piece.faults and config.on_error == "fail":
                message = piece.faults[0][1].rstrip(".")
                raise UserError(f"{message}. Mend the row, or leave such rows out with --on-error skip.")
            yield (position, piece), piece.texts

    def advance(done: int) -> None:
        reporter.advance(TASK, before + done, max(total, before + done + 1) if total else 0)

    for (position, piece), predictions in predictor.stream(read(), advance):
        answers = answer_columns(predictions, config)
        where = inputs.names[position.source]
        content = encoder.encode(piece, answers, where) if len(piece) else b""
        shown = tally.add(position, piece, answers[_name(config, "label")])
        reporter.note_all([f"left out: {message}" for message in shown])
        tally.encoder = encoder.state
        if isinstance(target, ResumableFile):
            target.append(content, asdict(tally))
        elif target:
            target(content.decode())
    if total:
        reporter.advance(TASK, tally.rows, tally.rows)


def answer_columns(predictions: Predictions, config: PredictConfig) -> dict[str, list[Any]]:
    """Return the columns that are added to the rows, in order.

    They are the most probable class and its probability, the next ones with `top_k`, and the probability of
    every class with `scores`. Below `threshold` the label is `None`; the other columns stay.
    """
    probabilities = predictions.probabilities
    labels: list[str | None] = list(predictions.labels)
    if config.threshold is not None:
        unsure = predictions.scores < config.threshold
        labels = [None if is_unsure else label for label, is_unsure in zip(labels, unsure, strict=True)]
    columns: dict[str, list[Any]] = {"label": labels, "score": predictions.scores.tolist()}
    if config.top_k:
        order = np.argsort(-probabilities, axis=1, kind="stable")
        for rank in range(1, config.top_k):
            ids = order[:, rank]
            columns[f"top{rank + 1}_label"] = [predictions.class_names[class_id] for class_id in ids]
            columns[f"top{rank + 1}_score"] = probabilities[np.arange(len(ids)), ids].tolist()
    if config.scores:
        for class_id, name in enumerate(predictions.class_names):
            columns[f"score_{name}"] = probabilities[:, class_id].tolist()
    return {_name(config, name): values for name, values in columns.items()}


def _name(config: PredictConfig, column: str) -> str:
    return f"{config.prefix or ''}{column}"


def _describe_origin(
    config: PredictConfig, classifier: Classifier, predictor: Predictor, inputs: Inputs
) -> dict[str, Any]:
    """Return all that the rows of the output depend on."""
    return {
        "distilkit": __version__,
        "model": classifier.fingerprint,
        "max_length": predictor.max_length,
        "precision": predictor.precision,
        "resumable": not config.reads_stdin,
        **{name: getattr(config, name) for name in LASTING},
        **inputs.describe(),
    }
