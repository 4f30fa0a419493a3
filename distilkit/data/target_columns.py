"""Columns of a teacher's file: which of them hold targets, and what their cells say of each class."""

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distilkit.config.teacher_files import TargetKind
from distilkit.data.files import read_file
from distilkit.data.formats import quote_names, shorten
from distilkit.data.labels import (
    NO_CLASS,
    DistinctLabels,
    are_ids,
    are_numbered,
    canonical,
    class_ids,
    decode_class_ids,
    knows,
    label_names,
    list_classes,
    show_name,
    sort_names,
)
from distilkit.data.predictions import LABEL, SCORE, note_low_scores, predicted, read_answers
from distilkit.data.targets import Flags, SoftTargets, TargetTable, detect_kind, soften, to_logits
from distilkit.errors import UserError, pluralize

# Columns whose cells hold all classes, and what their name says of the numbers.
CELL_COLUMNS: dict[str, TargetKind | None] = {
    "logits": "logits",
    "log_probabilities": "log-probabilities",
    "log_probs": "log-probabilities",
    "logprobs": "log-probabilities",
    "probabilities": "probabilities",
    "probs": "probabilities",
    "votes": "votes",
    **dict.fromkeys(("scores", "targets", "predictions", "prediction", "outputs", "output")),
    **dict.fromkeys(("answers", "answer")),
}
# What stands before a class in the name of its column: logit_positive, "prob: positive".
PREFIXES: dict[str, TargetKind | None] = {
    **dict.fromkeys(("logit", "logits"), "logits"),
    **dict.fromkeys(("logprob", "log_prob"), "log-probabilities"),
    **dict.fromkeys(("prob", "probability", "proba", "p"), "probabilities"),
    **dict.fromkeys(("vote", "votes"), "votes"),
    "score": None,
}
SCORE_COLUMNS = (SCORE, "confidence", "probability")
LABEL_KINDS = ("label", "confidence")


@dataclass(frozen=True)
class FileTargets:
    """The targets of all M rows of a file.

    Attributes:
        has_target: bool `[M]`, false in a row that the teacher left unlabelled.
        layout: in words, where they stand.
        columns: those that were read.
    """

    kind: TargetKind
    class_names: tuple[str, ...]
    soft: SoftTargets
    has_target: Flags
    layout: str
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetColumns:
    """The columns that hold targets: one per class, or one of cells, or labels and perhaps their scores.

    Attributes:
        kind: what the names of the columns say, `None` where they do not.
        classes: the class that each column is named after.
    """

    kind: TargetKind | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    cells: str | None = None
    label: str | None = None
    score: str | None = None

    @property
    def columns(self) -> list[str]:
        """Return the names of all of them."""
        return [*self.classes, *(name for name in (self.cells, self.label, self.score) if name)]


def read_targets(
    file: Path,
    column_names: Sequence[str],
    class_names: Sequence[str] | None,
    *,
    label_column: str | None,
    targets: TargetKind | None,
    where: str,
) -> FileTargets:
    """Read the targets of a file, for the classes in the order of `class_names`.

    Args:
        column_names: all columns but those of texts.
        class_names: those of the data; `None` where only the file knows them.
        label_column: the data's, which is also looked for.
        targets: what the file holds; `None` to detect it.
        where: the file, for messages.

    Raises:
        UserError: naming the row and the value, or the class, that cannot be.
    """
    chosen = _choose_columns(column_names, class_names, label_column, targets)
    if not chosen.columns and class_names is None and targets not in LABEL_KINDS:
        numeric = _numeric_columns(file, column_names)
        chosen = TargetColumns(classes={name: name for name in numeric if len(numeric) > 1})
    if not chosen.columns:
        raise _no_columns(column_names, class_names, targets, where)
    rows, _ = read_file(file, chosen.columns, nested_as_json=True)
    left_out = [name for name in column_names if name not in chosen.columns]
    if class_names and 0 < len(chosen.classes) < len(class_names):
        _check_complete(file, chosen, class_names, left_out, where)
    notes = (f"{where}: not read: {quote_names(left_out)}",) if left_out else ()
    if chosen.classes:
        read = _read_class_columns(rows, chosen, class_names, targets, where)
    elif chosen.cells and _holds_text(rows, chosen.cells):
        read = _read_cells(rows, chosen, class_names, targets, where)
    else:
        read = _read_labels(rows, chosen, class_names, targets, where)
    return replace(read, notes=(*notes, *read.notes), columns=tuple(chosen.columns))


# --- which columns --------------------------------------------------------------------------------------


def _choose_columns(
    column_names: Sequence[str],
    class_names: Sequence[str] | None,
    label_column: str | None,
    targets: TargetKind | None,
) -> TargetColumns:
    """Choose the columns of the targets: a column per class before cells, cells before a label."""
    if targets not in LABEL_KINDS:
        kind, classes = _find_class_columns(column_names, class_names)
        if classes:
            return TargetColumns(kind, classes)
    cells = next((name for name in column_names if _plain(name) in CELL_COLUMNS), None)
    score_columns = SCORE_COLUMNS if targets in (None, "confidence") else ()
    score = next((name for name in score_columns if name in column_names), None)
    if cells and targets not in LABEL_KINDS:
        return TargetColumns(CELL_COLUMNS[_plain(cells)], cells=cells, score=score)
    if targets not in (None, *LABEL_KINDS):
        return TargetColumns()
    label = next((name for name in (label_column, LABEL) if name in column_names), None)
    return TargetColumns(label=label, cells=None if label else cells, score=score if label or cells else None)


def _find_class_columns(
    column_names: Sequence[str], class_names: Sequence[str] | None
) -> tuple[TargetKind | None, dict[str, str]]:
    """Return what the prefix says, and the columns of a class each: by their bare names, else by a prefix."""
    if class_names is not None:
        reserved = {LABEL, *SCORE_COLUMNS}
        bare = {name: name for name in column_names if name not in reserved}
        named = {name: text for name, text in bare.items() if knows(class_names, [text])}
        placeholders = [f"LABEL_{index}" for index in range(len(class_names))]
        ids = [str(index) for index in range(len(class_names))]
        for family in (named, *({n: n for n in texts if n in bare} for texts in (ids, placeholders))):
            if family and (family is named or len(family) == len(class_names)):
                return None, family
    for prefix, kind in PREFIXES.items():
        pattern = re.compile(rf"{prefix}[ _.:/-]+(.+)", re.IGNORECASE)
        matches = {name: match[1] for name in column_names if (match := pattern.fullmatch(name))}
        if class_names is None and len(matches) > 1:
            return kind, matches
        if class_names is not None and any(
            knows(class_names, [text]) or re.fullmatch(r"(LABEL_)?[0-9]+", text) for text in matches.values()
        ):
            return kind, matches
    return None, {}


def _check_complete(
    file: Path, chosen: TargetColumns, class_names: Sequence[str], left_out: Sequence[str], where: str
) -> None:
    """Raise `UserError` where classes have no column and columns that look like theirs have no class."""
    columns = [*chosen.classes, *left_out]
    unknown = [name for name in _numeric_columns(file, columns) if name not in chosen.classes]
    if unknown:
        raise UserError(
            f"{where}: {quote_names(unknown)} is no class of the data, and not every class has a column. The "
            f"file has {list_classes([*chosen.classes, *unknown])}, the data {list_classes(class_names)}. "
            "Rename the columns, or drop those that are no classes."
        )


def _numeric_columns(file: Path, column_names: Sequence[str]) -> list[str]:
    """Return the columns of numbers that may be those of a class each, by their values.

    Whole numbers beside others are no targets, but numbers of rows and the like.
    """
    rows, _ = read_file(file, list(column_names), nested_as_json=True)
    numeric, fractions = [], []
    for name in rows.column_names:
        values = _as_floats(rows.data.column(name))
        if values is None or not len(values.drop_null()):
            continue
        numeric.append(name)
        if not pc.all(pc.equal(pc.floor(values), values)).as_py():
            fractions.append(name)
    return fractions or numeric


def _plain(name: str) -> str:
    return re.sub(r"[ -]", "_", name.strip().lower())


def _no_columns(
    column_names: Sequence[str],
    class_names: Sequence[str] | None,
    targets: TargetKind | None,
    where: str,
) -> UserError:
    classes = f" ({list_classes(class_names)})" if class_names else ""
    required = f"a column per class{classes}, one of {', '.join(CELL_COLUMNS)}, or a column {LABEL}"
    if targets in LABEL_KINDS:
        required = f"a column {LABEL}" + (f", and {SCORE} for its probability" * (targets == "confidence"))
    elif targets:
        required = required.rpartition(", or ")[0].replace(", one of", ", or one of")
    rest = f"only {quote_names(column_names)} beside the text" if column_names else "nothing beside the text"
    kind = f"{targets} are" if targets else "targets are"
    return UserError(f"{where}: no column says what the {kind}, {rest}. It needs {required}.")


# --- a column per class ---------------------------------------------------------------------------------


def _read_class_columns(
    rows: datasets.Dataset,
    chosen: TargetColumns,
    class_names: Sequence[str] | None,
    targets: TargetKind | None,
    where: str,
) -> FileTargets:
    texts = list(chosen.classes.values())
    names = tuple(class_names or texts)
    ids, notes = _match_names(texts, names, where, [f"column {name!r}" for name in chosen.classes])
    values = np.zeros((len(rows), len(names)))
    is_given = np.zeros((len(rows), len(names)), bool)
    filled: dict[int, str] = {}
    for column, class_id in zip(chosen.classes, ids, strict=True):
        if class_id in filled:
            raise UserError(
                f"{where}: the columns {filled[class_id]!r} and {column!r} are of one class, "
                f"{show_name(names[class_id])}. Drop one."
            )
        filled[class_id] = column
        floats = _read_numbers(rows.data.column(column), column, where)
        is_given[:, class_id] = pc.is_valid(floats).to_numpy(zero_copy_only=False)
        values[:, class_id] = pc.fill_null(floats, 0.0).to_numpy(zero_copy_only=False)
    table = TargetTable(values, is_given, names, where)
    return _soft_targets(table, targets or chosen.kind, "a column per class", notes)


def _read_numbers(column: pa.ChunkedArray, name: str, where: str) -> pa.Array:
    """Return a column as float64 with nulls where a cell is empty. Raises `UserError` naming the row."""
    floats = _as_floats(column)
    if floats is not None:
        return floats
    for row, cell in enumerate(column.to_pylist(), start=1):
        if cell is not None and not (isinstance(cell, str) and not cell.strip()) and _as_number(cell) is None:
            raise UserError(
                f"{where}, row {row}: {shorten(str(cell))!r} in the column {name} is no number. "
                "Write one, or leave the cell empty."
            )
    raise UserError(f"{where}: the column {name} holds {shorten(str(column.type))}, not numbers.")


def _as_floats(column: pa.ChunkedArray) -> pa.Array | None:
    """Return a column as float64, `None` where it holds something else; an empty text is a null."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if pa.types.is_boolean(array.type):
        return None
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.utf8_trim_whitespace(array)
        array = pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)
    try:
        return array.cast(pa.float64(), safe=False)
    except pa.ArrowException:
        return None


def _as_number(value: object) -> float | None:
    with suppress(ValueError, OverflowError):
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
    return None


def _soft_targets(
    table: TargetTable, kind: TargetKind | None, layout: str, notes: tuple[str, ...]
) -> FileTargets:
    """Return the targets that numbers are, of the given kind or of that which they look like.

    A row that has no number but NaN, as pandas writes a missing value, has no target.
    """
    is_blank = np.asarray((~table.is_given | np.isnan(table.values)).all(axis=1, keepdims=True))
    values = np.where(is_blank, 0.0, table.values)
    table = replace(table, values=values, is_given=table.is_given & ~is_blank)
    if not table.has_target.any():
        raise UserError(f"{table.where}: no row has a target. Give a file that has some.")
    known_kind = kind or detect_kind(table)
    soft = soften(table, known_kind)
    if soft.truncated:
        notes += (
            f"{table.where}: classes are left out in {pluralize(soft.truncated, 'row')}; the rest of the "
            f"probability there, {soft.spread:.1%} on average, is spread evenly over them",
        )
    return FileTargets(known_kind, tuple(table.class_names), soft, table.has_target, layout, notes)


# --- names of classes -----------------------------------------------------------------------------------


def _match_names(
    texts: Sequence[str], class_names: Sequence[str], where: str, positions: Sequence[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Return the class id of each name that a file uses, and a note where order decided it.

    Args:
        positions: where in the file each name comes first, for messages.

    Raises:
        UserError: listing both sets, when a name is of no class.
    """
    column, notes = read_answers(texts, class_names, where)
    labels = DistinctLabels.from_column(column)
    ids = class_ids(labels, class_names)[labels.codes]
    if (ids == NO_CLASS).any():
        first = int((ids == NO_CLASS).argmax())
        raise UserError(
            f"{where}, {positions[first]}: {show_name(texts[first])} is no class of the data. The file has "
            f"{list_classes(dict.fromkeys(texts))}, the data {list_classes(class_names)}. Rename the "
            "classes in the file, or leave that one out."
        )
    return ids.tolist(), notes


def merge_names(names_of_shards: Iterable[Sequence[str]], where: str) -> tuple[str, ...]:
    """Return the classes that shards name, each perhaps some of them, in the order of a file with all.

    Raises:
        UserError: where there are fewer than two.
    """
    return _own_names(chain.from_iterable(names_of_shards), where)


def _own_names(texts: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the classes that only a file names: numbers by value, others by alphabet."""
    by_canonical: dict[str, str] = {}
    for text in sort_names(set(texts)):
        by_canonical.setdefault(canonical(text), text)
    names = list(by_canonical.values())
    if are_numbered(names):
        names.sort(key=lambda name: (len(name), name))
    if len(names) < 2:
        raise UserError(f"{where}: two classes or more are required, and it names {list_classes(names)}.")
    return tuple(names)


# --- cells of lists and objects -------------------------------------------------------------------------


def _holds_text(rows: datasets.Dataset, column: str) -> bool:
    """Return whether cells are texts, which JSON is too; numbers are labels."""
    type_ = rows.data.column(column).type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _read_cells(
    rows: datasets.Dataset,
    chosen: TargetColumns,
    class_names: Sequence[str] | None,
    targets: TargetKind | None,
    where: str,
) -> FileTargets:
    assert chosen.cells
    where_column = f"{where}, column {chosen.cells}"
    cells = [
        _parse_cell(cell, f"{where_column}, row {row}")
        for row, cell in enumerate(rows.data.column(chosen.cells).to_pylist(), start=1)
    ]
    shape = _common_shape(cells, where_column)
    if shape == "label":
        return _read_labels(rows, chosen, class_names, targets, where)
    kind = targets or chosen.kind
    if targets in LABEL_KINDS:
        raise UserError(f"{where_column}: it holds {SHAPES[shape]}, no label. Leave --targets {targets} out.")
    if shape == "list":
        return _read_lists(cells, class_names, kind, where_column)
    return _read_named(cells, class_names, kind, where_column, SHAPES[shape])


SHAPES = {
    "label": "a label",
    "list": "a list of numbers",
    "object": "an object of classes",
    "pairs": "a list of {label, score}",
}


def _parse_cell(cell: object, where: str) -> Any:
    """Return what a cell holds: a label, a list of numbers, an object, or pairs; `None` for nothing."""
    text = "" if cell is None else str(cell).strip()
    if not text.startswith(("[", "{")):
        return text or None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)  # as pandas writes an object into a CSV
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            raise UserError(
                f"{where}: {shorten(text)!r} is neither JSON nor a label. Write a list such as [0.9, 0.1], "
                'or an object such as {"positive": 0.9}.'
            ) from None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # the pipeline's answer to a batch of one text
    if isinstance(value, dict) and set(value) >= {LABEL, SCORE}:
        value = [value]
    return value or None


def _shape(cell: Any) -> str | None:
    if isinstance(cell, str):
        return "label"
    if isinstance(cell, dict):
        return "object"
    if isinstance(cell, list) and all(isinstance(item, dict) for item in cell):
        return "pairs"
    return "list" if isinstance(cell, list) else None


def _common_shape(cells: Sequence[Any], where: str) -> str:
    """Return the shape of all cells that hold something. Raises `UserError` where two rows differ."""
    first: tuple[int, str] | None = None
    for row, cell in enumerate(cells, start=1):
        if cell is None:
            continue
        shape = _shape(cell)
        if shape is None:
            raise UserError(f"{where}, row {row}: {shorten(repr(cell))} is no target.")
        if first is None:
            first = row, shape
        if shape != first[1]:
            raise UserError(
                f"{where}, row {row}: it holds {SHAPES[shape]}, {shorten(repr(cell))}, and row {first[0]} "
                f"{SHAPES[first[1]]}. Write all rows alike."
            )
    if first is None:
        raise UserError(f"{where}: no row has a target. Give a file that has some.")
    return first[1]


def _read_lists(
    cells: Sequence[Any], class_names: Sequence[str] | None, kind: TargetKind | None, where: str
) -> FileTargets:
    """Read a list of numbers per row, in the order of the classes."""
    length = len(class_names or next(cell for cell in cells if cell is not None))
    names = tuple(class_names or map(str, range(length)))
    values, is_given = np.zeros((len(cells), length)), np.zeros((len(cells), length), bool)
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        if len(cell) != length:
            classes = f"there are {length} classes: {list_classes(names)}"
            if class_names is None:
                classes = f"the rows before it have {length}"
            raise UserError(
                f"{where}, row {row + 1}: {shorten(repr(cell))} has {len(cell)} numbers, and {classes}. "
                "Write one for each class, in the same order."
            )
        for class_id, value in enumerate(cell):
            if value is not None:
                values[row, class_id] = _check_number(value, f"{where}, row {row + 1}")
                is_given[row, class_id] = True
    notes: tuple[str, ...] = ()
    if class_names is not None and not are_ids(class_names):
        notes = (f"{where}: its numbers are taken for the classes in this order: {list_classes(names)}",)
    return _soft_targets(TargetTable(values, is_given, names, where), kind, "a list per row", notes)


def _read_named(
    cells: Sequence[Any], class_names: Sequence[str] | None, kind: TargetKind | None, where: str, layout: str
) -> FileTargets:
    """Read objects or pairs, whose numbers stand beside the names of their classes."""
    first_rows: dict[str, int] = {}
    entries: list[tuple[int, str, float]] = []
    for row, cell in enumerate(cells):
        for text, value in _list_pairs(cell, f"{where}, row {row + 1}"):
            first_rows.setdefault(text, row)
            if value is not None:
                parsed = _check_number(value, f"{where}, row {row + 1}, class {show_name(text)}")
                entries.append((row, text, parsed))
    names = tuple(class_names or _own_names(first_rows, where))
    texts = list(first_rows)
    ids, notes = _match_names(texts, names, where, [f"row {row + 1}" for row in first_rows.values()])
    id_of = dict(zip(texts, ids, strict=True))
    values, is_given = np.zeros((len(cells), len(names))), np.zeros((len(cells), len(names)), bool)
    for row, text, value in entries:
        if is_given[row, id_of[text]]:
            raise UserError(f"{where}, row {row + 1}: it names the class {show_name(text)} twice. Drop one.")
        values[row, id_of[text]], is_given[row, id_of[text]] = value, True
    return _soft_targets(TargetTable(values, is_given, names, where), kind, f"{layout} per row", notes)


def _list_pairs(cell: Any, where: str) -> list[tuple[str, Any]]:
    if cell is None:
        return []
    if isinstance(cell, dict):
        return [(str(text), value) for text, value in cell.items()]
    for item in cell:
        if LABEL not in item or SCORE not in item:
            raise UserError(f"{where}: {shorten(repr(item))} has no {LABEL} or no {SCORE}. Write both.")
    return [(str(item[LABEL]), item[SCORE]) for item in cell]


def _check_number(value: object, where: str) -> float:
    parsed = None if isinstance(value, str) else _as_number(value)
    if parsed is None:
        raise UserError(f"{where}: {shorten(repr(value))} is no number. Write one.")
    return parsed


# --- labels ---------------------------------------------------------------------------------------------


def _read_labels(
    rows: datasets.Dataset,
    chosen: TargetColumns,
    class_names: Sequence[str] | None,
    targets: TargetKind | None,
    where: str,
) -> FileTargets:
    """Read a label per row and, where there is a column of them, the probability of each."""
    column_name = chosen.label or chosen.cells
    assert column_name
    if targets == "confidence" and chosen.score is None:
        raise UserError(
            f"{where}: no column has the probability of its labels. Call it {SCORE}, or give --targets label."
        )
    column = rows.data.column(column_name)
    feature = rows.features[column_name]
    if isinstance(feature, datasets.ClassLabel):
        column = decode_class_ids(column, feature.names)
    distinct = DistinctLabels.from_column(column)
    named = [code for code, name in enumerate(distinct.names) if name is not None]
    has_target = np.isin(distinct.codes, named)
    if not has_target.any():
        raise UserError(f"{where}, column {column_name}: no row has a label. Give a file that has some.")
    names = tuple(class_names or label_names(column.filter(pa.array(has_target)), where, column_name))
    texts = [str(distinct.names[code]) for code in named]
    positions = [f"row {distinct.first([code])[0]}" for code in named]
    _match_names(texts, names, where, positions)
    labels: list[Any] = [distinct.names[code] or names[0] for code in distinct.codes]
    scores: list[Any] | None = None
    if chosen.score:
        scores = rows.data.column(chosen.score).to_pylist()
        scores = [score if there else 1.0 for score, there in zip(scores, has_target, strict=True)]
    answers = predicted(labels, scores, names, where)
    notes = answers.notes + note_low_scores(answers, len(names), where)
    confidence = np.ones(len(labels)) if answers.score is None else answers.score
    probabilities = np.repeat(((1.0 - confidence) / (len(names) - 1))[:, None], len(names), axis=1)
    probabilities[np.arange(len(labels)), answers.answer] = confidence
    kind: TargetKind = "label" if chosen.score is None else "confidence"
    layout = f"column {column_name}" + (f" with {chosen.score}" if chosen.score else "")
    return FileTargets(
        kind, names, SoftTargets(to_logits(probabilities, has_target)), has_target, layout, notes
    )
