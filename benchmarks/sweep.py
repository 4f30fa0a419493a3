"""A sweep of alpha: 11 alphas x 3 seeds of the BiLSTM on a sample of SST-2.

distilkit together in one process, against one `distilkit distill` process after the other: each with an empty
cache (the teacher anew), all sharing one cache, and in one process one by one with a shared cache. Of the
one-by-one ways only `--sampled` runs (seeds 1, 2, …; alpha 0.5) and one at alpha 1, which has no teacher, are
carried out; the time of 33 is scaled from theirs. All are timed from outside, Python's start included.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Options, Results, compare, distilkit_command, measure, parse, run_child, teacher

ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
SEEDS = (1, 2, 3)
WHAT = f"{len(ALPHAS) * len(SEEDS)} BiLSTM runs ({len(ALPHAS)} alphas x {len(SEEDS)} seeds)"
ANEW, SHARED = "one process after the other, teacher anew", "one process after the other, shared cache"
TOGETHER, BY_ONE = "distilkit, together", "one after the other in one process, shared cache"


def settings(options: Options, run: Path, alpha: float, seed: int) -> dict[str, Any]:
    """The fields of a run's `DistillConfig`, without its folder; also its flags."""
    return {
        "dataset": "sst2",
        "data_dir": str(options.data / "sst2"),
        "teacher": str(run),
        "alpha": alpha,
        "seed": seed,
        "epochs": options.extra.epochs,
        "max_train_samples": options.rows,
        "vocabulary": "words",
    }


def child(options: Options) -> None:
    """Train the configs in the file `--child`, together or one by one; seconds of each go beside it."""
    from benchmarks.ours import together
    from distilkit import DistillConfig, distill

    file = Path(options.extra.child)
    configs = [DistillConfig(**fields) for fields in json.loads(file.read_text())]
    seconds = []
    if options.extra.together:
        together(configs)
    else:
        for config in configs:
            started = time.perf_counter()
            distill(config)
            seconds.append(time.perf_counter() - started)
    file.with_suffix(".seconds").write_text(json.dumps(seconds))


def main(options: Options) -> None:
    run = teacher(options)
    results = Results("sweep", options)
    grid = [(alpha, seed) for alpha in ALPHAS for seed in SEEDS]
    without = sum(alpha == 1 for alpha, _ in grid)
    with_teacher = len(grid) - without
    accuracies: dict[float, list[float]] = {}

    def in_process(folder: Path, runs: Sequence[tuple[float, int]], *flags: str) -> tuple[float, list[float]]:
        """Wall seconds of a process that trains `runs`, and the seconds of each where it says them."""
        configs = [
            settings(options, run, alpha, seed) | {"output_dir": str(folder / f"{alpha}-{seed}")}
            for alpha, seed in runs
        ]
        file = folder / "configs.json"
        file.write_text(json.dumps(configs))
        command = [sys.executable, "-m", "benchmarks.sweep", "--child", str(file), *flags]
        wall = run_child(
            [*command, "--data", str(options.data)], {"DISTILKIT_CACHE": str(folder / "cache")}
        ).wall
        return wall, json.loads(file.with_suffix(".seconds").read_text())

    def ours() -> float:
        accuracies.clear()
        with tempfile.TemporaryDirectory() as name:
            wall, _ = in_process(Path(name), grid, "--together")
            for alpha, seed in grid:
                metrics = json.loads((Path(name) / f"{alpha}-{seed}" / "metrics.json").read_text())
                accuracies.setdefault(alpha, []).append(metrics["validation"]["accuracy"])
        return wall

    def one_run(folder: Path, cache: Path, alpha: float, seed: int) -> float:
        flags = [
            part
            for field, value in settings(options, run, alpha, seed).items()
            for part in (f"--{field.replace('_', '-')}", value)
        ]
        output = folder / f"{alpha}-{seed}-{len(list(folder.iterdir()))}"
        command = distilkit_command("distill", *flags, "--output-dir", output, "--quiet")
        return run_child(command, {"DISTILKIT_CACHE": str(cache)}).wall

    seeds = [1 + number for number in range(options.extra.sampled)]

    def anew() -> float:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            each = [one_run(folder, folder / f"cache-{seed}", 0.5, seed) for seed in seeds]
            return with_teacher * statistics.mean(each) + without * one_run(folder, folder / "none", 1.0, 1)

    def shared() -> float:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            first = one_run(folder, folder / "cache", 0.5, 100)
            each = [one_run(folder, folder / "cache", 0.5, seed) for seed in seeds]
            alone = one_run(folder, folder / "cache", 1.0, 1)
            return first + (with_teacher - 1) * statistics.mean(each) + without * alone

    def by_one() -> float:
        with tempfile.TemporaryDirectory() as name:
            runs = [(0.5, 100), *((0.5, seed) for seed in seeds), (1.0, 1)]
            wall, (first, *each, alone) = in_process(Path(name), runs)
            around = wall - first - sum(each) - alone
            return around + first + (with_teacher - 1) * statistics.mean(each) + without * alone

    ways = {TOGETHER: ours, ANEW: anew, SHARED: shared, BY_ONE: by_one}
    seconds = measure(ways, options.repeats)
    for name, target in ((ANEW, 2.5), (SHARED, 1.5), (BY_ONE, None)):
        results.add(
            compare(
                WHAT,
                name,
                "s",
                seconds[TOGETHER],
                seconds[name],
                less_is_better=True,
                target=target,
                note=f"its time is scaled from {len(seeds)} with a teacher and one without",
            )
        )
    for alpha, found in accuracies.items():
        deviation = statistics.stdev(found) if len(found) > 1 else 0.0
        results.row(
            "validation accuracy",
            alpha=alpha,
            mean=round(statistics.mean(found), 4),
            sd=round(deviation, 4),
            runs=found,
        )
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=2, help="epochs of every run (default: 2)")
    parser.add_argument("--sampled", type=int, default=2, help="one-by-one runs to carry out (default: 2)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--together", action="store_true", help=argparse.SUPPRESS)


if __name__ == "__main__":
    found = parse(__doc__, rows=4000, quick_rows=200, add=add)
    child(found) if found.extra.child else main(found)
