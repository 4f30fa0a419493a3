"""`doctor`: look at data, teacher and student before anything is distilled."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilkit.config import DistillConfig, DoctorConfig, resolve
from distilkit.config.fields import changed
from distilkit.data import checks, transfer
from distilkit.data.encoding import Encoded, Tokenizer, encode, longest_input
from distilkit.data.inputs import evenly, tokens
from distilkit.data.labels import match_labels
from distilkit.data.raw import RawData, read_raw
from distilkit.data.text_data import TextData
from distilkit.engine.inference.logits import low_precision_copy, predict_texts, tokens_of
from distilkit.engine.teacher_logits.shards import as_keys
from distilkit.engine.training.losses import DistillationLoss
from distilkit.errors import FaultFound, UserError
from distilkit.hardware import memory
from distilkit.hardware.precision import default_device, resolve_precision
from distilkit.hardware.processes import make_accelerator
from distilkit.hardware.threads import training_threads
from distilkit.models.classifier import Classifier, Student, load_classifier
from distilkit.models.locating import find_model
from distilkit.models.students import make_student
from distilkit.progress import SILENT, Reporter
from distilkit.scores.statistics import wilson
from distilkit.workflows.diagnosis.samples import _judged, _some, _spread, _test_contents
from distilkit.workflows.distillation import recipe
from distilkit.workflows.distillation.teachers import TeacherEnsemble
from distilkit.workflows.findings import cost, models
from distilkit.workflows.findings import rows as rows_findings
from distilkit.workflows.findings import tokens as tokens_findings
from distilkit.workflows.findings.finding import Finding
from distilkit.workflows.fitting.fit import measure_examples_per_second
from distilkit.workflows.fitting.job import Job

SCHEMA = "distilkit.doctor/1"


STUDENT = "the student"


TIMED_BATCHES = 5  # of a teacher: the first is computed by all cores, then each has its own


WARM_UP = 32  # rows


Reader = tuple[str, Tokenizer, Any]  # what to call it, its tokenizer and model


@dataclass
class Diagnosis:
    """What `doctor` found; `document()` is the JSON of `--json`.

    `checked` are the names of the checks that were made, `skipped` why others were not. `measured` holds what
    they counted, by check; `estimates` what the run would take on `device`.
    """

    dataset: str
    device: str
    rows: dict[str, int] = field(default_factory=dict)
    teachers: list[str] = field(default_factory=list)
    student: str = ""
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    estimates: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The versioned JSON document."""
        return {"schema": SCHEMA, **asdict(self)}


def doctor(config: DoctorConfig, reporter: Reporter = SILENT) -> Diagnosis:
    """Check what `distill` would be given: texts, labels, splits, tokenizers, teachers; time a few batches.

    No check stands in the way of the next one. Nothing is written but teacher logits, into the cache.

    Raises:
        UserError: on what leaves nothing to look at: options, files or columns that are not there.
    """
    if config.method == "general":
        raise UserError("doctor looks at labelled data, and --method general reads none: leave it out.")
    if not config.has_dataset:
        raise UserError("doctor looks at a dataset: give --dataset or --data-dir.")
    return _Doctor(config, reporter).examine()


def check_findings(diagnosis: Diagnosis) -> None:
    """Raise `FaultFound` when `doctor` found an error."""
    errors = [finding.check for finding in diagnosis.findings if finding.severity == "error"]
    if errors:
        raise FaultFound(f"found by doctor: {', '.join(dict.fromkeys(errors))}")


class _Doctor:
    """One examination, from what is cheap and comes first to what needs models."""

    def __init__(self, config: DoctorConfig, reporter: Reporter) -> None:
        self.given: DistillConfig = config
        self.config: DistillConfig = resolve(self.given)
        self.reporter = reporter
        self.device = default_device()
        self.precision = resolve_precision(config.precision, self.device)
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        self.found = Diagnosis(config.data_name, name, teachers=list(config.teacher))

    def examine(self) -> Diagnosis:
        """Everything; each part adds to `found`."""
        teachers = self._load_teachers()
        raw = read_raw(self.given)
        data = self._read(raw, teachers)
        if data is None:
            return self.found
        self._follow_recipe()
        self._look_at_rows(raw, data)
        student = self._make_student(data, teachers)
        lengths = self._look_at_tokens(data, teachers, student)
        seconds: float | None = 0.0
        if self.config.runs_teacher:
            times = [self._examine_teacher(teacher, data) for teacher in teachers]
            whole = len(teachers) == len(self.given.teacher)
            seconds = sum(time for time in times if time is not None) if whole and None not in times else None
        if student:
            self._estimate(data, student, lengths, seconds)
        return self.found

    def _add(self, found: Iterable[Finding], *checks: str) -> None:
        """Write down what was found, and which checks were made for it."""
        self.found.checked += [check for check in checks if check not in self.found.checked]
        self.found.findings += found

    # --- rows --------------------------------------------------------------------------------------------

    def _read(self, raw: RawData, teachers: Sequence[Classifier]) -> TextData | None:
        """The rows that have a text, after a look at all; -1 is a label that a row has not.

        `None` when nothing is left to look at.
        """
        self.found.rows = {split: len(rows) for split, rows in raw.splits.items()}
        usable: dict[str, NDArray[np.int64]] = {}
        for split in ("train", "validation"):
            if split not in raw.splits:
                continue
            empty = np.zeros(len(raw.splits[split]), bool)
            for column in raw.columns:
                texts = raw.texts(split, column)
                missing, blank = checks.missing_texts(texts), checks.blank_texts(texts)
                self._add(rows_findings.empty_texts(raw.where(split), column, missing, blank), "empty-texts")
                empty |= missing
            usable[split] = np.flatnonzero(~empty)
            if empty.all():
                self.found.skipped["all other checks"] = f"{split} has no text"
                return None
        names = self._names(raw, teachers)
        if names is None:
            self.found.skipped["all other checks"] = "the classes are not known"
            return None
        ids: dict[str, NDArray[np.int64]] = {}
        for split in usable:
            needed = self._needs_labels(raw, split)
            if not needed and not raw.has_labels(split):
                continue
            labels = checks.read_labels(raw.labels(split), names, raw.where(split))
            ids[split] = labels.ids
            if needed:
                faults = rows_findings.label_faults(raw.where(split), labels, names)
                self._add(faults, "hidden-labels", "missing-labels", "unknown-labels")
        if raw.names is None:
            self._add(rows_findings.hidden_labels(names), "hidden-labels")
        data = raw.usable(self.given, self.given.max_train_samples, usable, names, ids)
        self.reporter.note_all(data.notes)
        self.found.rows |= {split: len(rows) for split, rows in data.splits.items()}
        return data

    def _needs_labels(self, raw: RawData, split: str) -> bool:
        return split == "validation" or self.given.reads_labels or "validation" not in raw.splits

    def _names(self, raw: RawData, teachers: Sequence[Classifier]) -> Sequence[str] | None:
        """The classes: the dataset's, else the training labels'; the teacher's where these are not read."""
        if raw.names:
            return raw.names
        if teachers and not self.given.reads_labels:
            return teachers[0].class_names
        labels = raw.labels("train")
        try:
            return checks.class_names(labels, raw.where("train"))
        except UserError as error:
            self._add([rows_findings.no_classes(str(error))], "missing-class")
            return None

    def _follow_recipe(self) -> None:
        if self.given.recipe:
            try:
                self.given = recipe.apply_recipe_without_texts(self.given)
            except UserError as error:  # it reads the texts too, and stops at an empty one
                self.found.skipped["recipe"] = str(error)
                self.given = recipe.drop_recipe(self.given)
            self.config = resolve(self.given)

    def _look_at_rows(self, raw: RawData, data: TextData) -> None:
        ids, test = data.labels_of, _test_contents(raw)
        found = rows_findings.overlap(data, ids.get("train"), test)
        made = ["missing-class", "rare-class", "contradicting-labels", "repeated-rows"]
        made += ["shared-with-validation", "few-validation-rows"] + ["shared-with-test"] * bool(test)
        made += ["unused-teacher"] * bool(self.config.teacher) + ["same-pairs"] * bool(data.pair_column)
        self._add(rows_findings.data_findings(self.config, data, ids, found, len(test)), *made)
        if data.pair_column is None:
            others = checks.other_text_columns(raw.splits["train"], (data.text_column, data.label_column))
            self._add(rows_findings.other_text_columns_present(raw.where("train"), others), "second-text")
        self.found.measured["classes"] = {
            split: dict(zip(data.names, checks.class_counts(of_rows, len(data.names)), strict=True))
            for split, of_rows in ids.items()
        }
        self.found.measured["overlap"] = {
            "repeated": found.repeats.rows,
            "contradicting": found.repeats.contradicting,
            "shared_with_validation": found.validation,
            "shared_with_test": found.test if test else None,
        }

    # --- models ------------------------------------------------------------------------------------------

    def _load_teachers(self) -> list[Classifier]:
        """The teachers that can be loaded; none where none is read."""
        config = self.config
        taken = config.vocabulary == "teacher" or (config.student != "bilstm" and config.init != "pretrained")
        if not config.runs_teacher and not taken:
            return []
        teachers = []
        for name in self.given.teacher:
            source = find_model(name)
            found: list[Finding] = []
            try:
                teachers.append(load_classifier(source))
            except UserError as error:
                found = [models.broken_teacher(str(error))]
                self.found.skipped[f"checks of {name}"] = "it cannot be loaded"
            self._add(found, "teacher")
        return teachers

    def _make_student(self, data: TextData, teachers: Sequence[Classifier]) -> Student | None:
        texts = data.texts("train").strings()
        teacher = teachers[0] if teachers else None
        wants = self.config.init == "teacher" or self.config.vocabulary == "teacher"
        if wants and teacher is None:
            self.found.skipped["student"] = "it starts from the teacher, which cannot be loaded"
            return None
        try:
            student = make_student(self.config, data.names, teacher, texts)
        except UserError as error:
            self._add([models.broken_student(str(error))], "student")
            self.found.skipped["student"] = "it cannot be made"
            return None
        self._add((), "student")
        self.found.student = f"{type(student.model).__name__}, {student.origin}"
        return student

    def _look_at_tokens(
        self, data: TextData, teachers: Sequence[Classifier], student: Student | None
    ) -> NDArray[np.int64]:
        """Lengths, unknown tokens and case; returns the tokens of `_some` training rows for the student."""
        readers: list[Reader]
        readers = [(f"teacher {one.name}", one.tokenizer, one.model) for one in teachers]
        readers += [(STUDENT, student.tokenizer, student.model)] if student else []
        limit = self._reach(readers)
        assert self.config.max_length
        train, validation = _some(data, "train"), _some(data, "validation")
        read = {who: tokens(tokenizer, train) for who, tokenizer, _ in readers}
        self._add(tokens_findings.cut_texts(read, self.config.max_length, limit), "cut-texts")
        for who, tokenizer, _ in readers:
            cut, unknown = read[who], tokens(tokenizer, validation)
            self._add(tokens_findings.unknown_tokens(who, unknown, *self._unknown(who)), "unknown-tokens")
            self.found.measured.setdefault("tokens", {})[who] = {
                "rows": len(cut.lengths),
                "cut_share": cut.cut(self.config.max_length) / len(cut.lengths),
                "fits_99_percent": cut.fitting(tokens_findings.FITTING),
                "unknown_share": unknown.unknown_share,
            }
        if teachers and student:
            folds = checks.lowercases(teachers[0].tokenizer), checks.lowercases(student.tokenizer)
            capitals, rows = checks.with_capitals(train.first), len(train)
            self._add(tokens_findings.lost_capitals(teachers[0].name, *folds, capitals, rows), "case")
        return read[STUDENT].lengths if student else np.empty(0, np.int64)

    def _reach(self, readers: Sequence[Reader]) -> int | None:
        """The most tokens that all of them read, where there is a limit; no more are looked at."""
        limits = [longest_input(tokenizer, model) for _, tokenizer, model in readers]
        if self.given.max_length is not None:
            for (who, _, _), own in zip(readers, limits, strict=True):
                self._add(tokens_findings.short_positions(who, self.given.max_length, own), "max-length")
        limit = min((own for own in limits if own is not None), default=None)
        assert self.config.max_length
        if limit is not None and self.config.max_length > limit:
            self.config = changed(self.config, max_length=limit)
        return limit

    def _unknown(self, who: str) -> tuple[float, str]:
        """From which share of unknown tokens on it matters, and what to do then."""
        if who != STUDENT:
            return tokens_findings.UNKNOWN_TO_TEACHER, "a teacher of this language: --teacher RUN_OR_MODEL"
        if self.config.student != "bilstm" or self.config.vocabulary == "teacher":
            return tokens_findings.UNKNOWN_TO_STUDENT, "a student of this language: --student FOLDER"
        advice = "--vocabulary teacher (word-pieces), or more text: --transfer FILE"
        return tokens_findings.UNKNOWN_TO_STUDENT, advice

    def _examine_teacher(self, teacher: Classifier, data: TextData) -> float | None:
        """Hold its answers against labels.

        Returns the seconds that its logits of all training rows will take, `None` where that is not known.
        """
        who = teacher.name
        matched = self._match(teacher, data)
        if matched is None:
            return None
        columns, by_name = matched
        config = changed(self.config, teacher=(who,), teacher_weight=())
        judged = _judged(data)
        held = None
        if judged is None:
            self.found.skipped[f"level of {who}"] = "validation has labels of fewer than two classes"
        else:
            teaching = TeacherEnsemble(config, [teacher], [columns], judged, self.precision, self.reporter)
            try:
                answers = teaching.logits("validation").argmax(dim=1).numpy()
            except UserError as error:
                self._add([models.broken_teacher(str(error))], "teacher")
                return None
            held = checks.skill(answers, judged.labels_of["validation"], len(data.names))
            faults = models.teacher_skill("validation", f"the teacher {who}", held, data.names, columns)
            self._add(faults, "label-order", "teacher-level")
        self.found.measured.setdefault("teachers", {})[who] = {
            "classes_matched_by": "name" if by_name else "id",
            "rows": held and held.rows,
            "accuracy": held and held.accuracy,
            "accuracy_interval": held and wilson(held.right, held.rows),
            "majority_share": held and held.majority,
        }
        teaching = TeacherEnsemble(config, [teacher], [columns], data, self.precision, self.reporter)
        return self._time_teacher(teaching, teacher)

    def _match(self, teacher: Classifier, data: TextData) -> tuple[list[int], bool] | None:
        """Its column for each class of the data, and whether names decided it; `None` with other classes."""
        who, own = teacher.name, teacher.class_names
        try:
            matched = match_labels(own, data.names, f"the teacher {who}")
        except UserError as error:
            self._add([models.class_names_differ(f"the teacher {who}", own, data.names)], "label-names")
            if len(own) == len(data.names):
                return list(range(len(own))), False
            self.found.skipped[f"level of {who}"] = str(error)
            return None
        self._add((), "label-names")
        return matched

    # --- cost --------------------------------------------------------------------------------------------

    def _time_teacher(self, teaching: TeacherEnsemble, teacher: Classifier) -> float:
        """Seconds for the logits of training and transfer rows that are not stored yet."""
        texts = _some(teaching.data, "train")
        _, stored = teaching.store(0).find(np.unique(as_keys(teaching.keys("train"))))
        rows = int(np.count_nonzero(~stored)) + self._transfer_rows(len(teaching.data.splits["train"]))[1]
        timed, speed = 0, 0.0
        if rows:
            assert teacher.model is not None
            model: Any = low_precision_copy(teacher.model, self.precision).to(self.device)
            options: Any = {"max_length": self.config.max_length, "precision": self.precision}
            lengths = tokens(teacher.tokenizer, texts.take(evenly(len(texts), WARM_UP))).lengths
            each = float(np.minimum(lengths, self.config.max_length or 0).mean())
            timed = min(len(texts), max(WARM_UP, round(TIMED_BATCHES * tokens_of(self.device) / each)))
            for count in (WARM_UP, timed):
                some = texts.take(evenly(len(texts), count))
                started = time.perf_counter()
                list(predict_texts(model, teacher.tokenizer, some, range(len(some)), **options))
                speed = len(some) / (time.perf_counter() - started)
            teacher.model.cpu()
        took = rows / speed if rows else 0.0
        self.found.estimates.setdefault("teachers", {})[teacher.name] = {
            "rows": rows,
            "rows_timed": timed,
            "rows_per_second": round(speed, 1) if rows else None,
            "seconds": round(took, 1),
        }
        return took

    def _transfer_rows(self, own: int) -> tuple[int, int]:
        """Rows of --transfer: of an epoch, and of all epochs."""
        config = self.config
        if not config.transfer:
            return 0, 0
        assert config.epochs
        rows = transfer.measure(config).rows
        epoch = rows if config.transfer_ratio is None else transfer.per_epoch(config.transfer_ratio, own)
        return epoch, min(rows, config.epochs * epoch)

    def _estimate(
        self, data: TextData, student: Student, lengths: NDArray[np.int64], teachers: float | None
    ) -> None:
        """Time and memory of the run; `teachers` is the time of their logits, where it is known."""
        config = self.config
        assert config.batch_size and config.epochs and config.max_length
        if config.method != "logits":
            self.found.skipped["time"] = f"--method {config.method} runs the teacher beside the student"
            self.found.skipped["memory"] = self.found.skipped["time"]
            return
        own = len(data.splits["train"])
        rows, more = (own + one for one in self._transfer_rows(own))
        batch = config.batch_size * config.gradient_accumulation_steps
        order = np.argsort(lengths, kind="stable")
        texts = _some(data, "train")

        def encoded(numbers: NDArray[np.int64]) -> Encoded:
            return encode(
                student.tokenizer,
                texts.take(numbers),
                max_length=config.max_length or 0,
                model=student.model,
            ).join(
                labels=torch.zeros(len(numbers), dtype=torch.long) if config.reads_labels else None,
                teacher_logits=torch.zeros(len(numbers), len(data.names)) if config.runs_teacher else None,
            )

        longest, sample = encoded(order[-batch:]), encoded(np.concatenate(_spread(order, batch)))
        try:
            speed = self._steps_per_second(data, student, longest, sample)
        except UserError as error:
            self._add([cost.memory_exceeded(str(error))], "memory")
            return
        epoch = rows / speed
        total = None if teachers is None else teachers + config.epochs * epoch
        needed = memory.peak(self.device) + round(more * sample.bytes / len(sample))
        available = memory.available(self.device)
        self.found.estimates |= {
            "epoch": {
                "rows": rows,
                "rows_timed": len(sample),
                "rows_per_second": round(speed, 1),
                "seconds": round(epoch, 1),
            },
            "epochs": config.epochs,
            "seconds": total and round(total, 1),
            "memory": {"bytes": needed, "available": available},
        }
        self._add(cost.memory_needed(self.found.device, needed, available), "memory")
        self._add(cost.time_needed(total or config.epochs * epoch), "time")

    def _steps_per_second(self, data: TextData, student: Student, longest: Encoded, sample: Encoded) -> float:
        """Rows of `sample` that training takes in a second, once it has taken those and the `longest`."""
        config = self.config
        loss = DistillationLoss(
            alpha=config.alpha, alpha_end=config.alpha_end, temperature=config.temperature
        )
        job = Job(
            command="doctor",
            config=changed(config, epochs=2),
            data=data,
            model=student.model,
            tokenizer=student.tokenizer,
            loss=loss,
            formula=loss.formula,
            precision=self.precision,
            facts={},
        )
        accelerator = make_accelerator(self.precision)
        if student.model.config.model_type != "bilstm" or self.device.type != "cpu":
            measure_examples_per_second(job, longest, accelerator)
            return measure_examples_per_second(job, sample, accelerator)
        with training_threads(student.model) as spare_core:
            measure_examples_per_second(job, longest, accelerator, spare_core)
            return measure_examples_per_second(job, sample, accelerator, spare_core)
