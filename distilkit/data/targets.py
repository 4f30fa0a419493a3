"""Numbers that a teacher gives for classes: what kind they are, checked, and as logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilkit.config.teacher_files import TargetKind
from distilkit.data.labels import show_name
from distilkit.errors import UserError, join_first

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

DETECTED: tuple[TargetKind, ...] = ("probabilities", "log-probabilities", "votes")  # else logits
# Above this share of rows that look like one kind, the others are mistakes and not logits.
MIXED_SHARE = 0.1
# Probabilities are often written with two decimals, so that those of a row may add up to 0.99.
ROUNDING, MAX_DEVIATION = 0.005, 0.05
SLACK = 1e-6  # above 1 that floating-point arithmetic explains
# A probability of 0 has no logarithm; this one is 0 in any sum of float32, and its logarithm is finite.
LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
LARGEST_LOGIT = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TargetTable:
    """Numbers of M rows for C classes, as a file gives them.

    Attributes:
        values: float64 `[M, C]`; 0 where none is given.
        is_given: bool `[M, C]`; a row with none has no target.
        class_names: in the order of the columns.
        where: the file, for messages.
    """

    values: Floats
    is_given: Flags
    class_names: Sequence[str]
    where: str

    @property
    def has_target(self) -> Flags:
        """Return which rows have a number for any class, bool `[M]`."""
        return np.asarray(self.is_given.any(axis=1))

    @property
    def is_whole(self) -> Flags:
        """Return which rows have a number for every class, bool `[M]`."""
        return np.asarray(self.is_given.all(axis=1))

    @property
    def tolerance(self) -> float:
        """Return by how much the probabilities of a row may miss 1 when they are rounded."""
        return min(MAX_DEVIATION, ROUNDING * len(self.class_names) + 1e-3)


@dataclass(frozen=True)
class SoftTargets:
    """Targets as logits, float32 `[M, C]`; those of any kind but logits are logarithms of probabilities.

    Attributes:
        truncated: rows that name only some of the classes.
        spread: the mean share of probability in these rows that was spread over the other classes.
    """

    logits: NDArray[np.float32]
    truncated: int = 0
    spread: float = 0.0


def detect_kind(table: TargetTable) -> TargetKind:
    """Return what the numbers are: the strictest kind that all rows look like.

    Where more than a tenth of the rows look like one kind, it is that one: the other rows are faulty, as
    `soften` then says, or of another kind.

    Raises:
        UserError: when they may be logits as well as votes.
    """
    has_target = table.has_target
    if not np.isfinite(table.values[table.is_given]).all():
        return "logits"  # refused as any kind
    shares = {kind: float(_looks_like(kind, table)[has_target].mean()) for kind in DETECTED}
    likeliest = max(DETECTED, key=lambda kind: shares[kind])
    if shares[likeliest] > MIXED_SHARE:
        return likeliest
    values = table.values[table.is_given]
    if (values < 0).any():
        return "logits"
    if (values <= 1 + SLACK).all():
        return "probabilities"  # that do not add up to 1
    row, column = _first((table.values > 1 + SLACK) & table.is_given)
    raise UserError(
        f"{table.where}, row {row + 1}: {table.values[row, column]:g} for "
        f"{show_name(table.class_names[column])} may be a logit or a share of votes. Say which: "
        "--targets logits, or --targets votes for numbers that are divided by their sum."
    )


def soften(table: TargetTable, kind: TargetKind) -> SoftTargets:
    """Check the numbers and return them as logits; rows without a target are left as they are, 0.

    Where a row names only some of the classes, what is left of its probability is spread evenly over the
    others. Votes are divided by their sum; a class without a vote has none.

    Raises:
        UserError: naming the row and the value that cannot be.
    """
    _check(table, kind)
    has_target = table.has_target
    values = np.where(table.is_given, table.values, 0.0)
    if kind == "logits":
        return SoftTargets(values.astype(np.float32))
    if kind == "votes":
        totals = np.where(has_target, values.sum(axis=1), 1.0)
        return SoftTargets(to_logits(values / totals[:, None], has_target))
    is_truncated = has_target & ~table.is_whole
    if kind == "log-probabilities" and not is_truncated.any():
        sums = np.log(np.exp(values).sum(axis=1, keepdims=True))
        return SoftTargets(np.where(has_target[:, None], values - sums, 0.0).astype(np.float32))
    if kind == "log-probabilities":
        values = np.where(table.is_given, np.exp(values), 0.0)
    rest = np.where(is_truncated, np.clip(1.0 - values.sum(axis=1), 0.0, None), 0.0)
    left_out = np.maximum(1, (~table.is_given).sum(axis=1))
    values = np.where(table.is_given, values, (rest / left_out)[:, None])
    totals = np.where(has_target, values.sum(axis=1), 1.0)
    return SoftTargets(
        to_logits(values / totals[:, None], has_target),
        int(is_truncated.sum()),
        float(rest[is_truncated].mean()) if is_truncated.any() else 0.0,
    )


def to_logits(probabilities: Floats, has_target: Flags) -> NDArray[np.float32]:
    """Return the logarithms of probabilities `[M, C]`, finite also for 0; rows without a target are 0."""
    logits = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return np.where(has_target[:, None], logits, 0.0).astype(np.float32)


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Return the probabilities of logits, float64 `[N, C]`."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _looks_like(kind: TargetKind, table: TargetTable) -> Flags:
    """Return which rows may be of a kind, bool `[M]`."""
    values, is_given = np.where(table.is_given, table.values, 0.0), table.is_given
    if kind == "votes":
        is_whole_number = (values >= 0) & (values == np.floor(values))
        return np.asarray(is_whole_number.all(axis=1) & (values.sum(axis=1) > 0))
    if kind == "log-probabilities":
        in_range = (values <= SLACK).all(axis=1)
        values = np.where(is_given & (values <= SLACK), np.exp(np.minimum(values, 0.0)), 0.0)
    else:
        in_range = ((values >= 0) & (values <= 1 + SLACK)).all(axis=1)
    return np.asarray(in_range & _adds_up(values.sum(axis=1), table))


def _adds_up(sums: Floats, table: TargetTable) -> Flags:
    """Return which rows have probabilities with such sums: 1, or less where classes are left out."""
    low = np.where(table.is_whole, 1.0 - table.tolerance, 0.0)
    adds_up: Flags = (sums >= low) & (sums > 0) & (sums <= 1.0 + table.tolerance)
    return adds_up


def _check(table: TargetTable, kind: TargetKind) -> None:
    """Raise `UserError` naming the first row that cannot be of this kind."""
    values, is_given, has_target = table.values, table.is_given, table.has_target
    is_huge = ~np.isfinite(values) | (np.abs(values) > LARGEST_LOGIT)
    _refuse_cell(table, is_given & is_huge, "is no finite number. Write one, or leave the row out.")
    alternative = "probabilities" if kind == "logits" else "logits"
    advice = f"Mend it; if the file holds something else than {kind}, say what: --targets {alternative}."
    if kind == "logits":
        is_absent = ~is_given & has_target[:, None]
        _refuse_cell(table, is_absent, "is missing, and there must be a logit for every class. Add it.")
    elif kind == "votes":
        _refuse_cell(table, is_given & (values < 0), f"is no number of votes. {advice}")
        sums = values.sum(axis=1)
        _refuse_sum(table, has_target & (sums <= 0), sums, f"there is no vote. {advice}")
    elif kind == "probabilities":
        in_range = (values >= 0) & (values <= 1 + SLACK)
        _refuse_cell(table, is_given & ~in_range, f"is no probability: it is not within 0 and 1. {advice}")
        sums = values.sum(axis=1)
        _refuse_sum(table, has_target & ~_adds_up(sums, table), sums, f"they add up to {{}}. {advice}")
    else:
        _refuse_cell(table, is_given & (values > SLACK), f"is no log-probability: it is above 0. {advice}")
        sums = np.where(is_given, np.exp(np.minimum(values, 0.0)), 0.0).sum(axis=1)
        message = f"their probabilities add up to {{}}. {advice}"
        _refuse_sum(table, has_target & ~_adds_up(sums, table), sums, message)


def _refuse_cell(table: TargetTable, is_wrong: Flags, message: str) -> None:
    if is_wrong.any():
        row, column = _first(is_wrong)
        value = f"{table.values[row, column]:g}" if table.is_given[row, column] else "the value"
        name = show_name(table.class_names[column])
        raise UserError(f"{table.where}, row {row + 1}, class {name}: {value} {message}")


def _refuse_sum(table: TargetTable, is_wrong: Flags, sums: Floats, message: str) -> None:
    if is_wrong.any():
        row = int(is_wrong.argmax())
        values = [f"{value:g}" for value in table.values[row][table.is_given[row]]]
        where = f"{table.where}, row {row + 1}, values {join_first(values)}"
        raise UserError(f"{where}: {message.format(f'{sums[row]:g}')}")


def _first(is_wrong: Flags) -> tuple[int, int]:
    row = int(is_wrong.any(axis=1).argmax())
    return row, int(is_wrong[row].argmax())
