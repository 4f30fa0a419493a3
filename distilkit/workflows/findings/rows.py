"""What `doctor`, `train` and `distill` say of data: from which count on, how bad it is, what to do.

The limits leave real datasets alone. Of SST-2's training rows 0.6 % are repeats and 0.01 % contradict each
other; IMDB has 0.4 % repeats and shares 0.5 % of its test rows with its training rows; of the words of
SST-2's and MRPC's validation rows 5 and 6 % are not in their training rows.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilkit.config import DistillConfig
from distilkit.data.checks import Labels, class_counts
from distilkit.data.duplicates import Repeats, count_repeats, count_same_pairs, count_shared
from distilkit.data.labels import (
    HIDDEN,
    NO_CLASS,
    describe_counts,
    describe_spellings,
    list_classes,
    show_name,
)
from distilkit.data.text_data import TextData
from distilkit.errors import pluralize
from distilkit.scores.statistics import wilson
from distilkit.workflows.findings.finding import Finding

REPEATED, CONTRADICTING = 0.02, 0.001  # of the training rows


SHARED, MOSTLY_SHARED = 0.01, 0.1  # of the rows that a student is judged on


SAME_PAIRS = 0.05


FEW_OF_A_CLASS, RARE = 10, 0.1  # rows; of the rows that each class would have if they were even


FEW_ROWS = 100  # to judge by


SHOWN = 60  # characters of a text


MISSING_NAMES = {"nan", "none", "null", "nil", "na", "n/a", "<na>", "#n/a", "-", "--", "?", "."}


# --- rows as they are stored ----------------------------------------------------------------------------


def empty_texts(where: str, column: str, missing: NDArray[np.bool_], blank: int) -> Iterator[Finding]:
    """Texts with nothing in them; `missing` says which, and `blank` of them are white space."""
    if count := int(missing.sum()):
        spaces = f" ({blank:,} of white space only)" if blank else ""
        yield Finding(
            "empty-texts",
            "error",
            f"{where}, column {column}: {count:,} of {len(missing):,} texts are empty{spaces}, "
            f"the first in row {int(missing.argmax()) + 1:,}",
            "There is nothing to read in them, and `distill` stops at the first.",
            "drop these rows, or name the column that has the text: --text-column COLUMN",
        )


def label_faults(where: str, labels: Labels, names: Sequence[str]) -> Iterator[Finding]:
    """Rows of a split that is trained or scored on which have no class."""
    rows = len(labels.ids)
    for check, faulty_rows, what, why in (
        ("hidden-labels", labels.hidden, "are -1", "-1 stands for a hidden label, as in the tests of GLUE."),
        ("missing-labels", labels.missing, "are missing", "`distill` stops at the first."),
    ):
        if len(faulty_rows):
            yield Finding(
                check,
                "error",
                f"{where}: {len(faulty_rows):,} of {rows:,} labels {what}, "
                f"the first in row {faulty_rows[0] + 1:,}",
                f"There is nothing to learn from or to score by. {why}",
                "label or drop these rows; training rows may go to a file for the teacher to label: "
                "--transfer FILE",
            )
    if labels.unknown:
        shown = ", ".join(_short(value) for value in list(labels.unknown)[:5])
        yield Finding(
            "unknown-labels",
            "error",
            f"{where}: {sum(labels.unknown.values()):,} of {rows:,} labels are no class ({shown}); "
            f"known are {list_classes(names)}",
            "A student has one output for each known class, so `distill` stops at the first.",
            "rename or drop them, or name the column that has the classes: --label-column COLUMN",
        )


def several_spellings(where: str, spellings: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """Report texts in the label column that are one class."""
    if spellings:
        yield Finding(
            "label-spelling",
            "error",
            f"{where}: {describe_spellings(spellings)}",
            "A student would learn to tell spellings apart; `train` and `distill` stop there.",
            "give each class one spelling",
        )


def numbers_among_names(problem: str) -> Finding:
    """Report ids in a split whose training labels are names."""
    return Finding(
        "unknown-labels",
        "error",
        problem.rstrip("."),
        "Names in the order of the alphabet are seldom those that the ids were given to.",
        "write the names in every file",
    )


def doubtful_classes(names: Sequence[str]) -> Iterator[Finding]:
    """Report classes that look like a label that is hidden or missing, or like several labels in one."""
    if HIDDEN in names and set(names) != {"-1", "1"}:
        yield Finding(
            "hidden-labels",
            "warning",
            f"-1 is taken for a class of its own (the classes are {list_classes(names)})",
            "Many datasets write -1 where a label is hidden; a student would learn to tell such rows apart.",
            "drop the rows with -1 if they have no label, or give the class a name",
        )
    if missing := [repr(name) for name in names if name.casefold() in MISSING_NAMES]:
        yield Finding(
            "missing-labels",
            "warning",
            f"{' and '.join(missing)} is taken for a class, and looks like a missing label",
            "Tables write it where there is no value; a student would learn to tell such rows apart.",
            "drop these rows if they have no label, or give the class another name",
        )
    if {"false", "true"} <= set(names) and ({"0", "1"} <= set(names)):
        yield Finding(
            "label-spelling",
            "warning",
            "0, 1 and false, true are four classes",
            "A student would learn to tell two ways of writing a label apart.",
            "write one of the two in all rows, if they mean the same",
        )
    if joined := joined_names(names):
        yield Finding(
            "label-spelling",
            "warning",
            f"{len(joined):,} of {len(names):,} classes look like several labels: {list_classes(joined)}",
            "Each combination is learned as a class of its own; a row can have one label only.",
            "write one label in each row",
        )


def joined_names(names: Sequence[str]) -> list[str]:
    """Return the names that are lists of labels: every part of them is in another name too."""
    parts = {name: {part.strip() for part in re.split(r"[,;|]", name.strip("[](){}"))} for name in names}
    count = Counter(part for name_parts in parts.values() for part in name_parts)
    return [
        name
        for name, name_parts in parts.items()
        if len(name_parts) > 1 and all(part and count[part] > 1 for part in name_parts)
    ]


# --- rows that are trained and judged on ----------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Training rows that say the same as others: of train, validation and test."""

    repeats: Repeats
    validation: int
    test: int
    same_pairs: int


def overlap(data: TextData, ids: NDArray[np.int64] | None, test: Sequence[bytes] = ()) -> Overlap:
    """Compare the training rows with the others.

    Args:
        ids: classes of the training rows, int64 `[N]`, -1 for none.
        test: normalised keys of the test split.
    """
    train, validation = (data.texts(split).keys(normalised=True) for split in ("train", "validation"))
    return Overlap(
        repeats=count_repeats(train, ids),
        validation=count_shared(train, validation),
        test=count_shared(train, test),
        same_pairs=count_same_pairs(data.texts("train")),
    )


def data_findings(
    data: TextData,
    ids: Mapping[str, NDArray[np.int64]],
    overlaps: Overlap,
    test: int = 0,
) -> Iterator[Finding]:
    """Report what texts and labels show without a model.

    Args:
        ids: by split, the classes of its rows, int64 `[N]`, -1 for none; only splits that have labels.
        test: rows of the test split.
    """
    yield from doubtful_classes(data.names)
    yield from class_balance(data.names, ids, is_held_out=data.is_held_out)
    yield from joined_rows(data)
    yield from repeated_rows(data, overlaps.repeats)
    yield from shared_rows_between_splits(
        "validation", overlaps.validation, len(data.splits["validation"]), is_held_out=data.is_held_out
    )
    yield from shared_rows_between_splits("test", overlaps.test, test)
    yield from same_pairs_repeated(data, overlaps.same_pairs)
    yield from few_rows(data)


def joined_rows(data: TextData) -> Iterator[Finding]:
    """Report training texts with lines that end like rows.

    A quotation mark too many joins all rows up to the next one. CSV readers, pandas' too, read such a file
    without an error and with fewer rows.
    """
    names = "|".join(re.escape(name) for name in data.names)
    border = re.compile(rf"""[,;\t]"?({names})"?\r?\n|\n"?({names})"?[,;\t]""")  # the label last or first
    joined = [
        (row, text)
        for row, text in enumerate(data.texts("train").strings())
        if "\n" in text and border.search(text)
    ]
    if joined:
        row, text = joined[0]
        yield Finding(
            "joined-rows",
            "warning",
            f"{len(joined):,} texts of train hold lines that look like rows, the first in row {row + 1:,}: "
            f"{_short(text)}",
            "A quotation mark that is never closed makes one text of all rows up to the next mark.",
            'double quotation marks within texts (""), and quote these texts',
        )


def unused_teacher(config: DistillConfig) -> Iterator[Finding]:
    """Report a teacher that the loss does not use."""
    if (config.teacher or config.teacher_file) and not config.runs_teacher:
        teacher = (
            f"--teacher {config.teacher[0]}" if config.teacher else f"--teacher-file {config.teacher_file[0]}"
        )
        yield Finding(
            "unused-teacher",
            "warning",
            f"{teacher} is given and alpha is 1",
            "Alpha weighs the labels' loss: at 1 the teacher is never read and nothing is distilled.",
            "--alpha 0.5, or --alpha 0 for the teacher alone",
        )


def no_classes(problem: str) -> Finding:
    """Training labels that are fewer than two classes, or none."""
    return Finding(
        "missing-class",
        "error",
        problem.rstrip("."),
        "There is nothing to tell apart.",
        "name the column that has the classes: --label-column COLUMN",
    )


def class_balance(
    names: Sequence[str], ids: Mapping[str, NDArray[np.int64]], *, is_held_out: bool = False
) -> Iterator[Finding]:
    """Report classes with no rows, or few.

    Args:
        is_held_out: whether the validation rows were cut from the training file.
    """
    for split in ("train", "validation"):
        if split not in ids or not (ids[split] != NO_CLASS).any():
            continue
        counts = class_counts(ids[split], len(names))
        training = split == "train"
        if gone := [name for name, count in zip(names, counts, strict=True) if not count]:
            yield Finding(
                "missing-class",
                "error" if training else "warning",
                f"{split} has no row of {list_classes(gone)} ({describe_counts(names, counts)})",
                "A class that is never shown is never learned."
                if training
                else "The score will say nothing of that class.",
                _advise_on_missing_class(show_name(gone[0]), split, is_held_out=is_held_out),
            )
        least = max(FEW_OF_A_CLASS, RARE * sum(counts) / len(names))
        rare = [
            name for name, count in zip(names, counts, strict=True) if 0 < count < least and name != HIDDEN
        ]
        if training and rare:
            yield Finding(
                "rare-class",
                "warning",
                f"train has few rows of {list_classes(rare)} ({describe_counts(names, counts)})",
                "A student can be right nearly always and never name it; accuracy would not show that.",
                f"add rows of {show_name(rare[0])}, and judge by macro F1: "
                "distilkit evaluate --fail-under f1_macro=0.7",
            )


def describe_classes(data: TextData) -> str:
    """Return the classes, and how many training rows have each."""
    counts = class_counts(data.labels_of["train"], len(data.names))
    return f"classes: {describe_counts(data.names, counts)}"


def _advise_on_missing_class(name: str, split: str, *, is_held_out: bool) -> str:
    if split == "train":
        return f"add rows of {name} to train"
    if is_held_out:
        return (
            f"validation is a tenth of train, in which {name} is too rare: add rows of {name} to train, "
            "or give a validation file that has some"
        )
    return f"add rows of {name} to the validation file"


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def repeated_rows(data: TextData, repeats: Repeats) -> Iterator[Finding]:
    """Training rows that say the same, or the same with another label."""
    rows = len(data.splits["train"])
    if repeats.example is not None and repeats.contradicting > CONTRADICTING * rows:
        text = data.texts("train").first[repeats.example]
        yield Finding(
            "contradicting-labels",
            "warning",
            f"train: {repeats.contradicting:,} of {rows:,} rows have a text that has another label too, "
            f"such as {_short(text)}",
            "No student can be right about both, and their labels pull it both ways.",
            "keep one label for each text, or let a teacher decide: distilkit distill --alpha 0",
        )
    if repeats.rows > REPEATED * rows:
        yield Finding(
            "repeated-rows",
            "warning",
            f"train: {repeats.rows:,} of {rows:,} rows repeat an earlier one (case and white space aside)",
            "Repeats weigh double, and an epoch costs more than it teaches.",
            "drop the repeats",
        )


def shared_rows_between_splits(
    split: str, count: int, rows: int, *, is_held_out: bool = False
) -> Iterator[Finding]:
    """`count` of the `rows` of a split to judge by are trained on.

    Args:
        is_held_out: whether these rows were cut from the training file, which then has repeats.
    """
    if count > SHARED * rows:
        yield Finding(
            f"shared-with-{split}",
            "error" if count > MOSTLY_SHARED * rows else "warning",
            f"{count:,} of {rows:,} {split} rows are training rows too (case and white space aside)",
            "Their score is one of memory: a student will look better than it is.",
            "drop the repeats from the training file, of which these rows are a tenth"
            if is_held_out
            else "drop these rows from train",
        )


def same_pairs_repeated(data: TextData, count: int) -> Iterator[Finding]:
    """Training pairs that are one text twice."""
    rows = len(data.splits["train"])
    if count > SAME_PAIRS * rows:
        yield Finding(
            "same-pairs",
            "error" if count == rows else "warning",
            f"train: in {count:,} of {rows:,} pairs both texts are the same "
            f"(columns {data.text_column} and {data.pair_column})",
            "There is nothing to compare in them.",
            "name the two columns: --text-column COLUMN --text-pair-column COLUMN",
        )


def few_rows(data: TextData) -> Iterator[Finding]:
    """Report too few rows to judge by."""
    rows = len(data.splits["validation"])
    if rows < FEW_ROWS:
        remedy = f"judge by {FEW_ROWS} rows or more"
        if data.is_held_out:
            remedy += ": give a validation file (these are a tenth of train)"
        elif len(data.splits.get("train", ())) // 10 > rows:
            remedy += ": add some, or remove the validation file, and a tenth of train is held out"
        low, high = wilson(round(0.9 * rows), rows)
        yield Finding(
            "few-validation-rows",
            "warning",
            f"validation has {pluralize(rows, 'row')}, so an accuracy of 0.9 there means "
            f"{low:.2f} to {high:.2f}",
            "Epochs and students that differ by less cannot be told apart.",
            remedy,
        )


def other_text_columns_present(where: str, columns: Sequence[str]) -> Iterator[Finding]:
    """Text beside the one that is read."""
    if columns:
        yield Finding(
            "second-text",
            "warning",
            f"{where} has text in {', '.join(columns)} too, which is not read",
            "Where the label is about two texts, one alone does not tell it.",
            f"--text-pair-column {columns[0]}, if a row is a pair",
        )
