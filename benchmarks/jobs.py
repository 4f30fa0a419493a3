"""Do one job of distilkit in this process and print its speed in rows per second.

Other benchmarks start this one, so that each measurement has a process with settings of its own.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distilkit.hardware.neighbours import watch_other_processes

if __name__ == "__main__":
    watch_other_processes()  # as the command line does, while torch is loaded

from benchmarks import ours
from benchmarks.common import SEED, Options, load_teacher, parse, quiet, sentences
from distilkit import ConsoleReporter, TrainConfig, train
from distilkit.hardware.threads import leave_busy_cores

EVALUATED = 64  # validation rows: the training is what is measured


def logits(options: Options, run: Path) -> float:
    """Compute the teacher's logits."""
    model, tokenizer = load_teacher(run)
    texts, _ = sentences(options.data, 2048)
    for _ in range(2):  # the first pass prepares kernels and memory
        started = time.perf_counter()
        ours.teacher_logits(model, tokenizer, texts, precision=options.extra.precision)
    return len(texts) / (time.perf_counter() - started)


def fine_tune(options: Options, run: Path) -> float:
    """Fine-tune the teacher for an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        made = train(
            TrainConfig(
                dataset="sst2",
                data_dir=options.data / "sst2",
                model=str(run / "model"),
                output_dir=Path(folder) / "run",
                epochs=1,
                max_train_samples=512,
                max_eval_samples=EVALUATED,
                precision=options.extra.precision,
                seed=SEED,
            )
        )
        return float(made.history[-1]["examples_per_second"])


def distill_bilstm(options: Options, run: Path) -> float:
    """Train a BiLSTM for an epoch, on logits from the cache."""
    return _distill(options, run, rows=2048, student="bilstm")


def distill_bert(options: Options, run: Path) -> float:
    """Train a BERT of 4 layers x 312 for an epoch, on logits from the cache."""
    return _distill(options, run, rows=1024, student="tinybert", init="random")


def _distill(options: Options, run: Path, *, rows: int, **settings: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = ours.student_config(
            options,
            run,
            Path(folder) / "run",
            epochs=1,
            batch_size=32,
            max_train_samples=rows,
            max_eval_samples=EVALUATED,
            precision=options.extra.precision,
            seed=SEED,
            **settings,
        )
        return float(ours.together([config])[0].history[-1]["examples_per_second"])


JOBS: dict[str, Callable[[Options, Path], float]] = {
    "teacher logits": logits,
    "fine-tuning": fine_tune,
    "BiLSTM epoch": distill_bilstm,
    "BERT 4x312 epoch": distill_bert,
}


def job_command(job: str, options: Options, run: Path, precision: str) -> list[str]:
    """Return the command line that does a job in a process of its own."""
    settings = ["--precision", precision, "--data", str(options.data), "--teacher", str(run)]
    return [sys.executable, "-m", "benchmarks.jobs", job, *settings]


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options that only this script has."""
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))


if __name__ == "__main__":
    chosen = parse(__doc__, rows=None, quick_rows=None, add=add)
    leave_busy_cores(ConsoleReporter())
    with quiet():
        speed = JOBS[chosen.extra.job](chosen, Path(chosen.teacher or ""))
    print(speed)
