"""`TextData`: the splits of a dataset, their labels and class names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilkit.data.texts import Texts


@dataclass(frozen=True)
class TextData:
    """Checked splits with raw columns as their source names them, and what the columns mean."""

    name: str
    splits: datasets.DatasetDict
    text_column: str
    pair_column: str | None
    label_column: str
    names: tuple[str, ...]
    metric: str
    labels_of: dict[str, NDArray[np.int64]]
    notes: tuple[str, ...] = ()
    whole: Mapping[str, int] = field(default_factory=dict)  # rows of a split before a sample was taken
    # By split, where its rows were read, and their numbers there, int64 `[N]`, from 1 as in messages.
    source_of: Mapping[str, str] = field(default_factory=dict)
    source_rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    labelled_by_teacher: bool = False  # its predictions on held-out rows stand for labels
    is_held_out: bool = False  # whether the validation split was cut from the training file

    def texts(self, split: str) -> Texts:
        """Return the rows of a split, in order; they stay on disk until they are read."""
        return Texts.from_dataset(self.splits[split], self.text_column, self.pair_column)

    def labels(self, split: str) -> Tensor:
        """Class ids of a split, int64 `[N]`."""
        return torch.from_numpy(self.labels_of[split])

    def labelled(self, split: str, labels: Tensor) -> "TextData":
        """Return the same data with `labels`, int64 `[N]`, for a split that has none."""
        return replace(self, labels_of=self.labels_of | {split: labels.numpy()})

    def keep_rows(self, split: str, rows: NDArray[np.int64]) -> "TextData":
        """Return the same data with only these rows of a split, by position."""

        def keep(arrays: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
            return {name: array[rows] if name == split else array for name, array in arrays.items()}

        return replace(
            self,
            splits=datasets.DatasetDict(self.splits | {split: self.splits[split].select(rows)}),
            labels_of=keep(self.labels_of),
            source_rows=keep(self.source_rows),
            whole={split: len(self.splits[split])} | dict(self.whole),
        )

    def fingerprint(self, split: str, labels: bool = True) -> str:
        """Return the SHA-256 of a split's texts, in order, and of its labels where they are used."""
        digest = sha256()
        for text in self.texts(split).strings():
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        if labels:
            digest.update(self.labels_of[split].tobytes())
        return digest.hexdigest()
