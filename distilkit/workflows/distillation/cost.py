"""Estimate how long a distillation takes, from a few batches of its teachers and its student."""

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distilkit.config import DistillConfig
from distilkit.config.fields import replace_values
from distilkit.config.student import WORD_STUDENTS
from distilkit.data.encoding import Encoded, encode
from distilkit.data.inputs import evenly, tokens
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import low_precision_copy, predict_texts, tokens_of
from distilkit.engine.training.losses import DistillationLoss
from distilkit.errors import pluralize
from distilkit.hardware.cpu_formats import workload_of
from distilkit.hardware.device import default_device
from distilkit.hardware.dropout import keep_random_state
from distilkit.hardware.precision import Resolved, resolve_precision
from distilkit.hardware.processes import make_accelerator
from distilkit.hardware.threads import training_threads
from distilkit.models.classifier import Classifier, Student
from distilkit.progress import describe_duration
from distilkit.workflows.distillation.teachers import TeacherEnsemble
from distilkit.workflows.fitting.fit import measure_examples_per_second
from distilkit.workflows.fitting.job import Job

TIMED_BATCHES = 5  # of a teacher: all cores compute the first, later ones take a core each
WARM_UP_ROWS = 32
TIMED_STEPS = 8  # of training, after equally many that are not timed


@dataclass(frozen=True)
class Timing:
    """How many rows were timed, and how many of them were read per second."""

    rows: int
    rows_per_second: float


def time_teacher(teacher: Classifier, texts: Texts, max_length: int, precision: Resolved) -> Timing:
    """Time the teacher's forward pass on some of `texts`, after a warm-up."""
    device = default_device()
    model: nn.Module = low_precision_copy(teacher.model, precision, device).to(device)
    lengths = tokens(teacher.tokenizer, texts.take(evenly(len(texts), WARM_UP_ROWS))).lengths
    tokens_per_row = float(np.minimum(lengths, max_length).mean())
    timed = min(len(texts), max(WARM_UP_ROWS, round(TIMED_BATCHES * tokens_of(device) / tokens_per_row)))
    speed = 0.0
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
            precision=precision,
        )
        list(logits)
        speed = len(sample) / (time.perf_counter() - started)
    teacher.model.cpu()
    return Timing(timed, speed)


def encode_samples(
    config: DistillConfig, data: TextData, student: Student, texts: Texts, lengths: NDArray[np.int64]
) -> tuple[Encoded, Encoded]:
    """Encode the longest of `texts`, as many as a step reads, and evenly spread batches of them.

    Args:
        lengths: the student's tokens per text.
    """
    step_rows = (config.batch_size or 1) * config.gradient_accumulation_steps
    order = np.argsort(lengths, kind="stable")

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

    return encode_rows(order[-step_rows:]), encode_rows(np.concatenate(_spread_batches(order, step_rows)))


def _spread_batches(order: NDArray[np.int64], batch_rows: int) -> list[NDArray[np.int64]]:
    """Return evenly spread batches of neighbours in `order`, as training makes of rows of similar length."""
    batches = np.array_split(order, max(1, len(order) // batch_rows))
    count = min(TIMED_STEPS, len(batches))
    return [batches[int((i + 0.5) * len(batches) / count)] for i in range(count)]


def time_student(
    config: DistillConfig, data: TextData, student: Student, samples: Sequence[Encoded]
) -> Timing:
    """Train the student on each of `samples`, two epochs each, and time the last."""
    workload = workload_of(student.model, training=True)
    precision = resolve_precision(config.precision, default_device(), workload)
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
    if student.model.config.model_type not in WORD_STUDENTS or default_device().type != "cpu":
        speeds = [measure_examples_per_second(job, rows, accelerator) for rows in samples]
    else:
        with training_threads(student.model) as spare_core:
            speeds = [measure_examples_per_second(job, rows, accelerator, spare_core) for rows in samples]
    return Timing(len(samples[-1]), speeds[-1])


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds that a distillation takes; `None` where a teacher runs along with the student, untimed.

    Attributes:
        plan: what is to be computed, in words.
        teacher: seconds for the logits that are missing.
        epoch: seconds for an epoch of one student.
        student: seconds for all epochs of one student.
    """

    plan: str
    teacher: float | None = None
    epoch: float | None = None
    student: float | None = None

    @property
    def line(self) -> str:
        """Return the line that is printed before a run."""
        if self.teacher is None or self.student is None or self.epoch is None:
            return f"estimate: {self.plan}"
        return (
            f"estimate: about {describe_duration(self.teacher + self.student)}: {self.plan} "
            f"({describe_duration(self.epoch)} each); --epochs N or --patience N makes it shorter"
        )


def estimate_time(
    configs: Sequence[DistillConfig],
    data: TextData,
    student: Student,
    ensemble: TeacherEnsemble,
    lengths: NDArray[np.int64],
    mix: tuple[int, int] | None,
) -> TimeEstimate:
    """Estimate how long the run will take, before the teachers read a row; no later number changes by it.

    Args:
        lengths: the student's tokens per training row, transfer text included.
        mix: rows of both kinds in an epoch; `None` where it reads all of them.
    """
    config = next((config for config in configs if config.runs_teacher), configs[0])
    texts = data.texts("train")
    assert config.epochs and config.max_length
    epoch_rows = sum(mix) if mix else len(lengths)
    trained_splits = [split for split in data.splits if split != "validation"]
    missing, teacher_seconds = 0, 0.0
    for i, teacher in enumerate(ensemble.teachers if config.runs_teacher else ()):
        rows = count_missing_rows(ensemble, i, trained_splits)
        missing += rows
        if rows > WARM_UP_ROWS:
            ensemble.check_batching(i, "train")
            timing = time_teacher(teacher, texts, config.max_length, ensemble.precision(i))
            teacher_seconds += rows / timing.rows_per_second
    epochs = f"{pluralize(config.epochs, 'epoch')} of {pluralize(epoch_rows, 'row')}"
    plan = f"{missing:,} teacher logits, then {epochs}"
    if len(configs) > 1:
        plan += f" for each of {len(configs)} students"
    if config.method != "logits":  # its teacher runs along, which is not timed
        return TimeEstimate(plan)
    looked_at = evenly(len(texts))
    # A student must not depend on whether something was timed before it.
    with keep_random_state(student.model, default_device()):
        measured = replace(student, model=copy.deepcopy(student.model))
        _, sample = encode_samples(config, data, measured, texts.take(looked_at), lengths[looked_at])
        speed = time_student(config, data, measured, [sample]).rows_per_second
    epoch_seconds = epoch_rows / speed
    return TimeEstimate(plan, teacher_seconds, epoch_seconds, config.epochs * epoch_seconds)


def count_missing_rows(ensemble: TeacherEnsemble, i: int, splits: Iterable[str]) -> int:
    """Count the distinct rows of `splits` of which the cache has no logits of teacher `i`."""
    distinct = np.unique(np.concatenate([ensemble.keys(split) for split in splits]))
    _, stored = ensemble.store(i).find(distinct)
    return int(np.count_nonzero(~stored))
