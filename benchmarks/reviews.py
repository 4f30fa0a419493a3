"""`distilkit evaluate` on movie reviews: rows a second at 256 tokens, memory, and the latency of single rows.

The teacher and a BiLSTM of its word-pieces score N reviews of IMDB's test split through the command line, in
a process of their own each time. `transformers.pipeline` reads some of the split's reviews with the same
teacher, in the same turns. What they answer plays no part, so both are trained next to nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Options,
    Results,
    compare,
    distilkit_command,
    measure,
    parse,
    quiet,
    run_child,
)

WHAT, MAX_LENGTH = "reviews of IMDB, 256 tokens", 256


def prepare(options: Options, folder: Path) -> tuple[Path, Path]:
    """A MiniLM teacher and a BiLSTM with its word-pieces, both of 64 sentences."""
    data = ("--dataset", "sst2", "--data-dir", options.data / "sst2", "--max-train-samples", 64, "--quiet")
    teacher, student = folder / "teacher", folder / "bilstm"
    run_child(distilkit_command("train", *data, "--model", "minilm", "-e", 1, "-o", teacher))
    run_child(
        distilkit_command(
            *("distill", *data, "--teacher", teacher, "--vocabulary", "teacher", "-e", 1, "-o", student)
        ),
        {"DISTILKIT_CACHE": str(folder / "cache")},
    )
    return teacher, student


def evaluate(options: Options, model: Path, rows: int, *more: object) -> dict[str, Any]:
    """What one evaluation found of the model, with the peak memory of its process."""
    done = run_child(
        distilkit_command(
            *("evaluate", model, "-d", "imdb", "--data-dir", options.data / "imdb", "--split", "test"),
            *("--max-length", MAX_LENGTH, "--max-eval-samples", rows, "--quiet", *more),
        )
    )
    file = model / "evaluation" / f"imdb-test-{rows}-rows-{MAX_LENGTH}-tokens.json"
    document = json.loads(file.read_text())
    return dict(document["models"][0]["cost"], peak_mib=round(done.peak_mib))


def by_pipeline(options: Options, model: Path, rows: int) -> float:
    """Reviews a second of `transformers.pipeline`, batches of 32, sorted by nobody."""
    import pyarrow.parquet as pq
    import torch
    from transformers import pipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = pq.read_table(options.data / "imdb" / "test.parquet", columns=["text"])["text"].to_pylist()
    some = texts[:: len(texts) // rows][:rows]
    with quiet():
        classify = pipeline("text-classification", model=str(model / "model"), device=device)
        classify(some[:8], batch_size=8, truncation=True, max_length=MAX_LENGTH)
        started = time.perf_counter()
        classify(some, batch_size=32, truncation=True, max_length=MAX_LENGTH)
        return rows / (time.perf_counter() - started)


def main(options: Options) -> None:
    if options.extra.pipeline:
        model, to = map(Path, options.extra.pipeline)
        to.write_text(str(by_pipeline(options, model, options.extra.others)))
        return
    results = Results("reviews", options)
    rows = options.rows or 25_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher, student = prepare(options, folder)
        memory: dict[str, int] = {}

        def ours(model: Path) -> float:
            cost = evaluate(options, model, rows, "--no-latency")
            memory[model.name] = cost["peak_mib"]
            return float(cost["rows_per_second"])

        def pipeline() -> float:
            to = folder / "pipeline.txt"
            own = [sys.executable, "-m", "benchmarks.reviews", "--pipeline", str(teacher), str(to)]
            run_child([*own, "--data", str(options.data), "--others", str(options.extra.others)])
            return float(to.read_text())

        contenders = {"teacher": lambda: ours(teacher), "BiLSTM": lambda: ours(student), "pipeline": pipeline}
        found = measure(contenders, options.repeats)
        against = "transformers.pipeline, batch 32, the teacher"
        for title, who in (("the teacher", "teacher"), ("a BiLSTM", "BiLSTM")):
            results.add(compare(f"{WHAT}, {title}", against, "rows/s", found[who], found["pipeline"]))
        for model in (teacher, student):
            few = evaluate(options, model, rows // 5, "--no-latency")["peak_mib"]
            for number, peak in ((rows // 5, few), (rows, memory[model.name])):
                results.row("peak memory", model=model.name, rows=number, peak_mib=peak)
        for turn in (1, 2):
            for model in (teacher, student):
                cost = evaluate(options, model, 200)
                figures = {name: round(cost[f"latency_{name}_ms"], 2) for name in ("p50", "p95", "p99")}
                results.row("milliseconds for one review", turn=turn, model=model.name, **figures)
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--others", type=int, default=256, help="reviews for the pipeline (default: 256)")
    parser.add_argument("--pipeline", nargs=2, help=argparse.SUPPRESS)


if __name__ == "__main__":
    main(parse(__doc__, rows=25_000, quick_rows=400, add=add))
