"""`Job`: a model, the loss it is trained by, and where its run goes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from transformers import PreTrainedModel

from distilkit.config import DistillConfig, FitConfig, TrainConfig
from distilkit.config.fields import replace_values
from distilkit.data.encoding import Encoded, Tokenizer, encode, longest_input
from distilkit.data.text_data import TextData
from distilkit.engine.training.layers import LayerPair
from distilkit.engine.training.learners import Loss
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved
from distilkit.progress import Reporter

AnyFit = TypeVar("AnyFit", bound=FitConfig)
Objective = Literal["logits", "layers"]
LAYER_LOSS = "layer_loss"  # the metric of a training that matches layers and nothing else


@dataclass(frozen=True)
class Job:
    """One training: everything is loaded, nothing is trained yet.

    Attributes:
        formula: the loss as the run prints and saves it; with a `first` stage that of both.
        facts: further entries of `environment.json`.
        mix: training rows and others in an epoch (`LengthBatchSampler`).
        pair: a teacher that runs along with the student, and whose layers the loss reads.
        objective: whether the model's logits or its layers are trained, and so what picks the best epoch.
        decays: as in `OptimizerSettings`.
        first: a stage that comes before, of the same model.
    """

    command: str
    config: TrainConfig | DistillConfig
    data: TextData
    model: PreTrainedModel
    tokenizer: Tokenizer
    loss: Loss
    formula: str
    precision: Resolved
    facts: Mapping[str, Any]
    mix: tuple[int, int] | None = None
    pair: LayerPair | None = None
    objective: Objective = "logits"
    decays: bool = True
    first: "Stage | None" = None

    @property
    def metric(self) -> str:
        """Return the metric that picks the best epoch."""
        if self.objective == "layers":
            return LAYER_LOSS
        return self.config.metric or self.data.metric

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher metric is better."""
        return self.metric not in (LAYER_LOSS, "loss")


@dataclass(frozen=True)
class Stage:
    """A training of the same model that comes before a job's and is recorded with it."""

    job: Job
    train_rows: Encoded
    validation_rows: Encoded


def check_metric(config: FitConfig, data: TextData) -> None:
    """Refuse, before any work, a `--metric` that these data do not have.

    Raises:
        UserError: when F1 of one class is asked of more than two, or anything where there are no labels.
    """
    if config.metric and data.labelled_by_teacher:
        raise UserError(
            f"--metric {config.metric} needs labels, and there are none: the epoch that agrees most with the "
            "teacher is kept. Leave it out."
        )
    if config.metric == "f1" and len(data.names) != 2:
        raise UserError(
            f"--metric f1 is that of one class of two, and {data.name} has {len(data.names)} classes. "
            "Use --metric f1_macro."
        )


def clamp_max_length(
    requested: AnyFit, resolved: AnyFit, readers: Iterable[tuple[Tokenizer, PreTrainedModel]]
) -> AnyFit:
    """Return `resolved` with a default `max_length` cut to what every reader can read.

    A length that was requested stands.
    """
    assert resolved.max_length
    limits = [limit for reader in readers if (limit := longest_input(*reader)) is not None]
    if requested.max_length is not None or min(limits, default=resolved.max_length) >= resolved.max_length:
        return resolved
    return replace_values(resolved, max_length=min(limits))


def encode_split(
    data: TextData,
    tokenizer: Tokenizer,
    model: PreTrainedModel,
    max_length: int | None,
    reporter: Reporter,
    split: str,
) -> Encoded:
    """Encode a split as this tokenizer and model read it."""
    texts = data.texts(split)
    assert max_length
    return encode(
        tokenizer,
        texts,
        max_length=max_length,
        model=model,
        advance=lambda done: reporter.advance(f"tokenize {split}", done, len(texts)),
    )
