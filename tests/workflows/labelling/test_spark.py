"""On Spark a teacher says of every row what it says in one process, also where an executor dies."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BAD, GOOD, Notes, lively, tiny_bert, tiny_tokenizer

from distilkit import LabelConfig, label
from distilkit.data.streams import TextColumns
from distilkit.data.teacher_files import read_teacher_file
from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.workflows.labelling import spark, workflow
from distilkit.workflows.labelling.spark import (
    RowRange,
    Teacher,
    choose_text_columns,
    count_labels,
    label_files,
    label_frame,
    plan_tasks,
)

TEXTS = [f"{good} {bad} {i}" for i in range(1100) for good in GOOD for bad in BAD]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("teacher")
    lively(tiny_bert()).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return Teacher(str(folder), ("text", None), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files, whose row groups end elsewhere than the pieces that are computed together."""
    folder = tmp_path_factory.mktemp("texts")
    for i, texts in enumerate((TEXTS[:9001], TEXTS[9001:])):
        table = pa.table({"id": range(len(texts)), "text": texts})
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=2500)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(teacher: Teacher, files: list[Path]) -> np.ndarray[Any, Any]:
    """The logits that one process computes, file by file, a piece at a time."""
    labeller, parts = teacher.load(), []
    for file in files:
        texts, size = pq.read_table(file)["text"].to_pylist(), labeller.piece_rows
        parts += [labeller.label_batch(texts[i : i + size]) for i in range(0, len(texts), size)]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two executors of a core and 1 GiB each, in processes of their own."""
    pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is none")
    from pyspark.sql import SparkSession

    root = Path(__file__).resolve().parents[3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_HOME", str(Path(pyspark.__file__).parent))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("SPARK_WORKER_DIR", str(tmp_path_factory.mktemp("workers")))
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        made = (
            SparkSession.builder.master("local-cluster[2,1,1024]")
            .config("spark.ui.enabled", "false")
            .config("spark.local.dir", str(tmp_path_factory.mktemp("spark")))
            .config("spark.executorEnv.PYTHONPATH", str(root))
            .config("spark.executorEnv.OMP_NUM_THREADS", "1")
            .getOrCreate()
        )
        yield made
        made.stop()


def read_output(folder: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The texts and logits of a folder that Spark wrote, in the order of its files."""
    table = pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("*.parquet"))])
    logits = [table[f"logit_{name}"].to_numpy() for name in ("negative", "positive")]
    return table["text"].to_pylist(), np.stack(logits, axis=1)


def find_executor() -> psutil.Process:
    """A process of Spark's that computes, which is a child of this one's."""
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.Error):
            if "CoarseGrainedExecutorBackend" in " ".join(process.cmdline()):
                return process
    raise AssertionError("there is no executor")


def test_two_executors_write_what_one_process_computes(
    session: Any, teacher: Teacher, files: list[Path], expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """The command itself: its folder is a teacher file, and its figures are of what lies in it."""
    output = tmp_path / "out"
    options: dict[str, Any] = {"data": tuple(map(str, files)), "model": teacher.model, "engine": "spark"}
    options |= {"precision": "fp32", "device": "cpu", "output": output}
    notes = Notes()
    result = label(LabelConfig(**options), notes)
    texts, logits = read_output(output)
    assert texts == TEXTS
    np.testing.assert_array_equal(logits, expected)
    counts = np.bincount(expected.argmax(axis=1), minlength=2).tolist()
    assert result.document()["labels"] == dict(zip(("negative", "positive"), counts, strict=True))
    assert result.tally.rows == len(TEXTS) and result.teacher_file == output
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"], "no draft is left"
    with pytest.raises(UserError, match=r"is there already. Add --overwrite"):
        label(LabelConfig(**options))
    file = read_teacher_file(str(output), ("text", None), ("negative", "positive"))
    np.testing.assert_array_equal(file.find(Texts(TEXTS[:50])).logits, expected[:50])


def test_the_rows_are_the_same_where_an_executor_is_killed_in_the_middle(
    session: Any, teacher: Teacher, files: list[Path], expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """Rows that were lost or came twice would be missing or averaged in the training."""
    job = threading.Thread(target=label_files, args=(files, tmp_path / "out", teacher))
    job.start()
    tracker, stages = session.sparkContext.statusTracker(), []
    while not stages and job.is_alive():
        infos = filter(None, map(tracker.getStageInfo, tracker.getActiveStageIds()))
        stages = [info.stageId for info in infos if info.numActiveTasks == 2]
        time.sleep(0.2)
    assert stages, "both executors have a task"
    find_executor().kill()
    job.join()
    assert tracker.getStageInfo(stages[0]).numFailedTasks >= 1
    texts, logits = read_output(tmp_path / "out")
    assert texts == TEXTS
    np.testing.assert_array_equal(logits, expected)


def test_a_data_frame_is_labelled_row_by_row(
    session: Any, teacher: Teacher, files: list[Path], expected: np.ndarray[Any, Any]
) -> None:
    frame = session.read.parquet(str(files[0])).limit(300)
    rows = label_frame(frame, teacher).collect()
    by_text = dict(zip(TEXTS, expected.tolist(), strict=True))
    assert len(rows) == 300
    for row in rows:
        assert [row.logit_negative, row.logit_positive] == pytest.approx(by_text[row.text], abs=1e-5)


def test_an_empty_text_is_named_as_in_one_process(session: Any, teacher: Teacher, tmp_path: Path) -> None:
    """The traceback of a worker in a traceback of Java hides what to mend."""
    pq.write_table(pa.table({"text": ["good", " "]}), tmp_path / "in.parquet")
    with pytest.raises(UserError, match=r"in.parquet, column text, row 2: the text is missing or empty"):
        label_files([tmp_path / "in.parquet"], tmp_path / "out", teacher)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.parquet"], "no draft is left"


# --- without Spark --------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, 100])
def test_tasks_are_whole_pieces_and_hold_every_row_once(
    teacher: Teacher, files: list[Path], most: int
) -> None:
    tasks = plan_tasks(files, teacher, 1000, most)
    assert all(task.start % 1000 == 0 for task in tasks) and len(tasks) <= most + 1
    pieces = [list(spark._read_pieces(task, ["text"], 1000)) for task in tasks]
    assert [text for task in pieces for piece in task for text in piece.first] == TEXTS
    assert all(len(piece) == 1000 for task in pieces for piece in task[:-1])
    assert [sum(map(len, task)) for task in pieces] == [task.stop - task.start for task in tasks]


def test_row_groups_outside_a_range_are_not_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a thousand tasks would read the file from its start."""
    read: list[int] = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, i, **options: read.append(i) or whole(self, i, **options),
    )
    [piece] = spark._read_pieces(RowRange(files[0], 6000, 7000), ["text"], 1000)
    assert list(piece.first) == TEXTS[6000:7000] and read == [2]


def test_files_that_spark_cannot_label_are_refused_before_it_starts(teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\ngood\n")
    pq.write_table(pa.table({"sentence": ["good"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    for name, message in (
        ("a.csv", "reads Parquet alone"),
        ("b.parquet", "no column 'text'"),
        ("c.parquet", "no row"),
    ):
        with pytest.raises(UserError, match=message):
            plan_tasks([tmp_path / name], teacher, 1000, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None, "endpoint": "http://127.0.0.1:1"}, "engine spark needs model"),
        ({"part": "1/2"}, "part.* does not go with engine spark"),
        ({"resume": True}, "resume.* does not go with engine spark"),
        ({"threads": 2}, "threads.* does not go with engine spark"),
        ({"on_error": "skip"}, "on_error.* does not go with engine spark"),
        ({"output": "out.parquet"}, "Spark writes a folder. Name it without an ending"),
    ],
)
def test_options_that_spark_has_no_use_for_are_refused(changes: dict[str, Any], message: str) -> None:
    """An option that is silently left out would promise what does not happen."""
    options: dict[str, Any] = {"data": "texts", "model": "teacher", "engine": "spark", "output": "out"}
    with pytest.raises(UserError, match=message):
        LabelConfig(**options | changes)


def test_labels_are_counted_over_all_files(tmp_path: Path) -> None:
    for name, values in (("a", [1.0, -1.0]), ("b", [3.0])):
        table = pa.table(
            {"logit_no": pa.array(values, pa.float32()), "logit_yes": pa.array([0.0] * len(values))}
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert count_labels(tmp_path, ("no", "yes")) == {"no": 2, "yes": 1}


def test_the_time_runs_from_the_start_of_the_command(
    teacher: Teacher, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second clock would leave out what the command did before it."""

    def write_logits(_: object, output: Path, *__: object, **___: object) -> tuple[str, ...]:
        output.mkdir()
        table = pa.table({f"logit_{name}": pa.array([0.5] * 6, pa.float32()) for name in ("no", "yes")})
        pq.write_table(table, output / "part.parquet")
        return "no", "yes"

    clock = iter([100.0, 104.0])
    monkeypatch.setattr(spark, "label_files", write_logits)
    monkeypatch.setattr(workflow, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    options: dict[str, Any] = {"data": tuple(map(str, files)), "model": teacher.model, "engine": "spark"}
    labelling = label(LabelConfig(**options, output=tmp_path / "out"))
    assert (labelling.tally.rows, labelling.seconds, labelling.rows_per_second) == (6, 4.0, 1.5)


def test_text_columns_are_those_of_the_first_file(files: list[Path]) -> None:
    assert choose_text_columns(files, TextColumns(("sentence", "text"))) == ("text", None)
    with pytest.raises(UserError, match=r"0.parquet: no column 'sentence', only 'id', 'text'"):
        choose_text_columns(files, TextColumns(("sentence",)))
