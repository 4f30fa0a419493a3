"""Peak resident memory of each job, and how it grows with the rows that are distilled.

Each job is a process of its own, and its peak is what the operating system says of it when it has ended. The
growing job distills N movie reviews (IMDB: train and unsupervised, repeated with another ending where N is
more) into a BiLSTM at alpha 0. With `--tiny-teacher` the teacher is a random BERT of 1 layer x 32, so that
100,000 reviews take minutes: the rows, not the teacher, are what memory could grow with. `--small-student`
makes the BiLSTM small for the same reason (hidden 32, word vectors of 64).
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.common import Options, Results, distilkit_command, parse, run_child, teacher

LIMIT_MIB = 3 * 1024


def prepare(options: Options) -> None:
    """Write `--prepare FOLDER` with N reviews to train on, 200 to validate on, and perhaps a tiny teacher."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, rows = Path(options.extra.prepare), options.rows or 0
    texts: list[str] = []
    for split in ("train", "unsupervised"):
        table = pq.read_table(options.data / "imdb" / f"{split}.parquet", columns=["text"])
        texts += table["text"].to_pylist()
    found = [f"{texts[i % len(texts)]} ({i // len(texts)})" for i in range(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": found, "label": [-1] * rows}), folder / "train.parquet")
    labelled = pq.read_table(options.data / "imdb" / "train.parquet", columns=["text", "label"])
    some = labelled.take(list(range(0, len(labelled), len(labelled) // 200)))
    pq.write_table(some, folder / "validation.parquet")
    if options.extra.tiny_teacher:
        make_tiny_teacher(folder / "teacher", ("neg", "pos"))


def make_tiny_teacher(folder: Path, class_names: tuple[str, str]) -> None:
    """Write a random BERT of 1 layer x 32 with the vocabulary of minilm."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from distilkit.runs.locating import find_model

    tokenizer = AutoTokenizer.from_pretrained(find_model("minilm").folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(class_names)),
        label2id={name: i for i, name in enumerate(class_names)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(options: Options) -> None:
    results = Results("memory", options)
    run = options.teacher or options.work / f"teacher-{256 if options.quick else 2000}"
    if not Path(run).is_dir():  # in a process of its own: this one must stay small
        run_child([sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--only-teacher"])
    run = Path(run).resolve()
    sample = 256 if options.quick else 4000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {"DISTILKIT_CACHE": str(folder / "cache")}
        data = ("--dataset", "sst2", "--data-dir", options.data / "sst2")
        some = ("--max-train-samples", sample, "--epochs", 1, "--quiet")
        jobs = {
            "nothing: python -c 'import torch, transformers'": [
                sys.executable,
                "-c",
                "import torch, transformers; transformers.BertModel",
            ],
            f"train minilm, {sample:,} rows of SST-2": distilkit_command(
                "train", *data, "--model", "minilm", *some, "--output-dir", folder / "trained"
            ),
            f"distill a BiLSTM, {sample:,} rows of SST-2": distilkit_command(
                *("distill", *data, "--teacher", run, *some, "--vocabulary", "words"),
                *("--output-dir", folder / "bilstm"),
            ),
            f"distill a BERT 4x312, {sample:,} rows of SST-2": distilkit_command(
                *("distill", *data, "--teacher", run, *some, "--student", "tinybert", "--init", "random"),
                *("--output-dir", folder / "bert"),
            ),
            "evaluate teacher and BiLSTM, SST-2 validation": distilkit_command(
                "evaluate", run, folder / "bilstm", *data, "--quiet"
            ),
        }
        for job, command in jobs.items():
            done = run_child(command, environment)
            results.row("peak memory", job=job, peak_mib=round(done.peak_mib), wall_s=round(done.wall, 1))
    for rows in options.extra.sizes or ([200, 400] if options.quick else [5_000, 25_000, 100_000]):
        reviews(options, results, run, rows)
    results.fact("limit for 100,000 reviews, MiB", LIMIT_MIB)
    results.write()


def reviews(options: Options, results: Results, run: Path, rows: int) -> None:
    """Distill so many IMDB reviews into a BiLSTM in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = ["--hidden-size", 32, "--embedding-size", 64] if options.extra.small_student else []
        flags = ["--tiny-teacher"] if options.extra.tiny_teacher else []
        run_child(
            [
                *(sys.executable, "-m", "benchmarks.memory", "--prepare", str(folder / "imdb"), *flags),
                *("--rows", str(rows), "--data", str(options.data)),
            ]
        )
        done = run_child(
            distilkit_command(
                *("distill", "--dataset", "imdb", "--data-dir", folder / "imdb", "--alpha", 0),
                *("--teacher", folder / "imdb" / "teacher" if options.extra.tiny_teacher else run),
                *sizes,
                *(
                    "--vocabulary",
                    "words",
                    "--epochs",
                    options.extra.epochs,
                    "--output-dir",
                    folder / "run",
                    "--quiet",
                ),
            ),
            {"DISTILKIT_CACHE": str(folder / "cache")},
        )
    results.row(
        "peak memory by rows",
        job="distill a BiLSTM, IMDB, alpha 0"
        + (", tiny teacher" if options.extra.tiny_teacher else "")
        + (", small student" if options.extra.small_student else ""),
        rows=rows,
        peak_mib=round(done.peak_mib),
        wall_s=round(done.wall, 1),
        under_3_gib=done.peak_mib < LIMIT_MIB,
    )


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tiny-teacher", action="store_true", help="a random BERT of 1 layer x 32")
    parser.add_argument("--small-student", action="store_true", help="a BiLSTM of 32, words of 64")
    parser.add_argument("--sizes", type=int, nargs="+", help="reviews (default: 5000 25000 100000)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs over the reviews (default: 1)")
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    parser.add_argument("--only-teacher", action="store_true", help=argparse.SUPPRESS)


if __name__ == "__main__":
    found = parse(__doc__, rows=None, quick_rows=None, add=add)
    if found.extra.prepare:
        prepare(found)
    elif found.extra.only_teacher:
        teacher(found)
    else:
        main(found)
