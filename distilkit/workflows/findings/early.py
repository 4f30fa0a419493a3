"""Findings that `train` and `distill` print before they train."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distilkit.config import DistillConfig, TrainConfig
from distilkit.data.checks import skill
from distilkit.data.large import LARGE_ROWS
from distilkit.data.text_data import TextData
from distilkit.workflows.findings.finding import Finding
from distilkit.workflows.findings.models import teacher_skill
from distilkit.workflows.findings.rows import (
    class_balance,
    data_findings,
    doubtful_classes,
    overlap,
    unused_teacher,
)
from distilkit.workflows.findings.tokens import cut_rows


def before_training(
    config: TrainConfig | DistillConfig, data: TextData, lengths: NDArray[np.int64], max_length_given: bool
) -> list[Finding]:
    """Report what the data show, in well under a second; of a great many rows, only what their labels show.

    Args:
        lengths: tokens of the training rows as the model reads them, cut.
        max_length_given: the length that goes with a known dataset was chosen for speed; its cuts are no
            finding.
    """
    ids = data.labels_of
    if len(data.splits["train"]) > LARGE_ROWS:  # to compare the texts would take memory and minutes
        findings = [*doubtful_classes(data.names), *class_balance(data.names, ids)]
    else:
        findings = list(data_findings(data, ids, overlap(data, ids.get("train"))))
    if max_length_given or config.dataset is None:
        assert config.max_length
        findings += cut_rows(lengths, config.max_length)
    return findings


def before_distilling(
    config: DistillConfig,
    data: TextData,
    lengths: NDArray[np.int64],
    max_length_given: bool,
    answers: NDArray[np.int64] | None,
    columns: Sequence[int],
) -> list[Finding]:
    """Report what is known before training, in well under a second: no model is run for it.

    Args:
        lengths: as `before_training`, of the student.
        max_length_given: as `before_training`.
        answers: what the teachers say of the training rows, int64 `[N]`, where it is known.
        columns: the (first) teacher's output for each class of the data.
    """
    ids = data.labels_of
    findings = [*unused_teacher(config), *before_training(config, data, lengths, max_length_given)]
    if answers is not None and "train" in ids:
        is_labelled = ids["train"] >= 0
        if len(np.unique(ids["train"][is_labelled])) > 1:
            teacher_level = skill(answers[is_labelled], ids["train"][is_labelled], len(data.names))
            findings += teacher_skill(
                "training", "the teacher", teacher_level, data.names, columns, is_file=not config.teacher
            )
    return findings
