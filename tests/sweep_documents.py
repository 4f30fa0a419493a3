"""Makers of sweep documents for the tests of verdicts, pages and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from distilkit.reports.sweep_document import (
    FailureEntry,
    SweepDescription,
    SweepDocument,
    SweepRunEntry,
    TeacherEntry,
)
from distilkit.reports.sweep_summary import make_document

Scores = Sequence[float] | Mapping[int, float]


def make_runs(scores: Scores, *, steps: int = 2_105, labels_only: bool | None = None, **setting: Any) -> list:
    """Return the runs of a setting; seeds count from 1 where they are not named."""
    by_seed = scores if isinstance(scores, Mapping) else dict(enumerate(scores, start=1))
    is_labels_only = setting.get("alpha") == 1 if labels_only is None else labels_only
    runs = []
    for seed, score in by_seed.items():
        name = "-".join([*(f"{key}{value}" for key, value in setting.items()), f"s{seed}"])
        student = str(setting.get("student", "bilstm"))
        run = SweepRunEntry(
            cell=name,
            folder=f"sweeps/alpha/runs/{name}",
            setting=setting,
            seed=seed,
            score=score,
            validation={"accuracy": score, "loss": 1 - score},
            labels_only=is_labels_only,
            parameters=2_400_000 if student == "bilstm" else 14_000_000,
            parameters_without_embeddings=400_000,
            bytes=9_600_000 if student == "bilstm" else 57_000_000,
            best_epoch=3,
            steps=steps,
            seconds=40.0 + seed,
            start=f"2026-01-02T10:{seed:02d}:00+00:00",
            end=f"2026-01-02T10:{seed:02d}:45+00:00",
            student=student,
            formula="loss = 1.0 * CE(student, labels)",
        )
        runs.append(run)
    return runs


def describe(*swept: str, metric: str = "accuracy", higher_is_better: bool = True) -> SweepDescription:
    return SweepDescription(
        name="alpha",
        dataset="sst2",
        rows=872,
        metric=metric,
        higher_is_better=higher_is_better,
        swept=list(swept or ("alpha",)),
    )


TEACHER = TeacherEntry(name="runs/bert", score=0.9255, validation={"accuracy": 0.9255})
FAILURE = FailureEntry(
    cell="c9", setting={"alpha": 0.9}, seed=3, error="RuntimeError: out of memory\n at step 3", attempts=2
)


def example() -> SweepDocument:
    """Return a sweep over alpha and students with everything that a report can hold."""
    runs = []
    for student, base in (("bilstm", 0.82), ("tiny<bert>", 0.85)):
        for alpha, gain in ((0.0, 0.018), (0.25, 0.022), (0.5, 0.02), (1.0, 0.0)):
            scores = [base + gain + (seed * 7 + int(8 * alpha)) % 5 / 1_000 for seed in range(1, 6)]
            steps = 2_105 if alpha == 1 else 8_420
            runs += make_runs(scores, steps=steps, alpha=alpha, student=student)
    bad = make_runs([0.6], alpha=0.75, student="bilstm")
    return make_document(
        describe("alpha", "student"),
        [*runs, *bad],
        failures=[FAILURE],
        missing=2,
        teacher=TEACHER,
        pruned=[run.cell for run in bad],
    )
