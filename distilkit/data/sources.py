"""Datasets, known ones and a person's own, from the Hub or from files, checked before use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilkit.config import DataConfig, TextsConfig
from distilkit.data.files import ColumnNames, check_is_text, check_texts, read_files
from distilkit.data.labels import (
    are_class_ids,
    are_ids,
    check_order,
    decode_class_ids,
    fit_teacher,
    knows,
    label_codes,
    label_ids,
    label_names,
    labelled_rows,
    note_ids,
    scored_names,
)
from distilkit.data.layouts import find_splits
from distilkit.data.presets import PRESETS, Preset
from distilkit.data.sampling import CorpusSize, stratified_order, value_codes
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.errors import UserError, pluralize


def load_for_training(
    config: DataConfig,
    max_train_samples: int | None,
    *,
    train_labels: bool = True,
    names: Sequence[str] | None = None,
    needs_train: bool = True,
) -> TextData:
    """Load the splits `train` and `validation`; never the test split.

    Where there is no validation split a tenth of train is held out: stratified, the same rows for every run.

    Args:
        train_labels: false where the loss reads no label: the training file then needs no label column,
            and its labels are not checked unless a validation split must be cut from them.
        names: the teacher's classes, for rows whose labels do not show them all, where the loss reads none.
        needs_train: false where `validation` alone is enough.

    Raises:
        UserError: naming file, column and row of what is wrong.
    """
    source = RawSource(config)
    splits = {}
    if needs_train or "train" in source.available() or "validation" not in source.available():
        splits["train"] = source.read("train")
    cut = "validation" not in source.available()
    if not cut:
        splits["validation"] = source.read("validation")
    # Names and labels are read, and their rows counted, before anything is cut or sampled.
    labelled = splits if train_labels or cut or names else {"validation": splits["validation"]}
    class_names = source.class_names(labelled, () if train_labels else names or ())
    notes: tuple[str, ...] = ()
    labels_of = {}
    for split, rows in splits.items():
        if split == "validation" or train_labels or cut:
            raw, where = source.raw_labels(split, rows), source.where(split)
            if source.names is None:
                has_order = source.has_order(class_names, splits, names or ())
                notes += note_ids(raw, class_names, where, has_order=has_order)
            labels_of[split] = label_ids(raw, class_names, where)
    limits = {"train": max_train_samples, "validation": config.max_eval_samples}
    data = source.divided(splits, class_names, labels_of, limits)
    return replace(data, notes=notes + data.notes)


def load_for_evaluation(config: DataConfig, split: str, models: Sequence[Sequence[str]]) -> TextData:
    """Load one split with labels; without a known dataset, `scored_names` decides the classes.

    Args:
        models: the classes of each model that is scored.

    Raises:
        UserError: naming file, column and row of what is wrong.
    """
    source = RawSource(config)
    if split == "validation" and "validation" not in source.available():
        if (folder := config.data_dir) and source.available() == ["test"]:
            raise UserError(f"{folder} has no validation split, only test. To score that, add --split test.")
        held_out = load_for_training(config, None)
        if source.names is None and are_ids(held_out.names):
            check_order(models, source.where("train"))
        return held_out
    rows = source.read(split)
    raw = source.raw_labels(split, rows)
    names, where = source.names, source.where(split)
    id_notes: tuple[str, ...] = ()
    if names is None:
        train = rows if split == "train" else source.training_rows()
        declared = source.declared_names(rows) or (source.declared_names(train) if train else ())
        trained = source.trained_names(train)
        if declared and not knows(trained, declared):
            trained = declared
        names = declared if are_class_ids(raw, declared) else scored_names(raw, trained, models, where)
        has_order = names in (declared, *map(tuple, models))
        id_notes = note_ids(raw, names, where, has_order=has_order)
    labels_of = {split: label_ids(raw, names, where)}
    whole, source_rows = {split: len(rows)}, count_rows({split: rows})
    rows, notes = source.sample(rows, split, (labels_of, source_rows), config.max_eval_samples)
    data = source.data({split: rows}, names, labels_of, [*id_notes, *notes], whole)
    return replace(data, source_rows=source_rows)


def read_texts(config: DataConfig, split: str) -> Texts:
    """Read the checked texts of a split; its labels are not looked at. Raises `UserError` as `read_split`."""
    source = RawSource(config)
    return Texts.from_dataset(source.read(split), source.text, source.pair)


def read_split(config: DataConfig, split: str) -> tuple[datasets.Dataset, str]:
    """Read a split with checked texts, and its name for messages; its labels are not read."""
    source = RawSource(config)
    return source.read(split), source.where(split)


def count_rows(splits: Mapping[str, datasets.Dataset]) -> dict[str, NDArray[np.int64]]:
    """Return the number of each row by split, int64 `[N]`, from 1."""
    return {split: np.arange(1, len(rows) + 1) for split, rows in splits.items()}


def text_columns(config: TextsConfig) -> tuple[str, str | None]:
    """Return the column of the texts, and that of the second texts of pairs."""
    source = RawSource(config)
    return source.text, source.pair


@dataclass(frozen=True)
class AugmentationData:
    """`data` holds every split but `unsupervised`, whole; `rows` are numbers of the training rows to augment.

    Where there is no validation split, the rows that every run holds out for it are not among them.
    """

    data: TextData
    rows: NDArray[np.int64]


def measure(config: TextsConfig) -> dict[str, CorpusSize]:
    """Measure the splits that can be trained on, labelled or not."""
    source = RawSource(config)
    splits = [split for split in ("train", "unsupervised") if split in source.available()]
    return {
        split: CorpusSize.of(Texts.from_dataset(source.read(split), source.text, source.pair))
        for split in splits
    }


def load_for_augmentation(config: TextsConfig, max_train_samples: int | None) -> AugmentationData:
    """Load the rows that training reads, and all texts that must not come up again.

    No label is read but the training split's: to sample by, and to hold rows out by where there is no
    validation split and a label column to train on.

    Raises:
        UserError: naming file, column and row of what is wrong.
    """
    source = RawSource(config)
    splits = {split: source.read(split) for split in source.available() if split in ("validation", "test")}
    train = source.read("train")
    notes = []
    rows = np.arange(len(train))
    if "validation" not in splits and source.label in train.column_names:
        parts, note = source.hold_out(train)
        rows = parts["train"]
        notes.append(note)
    chosen, sampled = source.chosen(train.select(rows), "train", max_train_samples)
    data = source.data({"train": train, **splits}, source.names or (), {}, notes + sampled)
    return AugmentationData(data, rows[chosen])


class RawSource:
    """The splits of one dataset as they are stored, with the columns that the config or the preset names."""

    def __init__(self, config: TextsConfig) -> None:
        preset = PRESETS.get(config.dataset) if config.dataset else None
        self.config, self.preset = config, preset
        self.text = config.text_column or (preset.text if preset else "text")
        self.pair = config.text_pair_column or (preset.pair if preset else None)
        self.label = config.label_column or "label"
        self.names = preset.names if preset else None
        self._check_columns()
        self._files = find_splits(config.data_dir) if config.data_dir else {}
        self._column_names: dict[str, ColumnNames] = {}
        self._hub: datasets.DatasetDict | None = None

    def _check_columns(self) -> None:
        """Raise `UserError` where two options name one column: its own text would be the answer."""
        columns = {"--text-column": self.text, "--text-pair-column": self.pair, "--label-column": self.label}
        for first, second in combinations((option for option in columns if columns[option]), 2):
            if columns[first] == columns[second]:
                raise UserError(
                    f"{first} and {second} are the same column, {columns[first]!r}. Give each its own."
                )

    def available(self) -> list[str]:
        """Return the splits that there are."""
        if self.config.data_dir:
            return list(self._files)
        return list(self.hub())

    def hub(self) -> datasets.DatasetDict:
        """Return the preset's dataset, loaded from the Hub on the first call."""
        if self._hub is None:
            assert self.preset is not None
            self._hub = _from_hub(self.preset)
        return self._hub

    def where(self, split: str) -> str:
        """Return what an error calls a split: its file, or its place on the Hub."""
        if self.config.data_dir:
            return self._files[split].title
        assert self.preset is not None
        return f"{self.preset.hub} ({self.preset.hub_name or 'default'}), split {split}"

    def _source_of(self, split: str) -> str:
        """Return where the rows of a split were read: those that are held out, from the training split."""
        return self.where(split if split in self.available() else "train")

    def missing_split(self, split: str) -> UserError:
        """Return the error that names a split that is not there, and what adds it."""
        home = self.config.data_dir or (self.preset.hub if self.preset else "")
        problem = f"{home} has no {split} split, only {', '.join(sorted(self.available()))}."
        if not self.config.data_dir:
            return UserError(problem)
        endings = f"{split}.parquet, .csv, .tsv or .jsonl"
        if not self.config.data_dir.is_file():
            return UserError(f"{problem} Add {endings} there.")
        return UserError(
            f"{problem} A single file is one split: the one that its name says, otherwise train. "
            f"Give --data-dir a file or folder with {endings}."
        )

    def read(self, split: str, checked: bool = True, *, with_texts: bool = False) -> datasets.Dataset:
        """Read the columns of this source, and with `with_texts` all other columns of texts too."""
        if split not in self.available():
            raise self.missing_split(split)
        columns = [column for column in (self.text, self.pair) if column]
        if self.config.data_dir:
            rows, self._column_names[split] = read_files(
                self._files[split].files, [*columns, self.label], with_texts=with_texts
            )
        else:
            rows = self.hub()[split]
            self._column_names[split] = ColumnNames(tuple(rows.column_names))
        is_empty = not self._column_names[split].names
        for option, column in (("--text-column", self.text), ("--text-pair-column", self.pair)):
            if column and not is_empty:
                self._require(rows, column, option, split)
        if is_empty or len(rows) == 0:
            raise UserError(f"{self.where(split)}: there is no row in it.")
        for column in (self.text, self.pair):
            if column:
                check = check_texts if checked else check_is_text
                check(rows.data.column(column), f"{self.where(split)}, column {column}")
        return rows

    def raw_labels(self, split: str, rows: datasets.Dataset) -> pa.ChunkedArray:
        """Return the label column of `rows`, ids of declared classes as their names."""
        column = self._stored_labels(split, rows)
        declared = self.declared_names(rows)
        return decode_class_ids(column, declared) if declared else column

    def _stored_labels(self, split: str, rows: datasets.Dataset) -> pa.ChunkedArray:
        self._require(rows, self.label, "--label-column", split)
        return rows.select_columns([self.label]).with_format("arrow")[:].column(self.label)

    def declared_names(self, rows: datasets.Dataset) -> tuple[str, ...]:
        """Return the classes that the file declares for its label column (`datasets.ClassLabel`), if any.

        Every split declares its own: the same id may be another class in another file.
        """
        feature = rows.features.get(self.label)
        is_stored_as_ids = self.label in rows.column_names and pa.types.is_integer(
            rows.data.schema.field(self.label).type
        )
        return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) and is_stored_as_ids else ()

    def class_names(
        self, splits: Mapping[str, datasets.Dataset], teacher_names: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the classes of the dataset: those that it is known for, or those of its training labels.

        Args:
            teacher_names: given where no training label is read. They are the classes where there are no
                labels, or where the labels are some of them.

        Raises:
            UserError: as `label_names`.
        """
        if self.names:
            return self.names
        for split in ("train", "validation") if teacher_names else ():
            if split in splits and self.label in splits[split].column_names:
                column = labelled_rows(self.raw_labels(split, splits[split]))
                try:
                    names = self.declared_names(splits[split]) or self._named(split, column)
                except UserError:  # nobody reads these labels
                    continue
                return fit_teacher(names, teacher_names)
        if teacher_names:
            return tuple(teacher_names)
        is_in_train = "train" in splits and self.label in splits["train"].column_names
        split = "validation" if "validation" in splits and not is_in_train else "train"
        column = self.raw_labels(split, splits[split])
        return self.declared_names(splits[split]) or self._named(split, column)

    def _named(self, split: str, column: pa.ChunkedArray) -> tuple[str, ...]:
        return label_names(column, self.where(split), self.label)

    def has_order(
        self, names: Sequence[str], splits: Mapping[str, datasets.Dataset], teacher_names: Sequence[str]
    ) -> bool:
        """Return whether the order of the classes means something, so that numbers may be their ids."""
        declared = [self.declared_names(rows) for rows in splits.values()]
        return tuple(names) in (*declared, tuple(teacher_names), ("false", "true"))

    def training_rows(self) -> datasets.Dataset | None:
        """Return the training split unchecked, or `None` where there is none that can be read."""
        if "train" not in self.available():
            return None
        try:
            return self.read("train", checked=False)
        except UserError:
            return None

    def trained_names(self, rows: datasets.Dataset | None) -> tuple[str, ...]:
        """Return the classes of the training rows; none where labels are missing, as alpha 0 allows."""
        if rows is None:
            return ()
        try:
            return self.declared_names(rows) or self._named("train", self.raw_labels("train", rows))
        except UserError:
            return ()

    def hold_out(self, rows: datasets.Dataset) -> tuple[dict[str, NDArray[np.int64]], str]:
        """Choose the training rows that replace a missing validation split, and a note on it.

        They do not depend on whose classes the ids are of: the teacher's may stand in another order.
        """
        order = stratified_order(label_codes(self._stored_labels("train", rows)))
        held_out = max(1, len(order) // 10)
        if len(order) < 2:
            raise UserError(f"{self.where('train')}: one row cannot be split into training and validation.")
        parts = {"validation": np.sort(order[:held_out]), "train": np.sort(order[held_out:])}
        return parts, (
            f"{self.config.data_name} has no validation split: {held_out:,} of its {len(order):,} training "
            "rows are held out (stratified, the same for every run)"
        )

    def divided(
        self,
        splits: dict[str, datasets.Dataset],
        names: tuple[str, ...],
        labels_of: dict[str, NDArray[np.int64]],
        limits: Mapping[str, int | None],
        source_rows: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> TextData:
        """Hold out a validation split where there is none, and cut each split to `limits` rows.

        Args:
            source_rows: the number of each row in its source, where `splits` do not hold all of its rows.
        """
        notes = []
        numbered = dict(source_rows or count_rows(splits))
        if "validation" not in self.available():
            parts, held_out_note = self.hold_out(splits["train"])
            labels_of = {split: labels_of["train"][rows] for split, rows in parts.items()}
            numbered = {split: numbered["train"][rows] for split, rows in parts.items()}
            splits = {split: splits["train"].select(rows) for split, rows in parts.items()}
            notes.append(held_out_note)
        whole = {split: len(rows) for split, rows in splits.items()}
        for split in ("train", "validation"):
            if split in splits:
                splits[split], sample_notes = self.sample(
                    splits[split], split, (labels_of, numbered), limits[split]
                )
                notes += sample_notes
        return replace(self.data(splits, names, labels_of, notes, whole), source_rows=numbered)

    def sample(
        self,
        rows: datasets.Dataset,
        split: str,
        arrays: Sequence[dict[str, NDArray[np.int64]]],
        limit: int | None,
    ) -> tuple[datasets.Dataset, list[str]]:
        """At most `limit` rows, the same for every alpha and seed, and what to say of it.

        Stratified by the label column where there is one, also when the loss will read no label: runs that
        differ in alpha alone must train on the same rows.

        Args:
            arrays: what is known of the rows by split, such as their labels; cut to the same rows in place.
        """
        chosen, notes = self.chosen(rows, split, limit)
        if not notes:
            return rows, []
        for array in arrays:
            if split in array:
                array[split] = array[split][chosen]
        return rows.select(chosen), notes

    def chosen(
        self, rows: datasets.Dataset, split: str, limit: int | None
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Return the positions of the chosen rows, in order; with no note where all are chosen."""
        if limit is None or limit >= len(rows):
            return np.arange(len(rows)), []
        stratified = self.label in rows.column_names
        labels = (
            value_codes(self._stored_labels(split, rows)) if stratified else np.zeros(len(rows), np.int64)
        )
        how = "stratified" if stratified else "random"
        note = f"{split}: a {how} sample of {limit:,} of {pluralize(len(rows), 'row')}"
        return np.sort(stratified_order(labels)[:limit]), [note]

    def _require(self, rows: datasets.Dataset, column: str, option: str, split: str) -> None:
        if column not in rows.column_names:
            advice = f"Name it with {option}."
            if option == "--text-column" and self.label not in self._column_names[split].names:
                advice = f"Name it with {option}, and the column of labels, if any, with --label-column."
            self._column_names[split].require(column, self.where(split), advice)

    def data(
        self,
        splits: dict[str, datasets.Dataset],
        names: tuple[str, ...],
        labels_of: dict[str, NDArray[np.int64]],
        notes: list[str],
        whole: Mapping[str, int] | None = None,
    ) -> TextData:
        """Return the splits with the columns of this source."""
        return TextData(
            name=self.config.data_name,
            splits=datasets.DatasetDict(splits),
            text_column=self.text,
            pair_column=self.pair,
            label_column=self.label,
            names=names,
            metric=self.preset.metric if self.preset else "accuracy",
            labels_of=labels_of,
            notes=tuple(notes),
            whole=whole or {},
            source_of={split: self._source_of(split) for split in splits},
            is_held_out="validation" in splits and "validation" not in self.available(),
        )


def _from_hub(preset: Preset) -> datasets.DatasetDict:
    try:
        loaded = datasets.load_dataset(preset.hub, preset.hub_name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{preset.hub} cannot be loaded from the Hub ({' '.join(str(error).split())[:200]}). "
            "Check the connection, or give the files with --data-dir DIR."
        ) from None
    return loaded
