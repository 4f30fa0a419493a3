"""Small trainings in one process: a thread and a core for each, several side by side.

A BiLSTM's tensors are too small to be worth dividing between cores: a second core makes a step a tenth
faster, but two students on a core each nearly twice as fast. And threads that wait for each other at every
operation fall behind many times over when any other process wants a core.
"""

import gc
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from distilkit.config import DistillConfig
from distilkit.config.fields import field_infos
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved
from distilkit.hardware.threads import single_threaded
from distilkit.progress import NamedReporter, Reporter
from distilkit.runs.run import Run
from distilkit.workflows.distillation.inputs import Company

Result = TypeVar("Result")


class _Stopped(BaseException):
    """Thrown into a lane that is to end early."""


class _LaneReporter(NamedReporter):
    """Puts a name before what one lane tells, and ends the lane at the next word after `stop` is set."""

    def __init__(self, name: str, reporter: Reporter, stop: threading.Event) -> None:
        super().__init__(name, reporter)
        self._stop = stop

    def note(self, message: str) -> None:
        self._check()
        super().note(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        self._check()
        super().advance(task, done, total, detail)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped


def run_in_parallel(
    tasks: Sequence[tuple[str, Callable[[Reporter], Result]]], lanes: int, reporter: Reporter
) -> list[Result]:
    """Run named tasks, `lanes` at a time, each on one thread of the CPU; their results in the order given.

    Whatever ends the caller (Ctrl-C) ends the lanes at their next word to the reporter, and is raised when
    they have cleared up. A task's `UserError` lets the others finish.

    Raises:
        UserError: naming every task that raised one.
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
                for future in done:
                    if not isinstance(future.exception(), UserError | None):
                        future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results_or_raise([name for name, _ in tasks], [_outcome(future) for future in running])


def _outcome(future: "Future[Any]") -> Any:
    error = future.exception()
    return error if isinstance(error, UserError) else future.result()


def results_or_raise(names: Sequence[str], outcomes: Sequence[Result | UserError]) -> list[Result]:
    """The results.

    Raises:
        UserError: when some are errors, with each under its name.
    """
    results = [outcome for outcome in outcomes if not isinstance(outcome, UserError)]
    if len(results) == len(outcomes):
        return results
    problems = [
        f"{name}: {outcome}"
        for name, outcome in zip(names, outcomes, strict=True)
        if isinstance(outcome, UserError)
    ]
    raise UserError("\n".join([*problems, f"The other {len(results)} finished."]))


TOGETHER = 64  # students that are computed as one, at most


def _train_as_one(company: Company, numbers: Sequence[int], reporter: Reporter) -> dict[int, Run | UserError]:
    """Half of them at a time where all do not fit, as often as need be."""
    try:
        if len(numbers) == 1:
            return {numbers[0]: company.train(numbers[0], reporter)}
        return dict(zip(numbers, company.train_as_one(numbers, reporter), strict=True))
    except UserError as error:
        return dict.fromkeys(numbers, UserError(str(error)))
    except torch.OutOfMemoryError:
        half = len(numbers) // 2
    gc.collect()
    torch.cuda.empty_cache()
    reporter.note(f"memory: {len(numbers)} students do not fit together, trying {half} at a time")
    return _train_as_one(company, numbers[:half], reporter) | _train_as_one(company, numbers[half:], reporter)


def stackable(device: torch.device, precision: Resolved) -> bool:
    """Whether several BiLSTMs are best computed as one model: on a GPU, which one leaves idle."""
    return device.type == "cuda" and precision != "fp16"


def _stacks(configs: Sequence[DistillConfig]) -> list[list[int]]:
    """Numbers of the configs, those together that differ only in alphas, seed and where they go."""
    own = ("alpha", "alpha_end", "calibrate", "seed", "output_dir", "overwrite", "precision")
    names = [name for name in field_infos(DistillConfig) if name not in own]
    alike: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        alike.setdefault(repr([getattr(config, name) for name in names]), []).append(number)
    return [
        numbers[start : start + TOGETHER]
        for numbers in alike.values()
        for start in range(0, len(numbers), TOGETHER)
    ]
