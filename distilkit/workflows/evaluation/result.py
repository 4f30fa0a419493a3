"""What `evaluate` found, and the document it is told as."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from distilkit.data.checks import class_counts
from distilkit.data.files import read_through
from distilkit.data.inputs import Inputs
from distilkit.data.text_data import TextData
from distilkit.hardware.precision import Resolved
from distilkit.models.classifier import Classifier
from distilkit.reports.summary import SCHEMA
from distilkit.scores.comparison import Pair, coverage, mistakes, per_class, slices
from distilkit.scores.statistics import (
    CONFIDENCE,
    REPLICATES,
    Answers,
    Interval,
    confusion,
    quality,
    reliability,
)
from distilkit.workflows.evaluation.scoring import ModelScores

# Beside latency, by the names that gates use.
COSTS = ("parameters", "parameters_without_embeddings", "bytes", "rows_per_second", "peak_memory_bytes")
SNIPPET = 300  # characters of a text that is shown


@dataclass(frozen=True)
class Gate:
    """A threshold, or an earlier evaluation, held against one model."""

    model: str
    kind: Literal["fail_under", "fail_over", "baseline"]
    metric: str
    threshold: float
    value: float | None
    passed: bool
    why: str


@dataclass(frozen=True)
class InDomainScore:
    """Where a run learned: its own validation split, for what another dataset does to it.

    `drop` is how much less accurate it is here; `inputs` is `None` where its data is not at hand.
    """

    dataset: str
    accuracy: float
    drop: float
    inputs: Inputs | None = None


@dataclass(frozen=True)
class Score:
    """One model, file or endpoint on the split; what does not apply to it is `None`."""

    answered: ModelScores
    figures: Mapping[str, Interval]
    teacher: str | None = None
    labels_only: str | None = None
    home: InDomainScore | None = None

    @property
    def model(self) -> str:
        """What it was called on the command line."""
        return self.answered.name

    def value(self, metric: str) -> float | None:
        """A figure by the name that gates use."""
        if metric in self.figures:
            return self.figures[metric].value
        return self.costs.get(metric)

    @property
    def costs(self) -> dict[str, float | None]:
        """Figures of cost, by the names that gates use."""
        cost = self.answered.cost
        found = {name: getattr(cost, name, None) for name in COSTS}
        for name in ("p50", "p95", "p99"):
            found[f"latency_{name}_ms"] = getattr(cost.latency, name) if cost.latency else None
        return found


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; `document()` is the JSON of `--json` and of the file in the run."""

    data: TextData
    split: str
    rows: int
    fingerprint: str
    device: str
    precision: Resolved | None
    threads: int
    seed: int
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    gates: tuple[Gate, ...] = ()

    def document(self) -> dict[str, Any]:
        """The versioned JSON document; README's section on it says what each part means."""
        labels = self.data.labels_of[self.split]
        counts = class_counts(labels, len(self.data.names))
        whole = self.data.whole.get(self.split, self.rows)
        return {
            "schema": SCHEMA,
            "dataset": self.data.name,
            "split": self.split,
            "rows": self.rows,
            "sampled_from": whole if whole != self.rows else None,
            "fingerprint": self.fingerprint,
            "classes": [
                {"name": name, "rows": rows} for name, rows in zip(self.data.names, counts, strict=True)
            ],
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "confidence": CONFIDENCE,
            "replicates": REPLICATES,
            "seed": self.seed,
            "models": [self._entry(score) for score in self.scores],
            "pairs": [_pair_entry(pair) for pair in self.pairs],
            "gates": [asdict(gate) for gate in self.gates],
        }

    def _entry(self, score: Score) -> dict[str, Any]:
        answered = score.answered
        answers, loaded = answered.answers, answered.loaded
        surest = (
            {
                "coverage": coverage(answers, answers.confidence),
                "calibration": _calibration(answers, answers.confidence, loaded),
            }
            if answers.confidence is not None
            else {"coverage": None, "calibration": None}
        )
        return {
            "model": score.model,
            "kind": answered.kind,
            "architecture": type(loaded.model).__name__ if loaded else None,
            "fingerprint": loaded.fingerprint if loaded else None,
            "max_length": loaded.max_length if loaded else None,
            "teacher": score.teacher,
            "labels_only": score.labels_only,
            "metrics": {name: figure.value for name, figure in score.figures.items()},
            "intervals": {name: [figure.low, figure.high] for name, figure in score.figures.items()},
            "cost": {**score.costs, "speed_up": self._speed_up(score)},
            "inputs": asdict(answered.inputs) if answered.inputs else None,
            "home": asdict(score.home) if score.home else None,
            "per_class": per_class(answers, self.data.names),
            "confusion": confusion(answers, np.ones((1, self.rows)))[0].astype(int).tolist(),
            **surest,
            "slices": slices(answers, self._lengths, self.data.names),
            "mistakes": [self._row(answers, int(row)) for row in mistakes(answers)],
            "right": "".join(map(str, answers.right.astype(int).tolist())),
        }

    @cached_property
    def _lengths(self) -> Any:
        """Words of each row, int64 `[N]`."""
        columns = [self.data.texts(self.split), self.data.pairs(self.split) or []]
        counts = [np.asarray([len(text.split()) for text in read_through(column)]) for column in columns]
        return counts[0] + counts[1] if len(counts[1]) else counts[0]

    def _row(self, answers: Answers, row: int) -> dict[str, Any]:
        pairs = self.data.pairs(self.split)
        return {
            "row": row + 1,
            "text": _cut(self.data.texts(self.split)[row]),
            "text_pair": None if pairs is None else _cut(pairs[row]),
            "label": self.data.names[int(answers.labels[row])],
            "answer": self.data.names[int(answers.answer[row])],
            "confidence": None if answers.confidence is None else float(answers.confidence[row]),
        }

    def _speed_up(self, score: Score) -> dict[str, float | None] | None:
        teacher = next((one for one in self.scores if one.model == score.teacher), None)
        if teacher is None:
            return None
        own, other = score.costs, teacher.costs
        return {
            "rows_per_second": _ratio(own["rows_per_second"], other["rows_per_second"]),
            "latency_p50_ms": _ratio(other["latency_p50_ms"], own["latency_p50_ms"]),
        }


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _cut(text: str) -> str:
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"


def _calibration(answers: Answers, confidence: Any, loaded: Classifier | None) -> dict[str, Any]:
    """The reliability diagram and, where a run divided its logits, what it would be like without that."""
    found: dict[str, Any] = {
        "bins": [asdict(one) for one in reliability(answers, confidence)],
        "temperature": loaded.temperature if loaded else None,
    }
    if found["temperature"] and answers.probabilities is not None:
        logits = np.log(answers.probabilities.clip(np.finfo(np.float64).tiny)) * found["temperature"]
        unscaled = np.exp(logits - logits.max(axis=1, keepdims=True))
        before = Answers.of(unscaled / unscaled.sum(axis=1, keepdims=True), answers.labels)
        figures = quality(before, np.ones((1, len(answers.labels))))
        found |= {f"{name}_unscaled": float(figures[name][0]) for name in ("ece", "brier", "loss")}
    return found


def _pair_entry(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": asdict(pair.difference),
        **asdict(pair.test),
        "sentence": pair.sentence,
    }
