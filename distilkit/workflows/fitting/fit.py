"""What `train` and `distill` share: a model, rows and a loss in; a run folder out."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from distilkit.config import DistillConfig, FitConfig, TrainConfig
from distilkit.config.fields import changed
from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded, Tokenizer, encode, longest_input
from distilkit.data.sources import TextData
from distilkit.engine.inference.logits import predict_logits
from distilkit.engine.training.calibration import BOUNDS, divided_logits, fit_temperature
from distilkit.engine.training.layers import LayerPair
from distilkit.engine.training.learners import fit_together
from distilkit.engine.training.loop import ChangingLoss, EpochRecord, Loss, StepRecord, fit, logits_of
from distilkit.engine.training.sparse_adamw import can_be_table
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved, explaining_memory
from distilkit.models.bilstm_stack import BiLSTMStack
from distilkit.models.loading import Source, count_parameters, save_model
from distilkit.progress import SILENT, NamedReporter, Reporter
from distilkit.runs import run
from distilkit.scores.metrics import expected_calibration_error, score

AnyFit = TypeVar("AnyFit", bound=FitConfig)

# Model families of which `RowAdamW` may take the word table.
LOOK_UP_THEIR_INPUT = frozenset(
    ("bilstm", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
)
CALIBRATION_ROWS = 100  # with fewer, a temperature says more of these rows than of the student
LESS_MEMORY = (
    "Use a lower --batch-size (with --gradient-accumulation-steps for the same steps) "
    "or a lower --max-length."
)
MATCHED = "layer_loss"  # the metric of a training that matches layers and nothing else


@dataclass(frozen=True)
class Job:
    """One training: everything loaded, nothing trained yet.

    `facts` go into `environment.json`. `labelled_share` is that of an epoch's rows; `mix` says how many of
    them are training rows and how many others (`LengthBatchSampler`). `beside` runs a teacher along with the
    student, whose layers the loss then reads; `decay` is as in `fit`.
    """

    command: str
    config: TrainConfig | DistillConfig
    data: TextData
    model: PreTrainedModel
    tokenizer: Tokenizer
    loss: Loss | ChangingLoss
    formula: str
    precision: Resolved
    facts: Mapping[str, Any]
    labelled_share: float = 1.0
    mix: tuple[int, int] | None = None
    beside: LayerPair | None = None
    decay: bool = True
    first: "Stage | None" = None


@dataclass(frozen=True)
class Stage:
    """A training of the same model that comes before a job's and is recorded with it."""

    job: Job
    train_rows: Encoded
    validation_rows: Encoded


def within_reach(given: AnyFit, resolved: AnyFit, readers: Iterable[tuple[Tokenizer, Any]]) -> AnyFit:
    """`resolved` with a default `max_length` cut to what every reader can read; one that was given stands."""
    assert resolved.max_length
    limits = [limit for reader in readers if (limit := longest_input(*reader)) is not None]
    if given.max_length is not None or min(limits, default=resolved.max_length) >= resolved.max_length:
        return resolved
    return changed(resolved, max_length=min(limits))


def encode_split(
    data: TextData,
    tokenizer: Tokenizer,
    model: PreTrainedModel,
    max_length: int | None,
    reporter: Reporter,
    split: str,
) -> Encoded:
    """A split as the student's (or teacher's) own tokenizer and model read it."""
    texts = data.texts(split)
    assert max_length
    return encode(
        tokenizer,
        texts,
        data.pairs(split),
        max_length=max_length,
        model=model,
        advance=lambda done: reporter.advance(f"tokenize {split}", done, len(texts)),
    )


def fit_into_run(
    job: Job,
    train_rows: Encoded,
    validation_rows: Encoded,
    accelerator: Accelerator,
    reporter: Reporter,
    aside: Executor | None = None,
) -> run.Run:
    """Train `job.model` on `train_rows` and write the run: whole, or not at all.

    Args:
        aside: as `fit`.

    Raises:
        UserError: when `output_dir` cannot receive the run or training diverges.
    """
    device = accelerator.device
    validation = _Validation(job, validation_rows) if job.data.metric != MATCHED else None
    with explaining_memory(LESS_MEMORY), _recorded(job, train_rows, validation, device, reporter) as take:
        if job.first:
            weights: dict[str, Tensor] = {}
            stage = job.first
            scores = partial(_layer_scores, stage.job, stage.validation_rows)
            for record in _epochs(stage.job, stage.train_rows, scores, accelerator, reporter, aside):
                take(record, stage.job)
                if record.improved:
                    weights = {name: value.clone() for name, value in job.model.state_dict().items()}
            job.model.load_state_dict(weights)
        scores = (
            partial(validation, job.model) if validation else partial(_layer_scores, job, validation_rows)
        )
        for record in _epochs(job, train_rows, scores, accelerator, reporter, aside):
            take(record)
    return run.Run.load(job.config.output_dir)


def examples_per_second(
    job: Job, rows: Encoded, accelerator: Accelerator, aside: Executor | None = None
) -> float:
    """How fast the last epoch over `rows` is: training steps as those of a run, of which nothing is kept."""
    with explaining_memory(LESS_MEMORY):
        records = list(_epochs(job, rows, lambda: {job.data.metric: 0.0}, accelerator, SILENT, aside))
    return records[-1].examples_per_second


def _epochs(
    job: Job,
    train_rows: Encoded,
    validate: Callable[[], dict[str, float]],
    accelerator: Accelerator,
    reporter: Reporter,
    aside: Executor | None,
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
        aside=aside,
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


def _stage(job: Job) -> str:
    """What of the student is trained to be as it should."""
    return "layers" if job.data.metric == MATCHED else "logits"


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


class _Book:
    """One of several runs that are written at the same time: what goes wrong with it, it keeps to itself."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.outcome: run.Run | UserError | None = None
        self._draft = ExitStack()
        self._take: Callable[[EpochRecord], None] | None = None

    def __enter__(self) -> "_Book":
        return self

    def __exit__(self, *error: Any) -> None:
        self._draft.__exit__(*error)

    def open(self, recorded: AbstractContextManager[Callable[[EpochRecord], None]]) -> None:
        try:
            self._take = self._draft.enter_context(recorded)
        except UserError as error:
            self.outcome = error.with_traceback(None)

    def take(self, record: EpochRecord | UserError) -> None:
        """An epoch, or what ended the training."""
        if self.outcome:
            return
        assert self._take
        try:
            if isinstance(record, UserError):
                raise record
            self._take(record)
        except (UserError, OSError) as error:
            self._end(error)

    def close(self) -> run.Run | UserError:
        """The run, written; or why there is none."""
        if not self.outcome:
            self._end(None)
        assert self.outcome
        return self.outcome

    def _end(self, error: Exception | None) -> None:
        try:
            with self._draft:
                if error:
                    raise error
        except UserError as problem:
            self.outcome = problem.with_traceback(None)  # its frames hold models and rows
        else:
            self.outcome = run.Run.load(self.job.config.output_dir)


@contextmanager
def _recorded(
    job: Job,
    train_rows: Encoded,
    validation: "_Validation | None",
    device: torch.device,
    reporter: Reporter,
    together: int = 1,
) -> Iterator[Callable[..., None]]:
    """What to call after every epoch of `job`, which keeps the best model; the run is written at the end.

    It is called with the record, and with the job that it belongs to where that is the one of `job.first`.
    """
    config = job.config
    best: EpochRecord | None = None
    calibrates = isinstance(config, DistillConfig) and config.calibrate and validation is not None
    calibration: _Calibration | None = None
    started, clock = run.now(), time.perf_counter()
    sizes = ", ".join(f"{split} {len(rows):,} rows" for split, rows in job.data.splits.items())
    reporter.note(f"data: {job.data.name}, {sizes}")
    reporter.note(job.formula)
    with run.writing(config.output_dir, config.overwrite) as draft:
        run.write_config(draft, changed(config, precision=job.precision))

        def take(record: EpochRecord, of: Job = job) -> None:
            nonlocal best, calibration
            assert of.config.epochs
            stage = {"stage": _stage(of)} if job.first else {}
            run.append_line(draft / run.HISTORY, stage | record.as_dict())
            told = describe_epoch(record, of.config.epochs, of.data.metric)
            reporter.note(": ".join([*stage.values(), told]))
            if record.improved and of is job:
                best = record
                if calibrates:
                    assert validation and validation.scores is record.validation, (
                        "these logits are this epoch's"
                    )
                    calibration = _save_calibrated(job, validation, draft)
                else:
                    _save_best(job, draft)

        yield take
        assert best is not None
        parameters, without_embeddings = count_parameters(job.model)
        metrics = {
            "best_epoch": best.epoch,
            "metric": job.data.metric,
            "validation": best.validation | dict(calibration.scores if calibration else {}),
            "parameters": parameters,
            "parameters_without_embeddings": without_embeddings,
            "bytes": Source("", draft / run.MODEL).bytes,
            "seconds": round(time.perf_counter() - clock, 2),
        }
        if calibration:
            reporter.note(f"calibration: {calibration.note}")
            metrics["calibration"] = calibration.facts
        run.write_json(draft / run.METRICS, metrics)
        environment = _environment(job, train_rows, device, together)
        run.write_json(draft / run.ENVIRONMENT, environment | {"start": started, "end": run.now()})


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


class _Validation:
    """Scores a model on the validation split, and keeps what it answered."""

    def __init__(self, job: Job, rows: Encoded) -> None:
        self.rows, self.labels = rows, job.data.labels("validation")
        self._precision, self.by_teacher = job.precision, job.data.metric == "agreement"

    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        self.logits = predict_logits(model, self.rows, precision=self._precision)
        self.scores = score(self.logits, self.labels)
        if self.by_teacher:  # it gave the labels, so to be right is to agree with it
            self.scores = {"agreement": self.scores["accuracy"]}
        return self.scores


@dataclass(frozen=True)
class _Calibration:
    """What became of it: `facts` for `metrics.json`, `scores` of the student that was saved, a `note`."""

    note: str
    facts: Mapping[str, float] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


def _save_calibrated(job: Job, validation: _Validation, draft: Path) -> _Calibration:
    """`_save_best` with the logits divided by a temperature that fits `validation`, where there is one.

    Dividing changes no answer: the accuracy stays what it is.
    """
    if validation.by_teacher:
        _save_best(job, draft)
        return _Calibration("there are no labels, so the student's probabilities are left as they are")
    known = validation.labels >= 0
    logits, labels = validation.logits[known], validation.labels[known]
    temperature = fit_temperature(logits, labels) if len(labels) >= CALIBRATION_ROWS else None
    if temperature is None:
        _save_best(job, draft)
        low, high = BOUNDS
        why = f"no temperature within [{low:g}, {high:g}] is best on the validation split"
        if len(labels) < CALIBRATION_ROWS:
            why = f"the validation split has {len(labels)} labelled rows, which is under {CALIBRATION_ROWS}"
        return _Calibration(f"{why}, so the student's probabilities are left as they are")
    inputs = validation.rows.inputs(np.arange(min(8, len(validation.rows))))
    device = next(job.model.parameters()).device
    inputs = {name: values.to(device) for name, values in inputs.items()}
    with divided_logits(job.model, inputs, temperature) as divided:
        _save_best(job, draft)
    if not divided:
        return _Calibration(
            f"the last layer of {type(job.model).__name__} does not scale its logits, so its probabilities "
            "are left as they are"
        )
    scaled = logits / temperature
    facts = {
        "temperature": temperature,
        "ece_before": expected_calibration_error(logits, labels),
        "ece": expected_calibration_error(scaled, labels),
        "loss_before": score(logits, labels)["loss"],
        "loss": score(scaled, labels)["loss"],
    }
    note = (
        f"the student's logits are divided by {temperature:.4g}; ECE {facts['ece_before']:.4f} -> "
        f"{facts['ece']:.4f}, NLL {facts['loss_before']:.4f} -> {facts['loss']:.4f} "
        "(fitted on the validation split, so both are optimistic there)"
    )
    return _Calibration(note, facts, {"loss": facts["loss"]})


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


def _save_best(job: Job, draft: Path) -> None:
    new = draft / f"{run.MODEL}.new"
    save_model(job.model, job.tokenizer, new)
    with suppress(FileNotFoundError):
        shutil.rmtree(draft / run.MODEL)
    new.rename(draft / run.MODEL)


def _environment(job: Job, train_rows: Encoded, device: torch.device, together: int) -> dict[str, Any]:
    read = {"validation"} | ({"train"} if train_rows.labels is not None else set())  # splits, for labels
    return {
        "command": job.command,
        **run.describe_environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "trained_together": together,
        "precision": job.precision,
        "seed": job.config.seed,
        "loss": job.formula,
        "dataset": {
            "name": job.data.name,
            "rows": {split: len(rows) for split, rows in job.data.splits.items()},
            "fingerprint": {
                split: job.data.fingerprint(split, labels=split in read) for split in job.data.splits
            },
            "notes": list(job.data.notes),
        },
        **job.facts,
    }


def describe_epoch(record: EpochRecord, epochs: int, metric: str) -> str:
    """One line on an epoch: loss and its parts, the metrics, the speed."""
    parts = [
        f"{name} {value:.4f}"
        for name, value in (
            ("hard", record.hard_loss),
            ("soft", record.soft_loss),
            ("layers", record.layer_loss),
        )
        if value is not None
    ]
    loss = f"loss {record.loss:.4f}" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")
    names = [name for name in dict.fromkeys((metric, "accuracy")) if name in record.validation]
    scores = "  ".join(f"{name} {record.validation[name]:.4f}" for name in names)
    return (
        f"epoch {record.epoch}/{epochs}  {loss}  validation {scores}  "
        f"{record.examples_per_second:,.0f} examples/s" + ("  best so far" if record.improved else "")
    )
