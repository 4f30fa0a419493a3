"""Documents as `evaluate --json` prints them, made of random answers: no model has to run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distilkit.scores.comparison import (
    Contestant,
    compare,
    constant_answer,
    coverage,
    majority,
    mistakes,
    per_class,
    slices,
)
from distilkit.scores.statistics import Answers, confusion, reliability

CLASS_SCORES = ("rows", "precision", "recall", "f1")
MODEL_COST = {
    "parameters": 12_484_250,
    "parameters_without_embeddings": 763_802,
    "bytes": 49_938_224,
    "rows_per_second": 1503.7,
    "peak_memory_bytes": 1_052_995_584,
    "latency_p50_ms": 2.84,
    "latency_p95_ms": 7.44,
    "latency_p99_ms": 10.96,
}


def answers(rows: int = 60, classes: int = 2, seed: int = 0) -> Answers:
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1
    odds = np.exp(logits)
    return Answers.from_probabilities(odds / odds.sum(axis=1, keepdims=True), labels)


def make_document(
    all_answers: Sequence[Answers],
    *,
    mark: str = "",
    costs: Sequence[dict[str, Any] | None] = (),
    names: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return the JSON of `evaluate --json` for these answers; the first model is the teacher of the rest."""
    names = names or [f"runs/{mark}model-{i}" for i in range(len(all_answers))]
    classes = [f"{mark}class {i}" for i in range(all_answers[0].classes)]
    rows = len(all_answers[0].labels)
    contestants = [
        Contestant(name, answer, None if index == 0 else 0)
        for index, (name, answer) in enumerate(zip(names, all_answers, strict=True))
    ]
    figures, pairs = compare(contestants, seed=1, replicates=40)
    entries = []
    for index, (name, answer, figure) in enumerate(zip(names, all_answers, figures, strict=True)):
        cost = (costs or [MODEL_COST] * len(all_answers))[index]
        confidence = answer.confidence
        bins = None if confidence is None else [vars(bar) for bar in reliability(answer, confidence)]
        inputs = {"rows": rows, "tokens_mean": 25.2, "tokens_p95": 44.0, "truncated": 0.0, "unknown": 0.1}
        entries.append(
            {
                "model": name,
                "kind": "model" if cost else "predictions",
                "architecture": f"{mark}Bert" if cost else None,
                "fingerprint": "ab" * 32 if cost else None,
                "max_length": 128 if cost else None,
                "teacher": names[0] if index else None,
                "labels_only": None,
                "metrics": {key: value.value for key, value in figure.items()},
                "intervals": {key: [value.low, value.high] for key, value in figure.items()},
                "cost": {**(cost or dict.fromkeys(MODEL_COST)), "speed_up": None},
                "inputs": inputs if cost else None,
                "home": {"dataset": f"{mark}home", "accuracy": 0.9, "drop": 0.125, "inputs": inputs}
                if cost
                else None,
                "per_class": [
                    {"class": scores.name} | {name: getattr(scores, name) for name in CLASS_SCORES}
                    for scores in per_class(answer, classes)
                ],
                "confusion": confusion(answer, np.ones((1, rows)))[0].astype(int).tolist(),
                "coverage": None
                if confidence is None
                else [vars(point) for point in coverage(answer, confidence)],
                "calibration": None if bins is None else {"bins": bins, "temperature": None},
                "slices": [vars(part) for part in slices(answer, np.arange(rows) + 1, classes)],
                "mistakes": [
                    {
                        "row": int(row) + 1,
                        "source_row": int(row) + 2_001,
                        "text": f"{mark}text {row}",
                        "text_pair": f"{mark}pair {row}",
                        "label": classes[int(answer.labels[row])],
                        "answer": classes[int(answer.answer[row])],
                        "confidence": None if confidence is None else float(confidence[row]),
                    }
                    for row in mistakes(answer)
                ],
                "right": "".join(map(str, answer.right.astype(int).tolist())),
                "constant_answer": constant_answer(answer.answer, classes),
                "training_rows": 0 if cost else None,
                "selection_rows": 0 if cost else None,
            }
        )
    compared = [
        {"first": pair.first, "second": pair.second, "difference": vars(pair.difference)}
        | vars(pair.test)
        | {"sentence": pair.sentence}
        for pair in pairs
    ]
    counts = np.bincount(all_answers[0].labels, minlength=len(classes)).tolist()
    reference = majority(all_answers[0].labels, classes)
    document = {
        "schema": "distilkit.evaluation/2",
        "dataset": f"{mark}data",
        "split": "validation",
        "rows": rows,
        "sampled_from": None,
        "fingerprint": "cd" * 32,
        "classes": [{"name": name, "rows": count} for name, count in zip(classes, counts, strict=True)],
        "device": f"{mark}cpu",
        "precision": "bf16",
        "threads": 1,
        "confidence": 0.95,
        "replicates": 40,
        "seed": 1,
        "models": entries,
        "pairs": compared,
        "gates": [],
        "majority": {
            "class": reference.class_name,
            "rows": reference.rows,
            "metrics": reference.metrics,
        },
        "provenance": {
            "distilkit": "0.1.0",
            "time": "2026-11-25T10:00:00+00:00",
            "command_line": [f"{mark}distilkit", "evaluate"],
            "data": f"/data/{mark}train.csv",
            "cpu": f"{mark}Xeon",
            "platform": "Linux",
            "versions": {"torch": "2.10"},
            "git_commit": None,
        },
    }
    return document | more
