"""Rows per second and memory of `label`: one process, two parts at once, and two executors of Spark.

Each way labels the same `--rows` rows (shards as `benchmarks.scale` makes them) with a random BERT of 1 layer
x 32, or with `--teacher`, on one thread a process. Seconds are those of the whole command, in which torch is
loaded and the model too; with Spark, Java starts as well. Memory is the most that one process had. Spark is
left out, and it is said, where pyspark or Java is not installed.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Options, Results, distilkit_command, parse, run_child
from benchmarks.scale import make_shards

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def label_at_once(commands: list[list[str]], environment: dict[str, str]) -> dict[str, Any]:
    """Run commands side by side to their end; return the seconds and the largest peak in MiB."""
    peaks: list[float] = []

    def run(command: list[str]) -> None:
        peaks.append(run_child(command, ONE_THREAD | environment).peak_mib)

    started = time.perf_counter()
    threads = [threading.Thread(target=run, args=(command,)) for command in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(peaks) < len(commands):
        raise SystemExit("a command failed")
    return {"seconds": round(time.perf_counter() - started, 1), "peak_mib": round(max(peaks))}


def main(options: Options) -> None:
    results = Results("labelling", options)
    rows = options.rows or 0
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name).resolve()
        # In processes of their own: the peak of a child is never under that of this process.
        make = [
            sys.executable,
            "-m",
            "benchmarks.labelling",
            "--rows",
            str(rows),
            "--data",
            str(options.data),
        ]
        run_child([*make, "--data", str(options.data), "--prepare", str(folder)])
        teacher = options.teacher or folder / "teacher"
        files = sorted(map(str, (folder / "texts").iterdir()))
        label = ("label", *files, "--model", teacher, "--precision", "fp32", "--quiet")
        parts = [distilkit_command(*label, "--part", f"{i}/2", "--output", folder / "parts") for i in (1, 2)]
        ways: dict[str, tuple[list[list[str]], dict[str, str]]] = {
            "one process": ([distilkit_command(*label, "--output", folder / "one.parquet")], {}),
            "two parts at once": (parts, {}),
        }
        if find_spec("pyspark") is None or shutil.which("java") is None:
            results.fact("Spark", "left out: pyspark or Java is not installed")
        else:
            spark = distilkit_command(*label, "--engine", "spark", "--output", folder / "spark")
            path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
            submit = (
                "--master local-cluster[2,1,2048] --conf spark.ui.enabled=false "
                f"--conf spark.executorEnv.PYTHONPATH={path} --conf spark.executorEnv.OMP_NUM_THREADS=1 "
                "pyspark-shell"
            )
            home = find_spec("pyspark")
            assert home and home.origin
            environment = {"PYSPARK_SUBMIT_ARGS": submit, "PYSPARK_PYTHON": sys.executable}
            environment |= {"SPARK_HOME": str(Path(home.origin).parent), "SPARK_LOCAL_IP": "127.0.0.1"}
            ways["Spark, two executors"] = ([spark], environment)
        for way, (commands, environment) in ways.items():
            measured = label_at_once(commands, environment)
            results.row(
                "labelling",
                way=way,
                rows=rows,
                seconds=measured["seconds"],
                rows_per_second=round(rows / measured["seconds"]),
                peak_mib=measured["peak_mib"],
            )
    results.write()


def prepare(options: Options) -> None:
    """Write `--prepare FOLDER` with the texts and the tiny teacher."""
    from benchmarks.memory import make_tiny_teacher

    folder = Path(options.extra.prepare)
    make_shards(options, folder / "texts", options.rows or 0)
    make_tiny_teacher(folder / "teacher", ("negative", "positive"))


def _options(parser: Any) -> None:
    parser.add_argument("--prepare", metavar="FOLDER", help="write texts and teacher there, and stop")


if __name__ == "__main__":
    parsed = parse(__doc__, rows=1_000_000, quick_rows=20_000, add=_options)
    prepare(parsed) if parsed.extra.prepare else main(parsed)
