"""The teacher's logits, computed once and joined to rows by content, never by position."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilkit.engine.teacher_logits.shards import Keys, as_keys
from distilkit.engine.teacher_logits.store import LogitStore
from distilkit.errors import UserError
from distilkit.hardware.precision import LogitFormat

# Positions of rows -> chunks of (positions int64 [n], logits [n, C]) that cover them, in any order.
Compute = Callable[[Sequence[int]], Iterator[tuple[NDArray[np.int64], Tensor]]]

# Stored and live logits of one row may differ by `absolute + relative * its largest logit`. A row is not
# rounded alike in every batch: which kernels run, and the order in which they sum, depend on the shape. That
# shows in fp32's fifth digit. bf16 and fp16 keep 8 and 11 bits, and twelve layers add up their errors. TF32
# rounds what an LSTM multiplies to 11 bits, and adds up in fp32: that shows in the third digit. Other weights
# are off by far more in one row of eight.
TOLERANCES: dict[LogitFormat, tuple[float, float]] = {
    "fp32": (1e-3, 1e-3),
    "tf32": (1e-2, 1e-2),
    "bf16": (0.1, 0.05),
    "fp16": (0.1, 0.05),
}


@dataclass(frozen=True)
class TeacherLogits:
    """The teacher's logits of N rows, float32 `[N, C]` on the CPU, and where they came from.

    `cached`, `computed` and `checked` count distinct rows; `refused` is a sentence when they could not be
    kept, `damaged` counts shards that could not be used.
    """

    logits: Tensor
    cached: int
    computed: int
    checked: int
    refused: str | None
    damaged: int


def gather_teacher_logits(
    keys: Sequence[bytes] | Keys,
    compute: Compute,
    store: LogitStore,
    *,
    check: int = 8,
    seed: int = 0,
    precision: LogitFormat,
    waiting: Callable[[], None],
) -> TeacherLogits:
    """Return the logits of all rows: stored ones from `store`, missing ones from the teacher, then stored.

    While one process computes, others that need the same teacher wait and share what it stored.

    Args:
        keys: `Texts.keys` of the N rows, repeats included.
        compute: runs the teacher; each chunk it yields is stored at once, so that a killed run keeps it.
            Logits are in the teacher's order of classes.
        check: so many random stored rows are computed again and compared, before anything else is computed.
        seed: which ones.
        precision: the format of the logits, which says how far stored and live ones may differ.
        waiting: called once, if another process is computing.

    Raises:
        UserError: when stored and live logits differ, or live ones are not finite.
        ValueError: when `compute` leaves rows out.
    """
    distinct, first, inverse = np.unique(as_keys(keys), return_index=True, return_inverse=True)
    logits, is_stored = store.find(distinct)
    with ExitStack() as stack:
        if not is_stored.all():
            stack.enter_context(store.lock(waiting))
            store.refresh()  # who held the lock before may have done it all
            logits, is_stored = store.find(distinct)
        stored = np.flatnonzero(is_stored)
        drawn = np.random.default_rng(seed).permutation(stored)[:check]
        for rows, live in _run(compute, first[drawn], inverse, store):
            if _largest_difference(logits[rows], live, precision):
                alone = [next(_run(compute, first[[row]], inverse, store))[1] for row in rows]
                raise _explain_difference(logits[rows], live, np.concatenate(alone), store, precision)
        missing = np.flatnonzero(~is_stored)
        for rows, live in _run(compute, first[missing], inverse, store):
            store.add(distinct[rows], live)
            logits[rows], is_stored[rows] = live, True
    if not is_stored.all():
        raise ValueError(f"the teacher left out {np.count_nonzero(~is_stored)} of {len(missing)} rows")
    return TeacherLogits(
        logits=torch.from_numpy(logits[inverse]),
        cached=len(stored),
        computed=len(missing),
        checked=len(drawn),
        refused=store.refused,
        damaged=len(store.damaged),
    )


def _run(
    compute: Compute, positions: NDArray[np.int64], inverse: NDArray[np.int64], store: LogitStore
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Run the teacher on rows; yield positions of distinct rows and their logits `[n, C]`, chunk by chunk."""
    if not len(positions):
        return
    for where, logits in compute(np.sort(positions).tolist()):
        live = logits.detach().float().cpu().numpy()
        if not np.isfinite(live).all():
            raise UserError(
                f"the teacher {store.description['name']} answers with numbers that are not finite. "
                "Use --precision fp32, or another teacher."
            )
        yield inverse[where], live


def _largest_difference(
    expected: NDArray[np.float32], logits: NDArray[np.float32], precision: LogitFormat
) -> float:
    """Return the largest difference between logits `[n, C]`; 0 where rounding alone may explain it."""
    absolute, relative = TOLERANCES[precision]
    difference = np.abs(expected - logits)
    allowed = absolute + relative * np.abs(logits).max(axis=1, keepdims=True)
    return float(difference.max()) if (difference > allowed).any() else 0.0


def _explain_difference(
    stored: NDArray[np.float32],
    live: NDArray[np.float32],
    alone: NDArray[np.float32],
    store: LogitStore,
    precision: LogitFormat,
) -> UserError:
    """Return what to tell the user where stored logits are not those of the live teacher.

    Args:
        alone: the live teacher's logits of the same rows, one row at a time.
    """
    name = store.description["name"]
    if difference := _largest_difference(live, alone, precision):
        remedy = "--device cpu" if precision == "tf32" else "--precision fp32"
        return UserError(
            f"the teacher {name} gives the same text other logits in another batch (by up to "
            f"{difference:.3g}), so that nothing can be compared with what is stored. Removing that would "
            f"not help: use {remedy}, or another teacher."
        )
    difference = _largest_difference(stored, live, precision)
    return UserError(
        f"the teacher {name} does not give the logits that are stored for it: "
        f"they differ by up to {difference:.3g}. "
        f"Remove them with: distilkit cache prune --key {store.key[:12]}"
    )
