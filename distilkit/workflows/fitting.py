"""What `train` and `distill` share: a model, rows and a loss in; a run folder out."""

import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from distilkit import runs
from distilkit.config import AnyFit, DistillConfig, TrainConfig, changed
from distilkit.data.batching import step_loader
from distilkit.data.datasets import TextData
from distilkit.data.encoding import Encoded, Tokenizer, encode, longest_input
from distilkit.engine.inference import predict_logits
from distilkit.engine.loop import EpochRecord, Loss, StepRecord, fit
from distilkit.engine.metrics import score
from distilkit.engine.precision import Resolved, explaining_memory
from distilkit.models.loading import Source, count_parameters, save_model
from distilkit.progress import Reporter


@dataclass(frozen=True)
class Job:
    """One training: everything loaded, nothing trained yet. `facts` go into `environment.json`."""

    command: str
    config: TrainConfig | DistillConfig
    data: TextData
    model: PreTrainedModel
    tokenizer: Tokenizer
    loss: Loss
    formula: str
    precision: Resolved
    facts: Mapping[str, Any]


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
    job: Job, train_rows: Encoded, validation_rows: Encoded, accelerator: Accelerator, reporter: Reporter
) -> runs.Run:
    """Train `job.model` on `train_rows` and write the run: whole, or not at all.

    Raises:
        UserError: when `output_dir` cannot receive the run or training diverges.
    """
    config = job.config
    assert config.epochs and config.batch_size and config.learning_rate
    labels = job.data.labels("validation")
    step_rows = config.batch_size * config.gradient_accumulation_steps

    def validate(model: torch.nn.Module) -> dict[str, float]:
        return score(predict_logits(model, validation_rows, precision=job.precision), labels)

    started, clock = runs.now(), time.perf_counter()
    sizes = ", ".join(f"{split} {len(rows):,} rows" for split, rows in job.data.splits.items())
    reporter.note(f"data: {job.data.name}, {sizes}")
    reporter.note(job.formula)
    with explaining_memory(), runs.writing(config.output_dir, config.overwrite) as draft:
        runs.write_config(draft, changed(config, precision=job.precision))
        records = fit(
            job.model,
            step_loader(
                train_rows.to(accelerator.device),
                batch_size=config.batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                seed=config.seed,
            ),
            job.loss,
            accelerator=accelerator,
            precision=job.precision,
            tables=_sparse_tables(job.model, train_rows, step_rows, accelerator.device),
            validate=validate,
            metric=job.data.metric,
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_ratio=config.warmup_ratio,
            max_grad_norm=config.max_grad_norm,
            patience=config.patience,
        )
        best: EpochRecord | None = None
        for record in records:
            if isinstance(record, StepRecord):
                reporter.advance("train", record.step, record.steps, f"loss {record.loss:.4f}")
                continue
            runs.append_line(draft / runs.HISTORY, record.as_dict())
            reporter.note(describe_epoch(record, config.epochs, job.data.metric))
            if record.improved:
                best = record
                _save_best(job, accelerator, draft)
        assert best is not None
        parameters, without_embeddings = count_parameters(job.model)
        metrics = {
            "best_epoch": best.epoch,
            "metric": job.data.metric,
            "validation": best.validation,
            "parameters": parameters,
            "parameters_without_embeddings": without_embeddings,
            "bytes": Source("", draft / runs.MODEL).bytes,
            "seconds": round(time.perf_counter() - clock, 2),
        }
        runs.write_json(draft / runs.METRICS, metrics)
        environment = _environment(job, train_rows, accelerator) | {"start": started, "end": runs.now()}
        runs.write_json(draft / runs.ENVIRONMENT, environment)
    accelerator.free_memory()  # it holds on to every model and optimizer that it has prepared
    return runs.Run.load(config.output_dir)


def _sparse_tables(
    model: PreTrainedModel, rows: Encoded, step_rows: int, device: torch.device
) -> list[torch.nn.Embedding]:
    """The word table, where updating only the rows that a step reads saves most of the optimizer's time.

    On a CPU that is so unless a step has more tokens than the table has rows; a GPU updates all of a table
    in less time than it takes to find out which rows were read.
    """
    table = model.get_input_embeddings()
    tokens = step_rows * float(rows.lengths.mean())
    if device.type != "cpu" or not isinstance(table, torch.nn.Embedding) or tokens > len(table.weight):
        return []
    return [table]


def _save_best(job: Job, accelerator: Accelerator, draft: Path) -> None:
    new = draft / f"{runs.MODEL}.new"
    model = accelerator.unwrap_model(job.model, keep_fp32_wrapper=True)
    save_model(model, job.tokenizer, new)
    with suppress(FileNotFoundError):
        shutil.rmtree(draft / runs.MODEL)
    new.rename(draft / runs.MODEL)


def _environment(job: Job, train_rows: Encoded, accelerator: Accelerator) -> dict[str, Any]:
    device = accelerator.device
    return {
        "command": job.command,
        **runs.describe_environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": job.precision,
        "seed": job.config.seed,
        "loss": job.formula,
        "dataset": {
            "name": job.data.name,
            "rows": {split: len(rows) for split, rows in job.data.splits.items()},
            "fingerprint": {
                split: job.data.fingerprint(split, labels=split != "train" or train_rows.labels is not None)
                for split in job.data.splits
            },
            "notes": list(job.data.notes),
        },
        **job.facts,
    }


def describe_epoch(record: EpochRecord, epochs: int, metric: str) -> str:
    """One line on an epoch: loss and its parts, the metrics, the speed."""
    parts = [
        f"{name} {value:.4f}"
        for name, value in (("hard", record.hard_loss), ("soft", record.soft_loss))
        if value is not None
    ]
    loss = f"loss {record.loss:.4f}" + (f" ({', '.join(parts)})" if len(parts) == 2 else "")
    names = dict.fromkeys((metric, "accuracy"))
    scores = "  ".join(f"{name} {record.validation[name]:.4f}" for name in names)
    return (
        f"epoch {record.epoch}/{epochs}  {loss}  validation {scores}  "
        f"{record.examples_per_second:,.0f} examples/s" + ("  best so far" if record.improved else "")
    )
