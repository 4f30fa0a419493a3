"""`evaluate`: score models on one split, side by side."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distilkit import runs
from distilkit.config import EvaluateConfig, gates
from distilkit.data import datasets
from distilkit.data.datasets import TextData
from distilkit.data.encoding import Tokenizer, longest_input
from distilkit.data.labels import match_labels
from distilkit.engine.inference import native, predict_texts
from distilkit.engine.metrics import score
from distilkit.engine.precision import Resolved, default_device, resolve_precision
from distilkit.errors import GateMissed, UserError
from distilkit.models.loading import (
    Source,
    count_parameters,
    find_model,
    fingerprint,
    load_tokenizer,
    load_trained,
    model_names,
)
from distilkit.progress import SILENT, Reporter

SCHEMA = "distilkit.evaluation/1"
WARM_UP = 64  # rows


@dataclass(frozen=True)
class Score:
    """One model on one split; what does not apply to it is `None`."""

    model: str
    architecture: str
    accuracy: float
    f1: float | None
    f1_macro: float
    loss: float
    parameters: int
    parameters_without_embeddings: int
    bytes: int
    examples_per_second: float
    max_length: int
    fingerprint: str
    teacher: str | None = None
    agreement: float | None = None
    accuracy_retained: float | None = None


@dataclass(frozen=True)
class Gate:
    """A `--fail-under` threshold held against one model."""

    model: str
    metric: str
    threshold: float
    value: float
    passed: bool


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; `document()` is the JSON of `--json` and of the file in the run."""

    dataset: str
    split: str
    rows: int
    device: str
    precision: Resolved
    scores: tuple[Score, ...]
    gates: tuple[Gate, ...] = ()

    def document(self) -> dict[str, Any]:
        """The versioned JSON document."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "split": self.split,
            "rows": self.rows,
            "device": self.device,
            "precision": self.precision,
            "models": [dict(vars(one)) for one in self.scores],
            "gates": [dict(vars(gate)) for gate in self.gates],
        }


@dataclass(frozen=True)
class _Loaded:
    source: Source
    model: Any
    tokenizer: Tokenizer
    names: tuple[str, ...]
    fingerprint: str


def evaluate(config: EvaluateConfig, reporter: Reporter = SILENT) -> Evaluation:
    """Score every model of `config.models` on the same rows, each with its own tokenizer.

    A model that is a run gets the result as `evaluation/<dataset>-<split>.json`.

    Raises:
        UserError: on anything wrong with options, data or models; labels of -1 are refused.
    """
    device = default_device()
    precision = resolve_precision(config.precision, device)
    names = dict.fromkeys([*config.models, *([config.teacher] if config.teacher else [])])
    models = [_load(name) for name in names]
    _check_gates_can_be_met(config, models)
    data = datasets.load_for_evaluation(config, config.split, models[0].names)
    for note in data.notes:
        reporter.note(note)
    labels = data.labels(config.split)
    logits: list[Tensor] = []
    scores = []
    for one in models:
        values, one_score = _score(one, data, labels, config, precision, device, reporter)
        logits.append(values)
        scores.append(one_score)
    scores = _compare(config, models, logits, scores)
    measured = Evaluation(
        dataset=data.name,
        split=config.split,
        rows=len(labels),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=precision,
        scores=tuple(scores),
    )
    measured = replace(measured, gates=_gates(config, measured.scores))
    for one, one_score in zip(models, measured.scores, strict=True):
        if one.source.run:
            sample = f"-{len(labels)}" if config.max_eval_samples else ""
            file = one.source.run.path / runs.EVALUATION / f"{data.name}-{config.split}{sample}.json"
            document = measured.document() | {"models": [dict(vars(one_score))], "gates": []}
            try:
                runs.write_json(file, document)
            except OSError as error:
                reporter.note(f"{file} cannot be written ({error.strerror}); the result is printed only")
    return measured


def check_gates(measured: Evaluation) -> None:
    """Raises `GateMissed` naming every gate that was not reached."""
    missed = [gate for gate in measured.gates if not gate.passed]
    if missed:
        raise GateMissed(
            "; ".join(
                f"{gate.model}: {gate.metric} {gate.value:.4f} is under {gate.threshold:g}" for gate in missed
            )
        )


def _load(name: str) -> _Loaded:
    source = find_model(name)
    model = load_trained(source)
    return _Loaded(source, model, load_tokenizer(source), model_names(model), fingerprint(model))


def _score(
    one: _Loaded,
    data: TextData,
    labels: Tensor,
    config: EvaluateConfig,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
) -> tuple[Tensor, Score]:
    columns, by_name = match_labels(one.names, data.names, one.source.name)
    if not by_name:
        reporter.note(
            f"{one.source.name}: it shares no class names with the data; ids are taken to be the same"
        )
    max_length = config.max_length or _own_max_length(one, config)
    texts, pairs = data.texts(config.split), data.pairs(config.split)
    model = native(one.model, precision).to(device)

    def run(positions: range, advance: Callable[[int], None] = lambda done: None) -> Tensor:
        parts = predict_texts(
            model,
            one.tokenizer,
            texts,
            pairs,
            positions,
            max_length=max_length,
            precision=precision,
            advance=advance,
        )
        return torch.cat([logits for _, logits in parts])

    run(range(min(WARM_UP, len(texts))))  # the first pass pays for set-up that no later one does
    started = time.perf_counter()
    everything = run(
        range(len(texts)), advance=lambda done: reporter.advance(one.source.name, done, len(texts))
    )
    seconds = time.perf_counter() - started
    logits = everything[:, columns]
    one.model.cpu()
    measured: Mapping[str, float] = score(logits, labels)
    parameters, without_embeddings = count_parameters(one.model)
    return logits, Score(
        model=one.source.name,
        architecture=type(one.model).__name__,
        accuracy=measured["accuracy"],
        f1=measured.get("f1"),
        f1_macro=measured["f1_macro"],
        loss=measured["loss"],
        parameters=parameters,
        parameters_without_embeddings=without_embeddings,
        bytes=one.source.bytes,
        examples_per_second=round(len(texts) / seconds, 1),
        max_length=max_length,
        fingerprint=one.fingerprint,
    )


def _own_max_length(one: _Loaded, config: EvaluateConfig) -> int:
    """What the run was trained with, else the dataset's default, as far as the model reads."""
    if one.source.run and one.source.run.config.max_length:
        return one.source.run.config.max_length
    limit = longest_input(one.tokenizer, one.model)
    wanted = 256 if config.dataset == "imdb" else 128
    return min(wanted, limit) if limit else wanted


def _compare(
    config: EvaluateConfig, models: list[_Loaded], logits: list[Tensor], scores: list[Score]
) -> list[Score]:
    """Agreement with the teacher and accuracy retained, for models whose teacher is among them."""
    compared = list(scores)
    for student in range(len(models)):
        teacher = _teacher_of(student, config, models)
        if teacher is None:
            continue
        agreement = (logits[student].argmax(dim=1) == logits[teacher].argmax(dim=1)).float().mean()
        best = scores[teacher].accuracy
        compared[student] = replace(
            scores[student],
            teacher=models[teacher].source.name,
            agreement=float(agreement),
            accuracy_retained=scores[student].accuracy / best if best else None,
        )
    return compared


def _teacher_of(student: int, config: EvaluateConfig, models: list[_Loaded]) -> int | None:
    if config.teacher:
        wanted = next(i for i, one in enumerate(models) if one.source.name == config.teacher)
        return None if wanted == student else wanted
    run = models[student].source.run
    named = run.environment.get("teachers", []) if run else []
    if len(named) != 1:  # a mean of several is none of the models here
        return None
    return next(
        (i for i, one in enumerate(models) if i != student and one.fingerprint == named[0]["fingerprint"]),
        None,
    )


def _check_gates_can_be_met(config: EvaluateConfig, models: list[_Loaded]) -> None:
    """Refuse, before anything is scored, a threshold on what no model here will have."""
    compared = any(_teacher_of(student, config, models) is not None for student in range(len(models)))
    two_classes = len(models[0].names) == 2
    for metric, threshold in gates(config.fail_under):
        if metric in ("agreement", "accuracy_retained") and not compared:
            why = "no model here has a teacher to compare with. Put it among the models, or give --teacher."
        elif metric == "f1" and not two_classes:
            why = f"it is for two classes, and there are {len(models[0].names)}. Use f1_macro."
        else:
            continue
        raise UserError(f"--fail-under {metric}={threshold:g}: {why}")


def _gates(config: EvaluateConfig, scores: tuple[Score, ...]) -> tuple[Gate, ...]:
    held = []
    for metric, threshold in gates(config.fail_under):
        for one in scores:
            value = getattr(one, metric)
            if value is not None:
                held.append(Gate(one.model, metric, threshold, value, value >= threshold))
    return tuple(held)
