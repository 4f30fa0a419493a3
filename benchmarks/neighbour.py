"""Measure distilkit alone, beside a busy process, as two runs at once, and on one thread.

A busy process computes on one core without a pause. As a rule, distilkit's threads sleep while they wait,
and leave out a core that is busy. `all cores` takes all of them; `spinning` does too, with threads that spin
while they wait, as OpenMP's do where nothing is set.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from benchmarks.common import ROOT, Options, Results, cache_folder, measure, parse, teacher
from benchmarks.jobs import JOBS, job_command
from distilkit.hardware.openmp import available_cores

ALL_CORES = {"OMP_NUM_THREADS": str(len(available_cores()))}
SPINNING = {"OMP_WAIT_POLICY": "active", **ALL_CORES}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy within."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def speeds(command: list[str], settings: Mapping[str, str], runs: int = 1) -> float:
    """Return the mean speed of `runs` processes that do the same job at once, in rows per second."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP"))}
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(runs)
    ]
    printed = [process.communicate()[0] for process in processes]
    return statistics.mean(float(text.split()[-1]) for text in printed)


def beside(command: list[str], settings: Mapping[str, str]) -> float:
    """Return the speed beside a busy process, in rows per second."""
    with busy_process():
        return speeds(command, settings)


def main(options: Options) -> None:
    """Measure every job in every situation and write the table."""
    results = Results("neighbour", options)
    run = teacher(options).resolve()
    results.fact("load average before", [round(load, 2) for load in os.getloadavg()])
    with cache_folder():
        for job in JOBS:
            if options.extra.only and options.extra.only not in job:
                continue
            command = job_command(job, options, run, "auto")
            speeds(command, {})  # fills the cache
            situations = {
                "alone": partial(speeds, command, {}),
                "alone, spinning": partial(speeds, command, SPINNING),
                "alone, one thread": partial(speeds, command, ONE_THREAD),
                "beside a busy process": partial(beside, command, {}),
                "beside a busy process, all cores": partial(beside, command, ALL_CORES),
                "beside a busy process, spinning": partial(beside, command, SPINNING),
                "two runs at once": partial(speeds, command, {}, 2),
                "two runs at once, all cores": partial(speeds, command, ALL_CORES, 2),
                "two runs at once, spinning": partial(speeds, command, SPINNING, 2),
            }
            found = measure({f"{job}: {name}": work for name, work in situations.items()}, options.repeats)
            alone = statistics.median(found[f"{job}: alone"])
            for name, values in found.items():
                median = statistics.median(values)
                results.row(
                    "neighbour",
                    job=job,
                    situation=name.removeprefix(f"{job}: "),
                    rows_per_second=round(median, 1),
                    times_slower_than_alone=round(alone / median, 2),
                    turns=[round(value, 1) for value in values],
                )
    results.fact("load average after", [round(load, 2) for load in os.getloadavg()])
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options that only this benchmark has."""
    parser.add_argument("--only", help="measure the jobs with this in their name")


if __name__ == "__main__":
    main(parse(__doc__, rows=None, quick_rows=None, add=add))
