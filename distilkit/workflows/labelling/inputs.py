"""What `label` reads: files or a folder's training split, and the classes that stand in it."""

from collections.abc import Iterator
from pathlib import Path

import datasets

from distilkit.config.labelling import LabelConfig
from distilkit.data.arguments import find_files
from distilkit.data.files import read_files
from distilkit.data.formats import split_name
from distilkit.data.labels import label_names
from distilkit.data.layouts import find_splits
from distilkit.data.row_inputs import Inputs, Position, choose_columns
from distilkit.data.streams import Piece, TextColumns
from distilkit.errors import UserError
from distilkit.runs.run import Run


def find_data_files(config: LabelConfig) -> tuple[Path, ...]:
    """Return the files that are labelled; of a folder, those of its training split.

    Raises:
        UserError: where something is no file, or a folder has no training split.
    """
    files: list[Path] = []
    for name in config.data:
        path = Path(name)
        if path.is_dir():
            splits = find_splits(path)
            if "train" not in splits:
                raise UserError(f"{path}: it has no training split. Name the files to label.")
            files += splits["train"].files
        elif listed := find_files([name]):
            files += listed
        else:
            raise UserError(f"{name}: there is no such file. Name files of rows, or a folder.")
    if repeated := [file for file in files if files.count(file) > 1]:
        raise UserError(f"{repeated[0]} is named twice: leave one out.")
    return tuple(files)


def choose_label_inputs(config: LabelConfig, run: Run | None) -> Inputs:
    """Find files and columns: those that are named, else those that the run was trained on.

    Raises:
        UserError: as `find_data_files`, and where a file of lines is to hold pairs.
    """
    files = find_data_files(config)
    columns = choose_columns(config.text_column, config.text_pair_column, run)
    lines = [file for file in files if split_name(file)[1] == ".txt"]
    if columns.pair and lines:
        raise UserError(
            f"{lines[0]}: a line of text is no pair. Give a file (.csv, .tsv, .jsonl, .parquet) with the "
            f"columns {columns.candidates[0]!r} and {columns.pair!r}."
        )
    if lines:
        columns = TextColumns(tuple(dict.fromkeys([*columns.candidates, "text"])))
    return Inputs(files, (), columns)


def read_pieces(
    config: LabelConfig, inputs: Inputs, rows: int, start: Position
) -> Iterator[tuple[Position, Piece]]:
    """Yield pieces of `rows` rows each, and where each ends.

    Raises:
        UserError: at a row without a text, or that cannot be read, unless such rows are left out.
    """
    for position, piece in inputs.read(rows, start):
        if piece.faults and config.on_error == "fail":
            message = piece.faults[0][1].rstrip(".")
            raise UserError(f"{message}. Mend the row, or leave such rows out with --on-error skip.")
        yield position, piece


def find_class_names(config: LabelConfig, files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the classes that are named, else those in the column of labels.

    Raises:
        UserError: where there are none.
    """
    if config.class_names:
        return config.class_names
    column, advice = config.label_column, "Name the classes with --labels no,yes"
    rich = [file for file in files if split_name(file)[1] != ".txt"]
    if not rich:
        raise UserError(f"{files[0]}: a file of texts does not say which classes there are. {advice}.")
    rows, column_names = read_files(rich, [column])
    column_names.require(column, str(rich[0]), f"{advice}, or their column with --label-column.")
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    return label_names(rows.data.column(column), str(rich[0]), column)
