"""Checks of models: can teacher and student be made, what do they read, what does the teacher know."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from distilkit.config.fields import replace_values
from distilkit.data import checks
from distilkit.data.encoding import Tokenizer, longest_input
from distilkit.data.inputs import tokens
from distilkit.data.labels import match_labels
from distilkit.data.text_data import TextData
from distilkit.errors import UserError
from distilkit.models.classifier import Classifier, Student, load_classifier
from distilkit.models.students import make_student
from distilkit.runs.locating import find_model
from distilkit.scores.statistics import wilson
from distilkit.workflows.diagnosis.cost import time_teacher
from distilkit.workflows.diagnosis.examination import Examination
from distilkit.workflows.diagnosis.samples import sample_labelled_rows, sample_rows
from distilkit.workflows.distillation.teachers import TeacherEnsemble
from distilkit.workflows.findings import models as model_findings
from distilkit.workflows.findings import tokens as token_findings
from distilkit.workflows.findings.finding import Finding

STUDENT = "the student"

Reader = tuple[str, Tokenizer, PreTrainedModel]  # its name in messages, its tokenizer and model


def load_teachers(examination: Examination) -> list[Classifier]:
    """Load the teachers that can be loaded, or none where `distill` would read none."""
    config = examination.config
    starts_from_teacher = config.vocabulary == "teacher" or (
        not config.has_word_vectors and config.init != "pretrained"
    )
    if not config.runs_teacher and not starts_from_teacher:
        return []
    teachers = []
    for name in examination.requested.teacher:
        source = find_model(name)
        broken: list[Finding] = []
        try:
            teachers.append(load_classifier(source))
        except UserError as error:
            broken = [model_findings.broken_teacher(str(error))]
            examination.diagnosis.skipped[f"checks of {name}"] = "it cannot be loaded"
        examination.add(broken, "teacher")
    return teachers


def check_student(examination: Examination, data: TextData, teachers: Sequence[Classifier]) -> Student | None:
    """Make the student; return `None` where it cannot be made."""
    texts = data.texts("train").strings()
    teacher = teachers[0] if teachers else None
    needs_teacher = examination.config.init == "teacher" or examination.config.vocabulary == "teacher"
    if needs_teacher and teacher is None:
        examination.diagnosis.skipped["student"] = "it starts from the teacher, which cannot be loaded"
        return None
    try:
        student = make_student(examination.config, data.names, teacher, texts)
    except UserError as error:
        examination.add([model_findings.broken_student(str(error))], "student")
        examination.diagnosis.skipped["student"] = "it cannot be made"
        return None
    examination.add((), "student")
    examination.diagnosis.student = f"{type(student.model).__name__}, {student.origin}"
    return student


def check_tokens(
    examination: Examination, data: TextData, teachers: Sequence[Classifier], student: Student | None
) -> NDArray[np.int64]:
    """Check lengths, unknown tokens and case.

    Returns:
        The student's tokens per row of `sample_rows` of the training split.
    """
    readers: list[Reader]
    readers = [(f"teacher {teacher.name}", teacher.tokenizer, teacher.model) for teacher in teachers]
    readers += [(STUDENT, student.tokenizer, student.model)] if student else []
    limit = _clamp_max_length(examination, readers)
    assert examination.config.max_length
    train, validation = sample_rows(data, "train"), sample_rows(data, "validation")
    train_tokens = {who: tokens(tokenizer, train) for who, tokenizer, _ in readers}
    examination.add(token_findings.cut_texts(train_tokens, examination.config.max_length, limit), "cut-texts")
    for who, tokenizer, _ in readers:
        cut, unknown = train_tokens[who], tokens(tokenizer, validation)
        max_share, advice = _max_unknown_share(examination, who)
        examination.add(token_findings.unknown_tokens(who, unknown, max_share, advice), "unknown-tokens")
        examination.diagnosis.measured.setdefault("tokens", {})[who] = {
            "rows": len(cut.lengths),
            "cut_share": cut.cut(examination.config.max_length) / len(cut.lengths),
            "fits_99_percent": cut.fitting(token_findings.FITTING),
            "unknown_share": unknown.unknown_share,
        }
    if teachers and student:
        folds = checks.lowercases(teachers[0].tokenizer), checks.lowercases(student.tokenizer)
        capitals, rows = checks.with_capitals(train.first), len(train)
        examination.add(token_findings.lost_capitals(teachers[0].name, *folds, capitals, rows), "case")
    return train_tokens[STUDENT].lengths if student else np.empty(0, np.int64)


def _clamp_max_length(examination: Examination, readers: Sequence[Reader]) -> int | None:
    """Cut the examined length to what all readers can read; return that limit, where there is one."""
    limits = [longest_input(tokenizer, model) for _, tokenizer, model in readers]
    if examination.requested.max_length is not None:
        for (who, _, _), limit in zip(readers, limits, strict=True):
            finding = token_findings.short_positions(who, examination.requested.max_length, limit)
            examination.add(finding, "max-length")
    shortest = min((limit for limit in limits if limit is not None), default=None)
    assert examination.config.max_length
    if shortest is not None and examination.config.max_length > shortest:
        examination.config = replace_values(examination.config, max_length=shortest)
    return shortest


def _max_unknown_share(examination: Examination, who: str) -> tuple[float, str]:
    """Return the share of unknown tokens that is still harmless, and what to do above it."""
    if who != STUDENT:
        return token_findings.UNKNOWN_TO_TEACHER, "a teacher of this language: --teacher RUN_OR_MODEL"
    if not examination.config.has_word_vectors or examination.config.vocabulary == "teacher":
        return token_findings.UNKNOWN_TO_STUDENT, "a student of this language: --student FOLDER"
    advice = "--vocabulary teacher (word-pieces), or more text: --transfer FILE"
    return token_findings.UNKNOWN_TO_STUDENT, advice


def check_teacher(examination: Examination, teacher: Classifier, data: TextData) -> float | None:
    """Compare a teacher's predictions with labels.

    Returns:
        The seconds that its logits of all training rows will take; `None` where that is not known.
    """
    who = teacher.name
    matched = _match_classes(examination, teacher, data)
    if matched is None:
        return None
    class_order, by_name = matched
    config = replace_values(examination.config, teacher=(who,), teacher_weight=())
    reporter = examination.reporter

    def make_ensemble(rows: TextData) -> TeacherEnsemble:
        return TeacherEnsemble(config, [teacher], [class_order], rows, reporter)

    labelled = sample_labelled_rows(data)
    skill = None
    if labelled is None:
        examination.diagnosis.skipped[f"level of {who}"] = "validation has labels of fewer than two classes"
    else:
        ensemble = TeacherEnsemble(config, [teacher], [class_order], labelled, examination.reporter)
        try:
            predictions = ensemble.logits("validation").argmax(dim=1).numpy()
        except UserError as error:
            examination.add([model_findings.broken_teacher(str(error))], "teacher")
            return None
        skill = checks.skill(predictions, labelled.labels_of["validation"], len(data.names))
        faults = model_findings.teacher_skill(
            "validation", f"the teacher {who}", skill, data.names, class_order
        )
        examination.add(faults, "label-order", "teacher-level")
    examination.diagnosis.measured.setdefault("teachers", {})[who] = {
        "classes_matched_by": "name" if by_name else "id",
        "rows": skill and skill.rows,
        "accuracy": skill and skill.accuracy,
        "accuracy_interval": skill and wilson(skill.right, skill.rows),
        "majority_share": skill and skill.majority,
    }
    ensemble = TeacherEnsemble(config, [teacher], [class_order], data, examination.reporter)
    return time_teacher(examination, ensemble, teacher)


def _match_classes(
    examination: Examination, teacher: Classifier, data: TextData
) -> tuple[list[int], bool] | None:
    """Return the teacher's class for each class of the data, and whether names decided it.

    Returns:
        `None` when the classes differ.
    """
    who, class_names = teacher.name, teacher.class_names
    try:
        matched = match_labels(class_names, data.names, f"the teacher {who}")
    except UserError as error:
        examination.add(
            [model_findings.class_names_differ(f"the teacher {who}", class_names, data.names)], "label-names"
        )
        if len(class_names) == len(data.names):
            return list(range(len(class_names))), False
        examination.diagnosis.skipped[f"level of {who}"] = str(error)
        return None
    examination.add((), "label-names")
    return matched
