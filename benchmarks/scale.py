"""Peak memory and rows per second of a student that is distilled from shards of texts with their targets.

`--prepare FOLDER` writes `--rows` rows as Parquet shards of 100,000: each text is the beginning of a sentence
of SST-2 and the end of another, so that hardly any is there twice, and its logits are made of the labels of
the two. Without it, the rows are made in `--work` where they are not there yet, and a tiny BiLSTM (embedding
8, hidden 8) is distilled from them for an epoch, in a process of its own.

The peak is what the operating system says of the process when it has ended. It counts pages of files that are
mapped, which the system takes back when memory is short; `anonymous` is the rest, looked at ten times a
second.
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Results, distilkit_command, parse

SHARD_ROWS = 100_000
LIMIT_MIB = 3 * 1024


def make_shards(options: Options, folder: Path, rows: int) -> None:
    """Write `rows` rows in shards; the same for every machine, and a shard does not depend on `rows`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(options.data / "sst2" / "train.parquet", columns=["sentence", "label"])
    words = [text.split() for text in table["sentence"].to_pylist()]
    labels = table["label"].to_numpy()
    folder.mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
        random = np.random.default_rng([42, shard])
        count = min(SHARD_ROWS, rows - start)
        first, second = random.integers(len(words), size=(2, count))
        texts = [
            " ".join(words[i][: len(words[i]) // 2 + 1] + words[j][len(words[j]) // 2 :])
            for i, j in zip(first.tolist(), second.tolist(), strict=True)
        ]
        positive = labels[first] + labels[second] - 1 + random.normal(0, 0.3, count)
        pq.write_table(
            pa.table(
                {
                    "text": texts,
                    "logit_negative": (-2 * positive).astype(np.float32),
                    "logit_positive": (2 * positive).astype(np.float32),
                }
            ),
            folder / f"part-{shard:05}.parquet",
        )


def watch(command: list[str | Path], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command to its end; return its seconds, its peaks in MiB, and what it wrote."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, env=os.environ | environment
        )
        anonymous = [0]
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(0.1):
                anonymous[0] = max(anonymous[0], _read_status(child.pid, "RssAnon"))

        sampler = threading.Thread(target=sample)
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        ended.set()
        sampler.join()
        output.seek(0)
        text = output.read().decode()
    if status:
        raise SystemExit(text)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": usage.ru_maxrss >> 10,
        "anonymous_mib": anonymous[0] >> 10,
        "output": text,
    }


def _read_status(process: int, name: str) -> int:
    """Return a line of the system's account of a process, in KiB; 0 when it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    match = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else 0


def main(options: Options) -> None:
    rows = options.rows or 0
    if options.extra.prepare:
        make_shards(options, Path(options.extra.prepare), rows)
        return
    results = Results("scale", options)
    folder = options.work / f"shards-{rows}"
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.draft")
        make_shards(options, draft, rows)
        draft.rename(folder)
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        source = options.extra.source or folder
        run = Path(name) / "run"
        measured = watch(
            distilkit_command(
                *("distill", "--transfer", source, "--teacher-file", source, "--alpha", 0, "--quiet"),
                *("--embedding-size", 8, "--hidden-size", 8, "--epochs", 1, "--batch-size", 1024),
                *("--output-dir", run),
            ),
            {"DISTILKIT_CACHE": str(Path(name) / "cache"), "TMPDIR": name},
        )
        history = (run / "history.jsonl").read_text()
    speed = float(re.findall(r'"examples_per_second": ?([\d.]+)', history)[-1])
    results.row(
        "training",
        rows=rows,
        seconds=measured["seconds"],
        examples_per_second=speed,
        peak_mib=measured["peak_mib"],
        anonymous_mib=measured["anonymous_mib"],
        limit_mib=LIMIT_MIB,
    )
    results.write()
    if measured["peak_mib"] > LIMIT_MIB:
        raise SystemExit(f"the peak is over {LIMIT_MIB} MiB")
    if options.extra.discard:
        shutil.rmtree(folder)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prepare", metavar="FOLDER", help="write the shards to this folder, and stop")
    parser.add_argument("--source", help="what to distill from (default: the folder of the shards)")
    parser.add_argument("--discard", action="store_true", help="remove the shards afterwards")


if __name__ == "__main__":
    main(parse(__doc__, rows=2_000_000, quick_rows=20_000, add=_options))
