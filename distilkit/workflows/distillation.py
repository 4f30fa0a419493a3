"""`distill`: train a student on the teacher's logits and the labels."""

import torch
from accelerate.utils import set_seed

from distilkit.config import DistillConfig, resolve
from distilkit.data import datasets
from distilkit.data.datasets import TextData
from distilkit.data.labels import match_labels
from distilkit.engine.losses import distillation_loss, formula
from distilkit.engine.precision import Resolved, default_device, make_accelerator, resolve_precision
from distilkit.engine.teacher_logits import TeacherLogits, compute_teacher_logits
from distilkit.models.loading import find_model, fingerprint, load_tokenizer, load_trained, model_names
from distilkit.models.students import Teacher, make_student
from distilkit.progress import SILENT, Reporter
from distilkit.runs import Run, check_output_dir
from distilkit.workflows.fitting import Job, encode_split, fit_into_run, within_reach

TEACHER_BATCH = 64  # rows per forward pass of the teacher, which keeps no activations


def distill(config: DistillConfig, reporter: Reporter = SILENT) -> Run:
    """Train `config.student` with `alpha * CE(labels) + (1 - alpha) * MSE(teacher's logits)`.

    The teacher runs once over the training split, before the student is trained; with `alpha=1` it does not
    run. The validation split picks the epoch that is kept; the test split is never opened.

    Returns:
        The run in `config.output_dir`.

    Raises:
        UserError: on anything wrong with the options, the data, the models or the output folder.
    """
    given, config = config, resolve(config)
    check_output_dir(config.output_dir, config.overwrite)
    precision = resolve_precision(config.precision, default_device())
    teacher = _load_teacher(config)
    data = datasets.load_for_training(
        config,
        config.max_train_samples,
        train_labels=config.alpha > 0,
        # Without training labels the teacher is the one who knows all classes.
        names=model_names(teacher.model) if teacher and teacher.model and config.alpha == 0 else None,
    )
    for note in data.notes:
        reporter.note(note)
    columns, by_name = None, True
    if teacher and teacher.model:
        columns, by_name = match_labels(
            model_names(teacher.model), data.names, f"the teacher {config.teacher}"
        )
        if not by_name:
            reporter.note(
                "labels: teacher and data share no class names, so their ids are taken to be the same"
            )
    set_seed(config.seed)
    texts = [*data.texts("train"), *(data.pairs("train") or [])]
    student = make_student(config, data.names, teacher, texts)
    reporter.note(f"student: {type(student.model).__name__}, {student.origin}")
    readers = [(student.tokenizer, student.model)]
    if teacher and teacher.model:
        readers.append((teacher.tokenizer, teacher.model))
    config = within_reach(given, config, readers)
    accelerator = make_accelerator(precision)
    facts = {"student": {"class": type(student.model).__name__, "origin": student.origin}}
    if teacher and teacher.model:
        facts["teacher"] = {"name": teacher.source.name, "fingerprint": fingerprint(teacher.model)}
    job = Job(
        command="distill",
        config=config,
        data=data,
        model=student.model,
        tokenizer=student.tokenizer,
        loss=lambda logits, batch: distillation_loss(
            logits, batch.get("labels"), batch.get("teacher_logits"), config.alpha
        ),
        formula=formula(config.alpha),
        precision=precision,
        facts=facts,
    )
    rows = encode_split(job, "train", reporter)
    labels = data.labels("train") if config.alpha > 0 else None
    teacher_logits = None
    if config.alpha < 1:
        assert teacher
        computed = _run_teacher(config, teacher, data, columns, precision, reporter)
        teacher_logits = computed.join(data.texts("train"), data.pairs("train"))
    rows = rows.join(labels=labels, teacher_logits=teacher_logits)
    return fit_into_run(job, rows, accelerator, reporter)


def _load_teacher(config: DistillConfig) -> Teacher | None:
    """The teacher, as much of it as is needed: nothing, its tokenizer, or all of it.

    With `alpha=1` its weights are loaded only where the student starts from them.
    """
    takes_weights = config.init == "teacher"
    takes_tokenizer = config.vocabulary == "teacher" or (
        config.student != "bilstm" and config.init == "random"
    )
    if config.teacher is None or (config.alpha == 1 and not takes_weights and not takes_tokenizer):
        return None
    source = find_model(config.teacher)
    model = load_trained(source) if config.alpha < 1 or takes_weights else None
    return Teacher(source, load_tokenizer(source), model)


def _run_teacher(
    config: DistillConfig,
    teacher: Teacher,
    data: TextData,
    columns: list[int] | None,
    precision: Resolved,
    reporter: Reporter,
) -> TeacherLogits:
    assert teacher.model is not None and config.max_length
    model: torch.nn.Module = teacher.model
    logits = compute_teacher_logits(
        model.to(default_device()),
        teacher.tokenizer,
        data.texts("train"),
        data.pairs("train"),
        max_length=config.max_length,
        batch_size=TEACHER_BATCH,
        precision=precision,
        columns=columns,
        advance=lambda done, total: reporter.advance("teacher", done, total),
    )
    model.cpu()
    reporter.note(f"teacher: {config.teacher}, logits of {len(logits.index):,} distinct rows computed once")
    return logits
