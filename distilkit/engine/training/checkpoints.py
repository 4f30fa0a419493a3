"""Checkpoints: when a training is saved between two optimizer steps, and where it goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from distilkit.engine.training.learners import LearnerState
from distilkit.runs.records import EpochRecord
from distilkit.stopping import is_stop_requested


@dataclass(frozen=True)
class Position:
    """A point between two optimizer steps.

    Attributes:
        epoch: that of the next step, from 1 on.
        steps: of this epoch that are taken; their `rows`, the `sums` of their losses, their `seconds`.
    """

    epoch: int = 1
    steps: int = 0
    rows: int = 0
    sums: Mapping[str, Tensor | None] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Checkpoints:
    """Say where a training starts, and when and how its state is saved.

    Attributes:
        save: writes a checkpoint of a position and the learner's state; where a signal asks to stop, raises.
        steps: save after every so many; `None` for no such rule.
        seconds: save when so many have passed since the last time; `None` for no such rule.
        start: where an earlier process stopped, with `learner`.
        history: the epochs that it finished.
    """

    save: Callable[[Position, LearnerState], None]
    steps: int | None = None
    seconds: float | None = None
    start: Position | None = None
    learner: LearnerState | None = None
    history: Sequence[EpochRecord] = ()
    _saved_at: float = field(default_factory=time.monotonic)

    def is_due(self, step: int) -> bool:
        """Return whether to save after `step`: by the rules, or because a signal asks to stop."""
        has_waited = self.seconds is not None and time.monotonic() - self._saved_at >= self.seconds
        is_due = has_waited or (self.steps is not None and step % self.steps == 0)
        if is_due:
            self._saved_at = time.monotonic()
        return is_due or self.is_stopping()

    def is_stopping(self) -> bool:
        """Return whether a signal asks to stop."""
        return is_stop_requested()
