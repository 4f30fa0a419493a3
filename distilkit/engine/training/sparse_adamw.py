"""AdamW that does not touch the rows of an embedding table which a step did not read.

A small student is mostly its embedding table, and a batch reads a few hundred of its rows. Dense AdamW
moves all of them in every step: momentum and weight decay go on where the gradient is zero. What they do
there is known in advance, so it can be made up for when a row is read next, in one go.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.optim.adamw import adamw

from distilkit.engine.training.optimizer import BETAS, EPS

WINDOW = 512  # momentum left after so many steps: (0.9 / sqrt(0.999)) ** 512 < 1e-23


class SparseRowAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, with the rows of `tables` updated only when they are read, and up to date then.

    A row that was last read in step s and is needed in step t gets, before it is read, what AdamW would have
    done to it in the steps between. Without a gradient its moments merely decay, so its j-th step is

        p <- (1 - lr_j * wd) * p - lr_j * (b1^(j-s) m / (1 - b1^j)) / (sqrt(b2^(j-s) v / (1 - b2^j)) + eps)

    and these add up to `m / sqrt(v)` times a number that is the same for all rows last read in step s
    (Loshchilov and Hutter 2019, algorithm 2, summed over steps; `eps` is let fade with `v`, by which alone
    parameters differ from dense AdamW's). Call `read` before the forward passes of a training step, and
    `flush`, which does it for all rows, before parameters are used for anything else.

    In between, the table itself is not up to date: its module looks words up among the rows that were read,
    a small tensor with an ordinary gradient.

    Args:
        groups: parameter groups for AdamW, with `weight_decay`; every table's weight must be in one.
        tables: embeddings on the CPU of which each step reads a small part (`can_be_table`), and whose
            weights no other module reads.
        lr: learning rate; a schedule may change it between steps.
        fused: for the dense parameters.
        aside: runs the dense parameters' update beside that of the tables.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        tables: Iterable[nn.Embedding],
        lr: float,
        fused: bool = False,
        spare_core: Executor | None = None,
    ) -> None:
        super().__init__(groups, lr=lr, betas=BETAS, eps=EPS, fused=fused)
        self._aside = spare_core
        self._tables = [RowCache(self, table) for table in tables]

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters whose gradients a step reads, to clip them."""
        trained = [parameter for group in self.param_groups for parameter in group["params"]]
        return trained + [table.held.weight for table in self._tables if table.held]

    @torch.no_grad()
    def read(self, *ids: Tensor) -> None:
        """Bring the rows of every table that the next step reads up to date.

        Args:
            ids: int64 of any shape, of all the step's batches. A word that is none of them cannot be looked
                up until the step is over.

        Raises:
            RuntimeError: between a backward pass and its `step`, because the gradient would be lost.
        """
        if self._tables:
            rows = torch.cat([some.flatten() for some in ids]).unique()
            for table in self._tables:
                table.read(rows)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step on every parameter that has a gradient."""
        assert closure is None
        dense = self._aside.submit(super().step) if self._aside else None
        if dense is None:
            super().step()
        for table in self._tables:
            table.step()
        if dense:
            dense.result()

    @torch.no_grad()
    def flush(self) -> None:
        """Bring every row of every table up to date, and let its module look words up in it."""
        for table in self._tables:
            table.flush()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As AdamW's; also of the rows that have been read."""
        super().zero_grad(set_to_none)
        for table in self._tables:
            if table.held:
                table.held.weight.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As AdamW's, for parameters that are as of the same step; what has been read is read again."""
        for table in self._tables:
            table.drop()
        super().load_state_dict(state_dict)


def can_be_table(module: nn.Module) -> bool:
    """Whether `SparseRowAdamW` can take `module` as a table: a plain embedding in training."""
    return (
        type(module) is nn.Embedding
        and module.weight.requires_grad
        and module.max_norm is None
        and not module.scale_grad_by_freq
        and "forward" not in vars(module)  # somebody else's
    )


class RowCache:
    """One embedding table, and per past step what its rows have missed since.

    The moments are the optimizer's own `state` of the weight; after `flush` that state is AdamW's.
    """

    def __init__(self, optimizer: SparseRowAdamW, module: nn.Embedding) -> None:
        self.optimizer, self.module, self.weight = optimizer, module, module.weight
        self.number = next(
            number
            for number, group in enumerate(optimizer.param_groups)
            if any(module.weight is parameter for parameter in group["params"])
        )
        self.held: _Rows | None = None
        self.place = torch.full((len(self.weight),), -1)  # of a row among those held
        self.both: Tensor | None = None
        self._start(0)
        b1, b2 = self.group["betas"]
        self.fade = (b1 / b2**0.5) ** torch.arange(WINDOW, 0, -1, dtype=torch.float64)

    @property
    def group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[self.number]  # load_state_dict replaces the dicts

    @property
    def moments(self) -> Tensor:
        """Both moments of each row, `[2, rows, width]`, of which the optimizer's state are views."""
        state = self.optimizer.state[self.weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = state["exp_avg_sq"] = torch.zeros_like(self.weight)
        if self.both is None or state["exp_avg"].data_ptr() != self.both.data_ptr():
            # New, or loaded: then every row is as of the step that was saved.
            self.both = torch.stack([state["exp_avg"], state["exp_avg_sq"]])
            state["exp_avg"], state["exp_avg_sq"] = self.both.unbind()
            self._start(int(state["step"]))
        return self.both

    def _start(self, step: int) -> None:
        """All rows are up to date with `step`."""
        self.now = step
        self.last = torch.full((len(self.weight),), step)
        # Of step s, counted from `start`: `missed[s]` sums lr_j * decay of the moments / shrink[j] over the
        # steps j since then, `shrink[s]` multiplies (1 - lr_j * weight_decay) over the steps up to s.
        self.start = step
        self.missed = torch.zeros(1024, dtype=torch.float64)
        self.shrink = torch.ones(1024, dtype=torch.float64)

    def read(self, rows: Tensor) -> None:
        """Hold distinct ascending `rows`, up to date; until `let_go` the module finds no others."""
        if self.held and self.held.weight.grad is not None:
            raise RuntimeError("a step reads once: give `read` the ids of all its batches")
        self.let_go()
        self.held = self._caught_up(rows)
        self.held.weight.requires_grad_()
        self.place[rows] = torch.arange(len(rows))
        self.module.forward = self._look_up  # type: ignore[method-assign, assignment]

    def _look_up(self, ids: Tensor) -> Tensor:
        assert self.held
        padding = self.module.padding_idx
        if padding is not None:
            place = int(self.place[padding])
            padding = place if place >= 0 else None
        return embedding(self.place[ids], self.held.weight, padding)

    def let_go(self) -> None:
        """Write the rows held to the table. Interrupted, it can be done again."""
        if self.held:
            rows, moments = self.held.rows, self.moments
            self.weight.detach().index_copy_(0, rows, self.held.weight.detach())
            moments.index_copy_(1, rows, self.held.moments)
            self.last[rows] = self.now
            self.drop()

    def drop(self) -> None:
        """Forget the rows held, which leaves the table as it is."""
        if self.held:
            self.place[self.held.rows] = -1
            vars(self.module).pop("forward", None)
            self.held = None

    def step(self) -> None:
        """AdamW on the rows held, and a note of what all others miss by it."""
        if self.weight.grad is not None:
            raise RuntimeError("a table's weights were read by another module than its own")
        moments, held = self.moments, self.held
        factor = 1 - self.group["lr"] * self.group["weight_decay"]
        if factor < 0.5 or self.shrink[self.now - self.start] < 1e-100:
            # What is left of a weight is too little to be divided by: all rows take this step at once.
            everywhere = torch.zeros_like(self.weight)
            if held and held.weight.grad is not None:
                everywhere.index_copy_(0, held.rows, held.weight.grad)
            self.flush()
            self._adamw(self.weight.detach(), everywhere, moments)
            self._start(self.now)
        elif held and held.weight.grad is not None:
            self._adamw(held.weight.detach(), held.weight.grad, held.moments)
            self.let_go()
            self._note()
        else:
            self.let_go()  # as of before the step: these rows miss it too
            self.now += 1
            self.optimizer.state[self.weight]["step"] += 1
            self._note()

    def _adamw(self, weight: Tensor, gradient: Tensor, moments: Tensor) -> None:
        """The next step on rows that are up to date, in place; their number in the state goes up."""
        (b1, b2), group = self.group["betas"], self.group
        adamw(
            [weight],
            [gradient],
            [moments[0]],
            [moments[1]],
            [],
            [self.optimizer.state[self.weight]["step"]],
            fused=True,
            amsgrad=False,
            beta1=b1,
            beta2=b2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        self.now += 1

    def _note(self) -> None:
        """What the step just taken did to rows that took no part in it."""
        (b1, b2), learning_rate = self.group["betas"], self.group["lr"]
        place = self.now - self.start
        if place >= len(self.missed):
            self.missed = torch.cat([self.missed, torch.zeros_like(self.missed)])
            self.shrink = torch.cat([self.shrink, torch.ones_like(self.shrink)])
        self.shrink[place] = self.shrink[place - 1] * (1 - learning_rate * self.group["weight_decay"])
        rate = learning_rate * (1 - b2**self.now) ** 0.5 / (1 - b1**self.now)
        recent = min(place, WINDOW)
        missed = self.missed[place - recent : place]
        missed.add_(self.fade[WINDOW - recent :], alpha=rate / float(self.shrink[place]))

    def flush(self) -> None:
        """Bring all rows up to date."""
        self.let_go()
        rows = (self.last < self.now).nonzero()[:, 0]
        if len(rows):
            self.read(rows)
            self.let_go()

    def _caught_up(self, rows: Tensor) -> "_Rows":
        """Copies of `rows`, with what they missed up to and including this step."""
        (b1, b2), eps = self.group["betas"], self.group["eps"]
        weight = self.weight.detach().index_select(0, rows)
        moments = self.moments.index_select(1, rows)
        if self.now:
            last = self.last[rows]
            age = (self.now - last).double()
            shrink, moved = self.shrink[last - self.start].reciprocal_(), self.missed[last - self.start]
            # eps stands beside sqrt(v / (1 - b2^j)), of which `moved` has the second part for every j: what
            # is left of it here is that of the first missed step, which moves a row most.
            rest = (1 - b2 ** (last + 1).double()).sqrt_().mul_(eps)
            factors = torch.stack([shrink, moved]).mul_(self.shrink[self.now - self.start])
            factors = torch.cat([factors, torch.stack([rest, b1**age, b2**age])]).to(weight.dtype)
            shrink, moved, rest, fade1, fade2 = factors[:, :, None]
            mean, square = moments
            weight.mul_(shrink).sub_(mean / square.sqrt().add_(rest) * moved)
            mean.mul_(fade1)
            square.mul_(fade2)
        return _Rows(rows, weight, moments)


@dataclass
class _Rows:
    """Copies of some rows of a table: weights `[n, width]`, moments `[2, n, width]`."""

    rows: Tensor
    weight: Tensor
    moments: Tensor
