"""Where the time of a training step goes: matrix work, memory traffic, and neither.

Of real runs fifty steps are timed and the next fifty profiled: a BiLSTM, on CUDA also several as one, and
a BERT of 4 layers x 312. Matrix work is products, LSTMs and attention; memory traffic is every other
operation on tensors. Neither is what is left: Python, dispatch and launches; on CUDA all the time in which no
kernel ran, on a CPU what the profiler itself adds too, because there its operations' times and the step they
are a share of are both under it. On a CPU this is for one thread, which is how a BiLSTM is trained there.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import SEED, Options, Results, cache_folder, device, parse, synchronize, teacher
from benchmarks.ours import student_config, together
from distilkit.engine.training.loop import LOG_STEPS, StepRecord
from distilkit.workflows.fitting import fit as fitting

MATRIX = ("mm", "linear", "lstm", "rnn", "attention", "matmul")
BATCH = 32


class Watch:
    """Times the steps between the first and the second `StepRecord` of a training, and profiles the next."""

    def __init__(self) -> None:
        activities = [ProfilerActivity.CPU]
        if device().type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities)
        self.seconds: list[float] = []  # of fifty steps alone, and of fifty under the profiler

    def over(self, fit: Any) -> Any:
        """Watch `fit`."""

        def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
            started = 0.0
            for record in fit(*arguments, **options):
                if isinstance(record, StepRecord) and len(self.seconds) < 2:
                    synchronize()
                    if started:
                        self.seconds.append(time.perf_counter() - started)
                    if len(self.seconds) == 1:
                        self.profile.start()
                    elif len(self.seconds) == 2:
                        self.profile.stop()
                    started = time.perf_counter()
                yield record

        return watched

    def shares(self) -> dict[str, float]:
        """Milliseconds of a step, and of which kind they are."""
        assert len(self.seconds) == 2, "there were too few steps"
        on_device = device().type == "cuda"
        matrix = memory = 0.0
        for event in self.profile.key_averages():
            microseconds = event.self_device_time_total if on_device else event.self_cpu_time_total
            if not event.key.startswith(("aten::", "mkldnn::")):
                continue
            if any(part in event.key for part in MATRIX):
                matrix += microseconds
            else:
                memory += microseconds
        alone, watched = (1e3 * seconds / LOG_STEPS for seconds in self.seconds)
        step = alone if on_device else watched  # a profiler does not slow a kernel on a GPU
        matrix, memory = matrix / 1e3 / LOG_STEPS, memory / 1e3 / LOG_STEPS
        return {
            "ms_per_step": round(alone, 3),
            "ms_profiled": round(watched, 3),
            "matrix_work": round(matrix / step, 3),
            "memory_traffic": round(memory / step, 3),
            "neither": round(1 - (matrix + memory) / step, 3),
        }


def profiled(options: Options, run: Path, students: int, **settings: Any) -> dict[str, float]:
    """Shares of a step of so many students trained together; the teacher's logits are cached before."""
    watch = Watch()
    before = fitting.fit
    with tempfile.TemporaryDirectory() as folder:
        configs = [
            student_config(
                options,
                run,
                Path(folder) / str(number),
                epochs=1,
                batch_size=BATCH,
                seed=SEED,
                alpha=round(number / max(1, students), 3),
                max_train_samples=options.rows,
                max_eval_samples=64,
                **settings,
            )
            for number in range(students)
        ]
        try:
            fitting.fit = watch.over(before)
            together(configs)
        finally:
            fitting.fit = before
    return watch.shares()


def main(options: Options) -> None:
    results = Results("step_profile", options)
    run = teacher(options)
    kinds: list[tuple[str, int, dict[str, Any]]] = [("BiLSTM", 1, {"student": "bilstm"})]
    if device().type == "cuda":
        kinds += [("BiLSTM", number, {"student": "bilstm"}) for number in (8, 32)]
    else:
        results.fact("students trained as one", "not profiled: there is no CUDA device")
    kinds.append(("BERT 4x312", 1, {"student": "tinybert", "init": "random"}))
    threads = torch.get_num_threads()
    with cache_folder():
        try:
            torch.set_num_threads(1)
            for name, students, settings in kinds:
                shares = profiled(options, run, students, **settings)
                results.row("a step", student=name, students=students, **shares)
        finally:
            torch.set_num_threads(threads)
    results.write()


if __name__ == "__main__":
    main(parse(__doc__, rows=170 * BATCH, quick_rows=170 * BATCH))
