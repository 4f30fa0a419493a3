"""How the cost grows: teacher logits with the rows and with their length, training with the students."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Options,
    Results,
    bert_flops,
    cache_folder,
    device,
    load_teacher,
    parse,
    peak,
    sentences,
    synchronize,
    teacher,
)
from benchmarks.ours import student_config, teacher_logits, together


def median(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of `work`, median of `repeats`."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main(options: Options) -> None:
    results = Results("growth", options)
    run = teacher(options)
    model, tokenizer = load_teacher(run)
    most = options.rows or 8192
    texts, _ = sentences(options.data, most)
    teacher_logits(model, tokenizer, texts[:128])
    for rows in (most // 8, most // 4, most // 2, most):
        seconds = median(partial(teacher_logits, model, tokenizer, texts[:rows]), options.repeats)
        results.row("teacher logits by rows", rows=rows, seconds=round(seconds, 3), rows_per_s=rows / seconds)

    best = peak("bf16")
    reviews = long_texts(options, tokenizer, max(16, most // 16))
    for length in (8, 16, 32, 64, 128, 256):
        found = reviews[: max(8, min(len(reviews), 16384 // length))]
        seconds = median(partial(teacher_logits, model, tokenizer, found, max_length=length), options.repeats)
        speed = bert_flops(model.config, [length] * len(found)) / seconds / 1e9
        results.row(
            "teacher logits by tokens",
            tokens=length,
            rows=len(found),
            rows_per_s=round(len(found) / seconds, 1),
            tokens_per_s=round(len(found) * length / seconds),
            gflop_per_s=round(speed, 1),
            share_of_bf16_peak=round(speed / best, 3),
        )
    results.fact("matrix peak bf16, GFLOP/s", best)

    with cache_folder():
        students(options, run, 1)  # fills the cache
        alone = 0.0
        usual = [1, 8, 32] if device().type == "cuda" else [1, 2, 4, 8]
        for number in options.extra.students or usual:
            seconds = median(partial(students, options, run, number), options.repeats)
            alone = alone or seconds / number
            results.row(
                "students trained together",
                students=number,
                seconds=round(seconds, 3),
                seconds_per_student=round(seconds / number, 3),
                times_one=round(seconds / alone, 2),
            )
    results.write()


def long_texts(options: Options, tokenizer: Any, rows: int) -> list[str]:
    """Distinct IMDB reviews of 256 tokens and more: cut at `max_length`, they are all of that length."""
    import pyarrow.parquet as pq

    found: dict[str, None] = {}
    for batch in pq.ParquetFile(options.data / "imdb" / "train.parquet").iter_batches(256, columns=["text"]):
        texts = batch["text"].to_pylist()
        lengths = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
        found |= {text: None for text, ids in zip(texts, lengths, strict=True) if len(ids) == 256}
        if len(found) >= rows:
            break
    return list(found)[:rows]


def students(options: Options, run: Path, number: int) -> None:
    """Train so many BiLSTMs, which differ in their seed, on `--student-rows` rows for one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        together(
            [
                student_config(
                    options,
                    run,
                    Path(folder) / str(seed),
                    epochs=1,
                    seed=seed,
                    max_train_samples=256 if options.quick else options.extra.student_rows,
                )
                for seed in range(number)
            ]
        )


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--students", type=int, nargs="+", help="trained together (default: 1 2 4 8, on CUDA 1 8 32)"
    )
    parser.add_argument("--student-rows", type=int, default=4000, help="rows of each (default: 4000)")


if __name__ == "__main__":
    main(parse(__doc__, rows=8192, quick_rows=512, add=add))
