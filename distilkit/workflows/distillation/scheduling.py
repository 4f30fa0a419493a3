"""Which student trains when, on how many threads: as one model, side by side, or in turn.

A BiLSTM's tensors, as those of a static student, are too small to divide between cores: a second core makes a
step a tenth faster, while two students on a core each train nearly twice as fast. Threads that wait for each
other at every operation also fall far behind when another process wants a core.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch

from distilkit.config import DistillConfig
from distilkit.config.fields import field_infos
from distilkit.config.fitting import HARDWARE_FIELDS
from distilkit.config.student import WORD_STUDENTS
from distilkit.errors import UserError
from distilkit.hardware.memory import is_out_of_memory, release_cached
from distilkit.hardware.precision import Resolved
from distilkit.hardware.threads import single_threaded, training_threads
from distilkit.progress import NamedReporter, Reporter
from distilkit.runs.checkpoint import is_finished
from distilkit.runs.run import Run
from distilkit.workflows.distillation.inputs import DistillationInputs, prepare_job
from distilkit.workflows.fitting.fit import fit_into_run, fit_into_runs

# Students that are computed as one model. A stack sends more kernels than cuDNN's LSTM has, so few students
# are trained sooner one after the other: by count of kernels up to three on short texts, five on long ones.
MIN_STACKED, MAX_STACKED = 4, 64

Result = TypeVar("Result")
Finished = Callable[[int, Any], None]


class _Stopped(BaseException):
    """Ends a lane early."""


class _LaneReporter(NamedReporter):
    """Puts a lane's name before its messages, and ends the lane at its next message after `stop` is set."""

    def __init__(self, name: str, reporter: Reporter, stop: threading.Event) -> None:
        super().__init__(name, reporter)
        self._stop = stop

    def note(self, message: str) -> None:
        self._check()
        super().note(message)

    def warn(self, message: str) -> None:
        self._check()
        super().warn(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        self._check()
        super().advance(task, done, total, detail)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped


def run_in_parallel(
    tasks: Sequence[tuple[str, Callable[[Reporter], Result]]],
    lanes: int,
    reporter: Reporter,
    finished: Finished = lambda i, outcome: None,
) -> list[Result | UserError]:
    """Run named tasks, `lanes` at a time, each on one thread of the CPU.

    Whatever ends the caller (Ctrl-C) ends the lanes at their next word to the reporter, and is raised when
    they have cleared up. A task's `UserError` lets the others finish.

    Args:
        finished: called in the caller's thread with the index and the outcome of each task that ends.

    Returns:
        Per task its result or its `UserError`, in the order given.
    """
    stop = threading.Event()
    running: list[Future[Result]] = []
    # `single_threaded` restores the count: threads that start later begin with that of the lanes.
    with (
        single_threaded(),
        ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            for name, task in tasks:
                running.append(pool.submit(task, _LaneReporter(name, reporter, stop)))
            going = set(running)
            while going:  # with a timeout: a signal that comes just before the wait would not end it
                done, going = wait(going, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=running.index):
                    finished(running.index(future), _outcome(future))
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [_outcome(future) for future in running]


def _outcome(future: "Future[Any]") -> Any:
    error = future.exception()
    return error if isinstance(error, UserError) else future.result()


def results_or_raise(
    configs: Sequence[DistillConfig], outcomes: Sequence[Result | UserError]
) -> list[Result]:
    """Return the results.

    Raises:
        UserError: when some are errors: the only one as it is, of several each under its run's name.
    """
    if len(outcomes) == 1 and isinstance(outcomes[0], UserError):
        raise outcomes[0]
    results = [outcome for outcome in outcomes if not isinstance(outcome, UserError)]
    if len(results) == len(outcomes):
        return results
    problems = [
        f"{config.output_dir.name}: {outcome}"
        for config, outcome in zip(configs, outcomes, strict=True)
        if isinstance(outcome, UserError)
    ]
    raise UserError("\n".join([*problems, f"The other {len(results)} finished."]))


def train_each(
    inputs: DistillationInputs, reporter: Reporter, finished: Finished = lambda i, outcome: None
) -> list[Run | UserError]:
    """Train every student of `inputs`: BiLSTMs as one model, small ones side by side, others in turn.

    Args:
        finished: called with the index and the outcome of each student that is trained or has failed.

    Returns:
        Per config its run, or the error that ended it and left the others alone.
    """
    configs, device = inputs.configs, inputs.accelerator.device
    model = inputs.first_student.model
    names = [config.output_dir.name for config in configs]
    is_small = model.config.model_type in WORD_STUDENTS
    is_bilstm = model.config.model_type == "bilstm"
    if is_bilstm and len(configs) > 1 and stackable(device, inputs.precision):
        if any(config.checkpoint_every or config.resume for config in configs):
            raise UserError(
                "BiLSTMs that are trained together on a GPU are computed as one model, which has no "
                "checkpoints. Leave --checkpoint-every and --resume out, or distill them one after the other."
            )
        outcomes: dict[int, Run | UserError] = {}
        for indices in _stacks(configs):
            trained = _train_stack(inputs, indices, reporter)
            for i, outcome in trained.items():
                finished(i, outcome)
            outcomes |= trained
        return [outcomes[i] for i in range(len(configs))]
    if is_small and len(configs) > 1 and device.type == "cpu":
        tasks = [(name, partial(train_one, inputs, i)) for i, name in enumerate(names)]
        return run_in_parallel(tasks, torch.get_num_threads(), reporter, finished)
    runs = []
    with training_threads(model) if is_small and device.type == "cpu" else nullcontext() as spare_core:
        for i in range(len(configs)):
            runs.append(_train_apart(inputs, i, reporter, spare_core))
            finished(i, runs[-1])
    return runs


def train_one(
    inputs: DistillationInputs, i: int, reporter: Reporter, spare_core: Executor | None = None
) -> Run:
    """Train student `i`; `spare_core` is as in `fit`."""
    if is_finished(inputs.configs[i]):
        return Run.load(inputs.configs[i].output_dir)
    job, rows = prepare_job(inputs, i)
    return fit_into_run(job, rows, inputs.rows.validation, inputs.accelerator, reporter, spare_core)


def _train_stack(
    inputs: DistillationInputs, indices: Sequence[int], reporter: Reporter
) -> dict[int, Run | UserError]:
    """Train students as one model; where all do not fit on the device, half of them at a time."""
    if len(indices) < MIN_STACKED:
        return {i: _train_apart(inputs, i, reporter) for i in indices}
    outcomes = _try_stack(inputs, indices, reporter)
    if outcomes is not None:
        return outcomes
    release_cached()
    half = len(indices) // 2
    size = half if half >= MIN_STACKED else 1
    reporter.note(f"memory: {len(indices)} students do not fit together, trying {size} at a time")
    first = _train_stack(inputs, indices[:half], reporter)
    return first | _train_stack(inputs, indices[half:], reporter)


def _try_stack(
    inputs: DistillationInputs, indices: Sequence[int], reporter: Reporter
) -> dict[int, Run | UserError] | None:
    """Train students as one model; return `None`, and hold nothing, where they do not fit on the device."""
    try:
        jobs, rows = zip(*(prepare_job(inputs, i) for i in indices), strict=True)
        runs = fit_into_runs(jobs, rows, inputs.rows.validation, inputs.accelerator.device, reporter)
        return dict(zip(indices, runs, strict=True))
    except UserError as error:
        return dict.fromkeys(indices, UserError(str(error)))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def _train_apart(
    inputs: DistillationInputs, i: int, reporter: Reporter, spare_core: Executor | None = None
) -> Run | UserError:
    try:
        return train_one(inputs, i, reporter, spare_core)
    except UserError as error:
        return UserError(str(error))  # without the frames, which hold the model


def stackable(device: torch.device, precision: Resolved) -> bool:
    """Return whether many BiLSTMs are best computed as one model: on a GPU, which one leaves idle."""
    return device.type == "cuda" and precision != "fp16"


def _stacks(configs: Sequence[DistillConfig]) -> list[list[int]]:
    """Group the indices of configs that differ only in alphas, seed and output folder."""
    free_fields = ("alpha", "alpha_end", "calibrate", "seed", "output_dir", "overwrite", *HARDWARE_FIELDS)
    shared_fields = [name for name in field_infos(DistillConfig) if name not in free_fields]
    groups: dict[str, list[int]] = {}
    for i, config in enumerate(configs):
        groups.setdefault(repr([getattr(config, name) for name in shared_fields]), []).append(i)
    return [
        indices[start : start + MAX_STACKED]
        for indices in groups.values()
        for start in range(0, len(indices), MAX_STACKED)
    ]
