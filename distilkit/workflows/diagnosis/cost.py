"""Estimates of cost: how long teacher and student take, and how much memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilkit.data import transfer
from distilkit.data.text_data import TextData
from distilkit.errors import UserError
from distilkit.hardware import memory
from distilkit.models.classifier import Classifier, Student
from distilkit.workflows.diagnosis.examination import Examination
from distilkit.workflows.diagnosis.samples import sample_rows
from distilkit.workflows.distillation import cost
from distilkit.workflows.distillation.teachers import TeacherEnsemble
from distilkit.workflows.findings import cost as findings


def time_teacher(examination: Examination, ensemble: TeacherEnsemble, teacher: Classifier) -> float:
    """Return the seconds for the logits of training rows that are not cached yet, and of transfer rows.

    Transfer rows are not looked up in the cache: it takes their texts, which may not be made yet.
    """
    transfer_rows = _count_transfer_rows(examination, len(ensemble.data.splits["train"])).run
    rows = cost.count_missing_rows(ensemble, 0, ["train"]) + transfer_rows
    timing = cost.Timing(0, 0.0)
    if rows:
        ensemble.check_batching(0, "train")
        assert examination.config.max_length
        texts = sample_rows(ensemble.data, "train")
        timing = cost.time_teacher(teacher, texts, examination.config.max_length, ensemble.precision(0))
    seconds = rows / timing.rows_per_second if rows else 0.0
    examination.diagnosis.estimates.setdefault("teachers", {})[teacher.name] = {
        "rows": rows,
        "transfer_rows": transfer_rows,
        "rows_timed": timing.rows,
        "rows_per_second": round(timing.rows_per_second, 1) if rows else None,
        "seconds": round(seconds, 1),
    }
    return seconds


@dataclass(frozen=True)
class TransferRows:
    """Rows of transfer text that an epoch reads, and that all epochs read."""

    epoch: int
    run: int


def _count_transfer_rows(examination: Examination, train_rows: int) -> TransferRows:
    """Count the rows of --transfer, or those that a recipe will generate."""
    config, new_texts = examination.config, examination.new_texts
    if not config.transfer and not new_texts:
        return TransferRows(0, 0)
    assert config.epochs
    rows, ratio = new_texts.rows if new_texts else transfer.measure(config).rows, config.transfer_ratio
    if new_texts:
        ratio = new_texts.ratio
    epoch_rows = rows if ratio is None else transfer.per_epoch(ratio, train_rows)
    return TransferRows(epoch_rows, min(rows, config.epochs * epoch_rows))


def estimate_run(
    examination: Examination,
    data: TextData,
    student: Student,
    lengths: NDArray[np.int64],
    teacher_seconds: float | None,
) -> None:
    """Estimate time and memory of the run.

    Args:
        lengths: the student's tokens per row of `sample_rows` of the training split.
        teacher_seconds: for the teachers' logits, where it is known.
    """
    config, new_texts = examination.config, examination.new_texts
    assert config.batch_size and config.epochs and config.max_length
    if config.method != "logits":
        examination.diagnosis.skipped["time"] = (
            f"--method {config.method} runs the teacher along with the student"
        )
        examination.diagnosis.skipped["memory"] = examination.diagnosis.skipped["time"]
        return
    train_rows = len(data.splits["train"])
    transfer_rows = _count_transfer_rows(examination, train_rows)
    rows = train_rows + transfer_rows.epoch
    samples = cost.encode_samples(config, data, student, sample_rows(data, "train"), lengths)
    try:
        timing = cost.time_student(config, data, student, samples)
    except UserError as error:
        examination.add([findings.memory_exceeded(str(error))], "memory")
        return
    epoch_seconds = rows / timing.rows_per_second
    run_seconds = config.epochs * epoch_seconds + (new_texts.seconds if new_texts else 0.0)
    total = None if teacher_seconds is None else teacher_seconds + run_seconds
    row_bytes = samples[-1].bytes / len(samples[-1])
    required = memory.peak(examination.device) + round((train_rows + transfer_rows.run) * row_bytes)
    available = memory.available(examination.device)
    examination.diagnosis.estimates |= {
        "epoch": {
            "rows": rows,
            "rows_timed": timing.rows,
            "rows_per_second": round(timing.rows_per_second, 1),
            "seconds": round(epoch_seconds, 1),
        },
        "epochs": config.epochs,
        "seconds": total and round(total, 1),
        "memory": {"bytes": required, "available": available},
    }
    examination.add(findings.memory_needed(examination.diagnosis.device, required, available), "memory")
    examination.add(findings.time_needed(total or run_seconds), "time")
