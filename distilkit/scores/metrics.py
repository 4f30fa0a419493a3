"""Score logits with `evaluate.Metric`s that ship with the package: none is downloaded."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

from distilkit.errors import UserError
from distilkit.scores import statistics

FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
INPUTS = "predictions, references: class ids, one per row."


class OfflineMetric(evaluate.Metric):
    """Compute in memory, and make no folder: the home folder may be full or belong to somebody else."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        # The base class makes this folder even where it keeps everything in memory.
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation="", inputs_description=INPUTS, features=FEATURES
        )


class Accuracy(OfflineMetric):
    """Compute the share of rows whose predicted class is the label."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(OfflineMetric):
    """Compute macro F1 and, for two classes, F1 of class 1, as GLUE scores MRPC."""

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], num_labels: int = 2
    ) -> dict[str, float]:
        scores = {"f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0))}
        if num_labels == 2:
            scores["f1"] = float(f1_score(references, predictions, pos_label=1, zero_division=0))
        return scores


class Mcc(OfflineMetric):
    """Compute Matthews' correlation coefficient; 0 where all answers are the same."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"mcc": float(matthews_corrcoef(references, predictions))}


def score(logits: Tensor, labels: Tensor, *, with_mcc: bool = False) -> dict[str, float]:
    """Compute accuracy, F1 and mean cross-entropy of `logits` `[N, C]` against `labels` `[N]`.

    Returns:
        `accuracy`, `f1` (two classes only), `f1_macro`, `mcc` (where it is asked for) and `loss`.

    Raises:
        UserError: on labels below 0, which GLUE writes where labels are hidden, and on an empty split.
    """
    if len(labels) == 0:
        raise UserError("there is no row to score.")
    if int(labels.min()) < 0:
        raise UserError(
            "the labels of this split are hidden (-1), so nothing can be scored. Use --split validation."
        )
    logits, labels = logits.cpu().float(), labels.cpu()
    answers = {"predictions": logits.argmax(dim=1).numpy(), "references": labels.numpy().astype(np.int64)}
    scores: dict[str, float] = {}
    scores |= Accuracy().compute(**answers)
    scores |= F1().compute(**answers, num_labels=logits.shape[1])
    if with_mcc:
        scores |= Mcc().compute(**answers)
    order = ("accuracy", "f1", "f1_macro", "mcc")
    loss = float(F.cross_entropy(logits, labels))
    return {name: scores[name] for name in order if name in scores} | {"loss": loss}


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = statistics.BINS) -> float:
    """Compute the calibration error of `statistics.expected_calibration_error` from logits.

    Args:
        logits: float `[N, C]`.
        labels: int64 `[N]`.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    confidence, answer = logits.double().softmax(dim=1).max(dim=1)
    right = (answer == labels).double()
    error = statistics.expected_calibration_error(confidence.cpu().numpy(), right.cpu().numpy(), bins=bins)
    return float(error[0])
