"""The training loop for several students at once: one step of all of them, and an account of each."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from distilkit.engine.training.loop import (
    LOG_SECONDS,
    LOG_STEPS,
    EarlyStopping,
    LossMeter,
    StepRecord,
    check_means,
    check_parameters,
    model_inputs,
    progress,
)
from distilkit.engine.training.losses import distillation_losses
from distilkit.engine.training.optimizer import BETAS, EPS, decay_groups
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved, autocast
from distilkit.runs.records import EpochRecord

Batch = dict[str, Tensor]


class Stack(Protocol):
    """Students whose parameters lie one behind the other."""

    students: Any
    weights: dict[str, Tensor]  # each `[K, ...]`

    def __call__(self, batches: Sequence[Batch]) -> Tensor: ...

    def hand_back(self, numbers: Sequence[int]) -> None: ...


def fit_together(
    stack: Stack,
    loaders: Sequence[DataLoader[Any]],
    alphas: Sequence[float],
    *,
    device: torch.device,
    precision: Resolved,
    validate: Callable[[torch.nn.Module], dict[str, float]],
    metric: str,
    epochs: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    warmup_ratio: float = 0.1,
    max_grad_norm: float = 1.0,
    patience: int | None = None,
    alphas_end: Sequence[float] | None = None,
    temperature: float | None = None,
    labelled_share: float = 1.0,
) -> Iterator[StepRecord | tuple[int, EpochRecord | UserError]]:
    """`fit` for the K students of a stack; each becomes what `fit` would make of it, up to rounding.

    Losses, gradients' norms, AdamW's moments, the best epoch and patience are each student's own. One that
    diverges, or whose patience ends, keeps the parameters it has; the others go on.

    Args:
        loaders: each student's (`step_loader`), of equally many steps and rows; students that read the same
            rows in the same order should be given the same loader. Labels and teacher logits must be joined
            to the rows where any alpha weighs them.
        alphas: each student's weight of the hard loss.
        precision: fp32 or bf16: fp16's scaler would have to know each student's overflows apart.
        validate, metric, patience: as `fit`, called with one student at a time.
        alphas_end: what each alpha has become by the last step, in equal steps; by default they stay.
        temperature, labelled_share: as `distillation_losses`.

    Yields:
        A `StepRecord` with the students' mean loss, and for each student that still trains its number and an
        `EpochRecord` after every epoch, or once the `UserError` that ends it.
    """
    if precision == "fp16":
        raise ValueError("students are not trained together in fp16")
    weights = list(stack.weights.values())
    optimizer = torch.optim.AdamW(
        decay_groups(weights, weight_decay, matrix=3), lr=learning_rate, betas=BETAS, eps=EPS, fused=True
    )
    steps = epochs * len(loaders[0])
    schedule = get_linear_schedule_with_warmup(optimizer, round(warmup_ratio * steps), steps)
    ends = alphas if alphas_end is None else alphas_end
    first, last = (torch.tensor(values, dtype=torch.float32, device=device) for values in (alphas, ends))
    standings = [EarlyStopping(patience) for _ in alphas]
    training, step, told = list(range(len(alphas))), 0, time.perf_counter()
    distinct = list({id(loader): loader for loader in loaders}.values())
    place = [next(i for i, one in enumerate(distinct) if one is loader) for loader in loaders]
    # Alone, a student that its alpha keeps from a part does not compute it.
    left_out = {"hard_loss": 0.0, "soft_loss": 1.0}

    def account() -> Iterator[tuple[int, dict[str, Any] | UserError]]:
        """Each student's means so far; a student whose are not finite trains no longer."""
        means = sums.means(rows)  # waits for the device
        for number in list(training):
            own = means[number]
            throughout = {alphas[number], ends[number]}
            own |= {name: None for name, alpha in left_out.items() if throughout == {alpha}}
            try:
                check_means(own, step)
            except UserError as error:
                training.remove(number)
                yield number, error
            else:
                yield number, own

    for epoch in range(1, epochs + 1):
        for loader in distinct:
            loader.batch_sampler.set_epoch(epoch - 1)  # type: ignore[union-attr]
        sums, rows, started = LossMeter(), 0, time.perf_counter()
        for parts in zip(*distinct, strict=True):
            step_rows = sum(len(batch["input_ids"]) for batch in parts[0])
            alphas_now = torch.lerp(first, last, progress(step, steps))
            for batches in zip(*parts, strict=True):
                own = [batches[i] for i in place]
                batch_rows = len(own[0]["input_ids"])
                inputs = [model_inputs(batch) for batch in batches]
                with autocast(device, precision):
                    logits = stack([inputs[i] for i in place])
                losses = distillation_losses(
                    logits.float(),
                    _joined(own, "labels"),
                    _joined(own, "teacher_logits"),
                    alphas_now,
                    temperature=temperature,
                    labelled_share=labelled_share,
                )
                (losses.total.sum() * (batch_rows / step_rows)).backward()
                sums.add(losses, batch_rows)
            clip_each([weight.grad for weight in weights if weight.grad is not None], max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            used_rate = schedule.get_last_lr()[0]
            schedule.step()
            step, rows = step + 1, rows + step_rows
            if step % LOG_STEPS == 0 or time.perf_counter() - told > LOG_SECONDS:
                told = time.perf_counter()
                mean = 0.0
                for number, means in account():
                    if isinstance(means, UserError):
                        yield number, means
                    else:
                        mean += means["loss"]
                if not training:
                    return
                yield StepRecord(step, steps, mean / len(training))
        stack.hand_back(training)
        accounts = list(account())
        seconds = time.perf_counter() - started
        for number, means in accounts:
            if isinstance(means, UserError):
                yield number, means
                continue
            try:
                check_parameters(stack.students[number], step)
            except UserError as error:
                training.remove(number)
                yield number, error
                continue
            scores = validate(stack.students[number])
            record = EpochRecord(
                epoch=epoch,
                step=step,
                learning_rate=used_rate,
                validation=scores,
                improved=standings[number].improved(scores[metric]),
                examples_per_second=rows / seconds,
                seconds=seconds,
                **means,
            )
            if standings[number].ended:
                training.remove(number)
            yield number, record
        if not training:
            return


def clip_each(gradients: list[Tensor], max_norm: float) -> None:
    """Scale each student's part of `gradients`, `[K, ...]`, in place to a norm of at most `max_norm`."""
    norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    factors = (max_norm / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def _joined(batches: Sequence[Batch], name: str) -> Tensor | None:
    return torch.stack([batch[name] for batch in batches]) if name in batches[0] else None
