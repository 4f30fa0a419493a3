"""Label Parquet files with a model on the executors of Spark, each of which loads it once a task.

A task is a range of pieces of a file: the pieces that one process computes together. So the logits are those
of one process to the bit on the same kind of device, and a task that is run again writes the same rows. The
rows are read by the executors themselves, and need not pass through the driver or the JVM. (`mapInArrow` and
not `mapInPandas`: Spark 4 warns of pandas 3.)
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilkit.config.data import Precision
from distilkit.data.files import ColumnNames, check_texts, naming
from distilkit.data.streams import TextColumns
from distilkit.data.texts import Texts
from distilkit.engine.inference.labeller import Labeller, load_labeller
from distilkit.errors import UserError
from distilkit.progress import SILENT, Reporter
from distilkit.runs.folder import check_folder, writing_folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TASK = "tasks labelled"
POLL_SECONDS = 1.0
TASKS_PER_CORE = 4  # so that a slow executor does not keep the others waiting for long
Columns = tuple[str, str | None]


@dataclass(frozen=True)
class Teacher:
    """A model as executors load it: by a path that all of them see, or a Hub id.

    Attributes:
        columns: those of the texts, and of the second texts where rows are pairs.
    """

    model: str
    columns: Columns
    max_length: int | None = None
    precision: Precision = "auto"
    device: str | None = None

    @property
    def text_columns(self) -> list[str]:
        """Return the names of the one or two columns."""
        return [name for name in self.columns if name]

    def load(self) -> Labeller:
        """Load the model on this machine."""
        return load_labeller(
            self.model, max_length=self.max_length, precision=self.precision, device=self.device
        )


@dataclass(frozen=True)
class RowRange:
    """Rows of a file, from `start` up to `stop`."""

    file: Path
    start: int
    stop: int


def label_files(
    files: Sequence[Path],
    output: Path,
    teacher: Teacher,
    *,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> tuple[str, ...]:
    """Write the texts and logits of Parquet files into a folder of Parquet, in their order.

    Runs on the active Spark session, or else on a new one. Executors read `files` and the model by the same
    paths as this process, and write beside `output`, which appears when all rows are there.

    Returns:
        The classes, in the order of their columns `logit_…`.

    Raises:
        UserError: where a file cannot be read, holds an empty text, or `output` is there.
    """

    def check_contents() -> None:
        if not overwrite:
            raise UserError(f"--output {output} is there already. Add --overwrite, or name another folder.")

    check = partial(check_folder, output, "--output", check_contents)
    check()
    session = start_session()
    class_names, piece_rows = _look_at(teacher)
    tasks = plan_tasks(files, teacher, piece_rows, TASKS_PER_CORE * session.sparkContext.defaultParallelism)
    indices = session.range(0, len(tasks), 1, len(tasks))
    frame = _map(indices, partial(_label_tasks, teacher, tasks), _schema(teacher, class_names))
    with writing_folder(output, "--output", "folder", check) as draft:
        folder = draft.absolute().as_uri()
        try:
            _run_job(session, lambda: frame.write.mode("append").parquet(folder), len(tasks), reporter)
        except Exception as error:  # what a task raised comes back as text
            raise _explain(error) from None
    return class_names


def _run_job(session: "SparkSession", job: Callable[[], None], tasks: int, reporter: Reporter) -> None:
    """Run a Spark job of one stage and show how many of its tasks are done; cancel it when stopped."""
    context, group = session.sparkContext, f"distilkit-label-{uuid4()}"
    tracker = context.statusTracker()

    def run() -> None:
        context.setJobGroup(group, "distilkit label", interruptOnCancel=True)
        job()

    def count_done() -> int:
        jobs = filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup(group)))
        stages = filter(None, (tracker.getStageInfo(stage) for info in jobs for stage in info.stageIds))
        return sum(stage.numCompletedTasks for stage in stages)

    with ThreadPoolExecutor(1) as pool:
        future: Future[None] = pool.submit(run)
        try:
            while not wait([future], timeout=POLL_SECONDS).done:
                reporter.advance(TASK, count_done(), tasks)
        except BaseException:
            context.cancelJobGroup(group)
            raise
        future.result()
    reporter.advance(TASK, tasks, tasks)


def count_labels(folder: Path, class_names: Sequence[str]) -> Counter[str]:
    """Count the rows of each class in a folder of logits, by the largest."""
    columns = [f"logit_{name}" for name in class_names]
    counts: Counter[str] = Counter()
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            winners = np.stack([batch.column(name).to_numpy() for name in columns]).argmax(axis=0)
            for i, count in enumerate(np.bincount(winners, minlength=len(columns)).tolist()):
                counts[class_names[i]] += count
    return counts


def label_frame(frame: "DataFrame", teacher: Teacher) -> "DataFrame":
    """Return a data frame with the texts and logits of another one's rows, whose partitions are the tasks.

    Logits are those of `label_files` up to rounding, as Spark decides which rows are computed together.
    """
    class_names, _ = _look_at(teacher)
    texts = frame.select(*teacher.text_columns)
    return _map(texts, partial(_label_batches, teacher), _schema(teacher, class_names))


def _map(frame: "DataFrame", function: Any, schema: Any) -> "DataFrame":
    with warnings.catch_warnings():  # of pandas 3, which Spark looks for and this does not use
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        return frame.mapInArrow(function, schema)


def start_session() -> "SparkSession":
    """Return the active session of Spark, or make one.

    Raises:
        UserError: where Spark is not installed, or cannot be started.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError("--engine spark needs Spark: pip install 'distilkit[spark]'.") from None
    try:
        return SparkSession.getActiveSession() or SparkSession.builder.appName("distilkit").getOrCreate()
    except Exception as error:  # of Java, which may be missing
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--engine spark: no session can be started ({reason}). Is Java 17 there?") from None


def plan_tasks(files: Sequence[Path], teacher: Teacher, piece_rows: int, max_tasks: int) -> list[RowRange]:
    """Cut files into ranges of whole pieces, about `max_tasks` of them or one a file.

    Raises:
        UserError: where a file is no Parquet, lacks a column of texts, or there is no row.
    """
    counts = [_count_rows(file, teacher) for file in files]
    pieces = sum(-(-rows // piece_rows) for rows in counts)
    if not pieces:
        raise UserError(f"{', '.join(map(str, files[:3]))}: there is no row to label.")
    task_rows = -(-pieces // max_tasks) * piece_rows
    return [
        RowRange(file.absolute(), start, min(rows, start + task_rows))
        for file, rows in zip(files, counts, strict=True)
        for start in range(0, rows, task_rows)
    ]


def choose_text_columns(files: Sequence[Path], columns: TextColumns) -> Columns:
    """Return the columns of the texts, as the first file has them.

    Raises:
        UserError: where it is no Parquet, or lacks them.
    """
    text, *pair = columns.choose(ColumnNames(tuple(_read_metadata(files[0]).schema.names)), files[0])
    return text, pair[0] if pair else None


def _count_rows(file: Path, teacher: Teacher) -> int:
    metadata = _read_metadata(file)
    text, pair = teacher.columns
    TextColumns((text,), pair).choose(ColumnNames(tuple(metadata.schema.names)), file)
    return int(metadata.num_rows)


def _read_metadata(file: Path) -> pq.FileMetaData:
    if file.suffix.lower() != ".parquet":
        raise UserError(f"{file}: --engine spark reads Parquet alone. Convert it, or leave the option out.")
    with naming(file):
        return pq.read_metadata(file)


def _look_at(teacher: Teacher) -> tuple[tuple[str, ...], int]:
    """Return the classes of a model, and how many rows are computed together."""
    labeller = teacher.load()
    return labeller.class_names, labeller.piece_rows


def _schema(teacher: Teacher, class_names: Sequence[str]) -> Any:
    from pyspark.sql.types import FloatType, StringType, StructField, StructType

    texts = [StructField(name, StringType(), False) for name in teacher.text_columns]
    return StructType(texts + [StructField(f"logit_{name}", FloatType(), False) for name in class_names])


def _label_tasks(
    teacher: Teacher, tasks: Sequence[RowRange], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Label the ranges whose indices an executor is sent."""
    labeller = teacher.load()
    pieces = (
        piece
        for batch in batches
        for index in batch.column("id").to_pylist()
        for piece in _read_pieces(tasks[index], teacher.text_columns, labeller.piece_rows)
    )
    yield from _label(labeller, teacher, pieces)


def _label_batches(teacher: Teacher, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Label the rows that an executor is sent."""
    columns = teacher.text_columns
    pieces = (Texts(*(batch.column(name).to_pylist() for name in columns)) for batch in batches)
    yield from _label(teacher.load(), teacher, pieces)


def _label(labeller: Labeller, teacher: Teacher, pieces: Iterator[Texts]) -> Iterator[pa.RecordBatch]:
    names = [*teacher.text_columns, *(f"logit_{name}" for name in labeller.class_names)]
    for texts, logits in labeller.label_stream((piece, piece) for piece in pieces):
        columns = [pa.array(column, pa.string()) for column in texts.columns]
        columns += [pa.array(values, pa.float32()) for values in logits.T]
        yield pa.RecordBatch.from_arrays(columns, names)


def _read_pieces(rows: RowRange, columns: Sequence[str], piece_rows: int) -> Iterator[Texts]:
    """Read the texts of a range, a piece at a time: only the row groups that hold them."""
    reader = pq.ParquetFile(rows.file)
    tables, done = [], 0
    buffered = 0
    for group in range(reader.num_row_groups):
        begin, count = done, reader.metadata.row_group(group).num_rows
        done += count
        if done <= rows.start or begin >= rows.stop:
            continue
        table = reader.read_row_group(group, columns=list(columns))
        table = table.slice(
            max(0, rows.start - begin), min(count, rows.stop - begin) - max(0, rows.start - begin)
        )
        tables.append(table)
        buffered += len(table)
        while buffered >= piece_rows or (tables and done >= rows.stop):
            whole = pa.concat_tables(tables)
            yield _to_texts(whole.slice(0, piece_rows), rows.file, columns)
            tables = [whole.slice(piece_rows)] if len(whole) > piece_rows else []
            buffered = sum(map(len, tables))


def _to_texts(table: pa.Table, file: Path, columns: Sequence[str]) -> Texts:
    for name in columns:
        check_texts(table.column(name), f"{file}, column {name}")
    return Texts(*(table.column(name).to_pylist() for name in columns))


def _explain(error: Exception) -> UserError:
    """Return what a task raised as Spark reports it: the last line of the worker's traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    marked = [line for line in lines if line.startswith("distilkit.errors.UserError: ")]
    if marked:
        return UserError(marked[0].removeprefix("distilkit.errors.UserError: ")[:800])
    return UserError(f"--engine spark: the job failed: {' '.join(' '.join(lines).split())[:600]}")
