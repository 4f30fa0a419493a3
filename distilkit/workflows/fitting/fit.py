"""Train a `Job`, or several at once, into run folders."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from distilkit.data.batching import StepLoader, step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.training.checkpoints import Checkpoints, Position
from distilkit.engine.training.learners import ModelLearner, OptimizerSettings, StackedLearner, StackedLoader
from distilkit.engine.training.loop import StepRecord, StudentRecord, fit
from distilkit.engine.training.losses import Batch, DistillationLoss
from distilkit.engine.training.sparse_adamw import can_be_table
from distilkit.errors import UserError
from distilkit.hardware.memory import explain_out_of_memory
from distilkit.models.bilstm import BiLSTMForSequenceClassification
from distilkit.models.bilstm_stack import BiLSTMStack
from distilkit.progress import SILENT, NamedReporter, Reporter
from distilkit.runs.records import EpochRecord
from distilkit.runs.run import Run
from distilkit.stopping import deferring
from distilkit.workflows.fitting.job import Job
from distilkit.workflows.fitting.recorder import RunRecorder, layer_scores

# Model families of which `SparseRowAdamW` may take the word table: they look up their input, once.
LOOK_UP_THEIR_INPUT = frozenset(
    ("bilstm", "static", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
)
LESS_MEMORY = (
    "Training needs less memory with a lower --max-length or --batch-size, or a smaller model. Where others "
    "use the same GPU, wait for them, or choose another with --device; where memory is left in pieces, set "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
)


def fit_into_run(
    job: Job,
    train_rows: Encoded,
    validation_rows: Encoded,
    accelerator: Accelerator,
    reporter: Reporter,
    spare_core: Executor | None = None,
) -> Run:
    """Train `job.model` on `train_rows` and write the run: whole, or not at all.

    Args:
        spare_core: as `fit`.

    Raises:
        UserError: when `output_dir` cannot receive the run or training diverges.
    """
    validation_rows = validation_rows.to(accelerator.device)  # once, and not in every epoch
    recorder = RunRecorder(job, train_rows, validation_rows, accelerator.device, reporter)
    with explain_out_of_memory(LESS_MEMORY):
        try:
            recorder.open()
            epochs_of = partial(_epochs, accelerator=accelerator, reporter=reporter, spare_core=spare_core)
            with deferring() if recorder.has_checkpoints else nullcontext():
                if (stage := job.first) and not recorder.is_past(stage.job):
                    scores = partial(layer_scores, stage.job, stage.validation_rows)
                    checkpoints = recorder.checkpoints(stage.job)
                    with _occupying(accelerator, stage.job):
                        for record in epochs_of(stage.job, stage.train_rows, scores, checkpoints=checkpoints):
                            recorder.epoch(record, stage.job)
                    job.model.load_state_dict(recorder.take_best_weights())
                with _occupying(accelerator, job):
                    checkpoints = recorder.checkpoints(job)
                    for record in epochs_of(job, train_rows, recorder.validate, checkpoints=checkpoints):
                        recorder.epoch(record)
            return recorder.finish()
        except BaseException as error:
            raise recorder.discard(error) from None


def measure_examples_per_second(
    job: Job, rows: Encoded, accelerator: Accelerator, spare_core: Executor | None = None
) -> float:
    """Train on `rows` as a run would, keep nothing, and return the speed of the last epoch."""
    with explain_out_of_memory(LESS_MEMORY), _occupying(accelerator, job):
        records = list(_epochs(job, rows, lambda: {job.metric: 0.0}, accelerator, SILENT, spare_core))
    return records[-1].examples_per_second


def _epochs(
    job: Job,
    train_rows: Encoded,
    validate: Callable[[], dict[str, float]],
    accelerator: Accelerator,
    reporter: Reporter,
    spare_core: Executor | None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[EpochRecord]:
    """Train one model with `fit`, report its steps, save its checkpoints and yield its epochs."""
    device = accelerator.device
    model: nn.Module = job.pair.student if job.pair else job.model
    rows = train_rows.to(device)
    loader = _loader(job, rows, spare_core)
    learner = ModelLearner(
        model,
        job.loss,
        _optimizer_settings(job, loader),
        accelerator=accelerator,
        precision=job.precision,
        tables=_sparse_tables(job, train_rows, device),
        spare_core=spare_core,
    )
    if device.type == "cuda":
        learner.start_epoch()
        learner.rehearse(_longest_batches(job, rows))
    if checkpoints and checkpoints.learner:
        learner.load_state_dict(checkpoints.learner)
    batch_rows = _note_batch_rows(learner, job.config.batch_size, reporter)
    records = fit(
        learner,
        loader,
        epochs=_number_of_epochs(job),
        validate=lambda _: validate(),
        metric=job.metric,
        higher_is_better=job.higher_is_better,
        patience=job.config.patience,
        checkpoints=checkpoints,
    )
    for record in records:
        if isinstance(record, StepRecord):
            task = "match layers" if job.objective == "layers" else "train"
            reporter.advance(task, record.step, record.steps, f"loss {record.loss:.4f}")
        elif isinstance(record, Position):
            assert checkpoints
            checkpoints.save(record, learner.state_dict())
        elif isinstance(record.outcome, UserError):
            raise record.outcome
        else:
            batch_rows = _note_batch_rows(learner, batch_rows, reporter)
            yield record.outcome


@contextmanager
def _occupying(accelerator: Accelerator, job: Job) -> Iterator[None]:
    """Keep the teacher of a job's pair on the device during the block, and free the memory after it.

    Not within `_epochs`, whose learner would still be alive then, and its memory with it.
    """
    try:
        if job.pair:
            job.pair.teacher.to(accelerator.device)
        yield
    finally:
        accelerator.free_memory()  # it holds on to every model and optimizer that it has prepared
        if job.pair:
            job.pair.teacher.cpu()


def _longest_batches(job: Job, rows: Encoded) -> list[Batch]:
    """Return the batch of the longest rows; twice where a step has several, and so gradients to keep."""
    config = job.config
    assert config.batch_size
    longest = np.argsort(-rows.lengths, kind="stable")[: config.batch_size]
    return [rows.batch(longest.tolist())] * min(2, config.gradient_accumulation_steps)


def _note_batch_rows(learner: ModelLearner, batch_rows: int | None, reporter: Reporter) -> int | None:
    """Report when a forward pass may read fewer than `batch_rows`; return how many it may read."""
    limit = learner.max_batch_rows
    if limit is None or limit == batch_rows:
        return batch_rows
    reporter.note(
        f"memory: {batch_rows} rows do not fit on the device at a time, so a step now reads {limit} at a time"
    )
    return limit


def fit_into_runs(
    jobs: Sequence[Job],
    train_rows: Sequence[Encoded],
    validation_rows: Encoded,
    device: torch.device,
    reporter: Reporter,
) -> list[Run | UserError]:
    """Train several BiLSTMs as one, which differ in nothing but alphas, seed and folder.

    Without checkpoints: their state would be one for several runs.

    Args:
        train_rows: the same rows for each job, joined to what its own loss reads.

    Returns:
        Per job its run, or the error that ended it and left the others alone.

    Raises:
        torch.OutOfMemoryError: when they do not fit on the device together. Nothing is left of them.
    """
    outcomes: dict[int, Run | UserError] = {}
    validation_rows = validation_rows.to(device)  # once, and not for every student in every epoch
    with ExitStack() as drafts:
        recorders = []
        for job, rows in zip(jobs, train_rows, strict=True):
            named = NamedReporter(job.config.output_dir.name, reporter)
            recorder = RunRecorder(job, rows, validation_rows, device, named, together=len(jobs))
            recorders.append(drafts.enter_context(recorder))

        def attempt(i: int, action: Callable[[], Run | None]) -> None:
            """Keep to one run what goes wrong with it."""
            if i in outcomes:
                return
            try:
                if run := action():
                    outcomes[i] = run
            except (UserError, OSError) as error:
                outcomes[i] = recorders[i].discard(error)

        for i, recorder in enumerate(recorders):
            attempt(i, recorder.open)
        opened = [i for i in range(len(jobs)) if i not in outcomes]
        if opened:
            all_rows = _join_targets(train_rows).to(device)
            for record in _fit_stack(
                [jobs[i] for i in opened], [recorders[i] for i in opened], all_rows, device
            ):
                assert not isinstance(record, Position)
                if isinstance(record, StepRecord):
                    detail = f"mean loss {record.loss:.4f}"
                    reporter.advance(f"train {len(opened)} students", record.step, record.steps, detail)
                else:
                    student = opened[record.student]
                    attempt(student, partial(_take, recorders[student], record.outcome))
        for i, recorder in enumerate(recorders):
            attempt(i, recorder.finish)
    return [outcomes[i] for i in range(len(jobs))]


def _take(recorder: RunRecorder, outcome: EpochRecord | UserError) -> None:
    if isinstance(outcome, UserError):
        raise outcome
    recorder.epoch(outcome)


def _fit_stack(
    jobs: Sequence[Job], recorders: Sequence[RunRecorder], rows: Encoded, device: torch.device
) -> Iterator[StepRecord | StudentRecord | Position]:
    """Train the models of `jobs` as one with `fit`."""
    models, losses = [], []
    for job in jobs:
        assert isinstance(job.model, BiLSTMForSequenceClassification)
        assert isinstance(job.loss, DistillationLoss)
        models.append(job.model.to(device))  # type: ignore[arg-type]
        losses.append(job.loss)
    loaders = {job.config.seed: _loader(job, rows) for job in jobs}
    loader = StackedLoader([loaders[job.config.seed] for job in jobs])
    learner = StackedLearner(
        BiLSTMStack(models),
        losses,
        _optimizer_settings(jobs[0], loader),
        device=device,
        precision=jobs[0].precision,
    )
    if device.type == "cuda":
        learner.rehearse([[batch] * len(jobs) for batch in _longest_batches(jobs[0], rows)])
    return fit(
        learner,
        loader,
        epochs=_number_of_epochs(jobs[0]),
        validate=lambda student: recorders[student].validate(),
        metric=jobs[0].metric,
        higher_is_better=jobs[0].higher_is_better,
        patience=jobs[0].config.patience,
    )


def _join_targets(train_rows: Sequence[Encoded]) -> Encoded:
    """Join the rows to labels and teacher logits, where any of the students reads them."""
    labels = [rows.labels for rows in train_rows if rows.labels is not None]
    teacher_logits = [rows.teacher_logits for rows in train_rows if rows.teacher_logits is not None]
    return train_rows[0].join(
        labels=labels[0] if labels else None, teacher_logits=teacher_logits[0] if teacher_logits else None
    )


def _loader(job: Job, rows: Encoded, spare_core: Executor | None = None) -> StepLoader:
    config = job.config
    assert config.batch_size
    return step_loader(
        rows,
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        seed=config.seed,
        mix=job.mix,
        spare_core=spare_core,
    )


def _number_of_epochs(job: Job) -> int:
    assert job.config.epochs
    return job.config.epochs


def _optimizer_settings(job: Job, loader: StepLoader | StackedLoader) -> OptimizerSettings:
    config = job.config
    assert config.learning_rate
    return OptimizerSettings(
        steps=_number_of_epochs(job) * len(loader),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_ratio=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        decays=job.decays,
    )


def _sparse_tables(job: Job, rows: Encoded, device: torch.device) -> list[nn.Embedding]:
    """Return the word table, where updating only the rows that a step reads saves most of the work.

    On a CPU that is so unless a step has more tokens than the table has rows. On a GPU, all of one student's
    table is updated in less time than it takes to find out which rows were read.
    """
    if job.model.config.model_type not in LOOK_UP_THEIR_INPUT or device.type != "cpu":
        return []
    table = job.model.get_input_embeddings()
    assert job.config.batch_size
    step_rows = job.config.batch_size * job.config.gradient_accumulation_steps
    tokens = step_rows * float(rows.lengths.mean())
    if isinstance(table, nn.Embedding) and can_be_table(table) and tokens <= len(table.weight):
        return [table]
    return []
