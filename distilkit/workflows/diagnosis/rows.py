"""Checks of rows: texts, labels, classes, duplicates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distilkit.data import checks
from distilkit.data.labels import note_ids
from distilkit.data.raw import RawData
from distilkit.data.text_data import TextData
from distilkit.errors import UserError
from distilkit.workflows.diagnosis.examination import Examination
from distilkit.workflows.diagnosis.samples import read_test_keys
from distilkit.workflows.findings import rows as findings


def read_rows(examination: Examination, raw: RawData, teacher_names: Sequence[str]) -> TextData | None:
    """Check texts and labels, and return the rows that have a text; -1 marks a row without a label.

    Args:
        teacher_names: the first teacher's classes, if they are known.

    Returns:
        `None` when nothing is left to check.
    """
    examination.diagnosis.rows = {split: len(rows) for split, rows in raw.splits.items()}
    usable: dict[str, NDArray[np.int64]] = {}
    for split in ("train", "validation"):
        if split not in raw.splits:
            continue
        empty = np.zeros(len(raw.splits[split]), bool)
        for column in raw.columns:
            texts = raw.texts(split, column)
            missing, blank = checks.missing_texts(texts), checks.blank_texts(texts)
            examination.add(findings.empty_texts(raw.where(split), column, missing, blank), "empty-texts")
            empty |= missing
        usable[split] = np.flatnonzero(~empty)
        if empty.all():
            examination.diagnosis.skipped["all other checks"] = f"{split} has no text"
            return None
    class_names = _choose_class_names(examination, raw, teacher_names)
    if class_names is None:
        examination.diagnosis.skipped["all other checks"] = "the classes are not known"
        return None
    ids: dict[str, NDArray[np.int64]] = {}
    for split in usable:
        is_required = _requires_labels(examination, raw, split)
        if not is_required and not raw.has_labels(split):
            continue
        labels = checks.read_labels(raw.labels(split), class_names)
        ids[split] = labels.ids
        if is_required:
            faults = findings.label_faults(raw.where(split), labels, class_names)
            examination.add(faults, "hidden-labels", "missing-labels", "unknown-labels")
    if raw.names is None:
        _check_spelling(examination, raw, class_names, teacher_names)
    data = raw.usable(
        examination.requested, examination.requested.max_train_samples, usable, class_names, ids
    )
    examination.reporter.note_all(data.notes)
    examination.diagnosis.rows |= {split: len(rows) for split, rows in data.splits.items()}
    return data


def _requires_labels(examination: Examination, raw: RawData, split: str) -> bool:
    return split == "validation" or examination.requested.reads_labels or "validation" not in raw.splits


def _check_spelling(
    examination: Examination, raw: RawData, class_names: Sequence[str], teacher_names: Sequence[str]
) -> None:
    """Check that the labels of all splits name the classes in one way."""
    reads_labels = examination.requested.reads_labels
    if reads_labels and not raw.source.declared_names(raw.splits["train"]):
        spellings = checks.spellings(raw.labels("train"))
        examination.add(findings.several_spellings(raw.where("train"), spellings), "label-spelling")
    has_order = raw.source.has_order(class_names, raw.splits, () if reads_labels else teacher_names)
    for split in ("train", "validation"):
        if split in raw.splits and raw.has_labels(split):
            try:
                note_ids(raw.labels(split), class_names, raw.where(split), has_order=has_order)
            except UserError as error:
                examination.add([findings.numbers_among_names(str(error))], "unknown-labels")


def _choose_class_names(
    examination: Examination, raw: RawData, teacher_names: Sequence[str]
) -> Sequence[str] | None:
    """Return the dataset's classes, else the training labels', or the teacher's where no labels are read."""
    source = raw.source
    try:
        if teacher_names and not examination.requested.reads_labels:
            return source.class_names(raw.splits, teacher_names)
        declared = raw.names or source.declared_names(raw.splits["train"])
        return declared or checks.class_names(raw.labels("train"), raw.where("train"), source.label)
    except UserError as error:
        examination.add([findings.no_classes(str(error))], "missing-class")
        return None


def check_rows(examination: Examination, raw: RawData, data: TextData) -> None:
    """Check classes, repeated rows and rows shared between splits."""
    ids, test = data.labels_of, read_test_keys(raw)
    shared = findings.overlap(data, ids.get("train"), test)
    made_checks = ["missing-class", "rare-class", "contradicting-labels", "repeated-rows"]
    made_checks += ["shared-with-validation", "few-validation-rows"] + ["shared-with-test"] * bool(test)
    has_teacher = bool(examination.config.teacher or examination.config.teacher_file)
    made_checks += ["unused-teacher"] * has_teacher + ["same-pairs"] * bool(data.pair_column)
    examination.add(findings.data_findings(data, ids, shared, len(test)), *made_checks)
    examination.add(findings.unused_teacher(examination.config))
    if data.pair_column is None:
        columns = checks.other_text_columns(raw.splits["train"], (data.text_column, data.label_column))
        examination.add(findings.other_text_columns_present(raw.where("train"), columns), "second-text")
    examination.diagnosis.measured["classes"] = {
        split: dict(zip(data.names, checks.class_counts(split_ids, len(data.names)), strict=True))
        for split, split_ids in ids.items()
    }
    examination.diagnosis.measured["overlap"] = {
        "repeated": shared.repeats.rows,
        "contradicting": shared.repeats.contradicting,
        "shared_with_validation": shared.validation,
        "shared_with_test": shared.test if test else None,
    }
