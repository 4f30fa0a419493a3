"""Estimates of cost: how long teacher and student take, and how much memory."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distilkit.config.fields import replace_values
from distilkit.data import transfer
from distilkit.data.encoding import Encoded, encode
from distilkit.data.inputs import evenly, tokens
from distilkit.data.text_data import TextData
from distilkit.engine.inference.logits import low_precision_copy, predict_texts, tokens_of
from distilkit.engine.teacher_logits.shards import as_keys
from distilkit.engine.training.losses import DistillationLoss
from distilkit.errors import UserError
from distilkit.hardware import memory
from distilkit.hardware.formats import workload_of
from distilkit.hardware.precision import resolve_precision
from distilkit.hardware.processes import make_accelerator
from distilkit.hardware.threads import training_threads
from distilkit.models.classifier import Classifier, Student
from distilkit.workflows.diagnosis.examination import Examination
from distilkit.workflows.diagnosis.samples import sample_rows, spread_batches
from distilkit.workflows.distillation.teachers import TeacherEnsemble
from distilkit.workflows.findings import cost as findings
from distilkit.workflows.fitting.fit import measure_examples_per_second
from distilkit.workflows.fitting.job import Job

TIMED_BATCHES = 5  # of a teacher: all cores compute the first, later ones take a core each
WARM_UP_ROWS = 32


def time_teacher(examination: Examination, ensemble: TeacherEnsemble, teacher: Classifier) -> float:
    """Return the seconds for the logits of training and transfer rows that are not cached yet."""
    texts = sample_rows(ensemble.data, "train")
    _, stored = ensemble.store(0).find(np.unique(as_keys(ensemble.keys("train"))))
    _, transfer_rows = _count_transfer_rows(examination, len(ensemble.data.splits["train"]))
    rows = int(np.count_nonzero(~stored)) + transfer_rows
    timed, speed = 0, 0.0
    if rows:
        ensemble.check_batching(0, "train")
        device = examination.device
        model: nn.Module = low_precision_copy(teacher.model, ensemble.precision(0), device).to(device)
        max_length = examination.config.max_length
        assert max_length
        lengths = tokens(teacher.tokenizer, texts.take(evenly(len(texts), WARM_UP_ROWS))).lengths
        tokens_per_row = float(np.minimum(lengths, max_length).mean())
        batch_rows = tokens_of(examination.device) / tokens_per_row
        timed = min(len(texts), max(WARM_UP_ROWS, round(TIMED_BATCHES * batch_rows)))
        # On CUDA the same batches twice: the first time, memory is allocated for shapes that are new.
        for count in (WARM_UP_ROWS, timed, timed) if device.type == "cuda" else (WARM_UP_ROWS, timed):
            sample = texts.take(evenly(len(texts), count))
            started = time.perf_counter()
            logits = predict_texts(
                model,
                teacher.tokenizer,
                sample,
                range(len(sample)),
                max_length=max_length,
                precision=ensemble.precision(0),
            )
            list(logits)
            speed = len(sample) / (time.perf_counter() - started)
        teacher.model.cpu()
    seconds = rows / speed if rows else 0.0
    examination.diagnosis.estimates.setdefault("teachers", {})[teacher.name] = {
        "rows": rows,
        "rows_timed": timed,
        "rows_per_second": round(speed, 1) if rows else None,
        "seconds": round(seconds, 1),
    }
    return seconds


def _count_transfer_rows(examination: Examination, train_rows: int) -> tuple[int, int]:
    """Count the rows of --transfer that an epoch reads, and that all epochs read."""
    config = examination.config
    if not config.transfer:
        return 0, 0
    assert config.epochs
    rows = transfer.measure(config).rows
    ratio = config.transfer_ratio
    epoch_rows = rows if ratio is None else transfer.per_epoch(ratio, train_rows)
    return epoch_rows, min(rows, config.epochs * epoch_rows)


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
    config = examination.config
    assert config.batch_size and config.epochs and config.max_length
    if config.method != "logits":
        examination.diagnosis.skipped["time"] = (
            f"--method {config.method} runs the teacher along with the student"
        )
        examination.diagnosis.skipped["memory"] = examination.diagnosis.skipped["time"]
        return
    train_rows = len(data.splits["train"])
    transfer_epoch_rows, transfer_rows = _count_transfer_rows(examination, train_rows)
    rows = train_rows + transfer_epoch_rows
    step_rows = config.batch_size * config.gradient_accumulation_steps
    order = np.argsort(lengths, kind="stable")
    texts = sample_rows(data, "train")

    def encode_rows(positions: NDArray[np.int64]) -> Encoded:
        return encode(
            student.tokenizer,
            texts.take(positions),
            max_length=config.max_length or 0,
            model=student.model,
        ).join(
            labels=torch.zeros(len(positions), dtype=torch.long) if config.reads_labels else None,
            teacher_logits=torch.zeros(len(positions), len(data.names)) if config.runs_teacher else None,
        )

    longest = encode_rows(order[-step_rows:])
    sample = encode_rows(np.concatenate(spread_batches(order, step_rows)))
    try:
        speed = _measure_rows_per_second(examination, data, student, longest, sample)
    except UserError as error:
        examination.add([findings.memory_exceeded(str(error))], "memory")
        return
    epoch_seconds = rows / speed
    total = None if teacher_seconds is None else teacher_seconds + config.epochs * epoch_seconds
    row_bytes = sample.bytes / len(sample)
    required = memory.peak(examination.device) + round((train_rows + transfer_rows) * row_bytes)
    available = memory.available(examination.device)
    examination.diagnosis.estimates |= {
        "epoch": {
            "rows": rows,
            "rows_timed": len(sample),
            "rows_per_second": round(speed, 1),
            "seconds": round(epoch_seconds, 1),
        },
        "epochs": config.epochs,
        "seconds": total and round(total, 1),
        "memory": {"bytes": required, "available": available},
    }
    examination.add(findings.memory_needed(examination.diagnosis.device, required, available), "memory")
    examination.add(findings.time_needed(total or config.epochs * epoch_seconds), "time")


def _measure_rows_per_second(
    examination: Examination, data: TextData, student: Student, longest: Encoded, sample: Encoded
) -> float:
    """Train on `longest`, which needs the most memory, then time training on `sample`."""
    config = examination.config
    workload = workload_of(student.model, training=True)
    precision = resolve_precision(config.precision, examination.device, workload)
    loss = DistillationLoss(alpha=config.alpha, alpha_end=config.alpha_end, temperature=config.temperature)
    job = Job(
        command="doctor",
        config=replace_values(config, epochs=2),
        data=data,
        model=student.model,
        tokenizer=student.tokenizer,
        loss=loss,
        formula=loss.formula,
        precision=precision,
        facts={},
    )
    accelerator = make_accelerator(precision)
    if student.model.config.model_type != "bilstm" or examination.device.type != "cpu":
        measure_examples_per_second(job, longest, accelerator)
        return measure_examples_per_second(job, sample, accelerator)
    with training_threads(student.model) as spare_core:
        measure_examples_per_second(job, longest, accelerator, spare_core)
        return measure_examples_per_second(job, sample, accelerator, spare_core)
