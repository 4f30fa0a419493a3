"""Teachers that answer what a student is unsure of: a model in this process, or one behind a URL."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from distilkit import load
from distilkit.config import ServeConfig
from distilkit.data.labels import label_ids, list_pairs, match_labels
from distilkit.data.predictions import read_answers
from distilkit.data.texts import Texts
from distilkit.engine.inference.endpoint import Answer, Row, post_batch
from distilkit.engine.inference.posting import Client, Server, open_client
from distilkit.engine.inference.predictor import Predictions, Predictor
from distilkit.errors import UserError
from distilkit.progress import Reporter

ENDPOINT_TOKEN = "DISTILKIT_ENDPOINT_TOKEN"
REMOTE_BATCH_SIZE = 16
REMOTE_REQUESTS = 8  # at a time


@dataclass(frozen=True)
class Teacher:
    """Describe a teacher.

    Attributes:
        name: as it was typed.
        identity: what changes when it answers otherwise; of one behind a URL, the URL is all there is.
        fit: returns what answers texts in terms of a student's classes; NaN is the probability of a class
            that the teacher says nothing of.
        batch_size: texts that it answers together.
        threads: batches that it answers at a time.
    """

    name: str
    identity: str
    fit: Callable[[Sequence[str]], Callable[[Texts], Predictions]]
    batch_size: int
    threads: int


@contextmanager
def open_teacher(config: ServeConfig, reporter: Reporter) -> Iterator[Teacher | None]:
    """Provide the teacher of `config`, if there is one.

    Raises:
        UserError: when it cannot be loaded.
    """
    if not config.fallback:
        yield None
    elif config.is_fallback_remote:
        server = Server(
            "--fallback",
            config.fallback,
            REMOTE_REQUESTS,
            config.timeout,
            retries=1,
            token=os.environ.get(ENDPOINT_TOKEN),
            consequence="It is the teacher, so nothing can be answered in its stead.",
        )
        with open_client(server) as client:
            fit = partial(_fit_remote, client)
            yield Teacher(config.fallback, config.fallback, fit, REMOTE_BATCH_SIZE, REMOTE_REQUESTS)
    else:
        predictor = load(config.fallback, precision=config.precision, device=config.device)
        predictor.copy_weights()
        reporter.note_all(predictor.notes)
        fit = partial(_fit_local, predictor, reporter)
        yield Teacher(config.fallback, predictor.fingerprint, fit, config.batch_size, 1)


def _fit_local(
    predictor: Predictor, reporter: Reporter, class_names: Sequence[str]
) -> Callable[[Texts], Predictions]:
    columns, by_name = match_labels(predictor.class_names, class_names, f"--fallback {predictor.name}")
    if not by_name:
        reporter.warn(
            f"--fallback {predictor.name}: it shares no class names with the student; ids are assumed to "
            f"match: {list_pairs(predictor.class_names, class_names)}"
        )

    def answer(texts: Texts) -> Predictions:
        predictions = predictor.predict(texts.first, texts.second)
        return Predictions(tuple(class_names), predictions.probabilities[:, columns])

    return answer


def _fit_remote(client: Client, class_names: Sequence[str]) -> Callable[[Texts], Predictions]:
    def answer(texts: Texts) -> Predictions:
        rows: list[Row] = [
            row[0] if len(row) == 1 else {"text": row[0], "text_pair": row[1]} for row in texts.rows()
        ]
        answers, _ = post_batch(client, rows)
        return read_probabilities(answers, class_names, f"--fallback {client.server.url}")

    return answer


def read_probabilities(answers: Sequence[Answer], class_names: Sequence[str], where: str) -> Predictions:
    """Return the scores of an endpoint as probabilities of the classes, `[N, C]`, NaN where it gave none.

    Raises:
        UserError: when a label is no class, or a score is no probability.
    """
    items = [
        (row, item["label"], item["score"])
        for row, answer in enumerate(answers)
        for item in (answer if isinstance(answer, list) else [answer])
    ]
    rows, labels, scores = (list(column) for column in zip(*items, strict=True))
    column, _ = read_answers(labels, class_names, where)
    ids = label_ids(column, class_names, where)
    for label, score in zip(labels, scores, strict=True):
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise UserError(f"{where}: the score {score!r:.40} of {label!r:.40} is no probability.")
    probabilities = np.full((len(answers), len(class_names)), np.nan)
    probabilities[rows, ids] = scores
    return Predictions(tuple(class_names), probabilities)


def find_likeliest(predictions: Predictions) -> np.ndarray:
    """Return the most probable class of each row, int64 `[N]`, of those that have a probability."""
    ids: np.ndarray = np.nanargmax(predictions.probabilities, axis=1)
    return ids
