"""Measure every job in fp32, in bf16 and at `--precision auto`, in turns, each in a process of its own."""

import os
import statistics
from functools import partial

from benchmarks.common import Options, Results, cache_folder, cpu_flags, measure, parse, teacher
from benchmarks.jobs import JOBS, job_command
from benchmarks.neighbour import add, speeds

FLAGS = ("amx_tile", "amx_bf16", "avx512_bf16", "avx512f")


def main(options: Options) -> None:
    """Measure all jobs in all formats and write the table."""
    results = Results("precision", options)
    run = teacher(options).resolve()
    results.fact("CPU flags", ", ".join(flag for flag in FLAGS if flag in cpu_flags()))
    results.fact("load average before", [round(load, 2) for load in os.getloadavg()])
    with cache_folder():
        for job in JOBS:
            if options.extra.only and options.extra.only not in job:
                continue
            commands = {format: job_command(job, options, run, format) for format in ("fp32", "bf16", "auto")}
            speeds(commands["auto"], {})  # measures the formats
            found = measure(
                {f"{job}: {name}": partial(speeds, command, {}) for name, command in commands.items()},
                options.repeats,
            )
            medians = {name: statistics.median(values) for name, values in found.items()}
            best = max(medians[f"{job}: fp32"], medians[f"{job}: bf16"])
            results.row(
                "precision",
                job=job,
                **{name.removeprefix(f"{job}: "): round(value, 1) for name, value in medians.items()},
                auto_to_the_better=round(medians[f"{job}: auto"] / best, 3),
                turns={name.removeprefix(f"{job}: "): values for name, values in found.items()},
            )
    results.fact("load average after", [round(load, 2) for load in os.getloadavg()])
    results.write()


if __name__ == "__main__":
    main(parse(__doc__, rows=None, quick_rows=None, add=add))
