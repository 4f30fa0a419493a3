"""Principal components of an embedding table: the same words in fewer dimensions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distilkit.data.encoding import Tokenizer
from distilkit.models.loading import embedding_table
from distilkit.models.locating import Source


class Components(NamedTuple):
    """Directions in which the rows of a table vary, from the most to the least.

    Attributes:
        mean: the mean row, `[width]`.
        directions: orthonormal, one a column, `[width, width]`.
        shares: of the rows' variance along each direction, `[width]`.
    """

    mean: Tensor
    directions: Tensor
    shares: Tensor

    def coordinates(self, table: Tensor, size: int) -> Tensor:
        """The rows of `table`, `[rows, width]`, along the first `size` directions, `[rows, size]`."""
        return (table - self.mean) @ self.directions[:, :size]


def principal_components(table: Tensor) -> Components:
    """Principal components of a `table` `[rows, width]`, in its own format.

    Computed in float64 from the covariance, every row counted once: a word-piece vocabulary's special and
    unused rows are too few to turn the directions. An eigenvector's sign is arbitrary; here its largest
    entry is positive, so that equal tables give equal coordinates.
    """
    rows = table.double()
    mean = rows.mean(dim=0)
    rows = rows - mean
    variances, directions = torch.linalg.eigh(rows.T @ rows)
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)
    largest = directions.abs().argmax(dim=0, keepdim=True)
    directions = directions * directions.gather(0, largest).sign()
    shares = variances / variances.sum()
    return Components(mean.to(table.dtype), directions.to(table.dtype), shares.to(table.dtype))


@dataclass(frozen=True)
class Student:
    """A student to train: the model, its tokenizer, and in words where its weights come from.

    `copied_layers` are the teacher's layers, from 0, that its own were copied from.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    origin: str
    copied_layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Teacher:
    """A teacher, as far as a student starts from it; `model` is `None` where its tokenizer is enough."""

    source: Source
    tokenizer: Tokenizer
    model: PreTrainedModel | None

    @cached_property
    def components(self) -> Components:
        """Of its embedding table; students that are made together share them."""
        assert self.model is not None
        return principal_components(embedding_table(self.model).detach())


@dataclass(frozen=True)
class Classifier:
    """A model that was named, ready to answer."""

    source: Source
    model: Any
    tokenizer: Tokenizer
    names: tuple[str, ...]
    fingerprint: str
    max_length: int

    @property
    def temperature(self) -> float | None:
        """What its run divided its logits by."""
        calibration = self.source.run.metrics.get("calibration") if self.source.run else None
        return calibration["temperature"] if calibration else None
