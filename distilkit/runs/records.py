"""Records of a run: an epoch, its metrics."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EpochRecord:
    """A finished epoch. Losses are means over its rows; a part that alpha leaves out is `None`."""

    epoch: int
    step: int
    learning_rate: float
    loss: float
    hard_loss: float | None
    soft_loss: float | None
    validation: dict[str, float]
    improved: bool
    examples_per_second: float
    seconds: float
    layer_loss: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """What a line of `history.jsonl` holds."""
        return asdict(self)
