"""`Predictor`: texts in, classes and probabilities out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilkit.config import Precision
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import (
    check_finite,
    chunk_rows,
    low_precision_copy,
    predict_at_once,
    predict_stream,
)
from distilkit.engine.inference.padding import check_batching
from distilkit.errors import UserError
from distilkit.hardware.cpu_formats import workload_of
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import Resolved, check_precision, resolve_precision
from distilkit.models.classifier import Classifier, with_max_length
from distilkit.models.exported import load_any
from distilkit.models.loading import fingerprint
from distilkit.runs.locating import find_model

Item = TypeVar("Item")

# Of different lengths, to find out whether a model's answers depend on padding.
PROBES = ("a text", "a text of some more words than the first", "a long text, " * 6)


@dataclass(frozen=True)
class Predictions:
    """Hold what a model answers to N texts.

    Attributes:
        class_names: by id.
        probabilities: of every class, float64 `[N, C]`.
    """

    class_names: tuple[str, ...]
    probabilities: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Return the most probable class of each text, int64 `[N]`; of equals the first."""
        ids: NDArray[np.int64] = np.argmax(self.probabilities, axis=1)
        return ids

    @property
    def labels(self) -> list[str]:
        """Return the name of the most probable class of each text."""
        return [self.class_names[class_id] for class_id in self.ids]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the probability of that class, float64 `[N]`."""
        scores: NDArray[np.float64] = self.probabilities.max(axis=1, initial=0)
        return scores


class Predictor:
    """Classify texts with a model on one device, as `evaluate` does.

    Attributes:
        name: what the user calls the model.
        class_names: by id.
        max_length: how many tokens of a text it reads; the rest is cut.
        precision: the number format it computes in.
        notes: what a user should know of the model.
    """

    def __init__(self, classifier: Classifier, precision: Precision, device: torch.device) -> None:
        assert classifier.max_length
        self.name, self.class_names = classifier.name, classifier.class_names
        self.max_length = classifier.max_length
        self.precision = _choose_precision(classifier, precision, device)
        self._tokenizer = classifier.tokenizer
        self._graph_fingerprint = classifier.fingerprint if classifier.is_exported else None
        trained_on_pairs = classifier.run is not None and classifier.run.config.is_pair
        self._wants_pairs = trained_on_pairs or bool(getattr(classifier.model.config, "siamese", False))
        note = check_batching(
            classifier.model,
            classifier.tokenizer,
            Texts(PROBES),
            max_length=self.max_length,
            precision=self.precision,
            device=device,
            name=classifier.name,
        )
        self.notes = (*classifier.notes, *([note] if note else []))
        self._model = low_precision_copy(classifier.model, self.precision, device).to(device)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights that it computes with, or of the exported graph."""
        return self._graph_fingerprint or fingerprint(self._model)

    def copy_weights(self) -> None:
        """Copy the weights out of their file, which is only mapped into memory.

        What is written over that file would change the answers, and one that became shorter would end the
        process with SIGBUS.
        """
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            tensor.data = tensor.data.clone()

    @property
    def wants_pairs(self) -> bool:
        """Return whether it is known to compare two texts."""
        return self._wants_pairs

    @property
    def piece_rows(self) -> int:
        """Return how many texts are best answered together."""
        return chunk_rows(next(self._model.parameters()).device)

    def predict(self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None) -> Predictions:
        """Classify texts, or pairs of texts; the order is kept.

        Args:
            texts: the texts, or a single one.
            pairs: the second texts, as many as `texts`.

        Raises:
            TypeError: where something is no text.
            ValueError: where there are more texts than pairs, or fewer.
        """
        rows = Texts(*(_check_texts(side) for side in (texts, pairs) if side is not None))
        size = self.piece_rows
        if 0 < len(rows) <= size:
            return self._predict_at_once(rows)
        pieces = ((None, rows.take(range(i, min(i + size, len(rows))))) for i in range(0, len(rows), size))
        parts = [predictions.probabilities for _, predictions in self.stream(pieces)]
        empty = np.empty((0, len(self.class_names)))
        return Predictions(self.class_names, np.concatenate([empty, *parts]))

    def stream(
        self,
        pieces: Iterable[tuple[Item, Texts]],
        advance: Callable[[int], None] = lambda done: None,
    ) -> Iterator[tuple[Item, Predictions]]:
        """Yield each item with the answers to its texts, in order; two pieces at most are in memory.

        Args:
            advance: called with the number of finished rows.

        Raises:
            UserError: where logits are not finite, or texts are no pairs and the model compares two.
        """
        for item, logits in self._stream_logits(pieces, advance, few_shapes=True):
            yield item, self._make_predictions(logits)

    def _predict_at_once(self, texts: Texts) -> Predictions:
        self._check_pair(texts)
        logits = predict_at_once(
            self._model,
            self._tokenizer,
            texts,
            max_length=self.max_length,
            precision=self.precision,
            few_shapes=True,
        )
        check_finite(logits, self.name, "predicted", self.precision)
        return self._make_predictions(logits)

    def _make_predictions(self, logits: Tensor) -> Predictions:
        return Predictions(self.class_names, logits.double().softmax(dim=1).numpy())

    def _stream_logits(
        self, pieces: Iterable[tuple[Item, Texts]], advance: Callable[[int], None], *, few_shapes: bool
    ) -> Iterator[tuple[Item, Tensor]]:
        answers = predict_stream(
            self._model,
            self._tokenizer,
            self._check_pairs(pieces),
            max_length=self.max_length,
            precision=self.precision,
            few_shapes=few_shapes,
            advance=advance,
        )
        for item, logits in answers:
            check_finite(logits, self.name, "predicted", self.precision)
            yield item, logits

    def _check_pairs(self, pieces: Iterable[tuple[Item, Texts]]) -> Iterator[tuple[Item, Texts]]:
        for item, texts in pieces:
            self._check_pair(texts)
            yield item, texts

    def _check_pair(self, texts: Texts) -> None:
        if self._wants_pairs and texts.second is None:
            raise UserError(
                f"{self.name} compares two texts, and here is only one a row. Give the second texts: "
                "name their column with --text-pair-column; in Python, predict(texts, pairs)."
            )


def _choose_precision(classifier: Classifier, precision: Precision, device: torch.device) -> Resolved:
    if not classifier.is_exported:
        return resolve_precision(precision, device, workload_of(classifier.model, training=False))
    if precision not in ("auto", "fp32"):
        raise UserError(
            f"--precision {precision}: {classifier.name} is an exported model, which computes as it was "
            "exported. Leave it out."
        )
    return "fp32"


def _check_texts(texts: str | Sequence[str]) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {text!r:.40}, of type {type(text).__name__}, not str")
    return texts


def load(
    model: str, *, max_length: int | None = None, precision: Precision = "auto", device: str | None = None
) -> Predictor:
    """Load a model to classify texts with.

    Args:
        model: a run, a model folder, a folder that `export` wrote, or a Hub id.
        max_length: longest input in tokens; by default what a run was trained with, else 128.
        precision: auto, fp32, bf16 or fp16, as in `train`.
        device: cpu, cuda or cuda:N; by default CUDA where there is some.

    Raises:
        UserError: when the model cannot be loaded, or does not fit the options.
    """
    selected = select_device(device)
    check_precision(precision, selected)
    classifier = load_any(find_model(str(model)))
    return Predictor(with_max_length(classifier, max_length), precision, selected)
