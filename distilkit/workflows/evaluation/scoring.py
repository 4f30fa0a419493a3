"""What models, files and endpoints say of the rows of a split, and what it costs them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distilkit.config import EvaluateConfig
from distilkit.data.encoding import check_length, longest_input
from distilkit.data.files import read_through
from distilkit.data.inputs import Inputs, measure_inputs
from distilkit.data.predictions import PredictionsFile, predicted, read_predictions
from distilkit.data.text_data import TextData
from distilkit.engine.inference.latency import Cost, Latency, measure_latency, watch
from distilkit.engine.inference.logits import answering, low_precision_copy, predict_texts
from distilkit.hardware.memory import peak_within
from distilkit.hardware.precision import Resolved
from distilkit.models.classifier import Classifier, load_classifier
from distilkit.models.loading import count_parameters
from distilkit.models.locating import find_model
from distilkit.progress import Reporter
from distilkit.scores.statistics import Answers
from distilkit.workflows.evaluation.endpoint import Endpoint, ask

Kind = Literal["model", "predictions", "endpoint"]


WARM_UP = 64  # rows


LOW = 0.05  # of the scores that may be below one half


TOKEN = "DISTILKIT_ENDPOINT_TOKEN"


@dataclass(frozen=True)
class ModelScores:
    """What one of them said, and what is known of it."""

    name: str
    kind: Kind
    answers: Answers
    cost: Cost
    inputs: Inputs | None = None
    loaded: Classifier | None = None


def load(name: str, config: EvaluateConfig) -> Classifier:
    """The model, its tokenizer, and how much of a text it will read."""
    classifier = load_classifier(find_model(name))
    if config.max_length:
        check_length(config.max_length, classifier.tokenizer, classifier.model)
    return replace(classifier, max_length=config.max_length or _own_max_length(classifier, config))


def _own_max_length(classifier: Classifier, config: EvaluateConfig) -> int:
    """Return what its run was trained with, else the dataset's default, as far as the model reads."""
    if classifier.run and classifier.run.config.max_length:
        return classifier.run.config.max_length
    limit = longest_input(classifier.tokenizer, classifier.model)
    wanted = 256 if config.dataset == "imdb" else 128
    return min(wanted, limit) if limit else wanted


def read_all(
    model: Any,
    one: Classifier,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    precision: Resolved,
    *,
    rows: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """Logits float32 `[N, C]` of the first `rows` texts, or all, by `model`: that of `one` as it computes."""
    assert one.max_length
    parts = predict_texts(
        model,
        one.tokenizer,
        texts,
        pairs,
        range(len(texts) if rows is None else rows),
        max_length=one.max_length,
        precision=precision,
        advance=advance,
    )
    return torch.cat([logits for _, logits in parts])


def answer(
    one: Classifier,
    columns: list[int],
    data: TextData,
    config: EvaluateConfig,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
    *,
    alone: bool,
) -> ModelScores:
    """The model reads the split twice: all of it at once, and some rows one at a time for their latency.

    Args:
        columns: its output for each class of the data.
        alone: no other model is in memory, so that what the process holds is this one's.
    """
    assert one.max_length
    name = one.name
    texts, pairs = data.texts(config.split), data.pairs(config.split)
    with peak_within(device) as peak:
        model = low_precision_copy(one.model, precision).to(device)
        # The first pass pays for set-up that no later one does.
        read_all(model, one, texts, pairs, precision, rows=min(WARM_UP, len(texts)))
        with watch() as seconds:
            logits = read_all(
                model,
                one,
                texts,
                pairs,
                precision,
                advance=lambda done: reporter.advance(name, done, len(texts)),
            )
        highest = peak() if alone or device.type == "cuda" else None
    latency = None
    if config.latency:
        with answering(model, one.tokenizer, max_length=one.max_length, precision=precision) as reply:
            latency = measure_latency(reply, texts, pairs)
    one.model.cpu()
    probabilities = logits[:, columns].double().softmax(dim=1).numpy()
    parameters, without_embeddings = count_parameters(one.model)
    cost = Cost(
        rows_per_second=len(texts) / seconds(),
        parameters=parameters,
        parameters_without_embeddings=without_embeddings,
        bytes=one.bytes,
        peak_memory_bytes=highest,
        latency=latency,
    )
    return ModelScores(
        name,
        "model",
        Answers.of(probabilities, data.labels_of[config.split]),
        cost,
        measure_inputs(one.tokenizer, texts, pairs, one.max_length),
        one,
    )


def score_predictions_file(file: str, data: TextData, split: str, reporter: Reporter) -> ModelScores:
    """The rows of a predictions file."""
    labels = data.labels_of[split]
    found = read_predictions(Path(file), data.names, len(labels))
    _note_low_scores(found, len(data.names), f"--predictions {file}", reporter)
    return ModelScores(file, "predictions", _answers(found, labels, len(data.names)), Cost())


def _note_low_scores(found: PredictionsFile, classes: int, where: str, reporter: Reporter) -> None:
    """Of two classes the one that was chosen has half or more: scores below are often of one class always."""
    if found.score is None or classes != 2:
        return
    low = int((found.score < 0.5).sum())
    if low > LOW * len(found.score):
        reporter.note(
            f"{where}: {low:,} of {len(found.score):,} scores are below 0.5. A score has to be the "
            "probability of the label beside it, not of one class in every row: calibration, loss and ROC "
            "AUC mean nothing else"
        )


def score_endpoint(url: str, data: TextData, config: EvaluateConfig, reporter: Reporter) -> ModelScores:
    """What the endpoint says of the split, read piece by piece."""
    labels = data.labels_of[config.split]
    endpoint = Endpoint(
        url,
        config.endpoint_batch_size,
        config.concurrency,
        config.timeout,
        config.retries,
        os.environ.get(TOKEN),
    )
    with watch() as seconds:
        said = ask(
            endpoint,
            _requests(data, config.split),
            advance=lambda done: reporter.advance(url, done, len(labels)),
        )
    found = predicted(said.labels, said.scores, data.names, f"--endpoint {url}")
    _note_low_scores(found, len(data.names), f"--endpoint {url}", reporter)
    p50, p95, p99 = (1000 * float(value) for value in np.percentile(said.seconds, (50, 95, 99)))
    latency = Latency(p50, p95, p99, len(said.seconds)) if config.asks_one_by_one else None
    cost = Cost(rows_per_second=len(labels) / seconds(), latency=latency)
    return ModelScores(url, "endpoint", _answers(found, labels, len(data.names)), cost)


def _requests(data: TextData, split: str) -> Iterator[Any]:
    pairs = data.pairs(split)
    texts = read_through(data.texts(split))
    if pairs is None:
        yield from texts
    else:
        for text, pair in zip(texts, read_through(pairs), strict=True):
            yield {"text": text, "text_pair": pair}


def _answers(found: PredictionsFile, labels: Any, classes: int) -> Answers:
    probabilities = None
    if found.score is not None and classes == 2:
        probabilities = np.stack([1 - found.score, found.score], axis=1)
        probabilities[found.answer == 0] = probabilities[found.answer == 0, ::-1]
    return Answers(labels, found.answer, found.score, probabilities, classes)
