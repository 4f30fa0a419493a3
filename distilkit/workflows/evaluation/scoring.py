"""Score models, predictions files and endpoints on the rows of a split, and measure what they cost."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from distilkit.config import EvaluateConfig
from distilkit.data.inputs import Inputs, measure_inputs
from distilkit.data.predictions import PredictionsFile, note_low_scores, predicted, read_predictions
from distilkit.data.target_columns import LABEL_KINDS
from distilkit.data.targets import softmax
from distilkit.data.teacher_files import TeacherFile, find_disagreement
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.engine.inference.endpoint import Endpoint, Row, post_rows
from distilkit.engine.inference.latency import Cost, Latency, measure_latency, watch
from distilkit.engine.inference.logits import answering, check_finite, low_precision_copy, predict_texts
from distilkit.engine.inference.padding import check_batching
from distilkit.hardware.memory import peak_within
from distilkit.hardware.precision import Resolved
from distilkit.models.classifier import Classifier, with_max_length
from distilkit.models.exported import load_any
from distilkit.progress import Reporter
from distilkit.runs.locating import find_model
from distilkit.scores.statistics import Answers, Integers

WARM_UP_ROWS = 64
SHORT_PASS_SECONDS = 2.0
TOKEN_VARIABLE = "DISTILKIT_ENDPOINT_TOKEN"


@dataclass(frozen=True)
class ModelScores:
    """Hold the answers of one model, file or endpoint, and what they cost."""

    name: str
    kind: Literal["model", "predictions", "endpoint"]
    answers: Answers
    cost: Cost
    inputs: Inputs | None = None
    classifier: Classifier | None = None


def load(name: str, config: EvaluateConfig) -> Classifier:
    """Load a model with its tokenizer, and decide how many tokens of a text it reads."""
    classifier = load_any(find_model(name))
    return with_max_length(classifier, config.max_length, 256 if config.dataset == "imdb" else 128)


def read_all(
    model: torch.nn.Module,
    classifier: Classifier,
    texts: Texts,
    precision: Resolved,
    *,
    rows: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """Compute the logits of texts, float32 `[N, C]`.

    Args:
        model: the model of `classifier`, or a copy in another precision or on another device.
        rows: how many of the texts to read; all by default.
        advance: called with the number of finished rows.
    """
    assert classifier.max_length
    batches = predict_texts(
        model,
        classifier.tokenizer,
        texts,
        range(len(texts) if rows is None else rows),
        max_length=classifier.max_length,
        precision=precision,
        advance=advance,
    )
    return torch.cat([logits for _, logits in batches])


def score_model(
    classifier: Classifier,
    class_order: list[int],
    data: TextData,
    config: EvaluateConfig,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
    *,
    measures_memory: bool,
) -> ModelScores:
    """Answer the split in batches, then some of its rows one at a time for the latency.

    Args:
        class_order: the model's output for each class of the data.
        measures_memory: whether no other model is in the process's memory, which a CPU cannot tell apart.
    """
    assert classifier.max_length
    name = classifier.name
    precision = "fp32" if classifier.is_exported else precision
    texts = data.texts(config.split)
    note = check_batching(
        classifier.model,
        classifier.tokenizer,
        texts,
        max_length=classifier.max_length,
        precision=precision,
        device=device,
        name=name,
    )
    reporter.note_all([note] if note else [])
    with peak_within(device) as peak:
        model = low_precision_copy(classifier.model, precision, device).to(device)
        # Kernels are chosen and buffers allocated in the first pass: it must not be timed.
        read_all(model, classifier, texts, precision, rows=min(WARM_UP_ROWS, len(texts)))
        advance = partial(_advance, reporter, name, len(texts))
        logits, seconds = _time_pass(
            partial(read_all, model, classifier, texts, precision, advance=advance), device
        )
        check_finite(logits, name, config.split, precision)
        peak_bytes = peak() if measures_memory or device.type == "cuda" else None
    latency = None
    if config.latency:
        with answering(
            model, classifier.tokenizer, max_length=classifier.max_length, precision=precision
        ) as answer_row:
            latency = measure_latency(answer_row, texts)
    classifier.model.cpu()  # the next model needs the device's memory
    probabilities = logits[:, class_order].double().softmax(dim=1).numpy()
    parameters, without_embeddings = classifier.parameters
    cost = Cost(
        rows_per_second=len(texts) / seconds,
        parameters=parameters,
        parameters_without_embeddings=without_embeddings,
        bytes=classifier.bytes,
        peak_memory_bytes=peak_bytes,
        latency=latency,
    )
    return ModelScores(
        name,
        "model",
        Answers.from_probabilities(probabilities, data.labels_of[config.split]),
        cost,
        measure_inputs(classifier.tokenizer, texts, classifier.max_length),
        classifier,
    )


def _time_pass(read: Callable[[], torch.Tensor], device: torch.device) -> tuple[torch.Tensor, float]:
    """Return the logits of a pass over all rows, and its seconds.

    On CUDA those of a second pass, where the first was short: much of it went into allocating memory for
    batches of many shapes and loading kernels for them.
    """
    with watch() as seconds:
        logits = read()
    if device.type == "cuda" and seconds() < SHORT_PASS_SECONDS:
        with watch() as seconds:
            logits = read()
    return logits, seconds()


def _advance(reporter: Reporter, name: str, total: int, done: int) -> None:
    reporter.advance(name, done, total)


def score_predictions_file(file: str, data: TextData, split: str, reporter: Reporter) -> ModelScores:
    """Read the answers of a predictions file."""
    labels = data.labels_of[split]
    columns = [column for column in (data.text_column, data.pair_column) if column]
    texts = dict(zip(columns, data.texts(split).columns, strict=True))
    predictions = read_predictions(Path(file), data.names, len(labels), texts)
    reporter.note_all(predictions.notes)
    for doubt in note_low_scores(predictions, len(data.names), f"--predictions {file}"):
        reporter.warn(doubt)
    return ModelScores(file, "predictions", _make_answers(predictions, labels, len(data.names)), Cost())


def score_teacher_file(file: TeacherFile, data: TextData, split: str, reporter: Reporter) -> ModelScores:
    """Score what a teacher's file says of the split's rows, all of which it has."""
    labels, logits = data.labels_of[split], file.find(data.texts(split)).logits
    answers = Answers.from_probabilities(softmax(logits), labels)
    if file.kind in LABEL_KINDS:  # the other classes' probabilities are not known
        score = answers.confidence if file.kind == "confidence" else None
        answers = _make_answers(PredictionsFile(answers.answer, score), labels, len(data.names))
    if disagreement := find_disagreement(file, data, split):
        reporter.note(disagreement.sentence)
    return ModelScores(file.name, "predictions", answers, Cost())


def score_endpoint(url: str, data: TextData, config: EvaluateConfig, reporter: Reporter) -> ModelScores:
    """Post the rows of the split to an endpoint, and collect its answers."""
    labels = data.labels_of[config.split]
    endpoint = Endpoint(
        url,
        config.endpoint_batch_size,
        config.concurrency,
        config.timeout,
        config.retries,
        os.environ.get(TOKEN_VARIABLE),
    )
    with watch() as seconds:
        answers = post_rows(
            endpoint,
            _request_rows(data, config.split),
            advance=lambda done: reporter.advance(url, done, len(labels)),
        )
    predictions = predicted(answers.labels, answers.scores, data.names, f"--endpoint {url}")
    reporter.note_all(predictions.notes)
    for doubt in note_low_scores(predictions, len(data.names), f"--endpoint {url}"):
        reporter.warn(doubt)
    p50, p95, p99 = (1000 * float(value) for value in np.percentile(answers.seconds, (50, 95, 99)))
    latency = Latency(p50, p95, p99, len(answers.seconds)) if config.sends_single_rows else None
    cost = Cost(rows_per_second=len(labels) / seconds(), latency=latency)
    return ModelScores(url, "endpoint", _make_answers(predictions, labels, len(data.names)), cost)


def _request_rows(data: TextData, split: str) -> Iterator[Row]:
    for row in data.texts(split).rows():
        yield row[0] if len(row) == 1 else {"text": row[0], "text_pair": row[1]}


def _make_answers(predictions: PredictionsFile, labels: Integers, classes: int) -> Answers:
    probabilities = None
    if predictions.score is not None and classes == 2:  # then the other class has the rest
        probabilities = np.stack([1 - predictions.score, predictions.score], axis=1)
        probabilities[predictions.answer == 0] = probabilities[predictions.answer == 0, ::-1]
    return Answers(labels, predictions.answer, predictions.score, probabilities, classes)
