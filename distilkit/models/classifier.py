"""`Classifier`, the one type of teachers, students and loaded models."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from distilkit.data.encoding import Tokenizer, check_length, longest_input
from distilkit.errors import list_names
from distilkit.models.checkpoints import LoadedModel
from distilkit.models.heads import model_names
from distilkit.models.loading import (
    count_parameters,
    embedding_table,
    fingerprint,
    load_fine_tuned,
    load_tokenizer,
    match_tokenizer,
)
from distilkit.runs.exports import read_max_length
from distilkit.runs.locating import Source, weight_bytes
from distilkit.runs.run import Run


class Components(NamedTuple):
    """Directions in which the rows of a table vary, from the most to the least.

    Attributes:
        mean: the mean row, `[width]`.
        directions: orthonormal, one a column, `[width, components]`, as many as rows and width allow.
        shares: of the rows' variance along each direction, `[components]`.
    """

    mean: Tensor
    directions: Tensor
    shares: Tensor

    def coordinates(self, table: Tensor, size: int) -> Tensor:
        """Return the rows of `table`, `[rows, width]`, along the first `size` directions, `[rows, size]`.

        Zeros follow where there are fewer directions.
        """
        coordinates = (table - self.mean) @ self.directions[:, :size]
        return functional.pad(coordinates, (0, size - coordinates.shape[1]))


def principal_components(table: Tensor) -> Components:
    """Return the principal components of a `table` `[rows, width]`, in its own format.

    Computed in float64, every row counted once: a word-piece vocabulary's special and unused rows are too
    few to turn the directions. An eigenvector's sign is arbitrary; here its largest entry is positive, so
    that equal tables give equal coordinates.
    """
    # The solver is named, as the automatic choice may fall on a randomised one.
    pca = PCA(svd_solver="covariance_eigh").fit(table.double().cpu().numpy())
    directions = torch.from_numpy(pca.components_).T
    largest = directions.abs().argmax(dim=0, keepdim=True)
    directions = directions * directions.gather(0, largest).sign()
    parts = (torch.from_numpy(pca.mean_), directions, torch.from_numpy(pca.explained_variance_ratio_))
    return Components(*(part.to(table) for part in parts))


@dataclass(frozen=True)
class NamedTokenizer:
    """A tokenizer and the name of the model it belongs to."""

    name: str
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Classifier(NamedTokenizer):
    """A text classifier with its tokenizer: a teacher, a student, or a model to evaluate.

    Attributes:
        folder: where its weights lie; `None` for a model that was made in memory.
        run: the run that trained it, if distilkit did.
        max_length: how many tokens of a text it reads; `None` where a training's config decides.
        notes: what a user should know of its checkpoint.
    """

    model: PreTrainedModel
    folder: Path | None = None
    run: Run | None = None
    max_length: int | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Return the class names by id."""
        return model_names(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights, as they are when it is first asked for."""
        return fingerprint(self.model)

    @property
    def bytes(self) -> int:
        """Return the size of its weight files; 0 for a model that was made in memory."""
        return weight_bytes(self.folder) if self.folder else 0

    @property
    def parameters(self) -> tuple[int, int]:
        """Return the number of its parameters, with and without its embedding table."""
        return count_parameters(self.model)

    @property
    def is_exported(self) -> bool:
        """Return whether it is an ONNX graph, which computes in the format that it was exported in."""
        return False

    @cached_property
    def components(self) -> Components:
        """Return the principal components of its embedding table; students made together share them."""
        return principal_components(embedding_table(self.model).detach())

    @property
    def temperature(self) -> float | None:
        """Return the temperature that its run divided the logits by; `None` without one."""
        calibration = self.run.metrics.get("calibration") if self.run else None
        return calibration["temperature"] if calibration else None


@dataclass(frozen=True)
class Student(Classifier):
    """A classifier that is about to be trained.

    Attributes:
        origin: in words, where its weights come from.
        copied_layers: the teacher's layers, from 0, that its own are copies of.
    """

    origin: str = field(kw_only=True)
    copied_layers: tuple[int, ...] | None = None


def load_classifier(source: Source) -> Classifier:
    """Load a fine-tuned classifier.

    Raises:
        UserError: when the folder cannot be loaded or its classification head was never trained.
    """
    loaded, tokenizer = load_fine_tuned(source), load_tokenizer(source)
    match_tokenizer(loaded.model, tokenizer, source.name)
    return Classifier(
        source.name,
        tokenizer,
        loaded.model,
        source.folder,
        source.run,
        max_length=read_max_length(source.folder),
        notes=tuple(_describe_oddities(source.name, loaded)),
    )


def with_max_length(classifier: Classifier, max_length: int | None, default: int = 128) -> Classifier:
    """Decide how many tokens of a text a loaded classifier reads.

    Args:
        max_length: what the user asks for; `None` for what its run was trained with, else `default`, or less
            where the model reads less.

    Raises:
        UserError: when `max_length` is more than the model reads.
    """
    if max_length:
        check_length(max_length, classifier.tokenizer, classifier.model)
        return replace(classifier, max_length=max_length)
    if classifier.max_length:
        return classifier
    if classifier.run and classifier.run.config.max_length:
        return replace(classifier, max_length=classifier.run.config.max_length)
    limit = longest_input(classifier.tokenizer, classifier.model)
    return replace(classifier, max_length=min(default, limit) if limit else default)


def _describe_oddities(name: str, loaded: LoadedModel) -> Iterator[str]:
    if loaded.unused:
        yield (
            f"{name}: its checkpoint holds weights that the model does not use, as if it were of a larger "
            f"one: {list_names(loaded.unused)}"
        )
    if loaded.model.config.problem_type == "multi_label_classification":
        yield (
            f"{name}: it was trained to give a text several labels at once (multi_label_classification); "
            "here a text has one, and its scores are compared by softmax"
        )


def load_named_tokenizer(source: Source) -> NamedTokenizer:
    """Load the tokenizer of a model and none of its weights. Raises `UserError` as `load_tokenizer`."""
    return NamedTokenizer(source.name, load_tokenizer(source))
