"""Measure every CPU speed-up of distilkit, on against off, in pairs that follow each other in one process.

A lever is switched off by putting torch's ordinary way in its place; the package has no knobs for it. The
ratio is time without the lever over time with it. A lever under 1.05 (1.10 where it uses private operations
of torch) is removed, unless it serves another purpose, which the table names.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch.nn import functional

from benchmarks import ours
from benchmarks.common import (
    Options,
    Results,
    cache_folder,
    compare,
    cpu_flags,
    load_teacher,
    measure,
    parse,
    sentences,
    teacher,
)
from distilkit.engine.inference import logits
from distilkit.engine.training import learners
from distilkit.hardware import dropout, kernels
from distilkit.hardware.precision import autocast
from distilkit.hardware.threads import single_threaded
from distilkit.workflows.distillation import scheduling
from distilkit.workflows.fitting import fit

FLAGS = ("amx_tile", "amx_bf16", "avx512_bf16", "avx512f")
TARGET, PRIVATE_TARGET = 1.05, 1.10
Patches = tuple[tuple[Any, str, Any], ...]


@dataclass(frozen=True)
class Lever:
    """A speed-up, the job it is measured in, and what replaces it when it is off."""

    name: str
    job: str
    off: Patches
    private: bool = False
    reason: str = ""  # why it stays when it gives little

    @property
    def target(self) -> float:
        """Return the ratio that it has to reach."""
        return PRIVATE_TARGET if self.private else TARGET


def plain_dropout(module: Any, values: Any) -> Any:
    """Compute `hardware.dropout.Dropout` with torch's own dropout."""
    return functional.dropout(values, module.dropped / 2**16, module.training)


@contextmanager
def one_thread(_: Any) -> Iterator[None]:
    """Train on one core, without work on the spare one."""
    with single_threaded():
        yield None


def in_turn(tasks: Any, lanes: int, reporter: Any) -> list[Any]:
    """Run the tasks one after the other, each on all cores."""
    return [task(reporter) for _, task in tasks]


def in_one_lane(tasks: Any, lanes: int, reporter: Any, run: Any = scheduling.run_in_parallel) -> list[Any]:
    """Run the tasks one after the other, each on one core."""
    results: list[Any] = run(tasks, 1, reporter)
    return results


def in_order(lengths: Any, tokens: int) -> Iterator[Any]:
    """Yield batches of 32 rows as they come, as an ordinary loop does."""
    yield from (np.arange(i, min(i + 32, len(lengths))) for i in range(0, len(lengths), 32))


def levers() -> list[Lever]:
    """Return all levers, with the ways that are measured against them."""
    bilstm, bert, reading = "BiLSTM epoch", "BERT 4x312 epoch", "teacher logits"
    no_tables = ((fit, "_sparse_tables", lambda *_: []),)
    never = property(lambda call: False)
    bf16_autocast = (
        (logits, "low_precision_copy", lambda model, precision: model),
        (logits, "autocast", lambda device, precision: autocast(device, "bf16")),
    )
    return [
        Lever("sparse-row AdamW", bilstm, no_tables, private=True),
        Lever("sparse-row AdamW", bert, no_tables, private=True),
        Lever(
            "dropout by random bytes",
            bilstm,
            ((dropout.Dropout, "forward", plain_dropout),),
            reason="each student draws its own numbers, so lanes do not change results",
        ),
        Lever("dropout by random bytes", bert, ((learners, "fast_dropout", lambda *_: nullcontext()),)),
        Lever("spare core", bilstm, ((scheduling, "training_threads", one_thread),)),
        Lever(
            "one thread and a spare core, against two threads",
            bilstm,
            ((scheduling, "training_threads", lambda _: nullcontext()),),
        ),
        Lever("lanes, against one lane", "students", ((scheduling, "run_in_parallel", in_one_lane),)),
        Lever("lanes, against all cores each", "students", ((scheduling, "run_in_parallel", in_turn),)),
        Lever("packed attention", reading, ((kernels._Attention, "is_short", never),)),
        Lever("a batch per core", reading, ((logits, "LANES", 1),)),
        Lever(
            "batches by tokens and length, against 32 rows in order",
            reading,
            ((logits, "token_batches", in_order),),
        ),
        Lever("bf16 weights, against autocast", reading, bf16_autocast),
        Lever("tokenizing ahead", reading, ((logits, "prefetch", lambda items, _: iter(items)),)),
    ]


def main(options: Options) -> None:
    """Measure the chosen levers and write their table."""
    results = Results("levers", options)
    run = teacher(options)
    model, tokenizer = load_teacher(run)
    texts, _ = sentences(options.data, options.extra.texts)
    results.fact("CPU flags", ", ".join(flag for flag in FLAGS if flag in cpu_flags()))
    results.fact("load average before", [round(load, 2) for load in os.getloadavg()])

    def epoch(**settings: Any) -> float:
        return ours.distill_once(
            options, run, batch_size=32, max_eval_samples=64, **settings
        ).examples_per_second

    def students() -> float:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            configs = [
                ours.student_config(
                    options,
                    run,
                    Path(folder) / str(seed),
                    epochs=1,
                    seed=seed,
                    max_train_samples=options.rows,
                    max_eval_samples=64,
                )
                for seed in range(options.extra.students)
            ]
            ours.together(configs)
        return len(configs) / (time.perf_counter() - started)

    def read() -> float:
        started = time.perf_counter()
        ours.teacher_logits(model, tokenizer, texts)
        return len(texts) / (time.perf_counter() - started)

    jobs: dict[str, tuple[str, Callable[[], float]]] = {
        "BiLSTM epoch": ("examples/s", partial(epoch, student="bilstm")),
        "BERT 4x312 epoch": ("examples/s", partial(epoch, student="tinybert", init="random")),
        "students": ("students/s", students),
        "teacher logits": ("sentences/s", read),
    }

    def without(lever: Lever) -> float:
        with ExitStack() as stack:
            for target, name, value in lever.off:
                stack.enter_context(patch.object(target, name, value))
            return jobs[lever.job][1]()

    chosen = [lever for lever in levers() if not options.extra.only or options.extra.only in lever.job]
    with cache_folder():
        for job in dict.fromkeys(lever.job for lever in chosen):
            jobs[job][1]()  # warms up, and fills the cache
        for lever in chosen:
            unit, work = jobs[lever.job]
            speeds = measure({"on": work, "off": partial(without, lever)}, options.repeats)
            comparison = compare(
                f"{lever.job}: {lever.name}",
                "the same without it",
                unit,
                speeds["on"],
                speeds["off"],
                target=lever.target,
                note=lever.reason,
            )
            results.add(comparison)
            results.row(
                "levers",
                lever=lever.name,
                job=lever.job,
                best_on=max(speeds["on"]),
                best_off=max(speeds["off"]),
                ratio_of_best=round(max(speeds["on"]) / max(speeds["off"]), 3),
                ratio_of_medians=round(comparison.ratio, 3),
                median_of_ratios=round(
                    statistics.median(a / b for a, b in zip(speeds["on"], speeds["off"], strict=True)), 3
                ),
                target=lever.target,
            )
    results.fact("load average after", [round(load, 2) for load in os.getloadavg()])
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options that only this benchmark has."""
    parser.add_argument("--texts", type=int, default=4096, help="sentences of the teacher (default: 4096)")
    parser.add_argument("--students", type=int, default=4, help="students side by side (default: 4)")
    parser.add_argument("--only", help="measure the levers of jobs with this in their name")


if __name__ == "__main__":
    main(parse(__doc__, rows=1500, quick_rows=200, add=add))
