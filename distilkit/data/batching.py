"""Training batches: random, yet of rows of like length, so that little of a batch is padding."""

from collections.abc import Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from distilkit.data.encoding import Encoded
from distilkit.data.large import LARGE_ROWS, shuffle_blocks
from distilkit.hardware.threads import prefetch

# Steps' worth of shuffled rows that are sorted by length together. Of SST-2's batches of 32, 9 in 10 then
# hold rows of one length.
WINDOW = 512


class LengthBatchSampler:
    """Row numbers for one optimizer step after the other; another random order each epoch.

    Rows are shuffled, cut into windows of 512 steps, sorted by length within a window and cut into steps,
    and the steps are shuffled: composition and order of the batches change every epoch. Every row comes once
    an epoch; the last short batch is not dropped.

    The seed decides which rows are together; in which order the lengths come, only the epoch. So students of
    different seeds that are trained together read steps of like length and equally many rows at a time.

    More than `LARGE_ROWS` rows, which are seldom in memory, are shuffled as `shuffle_blocks` does.

    Args:
        mix: `(own, others)`: an epoch has the first `own` rows, and `others` of those behind them: the next
            ones in their order, which is shuffled whenever all have had their turn, whatever the seed.
    """

    def __init__(self, rows: Encoded, batch_size: int, seed: int, mix: tuple[int, int] | None = None) -> None:
        self.rows, self.batch_size, self.seed, self.mix = rows, batch_size, seed, mix
        self.epoch, self.skipped_steps = 0, 0

    def __len__(self) -> int:
        return -(-(len(self.rows) if self.mix is None else sum(self.mix)) // self.batch_size)

    def _chosen(self) -> NDArray[np.int64]:
        """Numbers of the rows of this epoch."""
        if self.mix is None:
            return np.arange(len(self.rows))
        train_rows, transfer_rows = self.mix
        behind = len(self.rows) - train_rows
        begin, end = self.epoch * transfer_rows, (self.epoch + 1) * transfer_rows
        rounds = range(begin // behind, -(-end // behind))
        orders = [
            np.random.default_rng([behind, i]).permutation(behind) if i else np.arange(behind) for i in rounds
        ]
        drawn = np.concatenate(orders)[begin % behind :][:transfer_rows]
        return np.concatenate([np.arange(train_rows), train_rows + drawn])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch; the same seed and epoch give the same order."""
        self.epoch, self.skipped_steps = epoch, 0

    def skip(self, steps: int) -> None:
        """Leave out the first steps of this epoch."""
        self.skipped_steps = steps

    def __iter__(self) -> Iterator[list[int]]:
        return islice(self._steps(), self.skipped_steps, None)

    def _steps(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        if self.mix is not None or len(self.rows) <= LARGE_ROWS:
            steps = self._cut(random.permutation(self._chosen()))
            for step in np.random.default_rng(self.epoch).permutation(len(steps)):
                yield steps[step]
            return
        rest = np.empty(0, np.int64)
        for i, buffer in enumerate(shuffle_blocks(len(self.rows), random)):
            shuffled = np.concatenate([rest, buffer])
            whole = len(shuffled) - len(shuffled) % self.batch_size
            steps, rest = self._cut(shuffled[:whole]), shuffled[whole:]
            for step in np.random.default_rng([self.epoch, i]).permutation(len(steps)):
                yield steps[step]
            self.rows.release()
        if len(rest):
            yield rest.tolist()

    def _cut(self, shuffled: NDArray[np.int64]) -> list[list[int]]:
        """Cut shuffled rows into steps, whose rows are of like length."""
        steps: list[list[int]] = []
        offsets = self.rows.offsets
        for start in range(0, len(shuffled), WINDOW * self.batch_size):
            window = shuffled[start : start + WINDOW * self.batch_size]
            window = window[np.argsort(offsets[window + 1] - offsets[window], kind="stable")]
            steps += [
                window[i : i + self.batch_size].tolist() for i in range(0, len(window), self.batch_size)
            ]
        return steps


class StepLoader(DataLoader[Any]):
    """A `DataLoader` of optimizer steps, each a list of batches.

    Attributes:
        spare_core: prepares the next step while the caller takes this one; changes no number.
    """

    spare_core: Executor | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of rows, from 0 on."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]  # a LengthBatchSampler

    def skip(self, steps: int) -> None:
        """Leave out the first steps of this epoch."""
        self.batch_sampler.skip(steps)  # type: ignore[union-attr]

    def __iter__(self) -> Any:
        steps = super().__iter__()
        return steps if self.spare_core is None else prefetch(steps, self.spare_core)


def step_loader(
    rows: Encoded,
    *,
    batch_size: int,
    gradient_accumulation_steps: int,
    seed: int,
    mix: tuple[int, int] | None = None,
    spare_core: Executor | None = None,
) -> StepLoader:
    """Make a loader of optimizer steps, each a list of at most `gradient_accumulation_steps` batches.

    A step draws its `batch_size * gradient_accumulation_steps` rows at once and cuts them up afterwards, so
    8 x 4 and 32 x 1 train on the same rows in the same steps. `mix` is as in `LengthBatchSampler`,
    `spare_core` as in `StepLoader`.
    """

    def collate(indices: list[int]) -> list[dict[str, torch.Tensor]]:
        return [rows.batch(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]

    loader = StepLoader(
        range(len(rows)),  # type: ignore[arg-type]  # a row's number stands for it until collate
        batch_sampler=LengthBatchSampler(rows, batch_size * gradient_accumulation_steps, seed, mix),
        collate_fn=collate,
        generator=torch.Generator(),  # else each epoch would draw from torch's own, which dropout draws from
    )
    loader.spare_core = spare_core
    return loader
