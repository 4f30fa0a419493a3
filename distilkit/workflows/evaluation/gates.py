"""Apply the gates of `evaluate`: thresholds, and a comparison with an earlier evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError

from distilkit.config import FIDELITY, LATENCIES, EvaluateConfig, parse_gates
from distilkit.data.checks import class_counts
from distilkit.data.text_data import TextData
from distilkit.errors import GateMissed, UserError, list_names
from distilkit.reports.document import SCHEMA, EvaluationDocument, Gate, ModelEntry, describe_error
from distilkit.scores.statistics import CONFIDENCE, defined_metrics, mcnemar
from distilkit.workflows.evaluation.contestants import Contestants
from distilkit.workflows.evaluation.result import COSTS, Evaluation, Score
from distilkit.workflows.evaluation.scoring import ModelScores


def check_gates(evaluation: Evaluation) -> None:
    """Raise `GateMissed` naming every gate that was missed."""
    missed = [f"{gate.model}: {gate.why}" for gate in evaluation.gates if not gate.passed]
    if missed:
        raise GateMissed("; ".join(missed))


def _requested_thresholds(
    config: EvaluateConfig,
) -> list[tuple[Literal["fail_under", "fail_over"], str, float]]:
    thresholds: list[tuple[Literal["fail_under", "fail_over"], str, float]] = []
    thresholds += [("fail_under", *gate) for gate in parse_gates(config.fail_under, "--fail-under")]
    thresholds += [("fail_over", *gate) for gate in parse_gates(config.fail_over, "--fail-over")]
    return thresholds


def check_gates_can_be_met(
    config: EvaluateConfig,
    contestants: Contestants,
    files: Sequence[ModelScores],
    data: TextData,
    device: torch.device,
) -> None:
    """Refuse, before a model reads a row, a threshold on a figure that no gated model will have.

    Args:
        files: the scores of the predictions files, which are read already.

    Raises:
        UserError: with the reason.
    """
    gated = [i for i, name in enumerate(contestants.names) if name in gated_models(config)]
    rows_per_class = class_counts(data.labels_of[config.split], len(data.names))
    figures = [
        _expected_figures(i, contestants, files, rows_per_class, config, device)
        for i in range(len(contestants.names))
    ]
    for i in gated:
        figures[i] |= _expected_fidelity(i, contestants, figures)
    available = set().union(*(figures[i] for i in gated))
    for kind, metric, threshold in _requested_thresholds(config):
        if metric not in available:
            reason = _explain_missing(metric, contestants, len(rows_per_class), config)
            raise UserError(f"--{kind.replace('_', '-')} {metric}={threshold:g}: {reason}")


def _expected_figures(
    contestant: int,
    contestants: Contestants,
    files: Sequence[ModelScores],
    rows_per_class: list[int],
    config: EvaluateConfig,
    device: torch.device,
) -> set[str]:
    """Return the names of the figures of quality and cost that a contestant will have."""
    file = contestant - len(contestants.models)
    if file < 0:
        latencies = set(LATENCIES) if config.latency else set()
        figures = defined_metrics(rows_per_class, True, True) | set(COSTS) | latencies
        # A CPU process has one peak for all of its models.
        memory_is_measured = device.type == "cuda" or len(contestants.models) == 1
        return figures if memory_is_measured else figures - {"peak_memory_bytes"}
    if file < len(files):
        answers = files[file].answers
        return defined_metrics(
            rows_per_class, answers.confidence is not None, answers.probabilities is not None
        )
    latencies = set(LATENCIES) if config.sends_single_rows else set()
    return defined_metrics(rows_per_class, True, len(rows_per_class) == 2) | {"rows_per_second"} | latencies


def _expected_fidelity(contestant: int, contestants: Contestants, figures: Sequence[set[str]]) -> set[str]:
    teacher = contestants.teachers[contestant]
    if teacher is None:
        return set()
    names = {"agreement", "accuracy_kept"}
    if "loss" in figures[contestant] and "loss" in figures[teacher]:  # both have probabilities
        names.add("kl")
    return names if contestants.labels_only_baselines[contestant] is None else names | {"gap_recovered"}


def _explain_missing(metric: str, contestants: Contestants, classes: int, config: EvaluateConfig) -> str:
    """Return why a figure will not be measured, and what to do about it."""
    if metric in FIDELITY and not any(teacher is not None for teacher in contestants.teachers):
        return "no model here has a teacher to compare with. Put it among the models, or give --teacher."
    if metric == "gap_recovered":
        return "it needs a baseline trained on labels alone: give --labels-only RUN."
    if metric in ("f1", "precision", "recall") and classes > 2:
        return f"it is for two classes, and there are {classes}. Use {metric}_macro."
    if metric in LATENCIES and not config.latency:
        return "--no-latency leaves it out. Drop one of the two."
    if metric in LATENCIES and contestants.endpoints:
        return "for an endpoint it is measured with --endpoint-batch-size 1 --concurrency 1."
    if metric == "peak_memory_bytes" and len(contestants.models) > 1:
        return "on a CPU it is measured for the whole process: evaluate the model alone."
    return "no model here will have it on this split. Leave it out."


def gated_models(config: EvaluateConfig) -> list[str]:
    """Return the names that gates apply to: all but --teacher and --labels-only, which are references.

    A --teacher-file is one too, unless nothing else is scored.
    """
    names = dict.fromkeys([*config.models, *config.predictions, *config.endpoint] or config.teacher_file)
    return [name for name in names if name not in (config.teacher, config.labels_only)]


def evaluate_gates(
    config: EvaluateConfig, evaluation: Evaluation, baseline: EvaluationDocument | None
) -> tuple[Gate, ...]:
    """Compare what was measured with every threshold of `config`, and with the baseline."""
    comparisons = _compare_with_baseline(baseline, evaluation, config) if baseline else []
    return (*_apply_thresholds(config, evaluation.scores), *comparisons)


def _apply_thresholds(config: EvaluateConfig, scores: tuple[Score, ...]) -> list[Gate]:
    """Apply each threshold to the models that have the figure; where none has it, the gate is missed."""
    results = []
    gated = [score for score in scores if score.model in gated_models(config)]
    for kind, metric, threshold in _requested_thresholds(config):
        values = [(score.model, score.value(metric)) for score in gated]
        # With several models, a gate applies to those that can have the figure: a file has no parameters.
        for model, value in [(model, value) for model, value in values if value is not None] or values:
            if value is None:
                passed, why = False, f"there is no {metric} here"
            else:
                passed = value >= threshold if kind == "fail_under" else value <= threshold
                side = "under" if kind == "fail_under" else "over"
                why = f"{metric} {value:.4g} is {'not ' if passed else ''}{side} {threshold:g}"
            results.append(
                Gate(
                    model=model,
                    kind=kind,
                    metric=metric,
                    threshold=threshold,
                    value=value,
                    passed=passed,
                    why=why,
                )
            )
    return results


def read_baseline(file: Path) -> EvaluationDocument:
    """Read an earlier evaluation's document.

    Raises:
        UserError: when the file holds none.
    """
    try:
        return EvaluationDocument.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            why = f"cannot be read: {describe_error(error)}. Give a file that evaluate --json wrote."
        elif problem["loc"] == ("schema",) or problem["type"] == "model_type":
            why = f"is not {SCHEMA}. Write it again with evaluate --json."
        else:
            why = f"is damaged ({describe_error(error)}). Write it again with evaluate --json."
    except (OSError, ValueError) as error:
        why = f"cannot be read: {error}. Give a file that evaluate --json wrote."
    raise UserError(f"--baseline {file} {why}")


def check_baseline(baseline: EvaluationDocument, config: EvaluateConfig, data: TextData) -> None:
    """Refuse, before anything is scored, a baseline of different rows or without a gated model.

    Raises:
        UserError: also when there is no gated model.
    """
    if not gated_models(config):
        raise UserError(
            f"--baseline {config.baseline}: there is no model to compare with it, as --teacher and "
            "--labels-only are references only. Name another model."
        )
    rows = len(data.labels_of[config.split])
    if baseline.fingerprint != data.fingerprint(config.split) or baseline.rows != rows:
        raise UserError(
            f"--baseline {config.baseline} was measured on other rows ({baseline.dataset} {baseline.split}, "
            f"{baseline.rows:,}) than these ({data.name} {config.split}, {rows:,}). "
            "Evaluate the same split, or write the baseline again."
        )
    missing = [name for name in gated_models(config) if _baseline_entry(baseline, name, config) is None]
    if missing:
        names = list_names([entry.model for entry in baseline.models])
        raise UserError(
            f"--baseline {config.baseline} has {names or 'no model'}, and not {list_names(missing)}. "
            "Use the names of the baseline, or write it again."
        )


def _baseline_entry(baseline: EvaluationDocument, name: str, config: EvaluateConfig) -> ModelEntry | None:
    """Return the baseline's entry of that name, or its only entry where only one model is gated."""
    entries = {entry.model: entry for entry in baseline.models}
    # CI jobs train into a new folder each time: where only one model can be meant, its name may differ.
    if name not in entries and len(entries) == len(gated_models(config)) == 1:
        return baseline.models[0]
    return entries.get(name)


def _compare_with_baseline(
    baseline: EvaluationDocument, evaluation: Evaluation, config: EvaluateConfig
) -> list[Gate]:
    """Test row by row whether a gated model is significantly less accurate than in the baseline."""
    results = []
    for score in evaluation.scores:
        entry = (
            _baseline_entry(baseline, score.model, config) if score.model in gated_models(config) else None
        )
        if entry is None:
            continue
        right = np.asarray(list(entry.right)) == "1"
        test = mcnemar(right, score.model_scores.answers.right)
        accuracy, before = score.value("accuracy"), float(right.mean())
        assert accuracy is not None
        # A lower accuracy alone does not fail: on few rows it varies by chance.
        worse = test.only_first > test.only_second and test.p_value < 1 - CONFIDENCE
        why = (
            f"accuracy {accuracy:.4f} is {'' if worse else 'not '}significantly below "
            f"the baseline's {before:.4f} (McNemar, p = {test.p_value:.3g})"
        )
        results.append(
            Gate(
                model=score.model,
                kind="baseline",
                metric="accuracy",
                threshold=before,
                value=accuracy,
                passed=not worse,
                why=why,
            )
        )
    return results
