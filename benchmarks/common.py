"""What the benchmarks share: options, the machine, repeats that take turns, ratios, and the JSON they leave.

Nothing heavy is imported here before it is needed: `startup` and `memory` start child processes, and a child
is accounted at least the memory of the process that started it.
"""

import argparse
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGES = ("distilkit", "torch", "transformers", "datasets", "accelerate", "tokenizers", "textbrewer")
# Kept when a benchmark sets up a run whose quality plays no part.
SEED = 42


@dataclass(frozen=True)
class Options:
    """What every script can be told; `extra` holds its own options."""

    data: Path
    out: Path
    work: Path
    repeats: int
    quick: bool
    rows: int | None
    teacher: str | None
    extra: argparse.Namespace


def parse(
    doc: str | None,
    *,
    rows: int | None,
    quick_rows: int | None,
    add: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> Options:
    """The command line of a benchmark.

    Args:
        doc: the script's docstring, shown by `--help`.
        rows: what `--rows` is by default; `None` is the whole split.
        quick_rows: the same with `--quick`, which also measures once instead of three times.
        add: declares the script's own options.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("DISTILKIT_DATA", ROOT / "../shared/data")),
        help="folder with sst2 and imdb as parquet (default: $DISTILKIT_DATA, else ../shared/data)",
    )
    parser.add_argument("--rows", type=int, help=f"training rows (default: {rows or 'all'})")
    parser.add_argument("--repeats", type=int, help="times that everything is measured (default: 3)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON files")
    parser.add_argument("--work", type=Path, default=HERE / "scratch", help="folder that keeps the teacher")
    parser.add_argument("--teacher", help="fine-tuned SST-2 teacher (default: made once, kept in --work)")
    parser.add_argument("--quick", action="store_true", help="few rows, one repeat: does it run at all?")
    add(parser)
    found = parser.parse_args()
    if not found.data.is_dir():
        parser.error(f"no data in {found.data}: give --data, or set DISTILKIT_DATA")
    return Options(
        data=found.data.resolve(),
        out=found.out,
        work=found.work,
        repeats=found.repeats or (1 if found.quick else 3),
        quick=found.quick,
        rows=found.rows or (quick_rows if found.quick else rows),
        teacher=found.teacher,
        extra=found,
    )


# --- the machine -----------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """CPU, cores, memory, threads, accelerator, versions and date. Imports torch."""
    import torch

    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if "MemTotal" in line), 0)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**20, 1),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_flags() -> set[str]:
    """Return the features of the CPU as Linux names them; none elsewhere."""
    lines = (line for line in _lines("/proc/cpuinfo") if line.startswith("flags"))
    return set(next(lines, "").partition(":")[2].split())


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device() -> "torch.device":
    """CUDA where there is one, else the CPU; every contender of a script runs on the same."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the device, so that a clock read next counts finished work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(precision: Literal["bf16", "fp32"], seconds: float = 1.0) -> float:
    """The fastest matrix product that torch makes here, in GFLOP/s: best of square sizes and forms.

    Of each size and form the median counts, so that it is a speed which lasts, as those of the contenders do.

    Args:
        precision: number format of both factors.
        seconds: time spent on each size and form.
    """
    import torch
    from torch.nn.functional import linear

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    where, best = device(), 0.0
    sizes = (4096, 8192) if where.type == "cuda" else (512, 1024, 2048, 3072)
    with torch.inference_mode():
        for size in sizes:
            left, right = torch.randn(2, size, size, device=where).to(dtype)
            for product in (torch.mm, linear):
                best = max(best, 2 * size**3 / _seconds_of(product, left, right, seconds) / 1e9)
    return best


def _seconds_of(product: Any, left: Any, right: Any, seconds: float) -> float:
    """Median seconds of a product that is repeated for `seconds`, after one that is not counted."""
    product(left, right)
    synchronize()
    found, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        product(left, right)
        synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def peak_of_layers(config: Any, tokens: int = 2048, seconds: float = 1.0) -> float:
    """How fast torch makes bf16 products of a BERT's own shapes here, in GFLOP/s.

    The three shapes of its layers (projections, into and out of the feed-forward part) in the proportions of
    a layer, as bare products of `tokens` rows: what a forward pass could reach if it did nothing else.
    """
    import torch
    from torch.nn.functional import linear

    wide, narrow = config.intermediate_size, config.hidden_size
    operations = seconds_of_layer = 0.0
    with torch.inference_mode():
        for number, into, out in ((4, narrow, narrow), (1, narrow, wide), (1, wide, narrow)):
            rows = torch.randn(tokens, into, device=device()).bfloat16()
            weights = torch.randn(out, into, device=device()).bfloat16()
            operations += number * 2 * tokens * into * out
            seconds_of_layer += number * _seconds_of(linear, rows, weights, seconds)
    return operations / seconds_of_layer / 1e9


def bert_flops(config: Any, lengths: Sequence[int]) -> int:
    """Floating-point operations of the matrix products of one forward pass of a BERT classifier.

    Of real tokens alone (special ones among them): padding is no useful work. Per layer and token the four
    projections of attention and the two of the feed-forward part; per layer and row the two products of
    attention, `length x length x hidden` each; per row pooler and classifier. A multiply and an add are two.

    Args:
        config: of a `BertForSequenceClassification`.
        lengths: tokens of every row.
    """
    hidden, feed_forward, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    tokens, squares = sum(lengths), sum(length * length for length in lengths)
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * feed_forward)
    per_row = 2 * (hidden * hidden + hidden * config.num_labels)
    return int(layers * (tokens * per_token + 4 * squares * hidden) + len(lengths) * per_row)


# --- measuring -------------------------------------------------------------------------------------------


def measure(contenders: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each contender returns, `repeats` times, in turns: A B C, A B C, A B C.

    Turns, because a machine's speed drifts: whatever slows a round slows all of them.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name, run in contenders.items():
            gc.collect()
            value = run()
            found[name].append(value)
            print(f"  {turn + 1}/{repeats}  {name:<52} {value:12,.2f}", flush=True)
    return found


@dataclass(frozen=True)
class Comparison:
    """A line of the table: medians of both, and how many times better ours is.

    `ratio` is that of the medians; `ratio_min` and `ratio_max` are the extremes of the ratios turn by turn.
    """

    what: str
    other: str
    unit: str
    ours: float
    others: float
    ratio: float
    ratio_min: float
    ratio_max: float
    target: float | None
    ours_runs: list[float]
    others_runs: list[float]
    note: str = ""


def compare(
    what: str,
    other: str,
    unit: str,
    ours: Sequence[float],
    others: Sequence[float],
    *,
    less_is_better: bool = False,
    target: float | None = None,
    note: str = "",
) -> Comparison:
    """Ours against another tool's, both measured by `measure` in the same turns."""

    def ratio(mine: float, theirs: float) -> float:
        return theirs / mine if less_is_better else mine / theirs

    pairs = [ratio(mine, theirs) for mine, theirs in zip(ours, others, strict=True)]
    mine, theirs = statistics.median(ours), statistics.median(others)
    return Comparison(
        what=what,
        other=other,
        unit=unit,
        ours=mine,
        others=theirs,
        ratio=ratio(mine, theirs),
        ratio_min=min(pairs),
        ratio_max=max(pairs),
        target=target,
        ours_runs=list(ours),
        others_runs=list(others),
        note=note,
    )


@dataclass
class Results:
    """What a script found, printed and written to `<out>/<script>.json`."""

    script: str
    options: Options
    comparisons: list[Comparison] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, comparison: Comparison) -> None:
        """Keep a comparison and print it."""
        self.comparisons.append(comparison)
        it = comparison
        goal = f"  target {it.target:g}x" if it.target else ""
        print(
            f"{it.what}: {it.ratio:.2f}x ({it.ratio_min:.2f}-{it.ratio_max:.2f}) against {it.other}: "
            f"{it.ours:,.2f} and {it.others:,.2f} {it.unit}{goal}",
            flush=True,
        )

    def fact(self, name: str, value: Any) -> None:
        """Keep a figure that is no ratio, and print it."""
        self.facts[name] = value
        print(f"{name}: {value}", flush=True)

    def row(self, table: str, **values: Any) -> None:
        """Add a line to a table of figures, and print it."""
        self.tables.setdefault(table, []).append(values)
        print(f"{table}: {values}", flush=True)

    def write(self) -> None:
        """Write the JSON file."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        file = self.options.out / f"{self.script}.json"
        settings = {k: v for k, v in vars(self.options.extra).items() if not isinstance(v, Path)}
        document = {
            "script": self.script,
            "machine": machine(),
            "settings": settings
            | {
                "rows": self.options.rows,
                "repeats": self.options.repeats,
                "teacher": bool(settings["teacher"]),
            },
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "facts": self.facts,
            "tables": self.tables,
        }
        file.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
        print(f"written: {file}")


@dataclass(frozen=True)
class Child:
    """A finished child process: seconds by the clock and of processor time, peak resident memory in MiB."""

    wall: float
    cpu: float
    peak_mib: float


def run_child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
    """Run `command` to its end and say what it cost, as the operating system counts it.

    The peak is never under that of the calling process, which therefore must not have imported torch.

    Raises:
        RuntimeError: when the command fails; its last words are in the message.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{words}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Child(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def distilkit_command(*arguments: object) -> list[str]:
    """The command line of this environment's distilkit."""
    return [str(Path(sys.executable).with_name("distilkit")), *map(str, arguments)]


@contextmanager
def quiet() -> Iterator[None]:
    """Other tools' progress bars and log lines off."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


@contextmanager
def cache_folder(folder: Path | str | None = None) -> Iterator[Path]:
    """Point distilkit's cache of teacher logits at `folder`, or at a new empty one that is removed again."""
    before = os.environ.get("DISTILKIT_CACHE")
    with tempfile.TemporaryDirectory(prefix="distilkit-cache-") as empty:
        chosen = Path(folder or empty)
        os.environ["DISTILKIT_CACHE"] = str(chosen)
        try:
            yield chosen
        finally:
            del os.environ["DISTILKIT_CACHE"]
            if before is not None:
                os.environ["DISTILKIT_CACHE"] = before


# --- data and teacher ---------------------------------------------------------------------------------------


def sentences(data: Path, rows: int | None) -> tuple[list[str], list[int]]:
    """Distinct SST-2 training sentences and their labels: a seeded random sample, or all.

    Distinct, because distilkit computes equal rows once: others should not have to do more.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(data / "sst2" / "train.parquet", columns=["sentence", "label"])
    found = dict(zip(table["sentence"].to_pylist(), table["label"].to_pylist(), strict=True))
    pairs = sorted(found.items())
    random.Random(SEED).shuffle(pairs)
    texts, labels = zip(*pairs[:rows], strict=True)
    return list(texts), list(labels)


def teacher(options: Options) -> Path:
    """The run folder of a fine-tuned SST-2 `minilm`, made once: here its speed matters, not its quality."""
    if options.teacher:
        return Path(options.teacher).resolve()
    rows = 256 if options.quick else 2000
    folder = options.work.resolve() / f"teacher-{rows}"
    if not (folder / "model").is_dir():
        from distilkit import TrainConfig, train

        print(f"teacher: fine-tuning minilm on {rows:,} rows of SST-2, once", flush=True)
        train(
            TrainConfig(
                dataset="sst2",
                data_dir=options.data / "sst2",
                model="minilm",
                max_train_samples=rows,
                max_eval_samples=256,
                epochs=1,
                output_dir=folder,
                overwrite=folder.exists(),
            )
        )
    return folder


def load_teacher(run: Path) -> tuple[Any, Any]:
    """Model (fp32, eval mode, on the device) and tokenizer of a run, through transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(run / "model").to(device()).eval()
        return model, AutoTokenizer.from_pretrained(run / "model")
