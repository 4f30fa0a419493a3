"""What students keep of their teachers, on real data, over seeds: every figure is of a command shown with it.

    python -m benchmarks.quality                    # all of it: hours on a CPU
    python -m benchmarks.quality --only sst2-bilstm # one study and what it is compared with
    python -m benchmarks.quality --report           # write benchmarks/QUALITY.md from the runs there are

A run that is there is not made again: stop when you like, the same command goes on. Epochs are chosen on
validation; IMDB is scored on its test split, which nothing else has read.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from benchmarks.common import HERE, ROOT, machine
from benchmarks.report import table
from benchmarks.studies import ABLATIONS, EVERYTHING, PREPARED, STUDIES, TEACHERS, Study, Wanted

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Scores:
    """A study's figures, one a seed, in per cent."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def half(self) -> float | None:
        """Half the width of Student's interval for the mean; `None` of one value."""
        if len(self.values) < 2:
            return None
        spread = statistics.stdev(self.values) / len(self.values) ** 0.5
        return float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(self.values) - 1)) * spread

    def __str__(self) -> str:
        interval = "" if self.half is None else f" ± {self.half:.2f}"
        return f"{self.mean:.2f}{interval} ({len(self.values)})"


def difference(one: Scores, other: Scores) -> str:
    """Of the means, with Welch's interval where both have several seeds."""
    points = one.mean - other.mean
    if min(len(one.values), len(other.values)) < 2:
        return f"{points:+.2f}"
    if len({*one.values, *other.values}) == 1:
        return f"{points:+.2f} (no spread)"
    found = stats.ttest_ind(one.values, other.values, equal_var=False).confidence_interval(CONFIDENCE)
    return f"{points:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


# --- running ----------------------------------------------------------------------------------------------


def run(work: Path, arguments: Sequence[str], module: str = "distilkit") -> None:
    """A command in `work`, its output in the terminal."""
    print(f"$ {shown(arguments, module)}", flush=True)
    environment = {"DISTILKIT_CACHE": str(work / "cache"), "PYTHONPATH": str(ROOT)} | os.environ
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=work, env=environment, check=True)


def shown(arguments: Sequence[str], module: str = "distilkit") -> str:
    """A command as a user types it."""
    return shlex.join([*(["distilkit"] if module == "distilkit" else ["python", "-m", module]), *arguments])


def make(work: Path, study: Study, seeds: int) -> None:
    """The study's runs for the first `seeds` seeds, and what they need, unless they are there."""
    for name in study.needs:
        if name in PREPARED and not (work / PREPARED[name].output).exists():
            run(work, PREPARED[name].arguments, PREPARED[name].module)
        elif name in TEACHERS and not (work / "runs" / name / "metrics.json").is_file():
            make(work, TEACHERS[name], 1)
    for seed in range(1, seeds + 1):
        folder = work / study.folder(seed)
        if not (folder / "metrics.json").is_file():
            run(work, study.command(seed))
        if study.test and not (work / study.evaluated(seed)).is_file():
            run(work, study.evaluation(seed))


# --- reading ----------------------------------------------------------------------------------------------


def scores(work: Path, study: Study) -> dict[str, Scores]:
    """Accuracy and F1 in per cent, of the runs that are there; empty without any."""
    found: list[dict[str, float]] = []
    for seed in range(1, 100):
        folder = work / study.folder(seed)
        if not (folder / "metrics.json").is_file():
            continue
        metrics = json.loads((folder / "metrics.json").read_text())["validation"]
        if study.test:
            file = work / study.evaluated(seed)
            if not file.is_file():
                continue
            metrics = json.loads(file.read_text())["models"][0]["metrics"]
        found.append(metrics)
        if study.one_seed:
            break
    names = ("accuracy", "f1")
    return {name: Scores(tuple(100 * one[name] for one in found)) for name in names} if found else {}


def report(work: Path) -> str:
    """`QUALITY.md`."""
    facts = machine()
    lines = [
        "# Quality",
        "",
        "What students keep of their teachers. Written by `python -m benchmarks.quality --report` from runs",
        "of the commands below, in a folder where `data` has the datasets as Parquet. Mean over seeds ± half",
        f"the {CONFIDENCE:.0%} interval (Student's t), and in brackets the number of seeds; differences are",
        "of means, with Welch's interval. Figures are per cent, differences points, of accuracy unless F1 is",
        "named. A run keeps its best epoch by the validation split, so figures of that split are a little",
        "flattering, for all alike; IMDB's are of the test split, by which nothing was chosen.",
        "",
        f"Read on {facts['cpu']}, {facts['cores']} cores, {facts['accelerator'] or 'no accelerator'}.",
        "",
        "## Students",
        "",
    ]
    rows = []
    for study in STUDIES.values():
        own, of_teacher = scores(work, study), scores(work, TEACHERS[study.teacher])
        if own and of_teacher:
            rows.append(study_row(work, study, own, of_teacher))
    header = (
        "dataset",
        "student",
        "parameters without word vectors",
        "accuracy",
        "F1",
        "of the teacher",
        "over labels alone",
        "wanted",
        "reached",
    )
    lines += table(header, rows)
    for title, names in ABLATIONS.items():
        ablation = ablation_rows(work, names)
        if ablation:
            lines += [f"## {title}", "", *table(("", "accuracy", "difference to the first row"), ablation)]
    lines += ["## Commands", "", "`N` is the seed: 1, 2, 3 and so on.", ""]
    for study in EVERYTHING.values():
        if scores(work, study):
            lines += [f"- `{study.name}`: `{shown(study.command('N'))}`"]
    ran = [study for study in EVERYTHING.values() if scores(work, study)]
    used = {name for study in ran for name in study.needs if name in PREPARED}
    lines += [
        f"- `{name}`: `{shown(PREPARED[name].arguments, PREPARED[name].module)}`" for name in sorted(used)
    ]
    return "\n".join(lines).rstrip() + "\n"


def study_row(work: Path, study: Study, own: dict[str, Scores], teacher: dict[str, Scores]) -> list[str]:
    """A line of the first table."""
    base = scores(work, STUDIES[study.base]) if study.base else {}
    kept = 100 * own["accuracy"].mean / teacher["accuracy"].mean
    over = difference(own["accuracy"], base["accuracy"]) if base else ""
    if base and study.wanted and study.wanted.f1:
        over += f"; F1 {difference(own['f1'], base['f1'])}"
    return [
        study.dataset,
        f"{study.name}: {study.title}",
        f"{size(work, study):,}",
        str(own["accuracy"]),
        str(own["f1"]),
        f"{kept:.1f} of {teacher['accuracy'].mean:.2f}",
        over,
        study.wanted.text if study.wanted else "",
        reached(study.wanted, kept, own, base),
    ]


def size(work: Path, study: Study) -> int:
    """Parameters that are not in the word table."""
    file = next(work.glob(f"{study.folder('*')}/metrics.json"))
    found: int = json.loads(file.read_text())["parameters_without_embeddings"]
    return found


def reached(wanted: Wanted | None, kept: float, own: dict[str, Scores], base: dict[str, Scores]) -> str:
    """Whether the means do what is wanted."""
    if wanted is None or (wanted.points and not base):
        return ""
    points = max(own[name].mean - base[name].mean for name in wanted.metrics) if base else 0.0
    good = kept >= (wanted.kept or 0) and points >= (wanted.points or 0)
    return "yes" if good else "**no**"


def ablation_rows(work: Path, group: tuple[Study, ...]) -> list[list[str]]:
    """A table in which every row differs from the first in one thing."""
    found = [(study, scores(work, study)) for study in group]
    known = [(study, one["accuracy"]) for study, one in found if one]
    return [
        [f"{study.title}", str(one), difference(one, known[0][1]) if number else ""]
        for number, (study, one) in enumerate(known)
    ]


def main() -> None:
    """Run what is asked for, then write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=sorted(EVERYTHING), metavar="STUDY")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every study (default: 3)")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("DISTILKIT_DATA", ROOT / "../shared/data")
    )
    parser.add_argument("--work", type=Path, default=HERE / "scratch" / "quality", help="folder of the runs")
    parser.add_argument("--to", type=Path, default=HERE / "QUALITY.md", help="file to write")
    chosen = parser.parse_args()
    work = chosen.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "data").exists():
        (work / "data").symlink_to(Path(chosen.data).resolve(), target_is_directory=True)
    if not chosen.report:
        for name in chosen.only or EVERYTHING:
            make(work, EVERYTHING[name], 1 if EVERYTHING[name].one_seed else chosen.seeds)
    chosen.to.write_text(report(work))
    print(f"written: {chosen.to}")


if __name__ == "__main__":
    main()
