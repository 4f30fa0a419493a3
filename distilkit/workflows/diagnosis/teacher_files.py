"""Checks of teachers that are files: what they hold, which rows they have, what they say of the labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distilkit.data import checks, transfer
from distilkit.data.labels import NO_CLASS
from distilkit.data.target_columns import LABEL_KINDS
from distilkit.data.targets import softmax
from distilkit.data.teacher_files import TeacherFile, cover, find_covered, find_disagreement
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.progress import SILENT
from distilkit.scores.statistics import Answers, quality, wilson
from distilkit.workflows.diagnosis.examination import Examination
from distilkit.workflows.distillation.teachers import read_teacher_files, settle_soft_loss
from distilkit.workflows.findings import models as findings


def list_file_classes(examination: Examination) -> Sequence[str]:
    """Return the classes of the first file where no labels are read, which may not show them; else none."""
    config = examination.requested
    if not config.teacher_file or config.dataset or config.reads_labels:
        return ()
    try:
        return read_teacher_files(config, None, SILENT)[0].class_names
    except UserError:  # it is checked, and reported, once the data are read
        return ()


def check_teacher_files(examination: Examination, data: TextData) -> TextData:
    """Check the files of teachers; return the data with the rows that will be trained on."""
    config = examination.config
    if not config.joins_teacher_files:
        return data
    try:
        files = read_teacher_files(config, data.names, examination.reporter)
        examination.config = settle_soft_loss(config, files)
    except UserError as error:
        examination.add([findings.broken_teacher_file(str(error))], "teacher-file")
        examination.diagnosis.skipped["checks of teacher files"] = "one cannot be used"
        return data
    examination.add((), "teacher-file")
    for file in files:
        facts: dict[str, Any] = {"targets": file.kind, "rows": len(file.logits)}
        facts |= {split: _check_split(examination, file, data, split) for split in data.splits}
        examination.diagnosis.measured.setdefault("teacher_files", {})[file.name] = facts
    return _check_coverage(examination, files, data)


def _check_split(examination: Examination, file: TeacherFile, data: TextData, split: str) -> dict[str, Any]:
    """Compare a file with the labels of a split; return what was measured."""
    targets = file.find(data.texts(split))
    facts: dict[str, Any] = {"covered": int(targets.is_covered.sum())}
    labels = data.labels_of.get(split, np.full(len(targets.is_covered), NO_CLASS))
    rows = np.flatnonzero(targets.is_covered & (labels != NO_CLASS))
    if len(np.unique(labels[rows])) < 2:
        return facts
    answers = Answers.from_probabilities(softmax(targets.logits[rows]), labels[rows])
    skill = checks.skill(answers.answer, labels[rows], len(data.names))
    who = f"the teacher {file.name}"
    columns = range(len(data.names))
    faults = findings.teacher_skill(split, who, skill, data.names, columns, is_file=True)
    examination.add(faults, "label-order", "teacher-level")
    facts |= {"accuracy": skill.accuracy, "accuracy_interval": wilson(skill.right, skill.rows)}
    if file.kind not in LABEL_KINDS:
        figures = quality(answers, np.ones((1, len(rows))))
        facts |= {name: float(figures[name][0]) for name in ("ece", "loss")}
    disagreement = find_disagreement(file, data, split)
    facts |= {"differ": disagreement.rows if disagreement else 0}
    is_sure = disagreement is not None and disagreement.sure > 0
    if disagreement and is_sure:
        facts |= {"surely_differ": disagreement.sure}
        examination.add([findings.labels_contradicted(disagreement.sentence)])
    examination.add((), *["label-disagreement"] * (file.kind != "label"))
    return facts


def _check_coverage(examination: Examination, files: Sequence[TeacherFile], data: TextData) -> TextData:
    """Check that the files have the rows that are trained on, transfer text included."""
    config = examination.config
    examination.add((), "teacher-file-rows")
    try:
        data, notes = cover(data, "train", files, config.missing)
        examination.reporter.note_all(notes)
        if config.transfer:
            rows, _ = transfer.read_transfer(config, data.text_column, data.pair_column)
            text = Texts.from_dataset(rows, data.text_column, data.pair_column)
            for file in files:
                examination.reporter.note_all(find_covered(file, text, transfer.SPLIT, config.missing)[1])
    except UserError as error:
        examination.add([findings.missing_targets(str(error))])
    return data
