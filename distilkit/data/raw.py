"""`RawData`: splits as they were read, before labels are matched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilkit.config import DataConfig
from distilkit.data.sources import RawSource
from distilkit.data.text_data import TextData


@dataclass(frozen=True)
class RawData:
    """The splits that `distill` reads, and `test`, as they are stored: texts and labels are not checked.

    `names` are the classes of a known dataset, `metric` its metric.
    """

    source: "RawSource"
    splits: dict[str, datasets.Dataset]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Return the classes, where the dataset is known."""
        return self.source.names

    @property
    def columns(self) -> list[str]:
        """Return the text columns: one, or two for pairs."""
        return [column for column in (self.source.text, self.source.pair) if column]

    def where(self, split: str) -> str:
        """Return the file of a split, or its place on the Hub."""
        return self.source.where(split)

    def texts(self, split: str, column: str) -> pa.ChunkedArray:
        """Return a column of texts; some may be missing or empty."""
        return self.splits[split].data.column(column)

    def has_labels(self, split: str) -> bool:
        """Return whether there is a column of labels."""
        return self.source.label in self.splits[split].column_names

    def labels(self, split: str) -> pa.ChunkedArray:
        """Return the labels as they stand.

        Raises:
            UserError: when there is no column of them.
        """
        return self.source.raw_labels(split, self.splits[split])

    def usable(
        self,
        config: DataConfig,
        max_train_samples: int | None,
        rows: Mapping[str, NDArray[np.int64]],
        names: Sequence[str],
        ids: Mapping[str, NDArray[np.int64]],
    ) -> TextData:
        """Return what `load_for_training` would return if a split had only these `rows`.

        Args:
            rows: row numbers by split; the test split is left out.
            ids: class ids of all rows of a split that has labels, int64 `[N]`; -1 is none.
        """
        split_names = [split for split in self.splits if split != "test"]
        splits = {split: self.splits[split].select(rows[split]) for split in split_names}
        labels_of = {split: ids[split][rows[split]] for split in splits if split in ids}
        limits = {"train": max_train_samples, "validation": config.max_eval_samples}
        source_rows = {split: rows[split] + 1 for split in splits}
        return self.source.divided(splits, tuple(names), labels_of, limits, source_rows)


def read_raw(config: DataConfig) -> RawData:
    """Read all that `distill` would read, and the test split, before anything is checked.

    Raises:
        UserError: when a file cannot be read, has no row, or lacks a column of texts.
    """
    source = RawSource(config)
    splits = {"train": source.read("train", checked=False, with_texts=True)}
    for split in ("validation", "test"):
        if split in source.available():
            splits[split] = source.read(split, checked=False)
    return RawData(source, splits)
