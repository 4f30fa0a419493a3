"""Checks of rows: texts, labels, classes, duplicates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distilkit.data import checks
from distilkit.data.raw import RawData
from distilkit.data.text_data import TextData
from distilkit.errors import UserError
from distilkit.models.classifier import Classifier
from distilkit.workflows.diagnosis.examination import Examination
from distilkit.workflows.diagnosis.samples import read_test_keys
from distilkit.workflows.findings import rows as findings


def read_rows(examination: Examination, raw: RawData, teachers: Sequence[Classifier]) -> TextData | None:
    """Check texts and labels, and return the rows that have a text; -1 marks a row without a label.

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
    class_names = _choose_class_names(examination, raw, teachers)
    if class_names is None:
        examination.diagnosis.skipped["all other checks"] = "the classes are not known"
        return None
    ids: dict[str, NDArray[np.int64]] = {}
    for split in usable:
        is_required = _requires_labels(examination, raw, split)
        if not is_required and not raw.has_labels(split):
            continue
        labels = checks.read_labels(raw.labels(split), class_names, raw.where(split))
        ids[split] = labels.ids
        if is_required:
            faults = findings.label_faults(raw.where(split), labels, class_names)
            examination.add(faults, "hidden-labels", "missing-labels", "unknown-labels")
    if raw.names is None:
        examination.add(findings.hidden_labels(class_names), "hidden-labels")
    data = raw.usable(
        examination.requested, examination.requested.max_train_samples, usable, class_names, ids
    )
    examination.reporter.note_all(data.notes)
    examination.diagnosis.rows |= {split: len(rows) for split, rows in data.splits.items()}
    return data


def _requires_labels(examination: Examination, raw: RawData, split: str) -> bool:
    return split == "validation" or examination.requested.reads_labels or "validation" not in raw.splits


def _choose_class_names(
    examination: Examination, raw: RawData, teachers: Sequence[Classifier]
) -> Sequence[str] | None:
    """Return the dataset's classes, else the training labels', or the teacher's where no labels are read."""
    if raw.names:
        return raw.names
    if teachers and not examination.requested.reads_labels:
        return teachers[0].class_names
    labels = raw.labels("train")
    try:
        return checks.class_names(labels, raw.where("train"))
    except UserError as error:
        examination.add([findings.no_classes(str(error))], "missing-class")
        return None


def check_rows(examination: Examination, raw: RawData, data: TextData) -> None:
    """Check classes, repeated rows and rows shared between splits."""
    ids, test = data.labels_of, read_test_keys(raw)
    shared = findings.overlap(data, ids.get("train"), test)
    made_checks = ["missing-class", "rare-class", "contradicting-labels", "repeated-rows"]
    made_checks += ["shared-with-validation", "few-validation-rows"] + ["shared-with-test"] * bool(test)
    made_checks += ["unused-teacher"] * bool(examination.config.teacher) + ["same-pairs"] * bool(
        data.pair_column
    )
    examination.add(findings.data_findings(examination.config, data, ids, shared, len(test)), *made_checks)
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
