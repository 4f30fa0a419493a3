"""`TeacherFile`: a teacher that is a file of answers, joined to rows by content, never by position."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray

from distilkit.config import DistillConfig, EvaluateConfig
from distilkit.config.teacher_files import Missing, TargetKind
from distilkit.data.files import check_texts, read_file
from distilkit.data.formats import READABLE, is_readable, quote_names, shorten
from distilkit.data.labels import NO_CLASS, list_classes, show_name
from distilkit.data.large import ArrayWriter
from distilkit.data.shards import fingerprint_files, is_sharded, list_shards
from distilkit.data.sources import text_columns
from distilkit.data.target_columns import LABEL_KINDS, FileTargets, merge_names, read_targets
from distilkit.data.targets import SoftTargets, softmax, to_logits
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.errors import UserError, pluralize

# Where the file does not call its columns of texts as the data do.
USUAL_TEXTS = ("text", "text_pair")
DIFFERENT = 1e-4  # between two targets of one text, in probability or in logits
SURE = 0.9  # a probability from which on a label that differs is worth a look
SHOWN_ROWS = 3
SHOWN_LETTERS = 60
# The column of transfer text that is read from the shards of a teacher's file: where a row's targets are.
SHARD_ROW = "__shard_row__"
LOOKED_UP_ROWS = 1 << 16  # at a time
COMPARED_ROWS = 1000

FLAG = "--teacher-file"

Keys = NDArray[np.bytes_]


class TargetsOfTexts(NamedTuple):
    """What a file says of N rows.

    Attributes:
        logits: float32 `[N, C]`; NaN where it says nothing.
        is_covered: bool `[N]`.
        loose: rows that were joined without regard to case and white space.
    """

    logits: NDArray[np.float32]
    is_covered: NDArray[np.bool_]
    loose: int


@dataclass(frozen=True)
class TeacherFile:
    """A teacher that is a file.

    Attributes:
        name: the file, as it was named.
        kind: what its targets are.
        class_names: the classes of its targets, in their order.
        fingerprint: SHA-256 of its bytes.
        target_columns: the columns that hold its targets.
        read_texts: returns the texts of its M rows that have a target.
        logits: float32 `[M, C]`; those of any kind but logits are logarithms of probabilities.
        notes: what a user should know of it.
        shard_logits: where its shards are the transfer text too, the logits of all their rows, by
            `SHARD_ROW`; NaN in rows that have no target.
        read_shard_texts: returns the texts of these rows at positions, ascending.
    """

    name: str
    kind: TargetKind
    class_names: tuple[str, ...]
    fingerprint: str
    target_columns: tuple[str, ...]
    read_texts: Callable[[], Texts]
    logits: NDArray[np.float32]
    notes: tuple[str, ...] = ()
    shard_logits: NDArray[np.float32] | None = None
    read_shard_texts: Callable[[NDArray[np.int64]], Texts] | None = None

    @property
    def texts(self) -> Texts:
        """Return the texts of its M rows that have a target; of shards they are read again."""
        return self.read_texts()

    @property
    def has_logits(self) -> bool:
        """Return whether its targets are logits, which the MSE compares, and not probabilities."""
        return self.kind == "logits"

    def find(self, texts: Texts) -> TargetsOfTexts:
        """Look up rows by their texts; where one is missing, without regard to case and white space."""
        logits = np.full((len(texts), self.logits.shape[1]), np.nan, np.float32)
        positions = self._exact.find(texts.key_array())
        is_covered = positions >= 0
        logits[is_covered] = self._exact.logits[positions[is_covered]]
        missing = np.flatnonzero(~is_covered)
        if not len(missing):
            return TargetsOfTexts(logits, is_covered, 0)
        loose = self._loose.find(texts.take(missing).key_array(normalised=True))
        joined = missing[loose >= 0]
        logits[joined], is_covered[joined] = self._loose.logits[loose[loose >= 0]], True
        return TargetsOfTexts(logits, is_covered, len(joined))

    def is_beside(self, rows: datasets.Dataset) -> bool:
        """Return whether its targets stand beside these rows, which need not be looked up."""
        return self.shard_logits is not None and SHARD_ROW in rows.column_names

    def read_beside(self, rows: datasets.Dataset) -> Iterator[NDArray[np.float32]]:
        """Yield the logits that stand beside rows, float32 `[n, C]`, a piece at a time; NaN where none do."""
        assert self.shard_logits is not None
        for start in range(0, len(rows), LOOKED_UP_ROWS):
            positions = np.asarray(rows[start : start + LOOKED_UP_ROWS][SHARD_ROW])
            yield self.shard_logits[positions]

    def check_beside(self, rows: datasets.Dataset, texts: Texts) -> None:
        """Raise `UserError` where shards have changed since the texts of `rows` were read; compare some."""
        assert self.read_shard_texts is not None
        looked_at = np.linspace(0, len(rows) - 1, min(len(rows), COMPARED_ROWS)).astype(np.int64)
        positions = np.asarray(rows[looked_at][SHARD_ROW])
        order = np.argsort(positions, kind="stable")
        expected = self.read_shard_texts(positions[order])
        if not np.array_equal(texts.take(looked_at[order]).key_array(), expected.key_array()):
            raise UserError(
                f"{FLAG} {self.name}: its files have changed since the texts were read. Start again."
            )

    @cached_property
    def _exact(self) -> "_Index":
        return _Index.of(self.texts.key_array(), self.logits, has_logits=self.has_logits)

    @cached_property
    def _loose(self) -> "_Index":
        return _Index.of(self.texts.key_array(normalised=True), self.logits, has_logits=self.has_logits)


@dataclass(frozen=True)
class _Index:
    """Distinct keys, ascending, their logits, and rows (from 0) of which another has a different target."""

    keys: Keys
    logits: NDArray[np.float32]
    disputed: NDArray[np.int64]
    disputed_texts: int

    @classmethod
    def of(cls, keys: Keys, logits: NDArray[np.float32], *, has_logits: bool) -> "_Index":
        """Average the targets of rows that have the same key: logits, or else probabilities."""
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        counts = np.bincount(inverse)
        means = logits[first]
        if counts.max(initial=0) < 2:
            return cls(distinct, means, np.empty(0, np.int64), 0)
        values = logits.astype(np.float64) if has_logits else softmax(logits)
        is_different = np.abs(values - values[first][inverse]).max(axis=1) > DIFFERENT
        disputed = np.unique(inverse[is_different])
        sums = np.zeros((len(distinct), logits.shape[1]))
        np.add.at(sums, inverse, values)
        averages = sums[disputed] / counts[disputed][:, None]
        means[disputed] = averages if has_logits else to_logits(averages, np.ones(len(disputed), bool))
        return cls(distinct, means, np.flatnonzero(np.isin(inverse, disputed)), len(disputed))

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """Return the position of each key, -1 where there is none, int64 `[N]`."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[positions] == keys, positions, -1)


def read_teacher_file(
    name: str,
    text_columns: tuple[str, str | None],
    class_names: Sequence[str] | None,
    *,
    label_column: str | None = None,
    targets: TargetKind | None = None,
    is_transfer: bool = False,
) -> TeacherFile:
    """Read a file of a teacher's answers, or its shards, with its targets in the order of `class_names`.

    Args:
        name: a file, a folder of shards, or a pattern.
        text_columns: the data's column of texts, and that of second texts where rows are pairs; `text` and
            `text_pair` where the file has no column of that name.
        class_names: the classes of the data; `None` where only the file knows them.
        label_column: the data's, which the file may have too.
        targets: what it holds; `None` to detect it.
        is_transfer: whether its shards are the transfer text too, which has `SHARD_ROW` then.

    Raises:
        UserError: naming the file and the row and value, or the class, that cannot be.
    """
    if class_names is None and is_sharded(name):
        class_names = read_class_names(name, text_columns, label_column=label_column, targets=targets)
    rows: list[datasets.Dataset] = []
    parts: list[FileTargets] = []
    files = list_shards(name, FLAG)
    for file in files:
        texts, rest = _read_texts(file, text_columns, checks=not is_transfer)
        kind = parts[0].kind if parts else targets
        if not is_transfer:  # its texts are those of the transfer, and would be in memory twice
            rows.append(texts)
        parts.append(_read_shard_targets(file, rest, class_names, label_column, kind))
    read = parts[0] if not is_sharded(name) else _join_shards(parts)
    labelled = np.flatnonzero(read.has_target)
    is_whole = len(labelled) == len(read.has_target)

    def read_labelled_texts() -> Texts:
        shards = rows or [_read_texts(file, text_columns, checks=False)[0] for file in files]
        texts = shards[0] if len(shards) == 1 else datasets.concatenate_datasets(shards)
        return _refer_to(texts if is_whole else texts.select(labelled))

    teacher = TeacherFile(
        name,
        read.kind,
        read.class_names,
        fingerprint_files(name, FLAG),
        read.columns,
        read_labelled_texts,
        read.soft.logits if is_whole else read.soft.logits[labelled],
        (_describe(name, read, len(parts)), *read.notes),
    )
    if not is_transfer:
        return replace(teacher, notes=(*teacher.notes, *_describe_repeats(teacher, labelled)))
    if not is_whole:
        read.soft.logits[~read.has_target] = np.nan
    starts = np.cumsum([0, *(len(part.has_target) for part in parts)])
    return replace(
        teacher,
        shard_logits=read.soft.logits,
        read_shard_texts=partial(_read_texts_at, files, starts, text_columns),
    )


def open_teacher_files(
    config: DistillConfig | EvaluateConfig,
    class_names: Sequence[str] | None,
    *,
    transfer_shards: str | None = None,
) -> list[TeacherFile]:
    """Read every `--teacher-file` of `config`, for the columns of its data.

    Args:
        class_names: the classes of the data; `None` where only the files know them.
        transfer_shards: the file whose shards are the transfer text too (`find_teacher_shards`), where that
            text is among the rows that will be looked up.

    Raises:
        UserError: as `read_teacher_file`.
    """
    columns = text_columns(config)
    return [
        read_teacher_file(
            name,
            columns,
            class_names,
            label_column=config.label_column,
            targets=config.targets,
            is_transfer=name == transfer_shards,
        )
        for name in config.teacher_file
    ]


def _read_texts_at(
    files: Sequence[Path],
    starts: NDArray[np.int64],
    text_columns: tuple[str, str | None],
    positions: NDArray[np.int64],
) -> Texts:
    """Return the texts of shards at positions among the rows of all, ascending; a shard is read at a time.

    Args:
        starts: the position of the first row of each shard, and the number of all rows.
    """
    columns: list[list[str]] = []
    for file, start, stop in zip(files, starts[:-1], starts[1:], strict=True):
        inside = positions[(positions >= start) & (positions < stop)] - start
        if len(inside):
            rows = _read_texts(file, text_columns, checks=False)[0]
            if inside[-1] >= len(rows):
                return Texts([])
            taken = _refer_to(rows).take(inside)
            columns = columns or [[] for _ in taken.columns]
            for column, values in zip(columns, taken.columns, strict=True):
                column += values
    return Texts(*(columns or [[]]))


def _refer_to(rows: datasets.Dataset) -> Texts:
    """Return the texts of rows that have no other columns."""
    first, *second = rows.column_names
    return Texts.from_dataset(rows, first, second[0] if second else None)


def read_class_names(
    name: str,
    text_columns: tuple[str, str | None],
    *,
    label_column: str | None = None,
    targets: TargetKind | None = None,
) -> tuple[str, ...]:
    """Return the classes that a file of answers names, or all its shards together.

    Raises:
        UserError: as `read_teacher_file`.
    """
    names: dict[tuple[str, ...], None] = {}
    for file in list_shards(name, FLAG):
        rest = _open(file, text_columns)[2]
        read = _read_shard_targets(file, rest, None, label_column, targets)
        names[read.class_names] = None
        if read.kind not in LABEL_KINDS:  # a label that is rare may stand in no row of a shard
            break
    return next(iter(names)) if len(names) == 1 else merge_names(names, f"{FLAG} {name}")


def _open(
    file: Path, text_columns: tuple[str, str | None]
) -> tuple[datasets.Dataset, tuple[str, ...], tuple[str, ...]]:
    """Return rows, the columns of their texts, and the names of all other columns."""
    where = f"{FLAG} {file}"
    if not is_readable(file):
        raise UserError(f"{where}: the ending must be one of {READABLE}.")
    if not file.is_file():
        raise UserError(f"{where}: there is no such file.")
    columns = [column for column in text_columns if column]
    usual = list(USUAL_TEXTS[: len(columns)])
    rows, column_names = read_file(file, [*columns, *usual])
    has_usual = not {*columns} <= {*column_names.names} and {*usual} <= {*column_names.names}
    used = usual if has_usual else columns
    for column in used:
        column_names.require(column, where, f"It needs the data's columns of texts, or {quote_names(usual)}.")
    return rows, tuple(used), tuple(column for column in column_names.names if column not in used)


def _read_texts(
    file: Path, text_columns: tuple[str, str | None], *, checks: bool
) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """Return the texts of a file, and the names of all other columns."""
    rows, used, rest = _open(file, text_columns)
    where = f"{FLAG} {file}"
    for column in used if checks else ():
        check_texts(rows.data.column(column), f"{where}, column {column}")
    if not len(rows):
        raise UserError(f"{where}: there is no row in it.")
    return rows.select_columns(list(used)), rest


def _read_shard_targets(
    file: Path,
    column_names: Sequence[str],
    class_names: Sequence[str] | None,
    label_column: str | None,
    targets: TargetKind | None,
) -> FileTargets:
    return read_targets(
        file,
        column_names,
        class_names,
        label_column=label_column,
        targets=targets,
        where=f"{FLAG} {file}",
    )


def _join_shards(parts: Sequence[FileTargets]) -> FileTargets:
    """Return the targets of all shards, as those of one file; the notes are those of the first."""
    writer = ArrayWriter(np.float32, parts[0].soft.logits.shape[1:])
    for part in parts:
        writer.append(part.soft.logits)
    truncated = sum(part.soft.truncated for part in parts)
    spread = sum(part.soft.truncated * part.soft.spread for part in parts) / max(1, truncated)
    logits: NDArray[np.float32] = writer.finish().values  # type: ignore[assignment]
    return replace(
        parts[0],
        soft=SoftTargets(logits, truncated, spread),
        has_target=np.concatenate([part.has_target for part in parts]),
    )


def _describe(name: str, read: FileTargets, files: int = 1) -> str:
    """Return what the file was found to hold."""
    rows = len(read.has_target)
    unlabelled = rows - int(read.has_target.sum())
    left_out = f", {unlabelled:,} of them without a target" if unlabelled else ""
    return (
        f"teacher: {name} holds {read.kind} ({read.layout}) of {list_classes(read.class_names)}, "
        f"{pluralize(rows, 'row')}{f' in {files:,} files' if files > 1 else ''}{left_out}"
    )


def _describe_repeats(teacher: TeacherFile, source_rows: NDArray[np.int64]) -> Iterator[str]:
    """Return a note on texts that have several targets.

    Args:
        source_rows: the number of each row in the file, from 0.
    """
    index = teacher._exact  # noqa: SLF001  # of this module
    if index.disputed_texts:
        rows = ", ".join(str(source_rows[row] + 1) for row in index.disputed[:SHOWN_ROWS])
        text = shorten(teacher.texts.first[int(index.disputed[0])], SHOWN_LETTERS)
        yield (
            f"--teacher-file {teacher.name}: different targets for "
            f"{pluralize(index.disputed_texts, 'text')}, such as {text!r} (rows {rows}); their mean is used"
        )


# --- a split's rows -------------------------------------------------------------------------------------


def cover(
    data: TextData, split: str, files: Sequence[TeacherFile], missing: Missing
) -> tuple[TextData, tuple[str, ...]]:
    """Return the data with the rows of a split that every file has a target for, and notes.

    Raises:
        UserError: as `find_covered`.
    """
    notes: list[str] = []
    for file in files:
        if file.is_beside(data.splits[split]):
            file.check_beside(data.splits[split], data.texts(split))
            pieces = [~np.isnan(logits).any(axis=1) for logits in file.read_beside(data.splits[split])]
            is_covered, loose = np.concatenate(pieces), 0
        else:
            _, is_covered, loose = file.find(data.texts(split))
        rows, file_notes = _check_covered(
            file, data.texts(split), split, missing, is_covered, loose, data.source_rows.get(split)
        )
        notes += file_notes
        if len(rows) < len(data.splits[split]):
            data = data.keep_rows(split, rows)
    return data, tuple(notes)


def find_covered(
    file: TeacherFile, texts: Texts, split: str, missing: Missing
) -> tuple[NDArray[np.int64], list[str]]:
    """Return which of the rows a file has a target for, int64 `[n]`, and notes.

    Args:
        split: what to call the rows.

    Raises:
        UserError: where rows are missing that must not be, or all are.
    """
    _, is_covered, loose = file.find(texts)
    return _check_covered(file, texts, split, missing, is_covered, loose, None)


def _check_covered(
    file: TeacherFile,
    texts: Texts,
    split: str,
    missing: Missing,
    is_covered: NDArray[np.bool_],
    loose: int,
    source_rows: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], list[str]]:
    """Check which rows are covered, as `find_covered`; `source_rows` are their numbers in their source."""
    lacking = np.flatnonzero(~is_covered)
    notes = []
    if loose:
        notes.append(
            f"--teacher-file {file.name}: joined without regard to case and white space: "
            f"{pluralize(loose, f'{split} row')}"
        )
    if not len(lacking):
        return np.arange(len(texts)), notes
    what = f"{len(lacking):,} of {len(texts):,} {split} rows"
    row = int(lacking[0])
    source_row = row + 1 if source_rows is None else int(source_rows[row])
    example = f"row {source_row}, {shorten(texts.first[row], SHOWN_LETTERS)!r}"
    if len(lacking) == len(texts):
        raise UserError(
            f"--teacher-file {file.name} has a target for none of the {len(texts):,} {split} rows, such as "
            f"{example}. Is it of other texts?"
        )
    if missing == "error":
        raise UserError(
            f"--teacher-file {file.name} has no target for {what}, such as {example}. "
            "Add them to the file, or leave these rows out: --missing skip."
        )
    notes.append(f"--missing skip: left out {what}, for which {file.name} has no target ({example})")
    return np.flatnonzero(is_covered), notes


@dataclass(frozen=True)
class Disagreement:
    """How many labels of a split a file contradicts, how many surely, and in which rows most surely.

    These are often errors in the labels.
    """

    rows: int
    sure: int
    sentence: str


def find_disagreement(file: TeacherFile, data: TextData, split: str) -> Disagreement | None:
    """Compare what a file says with the labels of a split; `None` where it contradicts none."""
    labels, targets_of_rows = data.labels_of[split], file.find(data.texts(split))
    rows = np.flatnonzero(targets_of_rows.is_covered & (labels != NO_CLASS))
    probabilities = softmax(targets_of_rows.logits[rows])
    answers = probabilities.argmax(axis=1)
    different = np.flatnonzero(answers != labels[rows])
    if not len(different):
        return None
    confidence = probabilities[different, answers[different]]
    order = different[np.argsort(-confidence, kind="stable")]
    sure = int(np.count_nonzero(confidence >= SURE))
    texts, source_rows = data.texts(split).first, data.source_rows.get(split)
    shown = []
    for position in order[:SHOWN_ROWS]:
        row = int(rows[position])
        source_row = row + 1 if source_rows is None else int(source_rows[row])
        shown.append(
            f"row {source_row} {shorten(texts[row], SHOWN_LETTERS)!r} "
            f"({show_name(data.names[labels[row]])}; the file: {show_name(data.names[answers[position]])} "
            f"{probabilities[position, answers[position]]:.3f})"
        )
    is_label = file.kind == "label"
    surely = "such as" if is_label else f"{sure:,} of them with {SURE} or more; most surely"
    return Disagreement(
        len(different),
        0 if is_label else sure,
        f"{file.name} differs from the labels in {len(different):,} of {len(rows):,} {split} rows, "
        f"{surely} {', '.join(shown)}",
    )
