"""`Job`: a model, what it is trained on, and how."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import PreTrainedModel

from distilkit.config import DistillConfig, FitConfig, TrainConfig
from distilkit.config.fields import changed
from distilkit.data.encoding import Encoded, Tokenizer, encode, longest_input
from distilkit.data.text_data import TextData
from distilkit.engine.training.layers import LayerPair
from distilkit.engine.training.loop import ChangingLoss, Loss
from distilkit.hardware.precision import Resolved
from distilkit.progress import Reporter

AnyFit = TypeVar("AnyFit", bound=FitConfig)


MATCHED = "layer_loss"  # the metric of a training that matches layers and nothing else


@dataclass(frozen=True)
class Job:
    """One training: everything loaded, nothing trained yet.

    `facts` go into `environment.json`. `labelled_share` is that of an epoch's rows; `mix` says how many of
    them are training rows and how many others (`LengthBatchSampler`). `beside` runs a teacher along with the
    student, whose layers the loss then reads; `decay` is as in `fit`.
    """

    command: str
    config: TrainConfig | DistillConfig
    data: TextData
    model: PreTrainedModel
    tokenizer: Tokenizer
    loss: Loss | ChangingLoss
    formula: str
    precision: Resolved
    facts: Mapping[str, Any]
    labelled_share: float = 1.0
    mix: tuple[int, int] | None = None
    beside: LayerPair | None = None
    decay: bool = True
    first: "Stage | None" = None


@dataclass(frozen=True)
class Stage:
    """A training of the same model that comes before a job's and is recorded with it."""

    job: Job
    train_rows: Encoded
    validation_rows: Encoded


def clamp_max_length(given: AnyFit, resolved: AnyFit, readers: Iterable[tuple[Tokenizer, Any]]) -> AnyFit:
    """`resolved` with a default `max_length` cut to what every reader can read; one that was given stands."""
    assert resolved.max_length
    limits = [limit for reader in readers if (limit := longest_input(*reader)) is not None]
    if given.max_length is not None or min(limits, default=resolved.max_length) >= resolved.max_length:
        return resolved
    return changed(resolved, max_length=min(limits))


def encode_split(
    data: TextData,
    tokenizer: Tokenizer,
    model: PreTrainedModel,
    max_length: int | None,
    reporter: Reporter,
    split: str,
) -> Encoded:
    """A split as the student's (or teacher's) own tokenizer and model read it."""
    texts = data.texts(split)
    assert max_length
    return encode(
        tokenizer,
        texts,
        data.pairs(split),
        max_length=max_length,
        model=model,
        advance=lambda done: reporter.advance(f"tokenize {split}", done, len(texts)),
    )


def _stage(job: Job) -> str:
    """What of the student is trained to be as it should."""
    return "layers" if job.data.metric == MATCHED else "logits"
