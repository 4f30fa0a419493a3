"""AdamW that does not touch the rows of an embedding table which a step did not read.

A small student is mostly its embedding table, and a batch reads a few hundred of its rows. Dense AdamW
moves all of them in every step: momentum and weight decay go on where the gradient is zero. What they do
there is known in advance, so it can be made up for when a row is read next, in one go.
"""

from collections.abc import Callable, Iterable, Mapping
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
    parameters differ from dense AdamW's). Call `activate` before the forward passes of a training step, and
    `flush`, which does it for all rows, before parameters are used for anything else.

    In between, the table itself is not up to date: its module looks words up among the rows that were read,
    a small tensor with an ordinary gradient.

    Args:
        groups: parameter groups for AdamW, with `weight_decay`; every table's weight must be in one.
        tables: embeddings on the CPU of which each step reads a small part (`can_be_table`), and whose
            weights no other module reads.
        lr: learning rate; a schedule may change it between steps.
        fused: for the dense parameters.
        spare_core: runs the update of the dense parameters while the caller updates the tables.
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
        self._spare_core = spare_core
        self._tables = [RowCache(self, table) for table in tables]

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters whose gradients a step reads, to clip them."""
        trained: list[Any] = [*self._parameters()]
        return trained + [table.active_rows.weight for table in self._tables if table.active_rows]

    @torch.no_grad()
    def activate(self, *ids: Tensor) -> None:
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
                table.activate(rows)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step on every parameter that has a gradient."""
        assert closure is None
        dense = self._spare_core.submit(super().step) if self._spare_core else None
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
        """Clear the gradients, those of the active rows too."""
        super().zero_grad(set_to_none)
        for table in self._tables:
            if table.active_rows:
                table.active_rows.weight.grad = None

    def exact_state(self) -> dict[str, Tensor]:
        """Return what the next step reads beside the parameters, between two steps.

        No row is brought up to date for it: that would change the last bits of those that come.
        """
        state = {
            f"{i}.{name}": value
            for i, parameter in enumerate(self._parameters())
            for name, value in self.state.get(parameter, {}).items()
        }
        for i, table in enumerate(self._tables):
            state |= {f"table{i}.{name}": value for name, value in table.exact_state().items()}
        return state

    def load_exact_state(self, state: Mapping[str, Tensor]) -> None:
        """Load an `exact_state` of the same parameters and tables, whose weights are loaded already."""
        self.state.clear()
        for i, parameter in enumerate(self._parameters()):
            for name in ("step", "exp_avg", "exp_avg_sq"):
                if (value := state.get(f"{i}.{name}")) is not None:
                    # AdamW counts steps on the device only where it is fused.
                    on_cpu = name == "step" and not self.defaults["fused"]
                    device = "cpu" if on_cpu else parameter.device
                    self.state[parameter][name] = value.to(device, copy=True)
        for i, table in enumerate(self._tables):
            table.load_exact_state(
                {name: state[f"table{i}.{name}"] for name in ("first_step", "last_steps", "missed", "shrink")}
            )

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state for parameters of the same step; active rows are discarded, not written back."""
        for table in self._tables:
            table.discard()
        super().load_state_dict(state_dict)


def can_be_table(module: nn.Module) -> bool:
    """Check whether `SparseRowAdamW` can take `module` as a table: a plain embedding in training."""
    return (
        type(module) is nn.Embedding
        and module.weight.requires_grad
        and module.max_norm is None
        and not module.scale_grad_by_freq
        and "forward" not in vars(module)  # replaced by a hook of another library
    )


class RowCache:
    """One embedding table, and per past step what its rows have missed since.

    The moments are the optimizer's own `state` of the weight; after `flush` that state is AdamW's.
    """

    def __init__(self, optimizer: SparseRowAdamW, module: nn.Embedding) -> None:
        self.optimizer, self.module, self.weight = optimizer, module, module.weight
        self.group_index = next(
            index
            for index, group in enumerate(optimizer.param_groups)
            if any(module.weight is parameter for parameter in group["params"])
        )
        self.active_rows: ActiveRows | None = None
        self.slots = torch.full((len(self.weight),), -1)  # of a table's row among the active ones, or -1
        self.stacked_moments: Tensor | None = None
        self._start(0)
        b1, b2 = self.group["betas"]
        self.momentum_decays = (b1 / b2**0.5) ** torch.arange(WINDOW, 0, -1, dtype=torch.float64)

    @property
    def group(self) -> dict[str, Any]:
        """Return the table's parameter group."""
        return self.optimizer.param_groups[self.group_index]  # load_state_dict replaces the dicts

    @property
    def moments(self) -> Tensor:
        """Return both moments of each row, `[2, rows, width]`, of which the optimizer's state are views."""
        state = self.optimizer.state[self.weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = state["exp_avg_sq"] = torch.zeros_like(self.weight)
        if self.stacked_moments is None or state["exp_avg"].data_ptr() != self.stacked_moments.data_ptr():
            # New, or loaded: then every row is as of the step that was saved.
            self.stacked_moments = torch.stack([state["exp_avg"], state["exp_avg_sq"]])
            state["exp_avg"], state["exp_avg_sq"] = self.stacked_moments.unbind()
            self._start(int(state["step"]))
        return self.stacked_moments

    def _start(self, step: int) -> None:
        """Start counting at `step`, with which all rows are up to date."""
        self.current_step = step
        self.last_steps = torch.full((len(self.weight),), step)
        # Of step s, counted from `start`: `missed[s]` sums lr_j * decay of the moments / shrink[j] over the
        # steps j since then, `shrink[s]` multiplies (1 - lr_j * weight_decay) over the steps up to s.
        self.first_step = step
        self.missed = torch.zeros(1024, dtype=torch.float64)
        self.shrink = torch.ones(1024, dtype=torch.float64)

    def exact_state(self) -> dict[str, Tensor]:
        """Return what the table has beside AdamW's state. Between two steps no row is active."""
        return {
            "first_step": torch.tensor(self.first_step),
            "last_steps": self.last_steps,
            "missed": self.missed,
            "shrink": self.shrink,
        }

    def load_exact_state(self, state: Mapping[str, Tensor]) -> None:
        """Load an `exact_state`; the optimizer's state of the weight is loaded already."""
        self.discard()
        self.stacked_moments = None
        _ = self.moments  # stacks what was loaded, and counts from its step on
        self.first_step = int(state["first_step"])
        self.last_steps = state["last_steps"].clone()
        self.missed, self.shrink = state["missed"].clone(), state["shrink"].clone()

    def activate(self, rows: Tensor) -> None:
        """Make distinct ascending `rows` active, up to date; until `write_back` the module sees only them."""
        if self.active_rows and self.active_rows.weight.grad is not None:
            raise RuntimeError("a step activates rows once: give `activate` the ids of all its batches")
        self.write_back()
        self.active_rows = self._copy_up_to_date(rows)
        self.active_rows.weight.requires_grad_()
        self.slots[rows] = torch.arange(len(rows))
        self.module.forward = self._look_up  # type: ignore[method-assign, assignment]

    def _look_up(self, ids: Tensor) -> Tensor:
        assert self.active_rows
        padding = self.module.padding_idx
        if padding is not None:
            slot = int(self.slots[padding])
            padding = slot if slot >= 0 else None
        return embedding(self.slots[ids], self.active_rows.weight, padding)

    def write_back(self) -> None:
        """Write the active rows to the table. Interrupted, it can be repeated."""
        if self.active_rows:
            rows, moments = self.active_rows.rows, self.moments
            self.weight.detach().index_copy_(0, rows, self.active_rows.weight.detach())
            moments.index_copy_(1, rows, self.active_rows.moments)
            self.last_steps[rows] = self.current_step
            self.discard()

    def discard(self) -> None:
        """Forget the active rows, which leaves the table as it is."""
        if self.active_rows:
            self.slots[self.active_rows.rows] = -1
            vars(self.module).pop("forward", None)
            self.active_rows = None

    def step(self) -> None:
        """Update the active rows by AdamW, and record what the remaining rows miss."""
        if self.weight.grad is not None:
            raise RuntimeError("a table's weights were read by another module than its own")
        moments, active = self.moments, self.active_rows
        factor = 1 - self.group["lr"] * self.group["weight_decay"]
        if factor < 0.5 or self.shrink[self.current_step - self.first_step] < 1e-100:
            # What is left of a weight is too little to be divided by: all rows take this step at once.
            everywhere = torch.zeros_like(self.weight)
            if active and active.weight.grad is not None:
                everywhere.index_copy_(0, active.rows, active.weight.grad)
            self.flush()
            self._adamw(self.weight.detach(), everywhere, moments)
            self._start(self.current_step)
        elif active and active.weight.grad is not None:
            self._adamw(active.weight.detach(), active.weight.grad, active.moments)
            self.write_back()
            self._record_missed_step()
        else:
            self.write_back()  # as of before the step: these rows miss it too
            self.current_step += 1
            self.optimizer.state[self.weight]["step"] += 1
            self._record_missed_step()

    def _adamw(self, weight: Tensor, gradient: Tensor, moments: Tensor) -> None:
        """Take the next step, in place, on rows that are up to date; the state counts it."""
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
        self.current_step += 1

    def _record_missed_step(self) -> None:
        """Record what the step just taken would have done to rows that took no part in it."""
        (b1, b2), learning_rate = self.group["betas"], self.group["lr"]
        age = self.current_step - self.first_step
        if age >= len(self.missed):
            self.missed = torch.cat([self.missed, torch.zeros_like(self.missed)])
            self.shrink = torch.cat([self.shrink, torch.ones_like(self.shrink)])
        self.shrink[age] = self.shrink[age - 1] * (1 - learning_rate * self.group["weight_decay"])
        rate = learning_rate * (1 - b2**self.current_step) ** 0.5 / (1 - b1**self.current_step)
        recent = min(age, WINDOW)
        missed = self.missed[age - recent : age]
        missed.add_(self.momentum_decays[WINDOW - recent :], alpha=rate / float(self.shrink[age]))

    def flush(self) -> None:
        """Bring all rows up to date."""
        self.write_back()
        rows = (self.last_steps < self.current_step).nonzero()[:, 0]
        if len(rows):
            self.activate(rows)
            self.write_back()

    def _copy_up_to_date(self, rows: Tensor) -> "ActiveRows":
        """Copy `rows`, with what they missed up to and including this step."""
        (b1, b2), eps = self.group["betas"], self.group["eps"]
        weight = self.weight.detach().index_select(0, rows)
        moments = self.moments.index_select(1, rows)
        if self.current_step:
            last = self.last_steps[rows]
            age = (self.current_step - last).double()
            shrink, moved = (
                self.shrink[last - self.first_step].reciprocal_(),
                self.missed[last - self.first_step],
            )
            # eps stands beside sqrt(v / (1 - b2^j)), of which `moved` has the second part for every j: what
            # is left of it here is that of the first missed step, which moves a row most.
            rest = (1 - b2 ** (last + 1).double()).sqrt_().mul_(eps)
            factors = torch.stack([shrink, moved]).mul_(self.shrink[self.current_step - self.first_step])
            factors = torch.cat([factors, torch.stack([rest, b1**age, b2**age])]).to(weight.dtype)
            shrink, moved, rest, fade1, fade2 = factors[:, :, None]
            mean, square = moments
            weight.mul_(shrink).sub_(mean / square.sqrt().add_(rest) * moved)
            mean.mul_(fade1)
            square.mul_(fade2)
        return ActiveRows(rows, weight, moments)


@dataclass
class ActiveRows:
    """Copies of some rows of a table: weights `[n, width]`, moments `[2, n, width]`."""

    rows: Tensor
    weight: Tensor
    moments: Tensor
