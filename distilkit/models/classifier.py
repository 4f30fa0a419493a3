"""Principal components of an embedding table: the same words in fewer dimensions."""

from typing import NamedTuple

import torch
from torch import Tensor


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
