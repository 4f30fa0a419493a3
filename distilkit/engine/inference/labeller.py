"""`Labeller`: texts in, a teacher's logits out, the same whichever machine computes them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from distilkit.config import Precision
from distilkit.data.encoding import encode
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import has_lstm, token_batches, tokens_of
from distilkit.engine.inference.predictor import Predictor
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import check_precision
from distilkit.models.classifier import Classifier, load_classifier, with_max_length
from distilkit.runs.locating import find_model

Item = TypeVar("Item")
Logits = NDArray[np.float32]


class _Distinct(NamedTuple):
    """The distinct rows among some texts, in the order in which they first occur.

    Attributes:
        first: where each occurs first, int64 `[D]`, ascending.
        inverse: which of them each row is, int64 `[N]`.
    """

    first: NDArray[np.int64]
    inverse: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Texts) -> "_Distinct":
        if not len(texts):
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        keys = np.frombuffer(b"".join(texts.keys()), "S16")
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(first[order], rank[inverse])


class Labeller(Predictor):
    """Compute the logits of a teacher, as `distill` does.

    A row is not rounded alike in every batch. Logits are equal to the bit where the same `piece_rows` rows
    are computed together on the same kind of device, or the `share`s of them apart. Then they are also those
    that `distill` computes, unless a text is repeated in another piece.
    """

    def __init__(self, classifier: Classifier, precision: Precision, device: torch.device) -> None:
        super().__init__(classifier, precision, device)
        self._fingerprint = classifier.fingerprint

    def describe(self) -> dict[str, object]:
        """Return all that the logits of a text depend on, but for the texts computed with it."""
        return {
            "model": self._fingerprint,
            "max_length": self.max_length,
            "precision": self.precision,
            "piece_rows": self.piece_rows,
        }

    def label_batch(self, texts: Texts | Sequence[str]) -> Logits:
        """Return the logits of texts, float32 `[N, C]`, in their order and in that of `class_names`.

        A text that occurs several times is computed once.

        Raises:
            UserError: where logits are not finite, or texts are no pairs and the model compares two.
        """
        rows = texts if isinstance(texts, Texts) else Texts(list(texts))
        [(_, logits)] = self.label_stream([(None, rows)])
        return logits

    def label_stream(
        self,
        pieces: Iterable[tuple[Item, Texts]],
        advance: Callable[[int], None] = lambda done: None,
    ) -> Iterator[tuple[Item, Logits]]:
        """Yield each item with what `label_batch` returns for its texts; two pieces at most are in memory.

        Args:
            advance: called with the number of finished distinct rows.
        """

        def read() -> Iterator[tuple[tuple[Item, NDArray[np.int64]], Texts]]:
            for item, texts in pieces:
                distinct = _Distinct.of(texts)
                yield (item, distinct.inverse), texts.take(distinct.first)

        # The rows of an LSTM are not padded, and its every shape costs memory.
        answers = self._stream_logits(read(), advance, few_shapes=has_lstm(self._model))
        for (item, inverse), logits in answers:
            values: Logits = logits.numpy()
            yield item, values[inverse]

    def share(self, texts: Texts, part: int, parts: int) -> NDArray[np.int64]:
        """Return the rows of a piece that part `part` of `parts`, from 1, computes: int64 `[n]`, ascending.

        They are whole batches of the piece. So each part computes the batches that one process would.
        """
        distinct = _Distinct.of(texts)
        if not len(distinct.first):
            return distinct.first
        rows = encode(
            self._tokenizer, texts.take(distinct.first), max_length=self.max_length, model=self._model
        )
        device = next(self._model.parameters()).device
        batches = token_batches(rows.lengths, tokens_of(device), equal_lengths=rows.needs_equal_lengths)
        is_mine = np.zeros(len(distinct.first), bool)
        for i, batch in enumerate(batches):
            is_mine[batch] = i % parts == part - 1
        return np.flatnonzero(is_mine[distinct.inverse])


def load_labeller(
    model: str, *, max_length: int | None = None, precision: Precision = "auto", device: str | None = None
) -> Labeller:
    """Load a teacher to label texts with.

    Args:
        model: a run, a model folder or a Hub id.
        max_length: longest input in tokens; by default what a run was trained with, else 128.
        precision: auto, fp32, bf16 or fp16, as in `train`.
        device: cpu, cuda or cuda:N; by default CUDA where there is some.

    Raises:
        UserError: when the model cannot be loaded, or does not fit the options.
    """
    selected = select_device(device)
    check_precision(precision, selected)
    classifier = load_classifier(find_model(str(model)))
    return Labeller(with_max_length(classifier, max_length), precision, selected)
