"""Learners: what the loop drives, one model (`ModelLearner`) or K small ones as one (`StackedLearner`)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from distilkit.engine.training.losses import Batch, DistillationLoss, Losses, model_inputs, stack_losses
from distilkit.engine.training.optimizer import BETAS, EPS, clip_each_student, decay_groups, parameter_groups
from distilkit.engine.training.sparse_adamw import SparseRowAdamW
from distilkit.hardware.dropout import keep_random_state, load_random_state, random_state
from distilkit.hardware.kernels import FastDropout, fast_dropout, forward_context
from distilkit.hardware.memory import is_out_of_memory, release_cached
from distilkit.hardware.precision import Resolved


class Loss(Protocol):
    """What is minimised: the forward pass that it reads, and the losses of a batch."""

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Run `model`, in the number format of training, and return what `__call__` reads."""

    def __call__(self, output: Any, batch: Batch, /, progress: float = 0.0) -> Losses:
        """Return the losses of a batch, means over its rows; `progress` goes from 0 to 1 over training."""


@dataclass(frozen=True)
class LearnerState:
    """All that the next step of a learner reads, but its batches.

    Attributes:
        tensors: weights, moments, generators; they may be the learner's own, which the next step changes.
        values: the rest, as JSON has it.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Learner(Protocol):
    """What `fit` drives: one model, or several that take their steps together.

    Attributes:
        students: the models, whole after `flush`.
        unweighed_parts: per student the parts of its losses that are computed but never weighed.
    """

    students: Sequence[nn.Module]
    unweighed_parts: Sequence[frozenset[str]]

    def start_epoch(self) -> None:
        """Put the models into training mode."""

    def step(self, batches: Sequence[Any], progress: float) -> Losses:
        """Take one optimizer step on `batches`; return its losses, means over its rows."""

    def count_rows(self, batches: Sequence[Any]) -> int:
        """Return how many rows each student reads in a step."""

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the last step."""

    def flush(self, students: Sequence[int]) -> None:
        """Write what the steps have changed into these students."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How AdamW steps: peak learning rate, linear warm-up and decay, weight decay, clipping.

    Attributes:
        steps: optimizer steps of the whole training, which the schedule spans.
        decays: false keeps the learning rate where warm-up has brought it.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    decays: bool = True

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the learning-rate schedule of `optimizer`."""
        warmup_steps = round(self.warmup_ratio * self.steps)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if self.decays:
            schedule = get_linear_schedule_with_warmup(optimizer, warmup_steps, self.steps)
        else:
            schedule = get_constant_schedule_with_warmup(optimizer, warmup_steps)
        return schedule


class ModelLearner:
    """Train one model in place.

    Attributes:
        max_batch_rows: rows that a forward pass may read, halved whenever the device runs out of memory;
            `None` before it ever does. A step then takes more passes, and stays the same up to rounding.

    Args:
        model: any module that `loss.forward` can run; without more, one that returns `.logits` `[N, C]`.
        loss: what is minimised.
        settings: of the optimizer.
        accelerator: puts the model on its device; has a scaler where `precision` is fp16.
        precision: number format of the forward pass.
        tables: embeddings on a CPU of which a step reads a small part; see `SparseRowAdamW`.
        spare_core: runs part of the optimizer's work; changes no number.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        settings: OptimizerSettings,
        *,
        accelerator: Accelerator,
        precision: Resolved = "fp32",
        tables: Sequence[nn.Embedding] = (),
        spare_core: Executor | None = None,
    ) -> None:
        # Accelerate sees that fp16's scaler skipped a step only where the optimizer is not fused.
        fused = accelerator.mixed_precision != "fp16"
        groups = parameter_groups(model, settings.weight_decay)
        self._optimizer = SparseRowAdamW(
            groups, tables, lr=settings.learning_rate, fused=fused, spare_core=spare_core
        )
        self._fast_dropout = fast_dropout(model, accelerator.device)
        self._schedule = settings.schedule(self._optimizer)
        self._has_scaler = accelerator.mixed_precision == "fp16"
        if self._has_scaler:
            self._model, self._scaled_optimizer = accelerator.prepare(model, self._optimizer)
        else:  # Accelerate's optimizer does nothing more then, and takes a BiLSTM's step a tenth of its time
            self._model = accelerator.prepare(model)
        self._accelerator, self._precision, self._loss = accelerator, precision, loss
        self.max_batch_rows: int | None = None
        self._max_grad_norm = settings.max_grad_norm
        self.students: Sequence[nn.Module] = [self._model]
        self.unweighed_parts: Sequence[frozenset[str]] = [frozenset()]
        self.learning_rate = 0.0

    def start_epoch(self) -> None:
        """Put the model into training mode."""
        self._model.train()

    def count_rows(self, batches: Sequence[Batch]) -> int:
        """Return the rows of a step."""
        return sum(len(batch["input_ids"]) for batch in batches)

    def step(self, batches: Sequence[Batch], progress: float) -> Losses:
        """Take one step, its batches weighted by their rows: cutting a step differently changes nothing."""
        self._optimizer.activate(*[batch["input_ids"] for batch in batches])
        parts = self._add_gradients_within_memory(batches, progress)
        self._update()
        return mean_losses(parts)

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """Take the passes of a step without its update, beside as much memory as the optimizer will hold.

        Given the longest rows before the first step, memory runs out here or not at all. No parameter and no
        random number of the training changes.
        """
        trained = self._optimizer.trained_parameters()
        with keep_random_state(self._model, self._accelerator.device), standing_in_for_moments(trained):
            self._add_gradients_within_memory(batches, 0.0)
            self._optimizer.zero_grad()

    def _add_gradients_within_memory(
        self, batches: Sequence[Batch], progress: float
    ) -> list[tuple[Losses, float]]:
        """Call `_add_gradients` on batches that are cut smaller until they fit on the device."""
        while True:
            cut = [part for batch in batches for part in cut_batch(batch, self.max_batch_rows)]
            largest = max(len(batch["input_ids"]) for batch in cut)
            try:
                return self._add_gradients(cut, progress)
            except RuntimeError as error:
                if not is_out_of_memory(error) or largest == 1:
                    raise
            # Outside of `except`: the error holds the frames of the pass, and they what it has computed.
            self._optimizer.zero_grad()
            self.max_batch_rows = -(-largest // 2)
            release_cached()

    def _add_gradients(self, batches: Sequence[Batch], progress: float) -> list[tuple[Losses, float]]:
        """Add the gradients of a step's batches; return their losses with their shares of its rows."""
        step_rows, parts = self.count_rows(batches), []
        for batch in batches:
            share = len(batch["input_ids"]) / step_rows
            with forward_context(self._accelerator.device, self._precision), self._fast_dropout:
                output = self._loss.forward(self._model, batch)
            losses = self._loss(output, batch, progress)
            weighted = losses.total * share
            if self._has_scaler:
                self._accelerator.backward(weighted)
            else:
                weighted.backward()
            parts.append((losses, share))
        return parts

    def _update(self) -> None:
        """Clip the gradients, and step optimizer and schedule."""
        self.learning_rate = float(self._schedule.get_last_lr()[0])
        trained = self._optimizer.trained_parameters()
        if self._has_scaler:
            self._accelerator.clip_grad_norm_(trained, self._max_grad_norm)  # unscales the gradients first
            self._scaled_optimizer.step()
            self._scaled_optimizer.zero_grad()
            if self._accelerator.optimizer_step_was_skipped:
                return
        else:
            nn.utils.clip_grad_norm_(trained, self._max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
        self._schedule.step()

    def flush(self, students: Sequence[int]) -> None:
        """Bring every row of the tables up to date."""
        self._optimizer.flush()

    def state_dict(self) -> LearnerState:
        """Return the state between two steps, to the bit; rows that the steps left behind stay behind."""
        device = self._accelerator.device
        tensors = {f"model.{name}": value for name, value in self._model.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in self._optimizer.exact_state().items()}
        tensors |= {f"random.{name}": value for name, value in random_state(self._model, device).items()}
        if isinstance(self._fast_dropout, FastDropout):
            tensors["random.fast_dropout"] = self._fast_dropout.generator.get_state()
        values = {
            "schedule": self._schedule.state_dict(),
            "learning_rate": self.learning_rate,
            "max_batch_rows": self.max_batch_rows,
            "scaler": self._accelerator.scaler.state_dict() if self._has_scaler else None,
        }
        return LearnerState(tensors, values)

    def load_state_dict(self, state: LearnerState) -> None:
        """Load the state of a learner of the same model, loss and settings."""
        self._model.load_state_dict(_tensors_below(state.tensors, "model."))
        self._optimizer.load_exact_state(_tensors_below(state.tensors, "optimizer."))
        random = _tensors_below(state.tensors, "random.")
        load_random_state(self._model, self._accelerator.device, random)
        if isinstance(self._fast_dropout, FastDropout):
            self._fast_dropout.generator.set_state(random["fast_dropout"])
        self._schedule.load_state_dict(dict(state.values["schedule"]))
        for group, rate in zip(self._optimizer.param_groups, self._schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        self.learning_rate = state.values["learning_rate"]
        self.max_batch_rows = state.values["max_batch_rows"]
        if self._has_scaler:
            self._accelerator.scaler.load_state_dict(dict(state.values["scaler"]))


def _tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def cut_batch(batch: Batch, rows: int | None) -> Iterator[Batch]:
    """Cut a batch into parts of at most `rows` rows; `None` leaves it whole."""
    total = len(batch["input_ids"])
    if rows is None or total <= rows:
        yield batch
        return
    for start in range(0, total, rows):
        yield {name: values[start : start + rows] for name, values in batch.items()}


@contextmanager
def standing_in_for_moments(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Hold as much memory within it as AdamW's two moments will take."""
    moments = [torch.empty_like(parameter) for parameter in parameters for _ in range(2)]
    yield
    del moments


class Stack(Protocol):
    """Students of one shape whose parameters are stacked (`BiLSTMStack`)."""

    students: Any
    weights: dict[str, Tensor]  # each `[K, ...]`

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """Return logits in training, `[K, N, C]`."""

    def hand_back(self, students: Sequence[int]) -> None:
        """Copy the stacked weights into these students."""


class StackedLearner:
    """Train the K students of a stack, each as `ModelLearner` would alone, up to rounding.

    Gradient norms and AdamW's moments are each student's own. A batch is a list of K batches, one for each
    student, of equally many rows; students that read the same rows are given the same dict.

    Args:
        stack: the students.
        losses: of each student, equal but for alpha.
        settings: of the optimizer.
        precision: fp32 or bf16: fp16's scaler would have to track each student's overflows.

    Raises:
        ValueError: on fp16.
    """

    def __init__(
        self,
        stack: Stack,
        losses: Sequence[DistillationLoss],
        settings: OptimizerSettings,
        *,
        device: torch.device,
        precision: Resolved,
    ) -> None:
        if precision == "fp16":
            raise ValueError("students are not trained together in fp16")
        self._stack, self._device, self._precision = stack, device, precision
        self._loss = stack_losses(losses, device)
        self._weights = list(stack.weights.values())
        self._optimizer = torch.optim.AdamW(
            decay_groups(self._weights, settings.weight_decay, matrix=3),
            lr=settings.learning_rate,
            betas=BETAS,
            eps=EPS,
            fused=True,
        )
        self._schedule = settings.schedule(self._optimizer)
        self._max_grad_norm = settings.max_grad_norm
        self.students: Sequence[nn.Module] = stack.students
        self.unweighed_parts: Sequence[frozenset[str]] = [loss.unweighed_parts for loss in losses]
        self.learning_rate = 0.0

    def start_epoch(self) -> None:
        """Do nothing: a stack is always in training mode."""

    def count_rows(self, batches: Sequence[Sequence[Batch]]) -> int:
        """Return the rows that each student reads in a step."""
        return sum(len(batch[0]["input_ids"]) for batch in batches)

    def step(self, batches: Sequence[Sequence[Batch]], progress: float) -> Losses:
        """Take one step of all students; return losses `[K]`."""
        parts = self._add_gradients(batches, progress)
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        clip_each_student(gradients, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.learning_rate = float(self._schedule.get_last_lr()[0])
        self._schedule.step()
        return mean_losses(parts)

    def rehearse(self, batches: Sequence[Sequence[Batch]]) -> None:
        """Do as `ModelLearner.rehearse`, but raise what the device says when it runs out of memory."""
        models = nn.ModuleList(self.students)
        with keep_random_state(models, self._device), standing_in_for_moments(self._weights):
            self._add_gradients(batches, 0.0)
            self._optimizer.zero_grad()

    def _add_gradients(
        self, batches: Sequence[Sequence[Batch]], progress: float
    ) -> list[tuple[Losses, float]]:
        """Add the gradients of a step's batches; return their losses `[K]` with their shares of its rows."""
        step_rows, parts = self.count_rows(batches), []
        for student_batches in batches:
            share = len(student_batches[0]["input_ids"]) / step_rows
            inputs = {id(batch): model_inputs(batch) for batch in student_batches}
            with forward_context(self._device, self._precision):
                logits = self._stack([inputs[id(batch)] for batch in student_batches])
            targets: Batch = {
                name: torch.stack([batch[name] for batch in student_batches])
                for name in ("labels", "teacher_logits")
                if name in student_batches[0]
            }
            losses = self._loss(logits.float(), targets, progress)
            (losses.total.sum() * share).backward()
            parts.append((losses, share))
        return parts

    def flush(self, students: Sequence[int]) -> None:
        """Copy the stacked weights into these students."""
        self._stack.hand_back(students)


class StackedLoader:
    """Join the loaders of K students: each step holds, for every forward pass, a batch for each student.

    Args:
        loaders: `StepLoader`s of equally many steps and rows. Students that read the same rows in the same
            order should be given the same loader: its batches are made once.
    """

    def __init__(self, loaders: Sequence[Any]) -> None:
        self._distinct = list({id(loader): loader for loader in loaders}.values())
        positions = {id(loader): i for i, loader in enumerate(self._distinct)}
        self._positions = [positions[id(loader)] for loader in loaders]

    def __len__(self) -> int:
        return len(self._distinct[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of rows, from 0 on."""
        for loader in self._distinct:
            loader.set_epoch(epoch)

    def skip(self, steps: int) -> None:
        """Leave out the first steps of this epoch."""
        for loader in self._distinct:
            loader.skip(steps)

    def __iter__(self) -> Any:
        for steps in zip(*self._distinct, strict=True):
            yield [[batches[i] for i in self._positions] for batches in zip(*steps, strict=True)]


def mean_losses(parts: Sequence[tuple[Losses, float]]) -> Losses:
    """Return the weighted sum of losses, without gradients; weights are shares of a step's rows."""

    def mean(name: str) -> Tensor | None:
        weighted = [
            value.detach() * share for losses, share in parts if (value := getattr(losses, name)) is not None
        ]
        return torch.stack(weighted).sum(dim=0) if weighted else None

    total = mean("total")
    assert total is not None
    return Losses(total, mean("hard"), mean("soft"), mean("layers"))
