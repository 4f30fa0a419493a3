"""What a row of each class counts in the hard loss: `--class-weights`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distilkit.config.fitting import BALANCED, FitConfig
from distilkit.data.checks import class_counts
from distilkit.errors import UserError, list_names
from distilkit.progress import Reporter


def choose_class_weights(
    config: FitConfig, names: Sequence[str], labels: NDArray[np.int64], reporter: Reporter
) -> tuple[float, ...] | None:
    """Return the weights by class id, and report them; `None` where all rows count alike.

    The mean weight of the training rows is 1, so that alpha weighs the loss as without weights. Balanced,
    each class counts as much as any other: `rows / (classes * rows of the class)` (King and Zeng 2001).

    Args:
        names: class names, by id.
        labels: of the training rows, int64 `[N]`; rows below 0 have none.

    Raises:
        UserError: when a name is no class, or a class has no row.
    """
    if not config.class_weights:
        return None
    counts = np.array(class_counts(labels, len(names)), float)
    if config.class_weights == (BALANCED,):
        if not counts.all():
            raise UserError(
                f"--class-weights {BALANCED}: no training row is labelled {names[int(counts.argmin())]}, so "
                "no weight balances it. Add rows of it, or give NAME=WEIGHT."
            )
        weights = 1 / counts
    else:
        weights = _read_weights(config.class_weights, names)
    weights = weights * (counts.sum() / (weights * counts).sum())
    shown = list_names([f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)])
    reporter.note(f"class weights: {shown} (their mean over the training rows is 1)")
    return tuple(weights.tolist())


def _read_weights(texts: Sequence[str], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the weight of each class, 1 for those that are not named. Raises `UserError` for other names."""
    weights = np.ones(len(names))
    for text in texts:
        name, _, weight = text.rpartition("=")
        if name not in names:
            raise UserError(
                f"--class-weights {text}: there is no class {name!r}. The classes are {list_names(names)}."
            )
        weights[names.index(name)] = float(weight)
    return weights
