"""What students that are distilled together share: data, encoded rows and teacher logits, each made once."""

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from transformers import PreTrainedModel

from distilkit.config import DistillConfig, resolve
from distilkit.data import transfer
from distilkit.data.encoding import NO_LABEL, Encoded, Tokenizer
from distilkit.data.inputs import evenly
from distilkit.data.large import LARGE_ROWS
from distilkit.data.shards import is_sharded
from distilkit.data.sources import text_columns
from distilkit.data.teacher_files import read_class_names
from distilkit.data.text_data import TextData
from distilkit.engine.training.layers import LayerPair
from distilkit.engine.training.losses import DistillationLoss
from distilkit.hardware.device import default_device
from distilkit.hardware.precision import Resolved, check_precision, choose_precision
from distilkit.hardware.processes import make_accelerator
from distilkit.hardware.threads import single_threaded
from distilkit.models.classifier import Classifier, NamedTokenizer, Student
from distilkit.models.students import make_student
from distilkit.progress import SILENT, Reporter
from distilkit.workflows.distillation.cost import TimeEstimate, estimate_time
from distilkit.workflows.distillation.layers import Rows, pair_layers, shared_rows, with_layers
from distilkit.workflows.distillation.teachers import (
    TeacherEnsemble,
    keep_covered_rows,
    load_teachers,
    match_classes,
    read_teacher_files,
    settle_soft_loss,
)
from distilkit.workflows.findings.early import before_distilling
from distilkit.workflows.findings.rows import describe_classes
from distilkit.workflows.fitting.class_weights import choose_class_weights
from distilkit.workflows.fitting.job import Job, check_metric, clamp_max_length, encode_split

VOCABULARY_ROWS = 1 << 20  # of a large set, evenly spread, whose words are counted


@dataclass
class StudentMaker:
    """Make students of one shape; a word vocabulary is learned for the first and serves all.

    `teacher` is the first, where one is loaded; `splits` hold the text of a word vocabulary.
    """

    data: TextData
    teacher: NamedTokenizer | None
    splits: Sequence[str]
    tokenizer: Tokenizer | None = None
    # One at a time, because every model takes its seed from torch's global generator.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self, config: DistillConfig) -> Student:
        """Make the student that `config` asks for, from its seed."""
        with self._lock, single_threaded():  # orthogonal matrices are rounded as one thread does it
            set_seed(config.seed)
            student = make_student(
                config, self.data.names, self.teacher, self._vocabulary_texts(), self.tokenizer
            )
        self.tokenizer = student.tokenizer
        return student

    def _vocabulary_texts(self) -> Iterable[str]:
        texts = [self.data.texts(split) for split in self.splits]
        rows = sum(map(len, texts))
        if rows > LARGE_ROWS:  # the words of all of them would fill the memory
            texts = [part.take(evenly(len(part), -(-len(part) * VOCABULARY_ROWS // rows))) for part in texts]
        return itertools.chain.from_iterable(part.strings() for part in texts)


@dataclass
class DistillationInputs:
    """Everything that the trainings of `configs` share.

    Attributes:
        configs: resolved; equal in all that is shared.
        teachers: those that are loaded whole.
        rows: training and validation rows as the student reads them.
        shared_rows: rows that the student and a teacher whose layers are matched read alike.
        labels: int64 `[N]` of the training rows, -100 for transfer text; `None` where nobody reads them.
        teacher_logits: float32 `[N, C]`, the weighted mean of the teachers; `None` where nobody reads them.
        has_probabilities: whether these are logarithms of probabilities, as a teacher file has no logits.
        class_weights: what a row of each class counts in the hard loss; `None` where all count alike.
        mix: training rows and transfer rows in an epoch.
        teacher_facts: the teachers as `environment.json` names them.
        first_student: made already, for the first config, as is `first_pair`, where layers are matched.
    """

    configs: list[DistillConfig]
    teachers: Sequence[Classifier]
    data: TextData
    maker: StudentMaker
    first_student: Student
    first_pair: LayerPair | None
    rows: Rows
    shared_rows: Rows
    labels: Tensor | None
    teacher_logits: Tensor | None
    mix: tuple[int, int] | None
    teacher_facts: Mapping[str, Any]
    precision: Resolved
    accelerator: Accelerator
    has_probabilities: bool = False
    class_weights: tuple[float, ...] | None = None
    first_is_fresh: bool = True


@dataclass(frozen=True)
class _Preparation:
    """What is there before a teacher has read a row; attributes as those of `DistillationInputs`."""

    configs: list[DistillConfig]
    teachers: Sequence[Classifier]
    class_orders: Sequence[list[int]]
    data: TextData
    splits: Sequence[str]
    maker: StudentMaker
    student: Student
    pair: LayerPair | None
    rows: Rows
    shared_rows: Rows
    mix: tuple[int, int] | None
    precision: Resolved
    ensemble: TeacherEnsemble

    def estimate(self) -> TimeEstimate:
        """Time a few batches of teachers and student; no later number changes by it."""
        return estimate_time(
            self.configs, self.data, self.student, self.ensemble, self.rows.train.lengths, self.mix
        )


def estimate_distillation(requested: Sequence[DistillConfig], reporter: Reporter) -> TimeEstimate:
    """Estimate how long it takes to distill these students together, without training them.

    Raises:
        UserError: as `gather_inputs`.
    """
    return _prepare(requested, reporter).estimate()


def gather_inputs(
    requested: Sequence[DistillConfig], reporter: Reporter, *, announces_time: bool = False
) -> DistillationInputs:
    """Load teachers and data, make the first student, encode the rows and gather the teacher logits.

    Args:
        requested: configs that are equal in all that is shared; not resolved yet.
        announces_time: whether to print how long the run will take, before the teachers read a row.

    Raises:
        UserError: as `distill`.
    """
    ready = _prepare(requested, reporter)
    if announces_time:
        reporter.note(ready.estimate().line)
    data, ensemble = ready.data, ready.ensemble
    reads_labels = any(config.reads_labels for config in ready.configs)
    reads_logits = any(config.runs_teacher for config in ready.configs)
    matches_layers = any(config.method != "logits" for config in ready.configs)
    labels = _padded_labels(data, len(ready.rows.train)) if reads_labels else None
    class_weights = None
    if reads_labels:
        class_weights = choose_class_weights(requested[0], data.names, data.labels_of["train"], reporter)
    teacher_facts = {"teachers": ensemble.facts} if reads_logits or matches_layers else {}
    teacher_logits = None
    if reads_logits:
        parts = [ensemble.logits(split) for split in ready.splits]
        teacher_logits = torch.cat(parts) if len(parts) > 1 else parts[0]
    if reads_logits and "validation" not in data.labels_of:
        data = data.labelled("validation", ensemble.logits("validation").argmax(dim=1))

    inputs = DistillationInputs(
        ready.configs,
        ready.teachers,
        data,
        ready.maker,
        ready.student,
        ready.pair,
        ready.rows,
        ready.shared_rows,
        labels,
        teacher_logits,
        ready.mix,
        teacher_facts,
        ready.precision,
        make_accelerator(ready.precision),
        has_probabilities=not ensemble.has_logits,
        class_weights=class_weights,
    )
    has_max_length = requested[0].max_length is not None
    _report_findings(inputs, ready.class_orders, reporter, has_max_length=has_max_length)
    return inputs


def _prepare(requested: Sequence[DistillConfig], reporter: Reporter) -> _Preparation:
    """Load teachers and data, make the first student and encode the rows.

    Raises:
        UserError: as `distill`.
    """
    configs = [resolve(config) for config in requested]
    config = configs[0]
    check_precision(config.precision, default_device())
    reads_labels = any(config.reads_labels for config in configs)
    reads_logits = any(config.runs_teacher for config in configs)
    matches_layers = any(config.method != "logits" for config in configs)

    start = load_teachers(config, reads_logits or matches_layers)
    teachers = [teacher for teacher in start if isinstance(teacher, Classifier)]
    data = _load_data(configs, teachers, reporter, reads_labels=reads_labels)
    reads_files = any(config.joins_teacher_files for config in configs)
    files = read_teacher_files(config, data.names, reporter) if reads_files else []
    configs = [settle_soft_loss(config, files) for config in configs]
    data = keep_covered_rows(config, data, files, reporter)
    class_orders = [match_classes(teacher, data, reporter) for teacher in teachers]
    splits = [split for split in ("train", transfer.SPLIT) if split in data.splits]

    maker = StudentMaker(data, start[0] if start else None, splits)
    student = maker.make(config)
    reporter.note(f"student: {type(student.model).__name__}, {student.origin}")
    # Its projection draws from the student's seed, so the pair is made now.
    pair = None if config.method == "logits" else pair_layers(config, student, teachers[0])
    readers = [(teacher.tokenizer, teacher.model) for teacher in teachers]
    readers.append((student.tokenizer, student.model))
    configs = [
        clamp_max_length(request, config, readers) for request, config in zip(requested, configs, strict=True)
    ]
    config = configs[0]

    mix, data = _limit_transfer_text(data, config.transfer_ratio, configs, reporter)
    precision = choose_precision(config.precision, default_device(), student.model, reporter)

    def encode_for(tokenizer: Tokenizer, model: PreTrainedModel) -> Rows:
        encode = partial(encode_split, data, tokenizer, model, config.max_length, reporter)
        return Rows(reduce(Encoded.concat, map(encode, splits)), encode("validation"))

    rows = both_rows = encode_for(student.tokenizer, student.model)
    if matches_layers:
        both_rows = shared_rows(student, teachers[0], rows, encode_for)
    ensemble = TeacherEnsemble(config, teachers, class_orders, data, reporter, files)
    return _Preparation(
        configs,
        teachers,
        class_orders,
        data,
        splits,
        maker,
        student,
        pair,
        rows,
        both_rows,
        mix,
        precision,
        ensemble,
    )


def _load_data(
    configs: Sequence[DistillConfig],
    teachers: Sequence[Classifier],
    reporter: Reporter,
    *,
    reads_labels: bool,
) -> TextData:
    # Where no label is read, the teacher may be the only one that knows all classes.
    class_names = None
    if not reads_labels and teachers:
        class_names = teachers[0].class_names
    elif not reads_labels and configs[0].teacher_file and configs[0].dataset is None:
        class_names = _read_class_names(configs[0])
    data = transfer.load(configs[0], labelled=reads_labels, names=class_names)
    for config in configs:
        check_metric(config, data)
    reporter.note_all(data.notes)
    if "train" in data.labels_of:
        reporter.note(describe_classes(data))
    return data


def _read_class_names(config: DistillConfig) -> tuple[str, ...]:
    """Return the classes that the first teacher's file names."""
    if is_sharded(config.teacher_file[0]):
        return read_class_names(
            config.teacher_file[0],
            text_columns(config),
            label_column=config.label_column,
            targets=config.targets,
        )
    return read_teacher_files(config, None, SILENT)[0].class_names


def prepare_job(inputs: DistillationInputs, i: int) -> tuple[Job, Encoded]:
    """Return how student `i` is trained, and the rows with the targets that its loss reads."""
    config = inputs.configs[i]
    student, pair = inputs.first_student, inputs.first_pair
    if i == 0 and inputs.first_is_fresh:
        inputs.first_is_fresh = False  # a second try, with fewer students at a time, must not start from it
    else:
        student = inputs.maker.make(config)
        pair = None if config.method == "logits" else pair_layers(config, student, inputs.teachers[0])
    matched = inputs.shared_rows if config.method == "pkd" else inputs.rows
    rows = matched.train.join(
        labels=inputs.labels if config.reads_labels else None,
        teacher_logits=inputs.teacher_logits if config.runs_teacher else None,
    )
    labelled_share = rows.labelled_share
    if inputs.mix and config.reads_labels:
        labelled_share = inputs.mix[0] / sum(inputs.mix)
    loss = DistillationLoss(
        alpha=config.alpha,
        alpha_end=config.alpha_end,
        temperature=config.temperature,
        labelled_share=labelled_share,
        has_probabilities=inputs.has_probabilities and config.runs_teacher,
        class_weights=inputs.class_weights if config.reads_labels else None,
    )
    job = Job(
        command="distill",
        config=config,
        data=inputs.data,
        model=student.model,
        tokenizer=student.tokenizer,
        loss=loss,
        formula=loss.formula,
        precision=inputs.precision,
        mix=inputs.mix,
        facts={
            "student": {"class": type(student.model).__name__, "origin": student.origin},
            **(inputs.teacher_facts if config.runs_teacher or pair else {}),
        },
    )
    return with_layers(job, loss, pair, inputs.shared_rows) if pair else job, rows


def _limit_transfer_text(
    data: TextData, ratio: float | None, configs: Sequence[DistillConfig], reporter: Reporter
) -> tuple[tuple[int, int] | None, TextData]:
    """Return the rows of both kinds in an epoch, and the data with no more text than the epochs read.

    Without a ratio an epoch reads all rows, and there is no mix.
    """
    if ratio is None:
        return None, data
    train_rows = len(data.splits["train"])
    mix = train_rows, transfer.per_epoch(ratio, train_rows)
    limited = transfer.enough(data, mix[1] * max(config.epochs or 0 for config in configs))
    reporter.note_all(limited.notes[len(data.notes) :])
    return mix, limited


def _padded_labels(data: TextData, rows: int) -> Tensor:
    """Return the labels of the training rows, then `NO_LABEL` for each row of transfer text: `[rows]`."""
    labels = data.labels("train")
    return torch.cat([labels, torch.full((rows - len(labels),), NO_LABEL)])


def _report_findings(
    inputs: DistillationInputs,
    class_orders: Sequence[Sequence[int]],
    reporter: Reporter,
    *,
    has_max_length: bool,
) -> None:
    """Warn of what `doctor` would say without running a model."""
    configs, data = inputs.configs, inputs.data
    train_rows = len(data.splits["train"])
    predictions = None if inputs.teacher_logits is None else inputs.teacher_logits.argmax(dim=1).numpy()
    for finding in before_distilling(
        next((config for config in configs if config.runs_teacher), configs[0]),
        data,
        inputs.rows.train.lengths[:train_rows],
        max_length_given=has_max_length,
        answers=None if predictions is None else predictions[:train_rows],
        columns=class_orders[0] if len(class_orders) == 1 else range(len(data.names)),
    ):
        reporter.warn(finding.line)
