"""Students that are distilled together: what they share is made once, and each is trained as if alone."""

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial, reduce
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from transformers import PreTrainedModel

from distilkit.config import DistillConfig, resolve
from distilkit.data import transfer
from distilkit.data.encoding import NO_LABEL, Encoded, Tokenizer
from distilkit.engine.training.layers import LayerPair
from distilkit.engine.training.loop import ChangingLoss
from distilkit.engine.training.losses import Losses, distillation_loss, formula
from distilkit.errors import UserError
from distilkit.hardware.precision import default_device, resolve_precision
from distilkit.hardware.processes import make_accelerator
from distilkit.hardware.threads import single_threaded
from distilkit.models.classifier import Classifier, Student
from distilkit.models.students import make_student
from distilkit.progress import Reporter
from distilkit.runs.run import Run
from distilkit.workflows.distillation.layers import Rows, pair_layers, shared_rows, with_layers
from distilkit.workflows.distillation.teachers import TeacherEnsemble, load_teachers, match_classes
from distilkit.workflows.findings.early import before_distilling
from distilkit.workflows.fitting.fit import fit_into_run, fit_into_runs
from distilkit.workflows.fitting.job import Job, clamp_max_length, encode_split


class Company:
    """Data, encoded rows and teachers' logits of `configs`, and a training for each of them.

    Args:
        configs: alike in all that is shared; not resolved yet.

    Raises:
        UserError: as `distill`.
    """

    def __init__(self, configs: Sequence[DistillConfig], reporter: Reporter) -> None:
        given, configs = configs, [resolve(config) for config in configs]
        shared = configs[0]
        self.precision = resolve_precision(shared.precision, default_device())
        hard = any(config.reads_labels for config in configs)
        soft = any(config.runs_teacher for config in configs)
        matching = any(config.method != "logits" for config in configs)
        self._teachers = load_teachers(shared, soft or matching)
        self._known = [teacher for teacher in self._teachers if isinstance(teacher, Classifier)]
        # Without training labels the teacher is the one who knows all classes.
        names = self._known[0].class_names if self._known and not hard else None
        self._data = transfer.load(shared, labelled=hard, names=names)
        reporter.note_all(self._data.notes)
        columns = [match_classes(teacher, self._data, reporter) for teacher in self._known]
        self._splits = [split for split in ("train", transfer.SPLIT) if split in self._data.splits]
        # The students' words are learned once; a lock, because all models take their seed from torch's.
        self._making = threading.Lock()
        self.student = self._make(shared)
        reporter.note(f"student: {type(self.student.model).__name__}, {self.student.origin}")
        self._first = [(self.student, self._pair(shared, self.student))]
        readers = [(teacher.tokenizer, teacher.model) for teacher in self._known]
        readers.append((self.student.tokenizer, self.student.model))
        self.configs = [
            clamp_max_length(one, config, readers) for one, config in zip(given, configs, strict=True)
        ]
        shared = self.configs[0]
        self._mix = self._mixed(shared.transfer_ratio, reporter)
        self.accelerator = make_accelerator(self.precision)
        encode_for = partial(self._encode_for, shared.max_length, reporter)
        self._rows = encode_for(self.student.tokenizer, self.student.model)
        if matching:
            self._both = shared_rows(self.student, self._known[0], self._rows, encode_for)
        self._labels = self._padded_labels() if hard else None
        teaching = TeacherEnsemble(shared, self._known, columns, self._data, self.precision, reporter)
        self._facts = {"teachers": teaching.facts} if soft or matching else {}
        self._teacher_logits: Tensor | None = None
        if soft:
            self._teacher_logits = torch.cat([teaching.answers(split) for split in self._splits])
            if "validation" not in self._data.labels_of:
                judged = teaching.answers("validation").argmax(dim=1)
                self._data = self._data.labelled("validation", judged)
        said = None if self._teacher_logits is None else self._teacher_logits.argmax(dim=1).numpy()
        own = len(self._data.splits["train"])
        for finding in before_distilling(
            next((config for config in self.configs if config.runs_teacher), shared),
            self._data,
            self._rows.train.lengths[:own],
            max_length_given=given[0].max_length is not None,
            answers=None if said is None else said[:own],
            columns=columns[0] if len(columns) == 1 else range(len(self._data.names)),
        ):
            reporter.note(finding.line)

    def _mixed(self, ratio: float | None, reporter: Reporter) -> tuple[int, int] | None:
        """Rows of training and of transfer text in an epoch; no more text is kept than epochs come to."""
        if not ratio:
            return None
        own, whole = len(self._data.splits["train"]), self._data
        mix = own, transfer.per_epoch(ratio, own)
        self._data = transfer.enough(whole, mix[1] * max(config.epochs or 0 for config in self.configs))
        reporter.note_all(self._data.notes[len(whole.notes) :])
        return mix

    def _padded_labels(self) -> Tensor:
        """`[N]`: those of the training rows, then `NO_LABEL` for each row of transfer text."""
        own = self._data.labels("train")
        return torch.cat([own, torch.full((len(self._rows.train) - len(own),), NO_LABEL)])

    def _make(self, config: DistillConfig, tokenizer: Tokenizer | None = None) -> Student:
        data, teacher = self._data, self._teachers[0] if self._teachers else None
        columns = [
            column for split in self._splits for column in (data.texts(split), data.pairs(split) or [])
        ]
        texts = itertools.chain.from_iterable(columns)
        with self._making, single_threaded():  # orthogonal matrices are rounded as one thread does it
            set_seed(config.seed)
            return make_student(config, data.names, teacher, texts, tokenizer)

    def _pair(self, config: DistillConfig, student: Student) -> LayerPair | None:
        return None if config.method == "logits" else pair_layers(config, student, self._known[0])

    def _encode_for(
        self, max_length: int | None, reporter: Reporter, tokenizer: Tokenizer, model: PreTrainedModel
    ) -> Rows:
        encoded = partial(encode_split, self._data, tokenizer, model, max_length, reporter)
        return Rows(reduce(Encoded.concat, map(encoded, self._splits)), encoded("validation"))

    def _prepare(self, number: int) -> tuple[Job, Encoded]:
        """What one of the students is trained by, and on."""
        config = self.configs[number]
        if self._first and not number:
            own, layers = self._first.pop()
        else:
            own = self._make(config, self.student.tokenizer)
            layers = self._pair(config, own)
        rows = (self._both if config.method == "pkd" else self._rows).train.join(
            labels=self._labels if config.reads_labels else None,
            teacher_logits=self._teacher_logits if config.runs_teacher else None,
        )
        mix, share = self._mix, rows.labelled_share
        labelled_share = mix[0] / sum(mix) if mix and config.reads_labels else share
        terms: dict[str, Any] = {
            "alpha": config.alpha,
            "alpha_end": config.alpha_end,
            "temperature": config.temperature,
            "labelled_share": labelled_share,
        }

        def loss(logits: Tensor, batch: dict[str, Tensor], progress: float = 0.0) -> Losses:
            known, taught = batch.get("labels"), batch.get("teacher_logits")
            return distillation_loss(logits, known, taught, progress=progress, **terms)

        job = Job(
            command="distill",
            config=config,
            data=self._data,
            model=own.model,
            tokenizer=own.tokenizer,
            loss=ChangingLoss(lambda progress: partial(loss, progress=progress)),
            formula=formula(**terms),
            precision=self.precision,
            labelled_share=labelled_share,
            mix=mix,
            facts={
                "student": {"class": type(own.model).__name__, "origin": own.origin},
                **(self._facts if config.runs_teacher or layers else {}),
            },
        )
        return with_layers(job, layers, self._both) if layers else job, rows

    def train(self, number: int, reporter: Reporter, spare_core: Executor | None = None) -> Run:
        """Train one of the students; `spare_core` is as in `fit`."""
        validation_rows = self._rows.validation
        return fit_into_run(*self._prepare(number), validation_rows, self.accelerator, reporter, spare_core)

    def train_as_one(self, numbers: Sequence[int], reporter: Reporter) -> list[Run | UserError]:
        """Train some of the students, BiLSTMs that differ in alpha and seed, as one model.

        Raises:
            torch.OutOfMemoryError: when they do not fit on the device together. Nothing is left of them.
        """
        jobs, rows = zip(*map(self._prepare, numbers), strict=True)
        device = self.accelerator.device
        return fit_into_runs(jobs, rows, self._rows.validation, device, reporter)
