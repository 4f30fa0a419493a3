"""The gates of `evaluate`: thresholds and an earlier evaluation, held against what was measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distilkit.config import FIDELITY, LATENCIES, EvaluateConfig, gates
from distilkit.data.checks import class_counts
from distilkit.data.text_data import TextData
from distilkit.errors import GateMissed, UserError
from distilkit.reports.summary import SCHEMA
from distilkit.scores.statistics import CONFIDENCE, defined, mcnemar
from distilkit.workflows.evaluation.contestants import Contestants
from distilkit.workflows.evaluation.result import COSTS, Evaluation, Gate, Score
from distilkit.workflows.evaluation.scoring import ModelScores


def check_gates(measured: Evaluation) -> None:
    """Raises `GateMissed` naming every gate that was not reached."""
    missed = [f"{gate.model}: {gate.why}" for gate in measured.gates if not gate.passed]
    if missed:
        raise GateMissed("; ".join(missed))


def _asked(config: EvaluateConfig) -> list[tuple[Literal["fail_under", "fail_over"], str, float]]:
    under = [("fail_under", *gate) for gate in gates(config.fail_under, "--fail-under")]
    over = [("fail_over", *gate) for gate in gates(config.fail_over, "--fail-over")]
    found: Any = under + over
    return list(found)


def check_gates_can_be_met(
    config: EvaluateConfig,
    lineup: Contestants,
    files: Sequence[ModelScores],
    data: TextData,
    device: torch.device,
) -> None:
    """Refuse, before a model has read a row, a threshold on what nothing that is named will have.

    Args:
        files: the answers of the lineup's files, which are there already.

    Raises:
        UserError: saying why it will not.
    """
    held = named(config)
    places = [place for place, name in enumerate(lineup.names) if name in held]
    labelled = class_counts(data.labels_of[config.split], len(data.names))
    known = [_will_have(place, lineup, files, labelled, config, device) for place in range(len(lineup.names))]
    for place in places:
        known[place] |= _fidelity(place, lineup, known)
    there = set().union(*(known[place] for place in places))
    for kind, metric, threshold in _asked(config):
        if metric not in there:
            why = _why_not(metric, lineup, len(labelled), config)
            raise UserError(f"--{kind.replace('_', '-')} {metric}={threshold:g}: {why}")


def _will_have(
    place: int,
    lineup: Contestants,
    files: Sequence[ModelScores],
    labelled: list[int],
    config: EvaluateConfig,
    device: torch.device,
) -> set[str]:
    """Names of the figures of quality and cost that one of the lineup will have."""
    number = place - len(lineup.models)
    if number < 0:
        found = defined(labelled, True, True) | set(COSTS) | (set(LATENCIES) if config.latency else set())
        lone = device.type == "cuda" or len(lineup.models) == 1
        return found if lone else found - {"peak_memory_bytes"}
    if number < len(files):
        answers = files[number].answers
        return defined(labelled, answers.confidence is not None, answers.probabilities is not None)
    timed = set(LATENCIES) if config.asks_one_by_one else set()
    return defined(labelled, True, len(labelled) == 2) | {"rows_per_second"} | timed


def _fidelity(place: int, lineup: Contestants, known: Sequence[set[str]]) -> set[str]:
    teacher = lineup.teachers[place]
    if teacher is None:
        return set()
    found = {"agreement", "accuracy_kept"}
    if "loss" in known[place] and "loss" in known[teacher]:
        found.add("kl")
    return found if lineup.twins[place] is None else found | {"gap_recovered"}


def _why_not(metric: str, lineup: Contestants, classes: int, config: EvaluateConfig) -> str:
    """What to do about a figure that there will not be."""
    if metric in FIDELITY and not any(teacher is not None for teacher in lineup.teachers):
        return "no model here has a teacher to compare with. Put it among the models, or give --teacher."
    if metric == "gap_recovered":
        return "it begins at a student that had labels alone: give --labels-only RUN."
    if metric in ("f1", "precision", "recall") and classes > 2:
        return f"it is for two classes, and there are {classes}. Use {metric}_macro."
    if metric in LATENCIES and not config.latency:
        return "--no-latency leaves it out. Drop one of the two."
    if metric in LATENCIES and lineup.endpoints:
        return "of an endpoint it is measured with --endpoint-batch-size 1 --concurrency 1."
    if metric == "peak_memory_bytes" and len(lineup.models) > 1:
        return "on a CPU it is that of the whole process: evaluate the model alone."
    return "nothing that is named here will have it on this split. Leave it out."


def named(config: EvaluateConfig) -> list[str]:
    """What gates are held against: not what --teacher and --labels-only compare it with."""
    given = dict.fromkeys([*config.models, *config.predictions, *config.endpoint])
    return [name for name in given if name not in (config.teacher, config.labels_only)]


def hold(config: EvaluateConfig, measured: Evaluation, before: dict[str, Any] | None) -> tuple[Gate, ...]:
    """Every gate that `config` asks for, held against what was measured, and against a baseline."""
    return (*_thresholds(config, measured.scores), *_against(before, measured, config))


def _thresholds(config: EvaluateConfig, scores: tuple[Score, ...]) -> list[Gate]:
    """A threshold holds for each that has the figure. Where none has it after all, it is missed."""
    held = []
    for kind, metric, threshold in _asked(config):
        known = [(score.model, score.value(metric)) for score in scores if score.model in named(config)]
        for model, value in [one for one in known if one[1] is not None] or known:
            if value is None:
                held.append(Gate(model, kind, metric, threshold, None, False, f"there is no {metric} here"))
                continue
            passed = value >= threshold if kind == "fail_under" else value <= threshold
            side = "under" if kind == "fail_under" else "over"
            why = f"{metric} {value:.4g} is {'not ' if passed else ''}{side} {threshold:g}"
            held.append(Gate(model, kind, metric, threshold, value, passed, why))
    return held


def read_baseline(file: Path) -> dict[str, Any]:
    """An earlier evaluation's document. Raises `UserError` when the file holds none."""
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--baseline {file} cannot be read: {error}. Give what evaluate --json wrote."
        ) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UserError(f"--baseline {file} is not {SCHEMA}. Make it anew with evaluate --json.")
    try:
        rows, _ = document["rows"], (document["fingerprint"], document["dataset"], document["split"])
        whole = all(len(entry["right"]) == rows and entry["model"] for entry in document["models"])
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"--baseline {file} is damaged. Make it anew with evaluate --json.")
    return document


def check_baseline(before: dict[str, Any], config: EvaluateConfig, data: TextData) -> None:
    """Refuse, before anything is scored, a baseline of other rows, or one that lacks a model, or has none."""
    if not named(config):
        raise UserError(
            f"--baseline {config.baseline}: nothing is held against it, as what --teacher and --labels-only "
            "name is only compared with. Name another model."
        )
    if before["fingerprint"] != data.fingerprint(config.split):
        rows = len(data.labels_of[config.split])
        raise UserError(
            f"--baseline {config.baseline} is of other rows ({before['dataset']} {before['split']}, "
            f"{before['rows']:,}) than these ({data.name} {config.split}, {rows:,}). "
            "Evaluate the same split, or make the baseline anew."
        )
    known = [entry["model"] for entry in before["models"]]
    missing = [name for name in named(config) if _entry(before, name, config) is None]
    if missing:
        raise UserError(
            f"--baseline {config.baseline} has {', '.join(known)}, and not {', '.join(missing)}. "
            "Name models as they are named there, or make it anew."
        )


def _entry(before: dict[str, Any], name: str, config: EvaluateConfig) -> dict[str, Any] | None:
    """The one of that name, or the only one there is, if only one is held against it."""
    entries: dict[str, Any] = {entry["model"]: entry for entry in before["models"]}
    if name not in entries and len(entries) == len(named(config)) == 1:
        (only,) = entries.values()
        return dict(only)
    return entries.get(name)


def _against(before: dict[str, Any] | None, measured: Evaluation, config: EvaluateConfig) -> list[Gate]:
    """What was named against the baseline, row by row."""
    held = []
    for score in measured.scores:
        entry = _entry(before, score.model, config) if before and score.model in named(config) else None
        if entry is None:
            continue
        right = np.asarray(list(entry["right"])) == "1"
        test = mcnemar(right, score.answered.answers.right)
        accuracy = score.value("accuracy")
        assert accuracy is not None
        worse = test.only_first > test.only_second and test.p_value < 1 - CONFIDENCE
        why = (
            f"accuracy {accuracy:.4f} is {'' if worse else 'not '}significantly below "
            f"the baseline's {right.mean():.4f} (McNemar, p = {test.p_value:.3g})"
        )
        held.append(Gate(score.model, "baseline", "accuracy", float(right.mean()), accuracy, not worse, why))
    return held
