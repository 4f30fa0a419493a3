"""`doctor`: examine data, teacher and student before anything is distilled."""

import torch

from distilkit.config import DistillConfig, DoctorConfig, resolve
from distilkit.data.raw import read_raw
from distilkit.errors import FaultFound, UserError
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import check_precision
from distilkit.progress import SILENT, Reporter
from distilkit.workflows.diagnosis.cost import estimate_run
from distilkit.workflows.diagnosis.examination import Diagnosis, Examination
from distilkit.workflows.diagnosis.models import check_student, check_teacher, check_tokens, load_teachers
from distilkit.workflows.diagnosis.rows import check_rows, read_rows
from distilkit.workflows.diagnosis.teacher_files import check_teacher_files, list_file_classes
from distilkit.workflows.distillation import recipe


def doctor(config: DoctorConfig, reporter: Reporter = SILENT) -> Diagnosis:
    """Check what `distill` would be given: texts, labels, splits, tokenizers, teachers; time a few batches.

    Cheap checks come first, and a fault ends none of the later ones. Nothing is written but teacher logits,
    into the cache.

    Returns:
        The findings, and estimates of the run's time and memory.

    Raises:
        UserError: when there is nothing to examine: options, files or columns that are not there.
    """
    if config.method == "general":
        raise UserError("doctor looks at labelled data, and --method general reads none: leave it out.")
    if not config.has_dataset:
        raise UserError("doctor looks at a dataset: give --dataset or --data-dir.")
    examination = _begin(config, reporter)
    if not (config.teacher or config.teacher_file):
        examination.diagnosis.skipped["teacher"] = (
            "there is none yet: add --teacher RUN_OR_MODEL or --teacher-file FILE"
        )
    teachers = load_teachers(examination)
    raw = read_raw(examination.requested)
    teacher_names = teachers[0].class_names if teachers else list_file_classes(examination)
    data = read_rows(examination, raw, teacher_names)
    if data is None:
        return examination.diagnosis
    _apply_recipe(examination)
    check_rows(examination, raw, data)
    data = check_teacher_files(examination, data)
    student = check_student(examination, data, teachers)
    lengths = check_tokens(examination, data, teachers, student)
    teacher_seconds: float | None = 0.0
    if examination.config.runs_teacher:
        seconds = [check_teacher(examination, teacher, data) for teacher in teachers]
        finite = [value for value in seconds if value is not None]
        teacher_seconds = sum(finite) if len(finite) == len(examination.requested.teacher) else None
    if student:
        estimate_run(examination, data, student, lengths, teacher_seconds)
    return examination.diagnosis


def check_findings(diagnosis: Diagnosis) -> None:
    """Raise `FaultFound` when `doctor` found an error."""
    errors = [finding.check for finding in diagnosis.findings if finding.severity == "error"]
    if errors:
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        raise FaultFound(f"doctor: {count} ({', '.join(dict.fromkeys(errors))})")


def _begin(config: DistillConfig, reporter: Reporter) -> Examination:
    device = select_device(config.device, reporter)
    check_precision(config.precision, device)
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Examination(
        requested=config,
        config=resolve(config),
        device=device,
        reporter=reporter,
        diagnosis=Diagnosis(config.data_name, device_name, teachers=[*config.teacher, *config.teacher_file]),
    )


def _apply_recipe(examination: Examination) -> None:
    requested, diagnosis = examination.requested, examination.diagnosis
    if not requested.recipe:
        return
    try:
        choices = recipe.list_choices(requested, examination.reporter)
        examination.requested = recipe.apply_choices(requested, choices)
        examination.new_texts = recipe.estimate_new_texts(requested, choices)
        diagnosis.recipe = [choice._asdict() for choice in choices]
    except UserError as error:  # the recipe reads the texts too, and stops at an empty one
        diagnosis.skipped["recipe"] = str(error)
        examination.requested = recipe.drop_recipe(requested)
    examination.config = resolve(examination.requested)
    if examination.new_texts:
        diagnosis.estimates["new_texts"] = {
            "rows": examination.new_texts.rows,
            "seconds": round(examination.new_texts.seconds, 1),
        }
