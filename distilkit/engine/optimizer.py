"""AdamW that does not touch the rows of an embedding table which a step did not read.

A small student is mostly its embedding table, and a batch reads a few hundred of its rows. Dense AdamW
moves all of them in every step: momentum and weight decay go on where the gradient is zero. What they do
there is known in advance, so it can be made up for when a row is read next, in one go.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BETAS, EPS = (0.9, 0.999), 1e-8
WINDOW = 512  # momentum left after so many steps: (0.9 / sqrt(0.999)) ** 512 < 1e-23


class RowAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, with the rows of `tables` updated only when they are read, and up to date then.

    A row that was last read in step s and is needed in step t gets, before it is read, what AdamW would have
    done to it in the steps between. Without a gradient its moments merely decay, so its j-th step is

        p <- (1 - lr_j * wd) * p - lr_j * (b1^(j-s) m / (1 - b1^j)) / (sqrt(b2^(j-s) v / (1 - b2^j)) + eps)

    and these add up to `m / sqrt(v)` times a number that is the same for all rows last read in step s
    (Loshchilov and Hutter 2019, algorithm 2, summed over steps; `eps` is let fade with `v`, by which alone
    parameters differ from dense AdamW's). Call `read` before every forward pass of a training step, and
    `settle`, which does it for all rows, before parameters are used for anything else.

    Args:
        groups: parameter groups for AdamW, with `weight_decay`; every table's weight must be in one.
        tables: embeddings on the CPU of which each step reads a small part. Their gradients become sparse.
        lr: learning rate; a schedule may change it between steps.
        fused: for the dense parameters.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], tables: Iterable[nn.Embedding], lr: float, fused: bool = False
    ) -> None:
        super().__init__(groups, lr=lr, betas=BETAS, eps=EPS, fused=fused)
        self._tables = [_Table(self, table) for table in tables]

    def gradients(self) -> list[Tensor]:
        """What there is of gradients, as dense tensors that may be changed in place (to clip them)."""
        dense = [
            parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and not parameter.grad.is_sparse
        ]
        return dense + [values for table in self._tables for values in table.coalesce()]

    @torch.no_grad()
    def read(self, ids: Tensor) -> None:
        """Bring the rows `ids`, int64 of any shape, of every table up to date.

        A table's padding row is left out: it has no gradient, and padding reaches no logit.
        """
        if self._tables:
            rows = ids.unique()
            for table in self._tables:
                table.read(rows)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step on every parameter that has a gradient."""
        assert closure is None
        gradients = [table.take_gradient() for table in self._tables]
        super().step()
        for table, gradient in zip(self._tables, gradients, strict=True):
            table.step(gradient)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every row of every table up to date."""
        for table in self._tables:
            table.settle()


class _Table:
    """One embedding table, and per past step what its rows have missed since.

    The moments are the optimizer's own `state` of the weight; after `settle` that state is AdamW's.
    """

    def __init__(self, optimizer: RowAdamW, table: nn.Embedding) -> None:
        self.optimizer, self.weight, self.padding = optimizer, table.weight, table.padding_idx
        self.place = next(
            number
            for number, group in enumerate(optimizer.param_groups)
            if any(table.weight is parameter for parameter in group["params"])
        )
        table.sparse = True
        self.both: Tensor | None = None
        self._start(0)
        b1, b2 = self.group["betas"]
        self.fade = (b1 / b2**0.5) ** torch.arange(WINDOW, 0, -1, dtype=torch.float64)

    @property
    def group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[self.place]  # load_state_dict replaces the dicts

    @property
    def moments(self) -> Tensor:
        """Both moments of each row, `[rows, 2, width]`, of which the optimizer's state are views."""
        state = self.optimizer.state[self.weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = state["exp_avg_sq"] = torch.zeros_like(self.weight)
        if self.both is None or state["exp_avg"].data_ptr() != self.both.data_ptr():
            # New, or loaded: then every row is as of the step that was saved.
            self.both = torch.stack([state["exp_avg"], state["exp_avg_sq"]], dim=1)
            state["exp_avg"], state["exp_avg_sq"] = self.both.unbind(1)
            self._start(int(state["step"]))
        return self.both

    def _start(self, step: int) -> None:
        """All rows are up to date with `step`."""
        self.now = step
        self.held: _Rows | None = None
        self.last = torch.full((len(self.weight),), step)
        # Of step s, counted from `start`: `missed[s]` sums lr_j * decay of the moments / shrink[j] over the
        # steps j since then, `shrink[s]` multiplies (1 - lr_j * weight_decay) over the steps up to s.
        self.start = step
        self.missed = torch.zeros(1024, dtype=torch.float64)
        self.shrink = torch.ones(1024, dtype=torch.float64)

    def coalesce(self) -> list[Tensor]:
        if self.weight.grad is None:
            return []
        self.weight.grad = self.weight.grad.coalesce()
        return [self.weight.grad.values()]

    def take_gradient(self) -> Tensor | None:
        gradient, self.weight.grad = self.weight.grad, None
        return None if gradient is None else gradient.coalesce()

    def step(self, gradient: Tensor | None) -> None:
        """AdamW on the rows of `gradient`, and a note of what all others miss by it."""
        moments, read = self.moments, self.held
        factor = 1 - self.group["lr"] * self.group["weight_decay"]
        if factor < 0.5 or self.shrink[self.now - self.start] < 1e-100:
            # What is left of a weight is too little to be divided by: all rows take this step at once.
            self.settle()
            everything = torch.arange(len(self.weight))
            values = torch.zeros_like(self.weight) if gradient is None else gradient.to_dense()
            self._update(_Rows(everything, self.weight.detach().clone(), moments.clone()), values)
            self._start(self.now)
            return
        self.held = None
        if gradient is None or read is None or not torch.equal(read.rows, gradient.indices()[0]):
            self._write(read)
            read = None
        if gradient is not None:
            rows = gradient.indices()[0]
            self._update(read or _Rows(rows, self.weight[rows], moments[rows]), gradient.values())
        else:
            self._count()
        place = self.now - self.start
        if place >= len(self.missed):
            self.missed = torch.cat([self.missed, torch.zeros_like(self.missed)])
            self.shrink = torch.cat([self.shrink, torch.ones_like(self.shrink)])
        self.shrink[place] = self.shrink[place - 1] * factor
        rate, _, second = self._rates()
        recent = min(place, WINDOW)
        missed = self.missed[place - recent : place]
        missed.add_(self.fade[WINDOW - recent :], alpha=rate * second**0.5 / float(self.shrink[place]))

    def _count(self) -> None:
        self.now += 1
        self.optimizer.state[self.weight]["step"] += 1

    def _rates(self) -> tuple[float, float, float]:
        """Of this step: lr / (1 - b1^t), lr * weight_decay, and 1 - b2^t."""
        (b1, b2), learning_rate = self.group["betas"], self.group["lr"]
        decay = learning_rate * self.group["weight_decay"]
        return learning_rate / (1 - b1**self.now), decay, 1 - b2**self.now

    def _update(self, read: "_Rows", gradient: Tensor) -> None:
        """AdamW's next step on rows that are up to date."""
        self._count()
        (b1, b2), eps = self.group["betas"], self.group["eps"]
        rate, decay, second = self._rates()
        mean, square = read.moments.unbind(1)
        mean.lerp_(gradient, 1 - b1)
        square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        root = square.sqrt().div_(second**0.5).add_(eps)
        self.weight[read.rows] = read.weight.mul_(1 - decay).addcdiv_(mean, root, value=-rate)
        self.moments[read.rows] = read.moments
        self.last[read.rows] = self.now

    def read(self, rows: Tensor) -> None:
        """Bring distinct ascending `rows` up to date, and hold what was computed for `step`."""
        if self.padding is not None:
            rows = rows[rows != self.padding]
        self._write(self.held)
        self.held = self._caught_up(rows)
        self.weight[rows] = self.held.weight

    def settle(self) -> None:
        """Bring all rows up to date."""
        self._write(self.held)
        self.held = None
        rows = (self.last < self.now).nonzero()[:, 0]
        caught_up = self._caught_up(rows)
        self.weight[rows] = caught_up.weight
        self._write(caught_up)

    def _write(self, caught_up: "_Rows | None") -> None:
        """Keep the moments of rows that `step` has no gradient for; their weights are in the table."""
        if caught_up is not None:
            self.moments[caught_up.rows] = caught_up.moments
            self.last[caught_up.rows] = caught_up.step

    def _caught_up(self, rows: Tensor) -> "_Rows":
        """Copies of `rows`, with what they missed up to and including this step."""
        (b1, b2), eps = self.group["betas"], self.group["eps"]
        weight, moments, last = self.weight[rows], self.moments[rows], self.last[rows]
        if self.now:
            age = (self.now - last).double()
            shrink, moved = self.shrink[last - self.start].reciprocal_(), self.missed[last - self.start]
            # eps stands beside sqrt(v / (1 - b2^j)), of which `moved` has the second part for every j: what
            # is left of it here is that of the first missed step, which moves a row most.
            rest = (1 - b2 ** (last + 1).double()).sqrt_().mul_(eps)
            factors = torch.stack([shrink, moved]).mul_(self.shrink[self.now - self.start])
            factors = torch.cat([factors, torch.stack([rest, b1**age, b2**age])]).to(weight.dtype)
            shrink, moved, rest, fade1, fade2 = factors[:, :, None]
            mean, square = moments.unbind(1)
            weight.mul_(shrink).sub_(mean / square.sqrt().add_(rest) * moved)
            mean.mul_(fade1)
            square.mul_(fade2)
        return _Rows(rows, weight, moments, self.now)


@dataclass
class _Rows:
    """Copies of some rows of a table: weights `[n, width]`, moments `[n, 2, width]`, and as of which step."""

    rows: Tensor
    weight: Tensor
    moments: Tensor
    step: int = 0
