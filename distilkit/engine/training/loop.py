"""The training loop. Teacher and student go through the same one; only the loss differs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from distilkit.engine.training.losses import Losses
from distilkit.engine.training.optimizer import clip, parameter_groups
from distilkit.engine.training.sparse_adamw import SparseRowAdamW
from distilkit.errors import UserError
from distilkit.hardware.kernels import fast_dropout
from distilkit.hardware.precision import Resolved, autocast
from distilkit.hardware.threads import prefetch
from distilkit.runs.records import EpochRecord

Batch = dict[str, Tensor]


Loss = Callable[[Any, Batch], Losses]  # of what `forward` gave, and the batch


@dataclass(frozen=True)
class ChangingLoss:
    """A loss that changes as training goes on: `at` takes how far it is, 0 to 1, and gives that step's."""

    at: Callable[[float], Loss]


MEND = "Nothing was saved. Lower --learning-rate, or use --precision fp32."


# Between two looks at the losses, which make the device wait: whichever comes first.
LOG_STEPS, LOG_SECONDS = 50, 15.0


@dataclass(frozen=True)
class StepRecord:
    """Where training stands, every 50 optimizer steps or 15 seconds."""

    step: int
    steps: int
    loss: float


def logits_of(model: torch.nn.Module, batch: Batch) -> Tensor:
    """What a loss of logits reads: float32 `[N, C]`."""
    logits: Tensor = model(**model_inputs(batch)).logits
    return logits.float()


def fit(
    model: torch.nn.Module,
    loader: DataLoader[Any],
    loss: Loss | ChangingLoss,
    *,
    accelerator: Accelerator,
    forward: Callable[[torch.nn.Module, Batch], Any] = logits_of,
    precision: Resolved = "fp32",
    tables: Sequence[nn.Embedding] = (),
    validate: Callable[[torch.nn.Module], dict[str, float]],
    metric: str,
    higher_is_better: bool = True,
    epochs: int,
    learning_rate: float,
    decay: bool = True,
    weight_decay: float = 0.01,
    warmup_ratio: float = 0.1,
    max_grad_norm: float = 1.0,
    patience: int | None = None,
    spare_core: Executor | None = None,
) -> Iterator[StepRecord | EpochRecord]:
    """Train `model` in place: AdamW, linear warm-up and decay, clipping; a generator that prints nothing.

    Args:
        model: any module that returns `.logits` `[N, C]` for the inputs of a batch, or what `forward` reads.
        loader: optimizer steps, each a list of batches (`step_loader`). The losses of a step's batches are
            weighted by their rows, so that cutting a step differently changes nothing.
        loss: `(logits, batch) -> Losses`, means over the rows of the batch; or one that changes by the step.
        forward: what the loss reads in the place of logits, called in the number format of `precision`.
        precision: number format of the forward pass; fp16 needs an `accelerator` with a scaler.
        tables: embeddings on a CPU of which a step reads a small part; see `SparseRowAdamW`.
        validate: `model -> metrics`, called after every epoch.
        metric: the entry of `validate`'s answer that decides which epoch is better.
        decay: false keeps the learning rate where warm-up has brought it.
        patience: stop after that many epochs without a better `metric`.
        aside: a core to spare, for what can be done beside a step; changes no number.

    Yields:
        A `StepRecord` every 50 steps or 15 seconds, an `EpochRecord` after every epoch. When `improved` is
        true the parameters are the best so far: the caller saves them before it asks for the next record.

    Raises:
        UserError: when the loss is no longer a finite number.
    """
    # Accelerate sees that fp16's scaler skipped a step only where the optimizer is not fused.
    fused = accelerator.mixed_precision != "fp16"
    groups = parameter_groups(model, weight_decay)
    optimizer = SparseRowAdamW(groups, tables, lr=learning_rate, fused=fused, spare_core=spare_core)
    cheap_dropout = fast_dropout(model, accelerator.device)
    steps = epochs * len(loader)
    warmup = round(warmup_ratio * steps)
    if decay:
        schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    else:
        schedule = get_constant_schedule_with_warmup(optimizer, warmup)
    model, prepared_optimizer, loader = accelerator.prepare(model, optimizer, loader)
    standing, step, told = EarlyStopping(patience), 0, time.perf_counter()

    with _settling(optimizer):
        for epoch in range(1, epochs + 1):
            loader.set_epoch(epoch - 1)  # type: ignore[attr-defined]  # Accelerate's, which hands it to the sampler
            model.train()
            sums, rows, started = LossMeter(), 0, time.perf_counter()
            for batches in loader if spare_core is None else prefetch(loader, spare_core):
                step_rows = sum(len(batch["input_ids"]) for batch in batches)
                loss_now = loss.at(progress(step, steps)) if isinstance(loss, ChangingLoss) else loss
                optimizer.read(*[batch["input_ids"] for batch in batches])
                for batch in batches:
                    share = len(batch["input_ids"]) / step_rows
                    with autocast(accelerator.device, precision), cheap_dropout:
                        read = forward(model, batch)
                    losses = loss_now(read, batch)
                    accelerator.backward(losses.total * share)
                    sums.add(losses, len(batch["input_ids"]))
                if tables:
                    clip(optimizer.gradients(), max_grad_norm)
                else:  # it knows of fp16's scale
                    accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
                prepared_optimizer.step()
                prepared_optimizer.zero_grad()
                used_rate = schedule.get_last_lr()[0]
                if not accelerator.optimizer_step_was_skipped:
                    schedule.step()
                step, rows = step + 1, rows + step_rows
                if step % LOG_STEPS == 0 or time.perf_counter() - told > LOG_SECONDS:
                    told = time.perf_counter()
                    (means,) = sums.means(rows)
                    check_means(means, step)
                    yield StepRecord(step, steps, means["loss"])
            (means,) = sums.means(rows)  # waits for the device, so the time below is the work's
            check_means(means, step)
            optimizer.flush()
            seconds = time.perf_counter() - started
            check_parameters(model, step)
            scores = validate(model)
            yield EpochRecord(
                epoch=epoch,
                step=step,
                learning_rate=used_rate,
                validation=scores,
                improved=standing.improved(scores[metric] if higher_is_better else -scores[metric]),
                examples_per_second=rows / seconds,
                seconds=seconds,
                **means,
            )
            if standing.ended:
                break


@contextmanager
def _settling(optimizer: SparseRowAdamW) -> Iterator[None]:
    """However training ends, the model is whole afterwards."""
    try:
        yield
    finally:
        optimizer.flush()


def progress(step: int, steps: int) -> float:
    """How far training is at its step `step`, from 0: 0 at the first, 1 at the last of `steps`."""
    return step / max(1, steps - 1)


def model_inputs(batch: Batch) -> Batch:
    """What of a batch the model reads: never the labels, so that the loss is computed in one place only."""
    return {name: value for name, value in batch.items() if name not in ("labels", "teacher_logits")}


def check_means(means: Mapping[str, float | None], step: int) -> None:
    """Raises `UserError` unless all means are finite numbers."""
    if not all(abs(mean) < float("inf") for mean in means.values() if mean is not None):
        told = {name: mean for name, mean in means.items() if mean is not None}
        raise UserError(f"the loss is not a finite number by step {step} ({told}). {MEND}")


def check_parameters(model: torch.nn.Module, step: int) -> None:
    """Raises `UserError` unless all parameters are finite numbers.

    The loss of a step is that of the parameters before it, so what the last step did shows only here.
    """
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()])
    if not finite.all():
        raise UserError(f"parameters are not finite numbers after step {step}. {MEND}")


class EarlyStopping:
    """The best value of a metric so far, and whether patience has run out."""

    def __init__(self, patience: int | None) -> None:
        self._patience, self._best, self._epochs_since = patience, float("-inf"), 0

    def improved(self, value: float) -> bool:
        """Take in an epoch's value: is it better than all before?"""
        better = value > self._best
        self._best, self._epochs_since = (value, 0) if better else (self._best, self._epochs_since + 1)
        return better

    @property
    def ended(self) -> bool:
        return self._patience is not None and self._epochs_since >= self._patience


class LossMeter:
    """Losses of an epoch, of one student or of K, summed on the device and read only when asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | None] = {}

    def add(self, losses: Losses, rows: int) -> None:
        """Means over so many rows."""
        names = ("loss", "hard_loss", "soft_loss", "layer_loss")
        for name, value in zip(names, losses, strict=True):
            if value is None:
                self._sums[name] = None
            else:
                before = self._sums.get(name)
                self._sums[name] = value.detach() * rows + (0 if before is None else before)

    def means(self, rows: int) -> list[dict[str, Any]]:
        """Per student the mean of each part over so many rows; `None` for what is not computed."""
        students = self._sums["loss"].numel()  # type: ignore[union-attr]  # there is always a total
        columns: dict[str, list[Any]] = {
            name: [None] * students if sums is None else (sums / rows).reshape(-1).tolist()
            for name, sums in self._sums.items()
        }
        return [{name: column[number] for name, column in columns.items()} for number in range(students)]
