"""What it costs to start: `distilkit --help` and `import distilkit`, beside Python itself and others."""

import argparse
import statistics
import sys
from functools import partial
from importlib.util import find_spec

from benchmarks.common import Child, Options, Results, compare, distilkit_command, measure, parse, run_child

NOTHING, TRANSFORMERS = "python -c pass", "import transformers"
PAIRS = (
    ("import distilkit", TRANSFORMERS),
    ("import distilkit", "import textbrewer"),
    ("distilkit --help", TRANSFORMERS),
)


def main(options: Options) -> None:
    commands = {
        NOTHING: [sys.executable, "-c", "pass"],
        "import distilkit": [sys.executable, "-c", "import distilkit"],
        "distilkit --help": distilkit_command("--help"),
        "distilkit distill --help": distilkit_command("distill", "--help"),
        TRANSFORMERS: [sys.executable, "-c", "import transformers"],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    if find_spec("textbrewer"):
        commands["import textbrewer"] = [sys.executable, "-c", "import textbrewer"]
    children: dict[str, list[Child]] = {name: [] for name in commands}

    def wall(name: str) -> float:
        children[name].append(run_child(commands[name]))
        return children[name][-1].wall

    for command in commands.values():
        run_child(command)  # files that are read for the first time come from the disk
    seconds = measure({name: partial(wall, name) for name in commands}, options.extra.runs)
    results = Results("startup", options)
    for name, other in PAIRS:
        if other in seconds:
            results.add(
                compare(f"start-up: {name}", other, "s", seconds[name], seconds[other], less_is_better=True)
            )
    for name, found in children.items():
        results.row(
            "start-up",
            command=name,
            wall_s=round(statistics.median(one.wall for one in found), 4),
            cpu_s=round(statistics.median(one.cpu for one in found), 4),
            peak_mib=round(statistics.median(one.peak_mib for one in found), 1),
            runs=len(found),
        )
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10, help="of every command (default: 10)")


if __name__ == "__main__":
    main(parse(__doc__, rows=None, quick_rows=None, add=add))
