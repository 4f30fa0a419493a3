"""Answers and cost of a model in torch and of the graphs made from it, on the same rows."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilkit.data.texts import Texts
from distilkit.engine.inference.latency import Latency, measure_latency, watch
from distilkit.engine.inference.logits import answering, check_finite, predict_texts
from distilkit.models.classifier import Classifier

TORCH = "torch"
LARGEST_FP32_DIFFERENCE = 1e-4  # of logits; where they are larger than 1, a share of the largest
WARM_UP_ROWS = 64


@dataclass(frozen=True)
class Measurement:
    """Hold what a model or a graph answers to the checked rows, and what that costs.

    Attributes:
        name: the file, or `torch`.
        accuracy: share of right answers.
        agreement: share of answers that are those of torch.
        largest_difference: of any logit from that of torch; `mean_difference` is the mean of all.
        largest_logit: the largest of torch's, by size.
    """

    name: str
    bytes: int
    accuracy: float
    agreement: float
    largest_difference: float
    mean_difference: float
    largest_logit: float
    rows_per_second: float
    latency: Latency | None

    def document(self) -> dict[str, Any]:
        """Return the measurement as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """Hold the rows that everything is checked on, their labels, and the logits of torch.

    `class_order` is the model's output for each class of the data; `depends_on_padding` tells whether rows of
    different lengths must not share a batch.
    """

    texts: Texts
    labels: NDArray[np.int64]
    class_order: list[int]
    logits: torch.Tensor
    depends_on_padding: bool = False


def compute_logits(
    classifier: Classifier, texts: Texts, rows: int, advance: Callable[[int], None] = lambda done: None
) -> torch.Tensor:
    """Return the logits of the first `rows` texts, float32 `[rows, C]`, computed in fp32."""
    assert classifier.max_length
    batches = predict_texts(
        classifier.model,
        classifier.tokenizer,
        texts,
        range(rows),
        max_length=classifier.max_length,
        precision="fp32",
        advance=advance,
    )
    return torch.cat([logits for _, logits in batches])


def measure(
    name: str,
    classifier: Classifier,
    reference: Reference,
    *,
    latency: bool,
    advance: Callable[[int], None] = lambda done: None,
) -> Measurement:
    """Answer all rows of a reference, then some of them one at a time for the latency.

    Raises:
        UserError: when logits are not finite.
    """
    assert classifier.max_length
    texts = reference.texts
    compute_logits(classifier, texts, min(WARM_UP_ROWS, len(texts)))
    with watch() as seconds:
        logits = compute_logits(classifier, texts, len(texts), advance)
    check_finite(logits, name, "checked", "fp32")
    measured_latency = None
    if latency:
        with answering(
            classifier.model, classifier.tokenizer, max_length=classifier.max_length, precision="fp32"
        ) as answer_row:
            measured_latency = measure_latency(answer_row, texts)
    difference = (logits - reference.logits).abs()
    answers = logits[:, reference.class_order].argmax(dim=1).numpy()
    return Measurement(
        name=name,
        bytes=classifier.bytes,
        accuracy=float((answers == reference.labels).mean()),
        agreement=float((logits.argmax(dim=1) == reference.logits.argmax(dim=1)).double().mean()),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        largest_logit=float(reference.logits.abs().max()),
        rows_per_second=len(texts) / seconds(),
        latency=measured_latency,
    )


def list_faults(
    torch_model: Measurement, graphs: list[Measurement], max_drop: float, *, is_exact: bool
) -> list[str]:
    """Return why graphs must not be used: accuracy lost, or logits that are not those of torch.

    Args:
        max_drop: points of accuracy that may be lost.
        is_exact: whether the graphs compute in fp32 what torch does.
    """
    faults = []
    for graph in graphs:
        drop = 100 * (torch_model.accuracy - graph.accuracy)
        if drop > max_drop + 1e-9:
            faults.append(
                f"{graph.name}: accuracy {graph.accuracy:.4f} is {drop:.2f} points below torch's "
                f"{torch_model.accuracy:.4f}, and --max-drop is {max_drop:g}"
            )
        allowed = LARGEST_FP32_DIFFERENCE * max(1.0, graph.largest_logit)
        if is_exact and graph.largest_difference > allowed:
            faults.append(
                f"{graph.name}: a logit differs by {graph.largest_difference:.2g} from torch's, and at most "
                f"{allowed:.2g} is rounding"
            )
    return faults
