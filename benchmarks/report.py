"""Write `RESULTS.md` from the JSON files that the benchmarks left.

python -m benchmarks.report [--out benchmarks/results] [--to benchmarks/RESULTS.md]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import HERE

ORDER = (
    "teacher_logits",
    "bilstm_epoch",
    "bert_epoch",
    "sweep",
    "augmentation",
    "startup",
    "memory",
    "reviews",
    "growth",
    "step_profile",
    "levers",
)
COLUMNS = ("what", "other", "ours", "other's figure", "unit", "ratio (min-max)", "target", "reached")


def number(value: Any) -> str:
    """A figure with as many digits as can be meant."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value == 0:
            return "0"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(number, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def comparison_row(found: dict[str, Any]) -> list[str]:
    """One line of the first table."""
    target = found["target"]
    ratio = f"{found['ratio']:.2f} ({found['ratio_min']:.2f}-{found['ratio_max']:.2f})"
    reached = "" if target is None else ("yes" if found["ratio"] >= target else "**no**")
    figures = (number(found["ours"]), number(found["others"]), found["unit"])
    return [found["what"], found["other"], *figures, ratio, "" if target is None else f"{target:g}", reached]


def main(results: Path, to: Path) -> None:
    documents = [
        json.loads(file.read_text()) for name in ORDER if (file := results / f"{name}.json").is_file()
    ]
    if not documents:
        raise SystemExit(f"no results in {results}: run the benchmarks first")
    lines = [
        "# Results of the benchmarks",
        "",
        "Written by `make bench`. Ratios are of medians; in brackets the least and the greatest ratio",
        "of single turns, in which distilkit and the others ran one after the other. More than 1 is in",
        "distilkit's favour.",
        "",
    ]
    lines += machine_lines(documents)
    rows = [comparison_row(found) for document in documents for found in document["comparisons"]]
    lines += table(COLUMNS, rows)
    notes = dict.fromkeys(
        f"- {found['what']}, {found['other']}: {found['note']}."
        for document in documents
        for found in document["comparisons"]
        if found["note"]
    )
    lines += [*notes, ""]
    for document in documents:
        lines += [f"## {document['script']}", ""]
        settings = document["settings"]
        lines += [f"{settings['repeats']} repeats; rows: {number(settings['rows'] or 'all')}.", ""]
        lines += [f"- {name}: {number(value)}" for name, value in document["facts"].items()]
        lines += [""] if document["facts"] else []
        for name, found in document["tables"].items():
            header = tuple(dict.fromkeys(key for row in found for key in row))
            lines += [f"**{name}**", ""]
            lines += table(header, [[number(row.get(key, "")) for key in header] for row in found])
    to.write_text("\n".join(lines).rstrip() + "\n")
    print(f"written: {to}")


def machine_lines(documents: list[dict[str, Any]]) -> list[str]:
    """The machine, once; a difference between the files is said."""
    lines: list[str] = []
    for document in documents:
        machine = document["machine"]
        versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
        text = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
            f"{machine['memory_gib']} GiB, {machine['accelerator'] or 'no accelerator'}, "
            f"{machine['system']}; Python {machine['python']}, {versions}"
        )
        if text not in lines:
            lines.append(text)
    dates = sorted(document["machine"]["date"] for document in documents)
    if len(lines) > 1:
        lines.insert(0, "**The files are of different machines or versions: measure anew.**")
    return ["\n\n".join(lines), "", f"From {dates[0]} to {dates[-1]}.", ""]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON files")
    parser.add_argument("--to", type=Path, default=HERE / "RESULTS.md", help="file to write")
    chosen = parser.parse_args()
    main(chosen.out, chosen.to)
