"""Text without labels to distill on: augmented, collected, or the dataset's own `unsupervised` split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np

from distilkit.config import DistillConfig
from distilkit.config.fields import replace_values
from distilkit.data.duplicates import find_shared
from distilkit.data.files import ColumnNames, check_texts, read_file, read_lines
from distilkit.data.formats import READABLE, is_readable, split_name
from distilkit.data.layouts import SPLITS
from distilkit.data.sampling import DATA_SEED, CorpusSize
from distilkit.data.shards import is_sharded, list_shards
from distilkit.data.sources import load_for_training, read_split, text_columns
from distilkit.data.teacher_files import SHARD_ROW
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.errors import UserError, pluralize

SPLIT = "transfer"
OTHER_TEXT = "text"  # the column to read where the dataset's is missing
HELD_OUT = 2000  # rows of unlabelled text to validate on, at most


def load(config: DistillConfig, *, labelled: bool, names: Sequence[str] | None) -> TextData:
    """Load what `distill` trains and validates on: labelled rows, unlabelled rows, or both.

    Text of `--transfer` becomes the split `transfer`, or `train` where the dataset has none or there is no
    dataset. Its labels, if it has any, are not read, and rows equal to a validation row are left out. Without
    a dataset some of the text is held out as `validation`, for the teacher to judge: it has no labels.

    Args:
        labelled: whether labels of training rows are read.
        names: as `load_for_training`.

    Raises:
        UserError: naming file, column and row of what is wrong.
    """
    if not config.transfer:
        return load_for_training(config, config.max_train_samples, train_labels=labelled, names=names)
    if not config.has_dataset:
        assert names is not None
        return _alone(config, tuple(names))
    data = load_for_training(
        config, config.max_train_samples, train_labels=labelled, names=names, needs_train=labelled
    )
    split = SPLIT if "train" in data.splits else "train"
    if split == "train" and config.transfer_ratio is not None:
        raise UserError(
            f"--transfer-ratio {config.transfer_ratio:g} is rows of --transfer per training row, and "
            f"{data.name} has no train split: leave it out."
        )
    unlabelled, notes = read_transfer(config, data.text_column, data.pair_column)
    validation = data.splits["validation"]
    if config.max_eval_samples is not None:  # the rows that are left out of the sample are for judging too
        everything = replace_values(config, max_eval_samples=None)
        whole = load_for_training(everything, None, train_labels=labelled, names=names, needs_train=labelled)
        validation = whole.splits["validation"]
    unlabelled, more = _without(unlabelled, validation, data)
    if split == "train":
        unlabelled, sampled = _sample(unlabelled, config.max_train_samples)
        more += sampled
    elif config.transfer_ratio is not None:  # in the order in which epochs come to it
        unlabelled = unlabelled.select(np.random.default_rng(DATA_SEED).permutation(len(unlabelled)))
    splits = datasets.DatasetDict(data.splits | {split: unlabelled})
    return replace(data, splits=splits, notes=(*data.notes, *notes, *more))


def _alone(config: DistillConfig, names: tuple[str, ...]) -> TextData:
    text, pair = config.text_column or "text", config.text_pair_column
    rows, notes = read_transfer(config, text, pair)
    if len(rows) < 2:
        raise UserError("--transfer: one row cannot be split into training and validation.")
    order = np.random.default_rng(DATA_SEED).permutation(len(rows))
    held_out = min(config.max_eval_samples or HELD_OUT, max(1, len(rows) // 10))
    train, validation = rows.select(np.sort(order[held_out:])), rows.select(np.sort(order[:held_out]))
    data = TextData(
        name=config.data_name,
        splits=datasets.DatasetDict(validation=validation),
        text_column=text,
        pair_column=pair,
        label_column=config.label_column or "label",
        names=names,
        metric="agreement",
        labels_of={},
        labelled_by_teacher=True,
        notes=(
            *notes,
            f"there are no labels: {held_out:,} of {len(rows):,} rows are held out (the same for every run), "
            "and the epoch is kept that agrees most with the teacher on them",
        ),
    )
    train, more = _without(train, validation, data)
    train, sampled = _sample(train, config.max_train_samples)
    splits = datasets.DatasetDict(train=train, validation=validation)
    return replace(data, splits=splits, notes=(*data.notes, *more, *sampled))


def find_teacher_shards(config: DistillConfig) -> str | None:
    """Return the `--teacher-file` whose shards are all the transfer text too; `None` where there is none."""
    name = config.transfer[0] if len(config.transfer) == 1 else ""
    return name if name in config.teacher_file and is_sharded(name) else None


def read_transfer(
    config: DistillConfig, text_column: str, pair_column: str | None
) -> tuple[datasets.Dataset, list[str]]:
    """Read the rows of every `--transfer`, in order, with these columns alone, and a note on each.

    Rows of shards that have the teacher's targets too say where these are, in the column `SHARD_ROW`.
    """
    columns = [column for column in (text_column, pair_column) if column]
    parts, notes = [], []
    for name in config.transfer:
        is_split = name in SPLITS and not Path(name).exists()
        files = [name] if is_split else list(map(str, list_shards(name, "--transfer")))
        read = [_read_texts(config, file, columns) for file in files]
        parts += read
        rows = pluralize(sum(map(len, read)), "row")
        where = f"{len(files):,} files of {name}" if is_sharded(name) else Path(name).name
        notes.append(f"transfer: {rows} of {where}, without labels")
    transfer = datasets.concatenate_datasets(parts)
    if find_teacher_shards(config):
        fingerprint = f"{transfer._fingerprint}-rows"  # noqa: SLF001
        transfer = transfer.add_column(SHARD_ROW, np.arange(len(transfer)), new_fingerprint=fingerprint)
    return transfer, notes


def _read_texts(config: DistillConfig, name: str, columns: list[str]) -> datasets.Dataset:
    """Read the texts of a split, or of a file."""
    features = datasets.Features({column: datasets.Value("string") for column in columns})
    rows, column_names, where = _read(config, name, [*columns, OTHER_TEXT], pairs=len(columns) > 1)
    if not column_names.names:
        raise UserError(f"--transfer {where}: there is no row in it.")
    if len(columns) == 1 and columns[0] not in rows.column_names and OTHER_TEXT in rows.column_names:
        rows = rows.rename_column(OTHER_TEXT, columns[0])
        column_names = ColumnNames((columns[0],))
    for column in columns:
        column_names.require(
            column,
            f"--transfer {where}",
            "It needs the column names of the dataset"
            + (f", or {OTHER_TEXT!r}." if len(columns) == 1 else "."),
        )
        check_texts(rows.data.column(column), f"--transfer {where}, column {column}")
    if not len(rows):
        raise UserError(f"--transfer {where}: there is no row in it.")
    rows = rows.select_columns(columns)
    if rows.features != features:
        # `rows.cast` would show a progress bar. Without a fingerprint, datasets would make one from the
        # date of the file of rows, which is removed already.
        fingerprint = f"{rows._fingerprint}-text"  # noqa: SLF001  # it has no public name
        rows = datasets.Dataset(rows.data.cast(features.arrow_schema), fingerprint=fingerprint)
    return rows


def measure(config: DistillConfig) -> CorpusSize:
    """Measure how much text `--transfer` holds."""
    text_column, pair_column = text_columns(config)
    rows, _ = read_transfer(config, text_column, pair_column)
    return CorpusSize.of(Texts.from_dataset(rows, text_column, pair_column))


def _read(
    config: DistillConfig, name: str, columns: list[str], *, pairs: bool
) -> tuple[datasets.Dataset, ColumnNames, str]:
    file = Path(name)
    if name in SPLITS and not file.exists():
        if name != "unsupervised":
            raise UserError(
                f"--transfer {name}: the only split to take text from is unsupervised. "
                "The training split is read anyway, and others are for evaluation."
            )
        if not config.has_dataset:
            raise UserError("--transfer unsupervised is a split of a dataset: give --dataset or --data-dir.")
        rows, where = read_split(config, name)
        return rows, ColumnNames(tuple(rows.column_names)), where
    if not file.is_file():
        raise UserError(
            f"--transfer {name}: there is no such file. Give a file (.txt, {READABLE}) or `unsupervised`."
        )
    if split_name(file)[1] == ".txt":
        if pairs:
            raise UserError(f"--transfer {name}: a line of text is no pair. Use {READABLE}.")
        return read_lines(file, columns[0]), ColumnNames((columns[0],)), name
    if not is_readable(file):
        raise UserError(f"--transfer {name}: the ending must be one of .txt, {READABLE}.")
    return *read_file(file, columns), name


def _without(
    rows: datasets.Dataset, validation: datasets.Dataset, data: TextData
) -> tuple[datasets.Dataset, list[str]]:
    """Drop the rows that are validation rows: a student must not be scored on what it has seen."""
    texts, held_out = (
        Texts.from_dataset(split, data.text_column, data.pair_column) for split in (rows, validation)
    )
    seen = find_shared(texts, held_out)
    if not seen.any():
        return rows, []
    if seen.all():
        raise UserError("--transfer: every row is a row of the validation split too. Give other text.")
    left = rows.select(np.flatnonzero(~seen))
    return left, [
        f"transfer: left out {pluralize(int(np.count_nonzero(seen)), 'row')} that validation has too"
    ]


def per_epoch(ratio: float, rows: int) -> int:
    """Return how many rows of transfer text an epoch reads."""
    return max(1, round(ratio * rows))


def enough(data: TextData, rows: int) -> TextData:
    """Return the data with no more transfer text than the `rows` that all epochs read."""
    text = data.splits[SPLIT]
    if rows >= len(text):
        return data
    splits = datasets.DatasetDict(data.splits | {SPLIT: text.select(range(rows))})
    note = f"transfer: using a random {rows:,} of {len(text):,} rows (all that the epochs read)"
    return replace(data, splits=splits, notes=(*data.notes, note))


def _sample(rows: datasets.Dataset, limit: int | None) -> tuple[datasets.Dataset, list[str]]:
    """At most `limit` rows, the same for every run, and what to say of it."""
    if limit is None or limit >= len(rows):
        return rows, []
    chosen = np.random.default_rng(DATA_SEED).permutation(len(rows))[:limit]
    return rows.select(np.sort(chosen)), [f"train: a random sample of {limit:,} of {len(rows):,} rows"]
