"""What is written of a run while it trains."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilkit.config import DistillConfig
from distilkit.config.fields import changed
from distilkit.data.encoding import Encoded
from distilkit.engine.inference.logits import predict_logits
from distilkit.engine.training.calibration import BOUNDS, divided_logits, fit_temperature
from distilkit.errors import UserError
from distilkit.models.loading import count_parameters, save_model
from distilkit.models.locating import weight_bytes
from distilkit.progress import Reporter
from distilkit.runs import environment as environment_facts
from distilkit.runs import folder, run
from distilkit.runs.records import EpochRecord
from distilkit.scores.metrics import expected_calibration_error, score
from distilkit.workflows.fitting.job import Job, _stage

CALIBRATION_ROWS = 100  # with fewer, a temperature says more of these rows than of the student


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
    started, clock = environment_facts.now(), time.perf_counter()
    sizes = ", ".join(f"{split} {len(rows):,} rows" for split, rows in job.data.splits.items())
    reporter.note(f"data: {job.data.name}, {sizes}")
    reporter.note(job.formula)
    with run.writing(config.output_dir, config.overwrite) as draft:
        run.write_config(draft, changed(config, precision=job.precision))

        def take(record: EpochRecord, of: Job = job) -> None:
            nonlocal best, calibration
            assert of.config.epochs
            stage = {"stage": _stage(of)} if job.first else {}
            folder.append_line(draft / run.HISTORY, stage | record.as_dict())
            told = describe_epoch(record, of.config.epochs, of.data.metric)
            reporter.note(": ".join([*stage.values(), told]))
            if record.improved and of is job:
                best = record
                if calibrates:
                    assert validation
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
            "bytes": weight_bytes(draft / run.MODEL),
            "seconds": round(time.perf_counter() - clock, 2),
        }
        if calibration:
            reporter.note(f"calibration: {calibration.note}")
            metrics["calibration"] = calibration.facts
        folder.write_json(draft / run.METRICS, metrics)
        environment = _environment(job, train_rows, device, together)
        folder.write_json(
            draft / run.ENVIRONMENT, environment | {"start": started, "end": environment_facts.now()}
        )


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
        **environment_facts.describe_environment(),
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
