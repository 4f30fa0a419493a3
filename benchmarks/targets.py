"""What each kind of target is worth: a student learns from labels, or from a teacher's file of some kind.

The teacher's logits are written as files of logits, probabilities, votes (five samples of its probabilities
per row), label and confidence, and label alone. The student, the rows and the seeds are the same for all.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import SEED, Options, cpu_flags, parse
from distilkit import DistillConfig, distill_many
from distilkit.data import sources
from distilkit.data.texts import Texts
from distilkit.engine.inference.labeller import load_labeller
from distilkit.scores.sweeps import paired_difference

VOTES = 5
KINDS = ("logits", "probabilities", "votes", "confidence", "label")
LABELS = "gold labels"


def main() -> None:
    """Run it from the command line."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dataset", choices=("sst2", "mrpc"), default="sst2")
        parser.add_argument("--seeds", type=int, default=3)
        parser.add_argument("--epochs", type=int, default=6)

    options = parse(__doc__, rows=5_000, quick_rows=300, add=add)
    run(options)


def run(options: Options) -> None:
    """Train all students, print the table, keep the scores as JSON."""
    if not options.teacher:
        raise SystemExit("--teacher: name a run that was fine-tuned on the dataset")
    dataset, seeds = options.extra.dataset, range(1, options.extra.seeds + 1)
    shared = {
        "dataset": dataset,
        "data_dir": options.data / dataset,
        "max_train_samples": options.rows,
        "epochs": options.extra.epochs,
        "vocabulary": "words",
        "overwrite": True,
    }
    folder = options.work.resolve() / f"targets-{dataset}"
    folder.mkdir(parents=True, exist_ok=True)
    files = write_files(folder, options.teacher, shared)
    scores = {LABELS: train(folder, LABELS, {**shared, "alpha": 1.0}, seeds)}
    for kind, file in files.items():
        teacher = {"teacher_file": [str(file)], "targets": kind, "alpha": 0.0}
        scores[kind] = train(folder, kind, {**shared, **teacher}, seeds)
    print_table(dataset, scores)
    document = {"machine": sorted(cpu_flags()), "scores": scores}
    (folder / "scores.json").write_text(json.dumps(document, indent=2))


def write_files(folder: Path, teacher: str, shared: dict[str, Any]) -> dict[str, Path]:
    """Write the teacher's answers on the training rows in every form."""
    texts, names = read_rows(shared)
    labeller = load_labeller(teacher)
    logits = labeller.label_batch(texts).astype(np.float64)
    logits = logits[:, [labeller.class_names.index(name) for name in names]]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    generator = np.random.default_rng(SEED)
    votes = np.array([generator.multinomial(VOTES, row) for row in probabilities])
    columns: dict[str, Iterator[dict[str, Any]]] = {
        "logits": ({"logits": row.tolist()} for row in logits),
        "probabilities": ({"probabilities": row.tolist()} for row in probabilities),
        "votes": ({"votes": dict(zip(names, row.tolist(), strict=True))} for row in votes),
        "confidence": (
            {"label": names[int(row.argmax())], "score": float(row.max())} for row in probabilities
        ),
        "label": ({"label": names[int(row.argmax())]} for row in probabilities),
    }
    files = {}
    for kind in KINDS:
        files[kind] = folder / f"{kind}.jsonl"
        lines = (
            json.dumps({**row, **targets})
            for row, targets in zip(describe_texts(texts), columns[kind], strict=True)
        )
        files[kind].write_text("\n".join(lines) + "\n")
    return files


def read_rows(shared: dict[str, Any]) -> tuple[Texts, Sequence[str]]:
    """Return the training rows as `distill` samples them, and the names of the classes."""
    config = DistillConfig(**shared, alpha=1.0, output_dir="unused")
    data = sources.load_for_training(config, config.max_train_samples)
    return data.texts("train"), data.names


def describe_texts(texts: Texts) -> Iterator[dict[str, str]]:
    """Yield the columns that a teacher's file joins by."""
    for i, text in enumerate(texts.first):
        yield {"text": text} if texts.second is None else {"text": text, "text_pair": texts.second[i]}


def train(folder: Path, kind: str, values: dict[str, Any], seeds: Sequence[int]) -> dict[int, float]:
    """Return the validation accuracy of a student per seed."""
    home = folder / "runs" / kind.replace(" ", "-")
    configs = [DistillConfig(**values, seed=seed, output_dir=home / str(seed)) for seed in seeds]
    runs = distill_many(configs)
    return {seed: float(run.metrics["validation"]["accuracy"]) for seed, run in zip(seeds, runs, strict=True)}


def print_table(dataset: str, scores: dict[str, dict[int, float]]) -> None:
    """Print accuracies, and paired differences to gold labels and to logits with their 95 % intervals."""
    print(f"\n{dataset}\n| target | accuracy | against gold labels | against logits |\n|---|---|---|---|")
    for kind, by_seed in scores.items():
        mean = np.mean(list(by_seed.values()))
        cells = [describe_difference(by_seed, scores[other]) for other in (LABELS, "logits")]
        print(f"| {kind} | {mean:.4f} | {cells[0]} | {cells[1]} |")


def describe_difference(first: dict[int, float], second: dict[int, float]) -> str:
    """Return `+1.2 (0.3 to 2.1)`, in points."""
    difference = paired_difference(first, second)
    if first is second or difference is None:
        return ""
    ends = "" if difference.low is None else f" ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    return f"{100 * difference.value:+.1f}{ends}"


if __name__ == "__main__":
    main()
