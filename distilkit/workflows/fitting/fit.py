"""What `train` and `distill` share: a model, rows and a loss in; a run folder out."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.training.learners import fit_together
from distilkit.engine.training.loop import StepRecord, fit, logits_of
from distilkit.engine.training.sparse_adamw import can_be_table
from distilkit.errors import UserError
from distilkit.hardware.memory import explain_out_of_memory
from distilkit.models.bilstm_stack import BiLSTMStack
from distilkit.progress import SILENT, NamedReporter, Reporter
from distilkit.runs import run
from distilkit.runs.records import EpochRecord
from distilkit.workflows.fitting.job import MATCHED, Job, _stage
from distilkit.workflows.fitting.recorder import _Book, _recorded, _Validation

# Model families of which `SparseRowAdamW` may take the word table.
LOOK_UP_THEIR_INPUT = frozenset(
    ("bilstm", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
)


LESS_MEMORY = (
    "Use a lower --batch-size (with --gradient-accumulation-steps for the same steps) "
    "or a lower --max-length."
)


def fit_into_run(
    job: Job,
    train_rows: Encoded,
    validation_rows: Encoded,
    accelerator: Accelerator,
    reporter: Reporter,
    spare_core: Executor | None = None,
) -> run.Run:
    """Train `job.model` on `train_rows` and write the run: whole, or not at all.

    Args:
        aside: as `fit`.

    Raises:
        UserError: when `output_dir` cannot receive the run or training diverges.
    """
    device = accelerator.device
    validation = _Validation(job, validation_rows) if job.data.metric != MATCHED else None
    with explain_out_of_memory(LESS_MEMORY), _recorded(job, train_rows, validation, device, reporter) as take:
        if job.first:
            weights: dict[str, Tensor] = {}
            stage = job.first
            scores = partial(_layer_scores, stage.job, stage.validation_rows)
            for record in _epochs(stage.job, stage.train_rows, scores, accelerator, reporter, spare_core):
                take(record, stage.job)
                if record.improved:
                    weights = {name: value.clone() for name, value in job.model.state_dict().items()}
            job.model.load_state_dict(weights)
        scores = (
            partial(validation, job.model) if validation else partial(_layer_scores, job, validation_rows)
        )
        for record in _epochs(job, train_rows, scores, accelerator, reporter, spare_core):
            take(record)
    return run.Run.load(job.config.output_dir)


def examples_per_second(
    job: Job, rows: Encoded, accelerator: Accelerator, spare_core: Executor | None = None
) -> float:
    """How fast the last epoch over `rows` is: training steps as those of a run, of which nothing is kept."""
    with explain_out_of_memory(LESS_MEMORY):
        records = list(_epochs(job, rows, lambda: {job.data.metric: 0.0}, accelerator, SILENT, spare_core))
    return records[-1].examples_per_second


def _epochs(
    job: Job,
    train_rows: Encoded,
    validate: Callable[[], dict[str, float]],
    accelerator: Accelerator,
    reporter: Reporter,
    spare_core: Executor | None,
) -> Iterator[EpochRecord]:
    """Train as `fit` does, and tell how far it is."""
    device = accelerator.device
    model: torch.nn.Module = job.model
    forward: Callable[[torch.nn.Module, dict[str, Tensor]], Any] = logits_of
    if job.beside:
        job.beside.teacher.to(device)
        model, forward = job.beside.student, job.beside.forward
    records = fit(
        model,
        _loader(job, train_rows.to(device)),
        job.loss,
        accelerator=accelerator,
        forward=forward,
        tables=_sparse_tables(job, train_rows, device),
        validate=lambda _: validate(),
        higher_is_better=job.data.metric != MATCHED,
        decay=job.decay,
        spare_core=spare_core,
        **_settings(job),
    )
    for record in records:
        if isinstance(record, StepRecord):
            doing = "match layers" if _stage(job) == "layers" else "train"
            reporter.advance(doing, record.step, record.steps, f"loss {record.loss:.4f}")
        else:
            yield record
    accelerator.free_memory()  # it holds on to every model and optimizer that it has prepared
    if job.beside:
        job.beside.teacher.cpu()


def fit_into_runs(
    jobs: Sequence[Job],
    train_rows: Sequence[Encoded],
    validation_rows: Encoded,
    device: torch.device,
    reporter: Reporter,
) -> list[run.Run | UserError]:
    """`fit_into_run` for several BiLSTMs at once, which differ in nothing but alphas, seed and folder.

    Args:
        train_rows: the same rows for each job, joined to what its own loss reads.

    Returns:
        Per job its run, or the error that ended it and left the others alone.

    Raises:
        torch.OutOfMemoryError: when they do not fit on the device together. Nothing is left of them.
    """
    everything = (
        train_rows[0]
        .join(
            labels=next((rows.labels for rows in train_rows if rows.labels is not None), None),
            teacher_logits=next(
                (rows.teacher_logits for rows in train_rows if rows.teacher_logits is not None), None
            ),
        )
        .to(device)
    )
    validation = _Validation(jobs[0], validation_rows)
    loaders = {job.config.seed: _loader(job, everything) for job in jobs}
    with ExitStack() as drafts:
        books = []
        for job, rows in zip(jobs, train_rows, strict=True):
            book = drafts.enter_context(_Book(job))
            named = NamedReporter(job.config.output_dir.name, reporter)
            book.open(_recorded(job, rows, validation, device, named, together=len(jobs)))
            books.append(book)
        opened = [book for book in books if not book.outcome]
        models: list[Any] = [book.job.model.to(device) for book in opened]  # type: ignore[arg-type]
        configs: list[Any] = [book.job.config for book in opened]
        records: Iterator[Any] = iter(())
        if opened:
            records = fit_together(
                BiLSTMStack(models),
                [loaders[config.seed] for config in configs],
                [config.alphas[0] for config in configs],
                device=device,
                validate=validation,
                alphas_end=[config.alphas[1] for config in configs],
                temperature=configs[0].temperature,
                labelled_share=max(job.labelled_share for job in jobs),
                **_settings(jobs[0]),
            )
        for record in records:
            if isinstance(record, StepRecord):
                detail = f"mean loss {record.loss:.4f}"
                reporter.advance(f"train {len(opened)} students", record.step, record.steps, detail)
            else:
                opened[record[0]].take(record[1])
        return [book.close() for book in books]


def _loader(job: Job, rows: Encoded) -> DataLoader[Any]:
    config = job.config
    assert config.batch_size
    return step_loader(
        rows,
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        seed=config.seed,
        mix=job.mix,
    )


def _settings(job: Job) -> dict[str, Any]:
    """What `fit` and `fit_together` are told alike."""
    config = job.config
    return {
        "precision": job.precision,
        "metric": job.data.metric,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "warmup_ratio": config.warmup_ratio,
        "max_grad_norm": config.max_grad_norm,
        "patience": config.patience,
    }


def _layer_scores(job: Job, rows: Encoded) -> dict[str, float]:
    assert job.beside
    return job.beside.score(rows, job.precision)


def _sparse_tables(job: Job, rows: Encoded, device: torch.device) -> list[torch.nn.Embedding]:
    """The word table, where updating only the rows that a step reads saves most of the optimizer's time.

    On a CPU that is so unless a step has more tokens than the table has rows; a GPU updates all of a table
    in less time than it takes to find out which rows were read. Only for models known to look up the tokens
    they are given, once, and no others.
    """
    table: Any = job.model.get_input_embeddings()
    if job.model.config.model_type not in LOOK_UP_THEIR_INPUT:
        return []
    assert job.config.batch_size
    step_rows = job.config.batch_size * job.config.gradient_accumulation_steps
    tokens = step_rows * float(rows.lengths.mean())
    if device.type == "cpu" and can_be_table(table) and tokens <= len(table.weight):
        return [table]
    return []
