"""What `doctor` and `distill` say of data and teachers: from which count on, how bad it is, what to do.

The limits leave real datasets alone. Of SST-2's training rows 0.6 % are repeats and 0.01 % contradict each
other; IMDB has 0.4 % repeats and shares 0.5 % of its test rows with its training rows; of the words of
SST-2's and MRPC's validation rows 5 and 6 % are not in their training rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distilkit.config import DistillConfig
from distilkit.data.checks import (
    NO_CLASS,
    Labels,
    Repeats,
    Skill,
    class_counts,
    contents,
    repeats,
    same_pairs,
    shared,
    skill,
)
from distilkit.data.files import read_through
from distilkit.data.inputs import Tokens
from distilkit.data.sources import TextData
from distilkit.scores.statistics import wilson

Severity = Literal["error", "warning"]

REPEATED, CONTRADICTING = 0.02, 0.001  # of the training rows
SHARED, MOSTLY_SHARED = 0.01, 0.1  # of the rows that a student is judged on
SAME_PAIRS = 0.05
FEW_OF_A_CLASS, RARE = 10, 0.1  # rows; of the rows that each class would have if they were even
FEW_ROWS = 100  # to judge by
CUT, FITTING = 0.05, 0.99  # rows that are cut; rows that should fit
UNKNOWN_TO_STUDENT, UNKNOWN_TO_TEACHER = 0.1, 0.05  # of the tokens
CAPITALS = 0.01  # of the texts
KAPPA = 0.1  # Cohen's: a teacher that is surely below it has learned next to nothing
GAIN = 0.1  # of accuracy, by which another order of the classes must surely beat the best constant answer
DAY = 86_400.0  # seconds
SHOWN = 60  # characters of a text


@dataclass(frozen=True)
class Finding:
    """Something wrong: what it is, with numbers, why it matters, and what to do or type next.

    An `error` makes a distillation fail or worthless; a `warning` makes it worse than it could be.
    """

    check: str
    severity: Severity
    what: str
    why: str
    do: str

    @property
    def line(self) -> str:
        """All but the why, in one line."""
        return f"{self.severity}: {self.what}. To do: {self.do}"


# --- rows as they are stored ----------------------------------------------------------------------------


def of_empty_texts(where: str, column: str, missing: NDArray[np.bool_], blank: int) -> Iterator[Finding]:
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


def of_labels(where: str, labels: Labels, names: Sequence[str]) -> Iterator[Finding]:
    """Rows of a split that is trained or scored on which have no class."""
    rows = len(labels.ids)
    for check, numbers, what, why in (
        ("hidden-labels", labels.hidden, "are -1", "-1 stands for a hidden label, as in the tests of GLUE."),
        ("missing-labels", labels.missing, "are missing", "`distill` stops at the first."),
    ):
        if len(numbers):
            yield Finding(
                check,
                "error",
                f"{where}: {len(numbers):,} of {rows:,} labels {what}, the first in row {numbers[0] + 1:,}",
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
            f"known are {', '.join(names)}",
            "A student has one output for each known class, so `distill` stops at the first.",
            "rename or drop them, or name the column that has the classes: --label-column COLUMN",
        )


def of_class_names(names: Sequence[str]) -> Iterator[Finding]:
    """A class that looks like a hidden label."""
    if "-1" in names and "0" in names:
        yield Finding(
            "hidden-labels",
            "warning",
            f"-1 is taken for a class of its own (the classes are {', '.join(names)})",
            "Many datasets write -1 where a label is hidden; a student would learn to tell such rows apart.",
            "drop the rows with -1 if they have no label, or give the class a name",
        )


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
        test: `contents` of the test split.
    """
    train, validation = _contents(data, "train"), _contents(data, "validation")
    pairs = data.pairs("train")
    same = same_pairs(read_through(data.texts("train")), read_through(pairs)) if pairs is not None else 0
    known = set(train)
    return Overlap(repeats(train, ids), shared(known, validation), shared(known, test), same)


def _contents(data: TextData, split: str) -> list[bytes]:
    pairs = data.pairs(split)
    return contents(read_through(data.texts(split)), None if pairs is None else read_through(pairs))


def of_data(
    config: DistillConfig, data: TextData, ids: Mapping[str, NDArray[np.int64]], found: Overlap, test: int = 0
) -> Iterator[Finding]:
    """What texts and labels tell without a model.

    Args:
        ids: by split, the classes of its rows, int64 `[N]`, -1 for none; only splits that have labels.
        test: rows of the test split.
    """
    yield from of_classes(data.names, ids)
    yield from of_repeats(data, found.repeats)
    yield from of_shared("validation", found.validation, len(data.splits["validation"]))
    yield from of_shared("test", found.test, test)
    yield from of_same_pairs(data, found.same_pairs)
    yield from of_size(len(data.splits["validation"]))
    if config.teacher and not config.runs_teacher:
        yield Finding(
            "unused-teacher",
            "warning",
            f"--teacher {config.teacher[0]} is given and alpha is 1",
            "Alpha weighs the labels' loss: at 1 the teacher is never read and nothing is distilled.",
            "--alpha 0.5, or --alpha 0 for the teacher alone",
        )


def of_no_classes(problem: str) -> Finding:
    """Training labels that are fewer than two classes, or none."""
    return Finding(
        "missing-class",
        "error",
        problem.rstrip("."),
        "There is nothing to tell apart.",
        "name the column that has the classes: --label-column COLUMN",
    )


def of_classes(names: Sequence[str], ids: Mapping[str, NDArray[np.int64]]) -> Iterator[Finding]:
    """Classes with no rows, or few."""
    for split in ("train", "validation"):
        if split not in ids or not (ids[split] != NO_CLASS).any():
            continue
        counts = class_counts(ids[split], len(names))
        training = split == "train"
        if gone := [name for name, count in zip(names, counts, strict=True) if not count]:
            yield Finding(
                "missing-class",
                "error" if training else "warning",
                f"{split} has no row of {', '.join(gone)} ({_counted(names, counts)})",
                "A class that is never shown is never learned."
                if training
                else "The score will say nothing of that class.",
                f"add rows of {gone[0]} to {split}"
                if training
                else f"add rows of {gone[0]} to {split}, or remove that file: "
                "a tenth of train is then held out, with all its classes",
            )
        least = max(FEW_OF_A_CLASS, RARE * sum(counts) / len(names))
        rare = [name for name, count in zip(names, counts, strict=True) if 0 < count < least and name != "-1"]
        if training and rare:
            yield Finding(
                "rare-class",
                "warning",
                f"train has few rows of {', '.join(rare)} ({_counted(names, counts)})",
                "A student can be right nearly always and never name it; accuracy would not show that.",
                f"add rows of {rare[0]}, and judge by macro F1: distilkit evaluate --fail-under f1_macro=0.7",
            )


def _counted(names: Sequence[str], counts: Sequence[int]) -> str:
    shown = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def of_repeats(data: TextData, found: Repeats) -> Iterator[Finding]:
    """Training rows that say the same, or the same with another label."""
    rows = len(data.splits["train"])
    if found.example is not None and found.contradicting > CONTRADICTING * rows:
        text = data.texts("train")[found.example]
        yield Finding(
            "contradicting-labels",
            "warning",
            f"train: {found.contradicting:,} of {rows:,} rows have a text that has another label too, "
            f"such as {_short(text)}",
            "No student can be right about both, and their labels pull it both ways.",
            "keep one label for each text, or let the teacher decide: --alpha 0",
        )
    if found.rows > REPEATED * rows:
        yield Finding(
            "repeated-rows",
            "warning",
            f"train: {found.rows:,} of {rows:,} rows repeat an earlier one (case and white space aside)",
            "Repeats weigh double, and an epoch costs more than it teaches.",
            "drop the repeats",
        )


def of_shared(split: str, count: int, rows: int) -> Iterator[Finding]:
    """`count` of the `rows` of a split to judge by are trained on."""
    if count > SHARED * rows:
        yield Finding(
            f"shared-with-{split}",
            "error" if count > MOSTLY_SHARED * rows else "warning",
            f"{count:,} of {rows:,} {split} rows are training rows too (case and white space aside)",
            "Their score is one of memory: a student will look better than it is.",
            "drop these rows from train",
        )


def of_same_pairs(data: TextData, count: int) -> Iterator[Finding]:
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


def of_size(rows: int) -> Iterator[Finding]:
    """Too few rows to judge by."""
    if rows < FEW_ROWS:
        low, high = wilson(round(0.9 * rows), rows)
        yield Finding(
            "few-validation-rows",
            "warning",
            f"validation has {rows:,} rows, so an accuracy of 0.9 there means {low:.2f} to {high:.2f}",
            "Epochs and students that differ by less cannot be told apart.",
            f"judge by {FEW_ROWS} rows or more; without a validation file a tenth of train is held out",
        )


def of_other_columns(where: str, columns: Sequence[str]) -> Iterator[Finding]:
    """Text beside the one that is read."""
    if columns:
        yield Finding(
            "second-text",
            "warning",
            f"{where} has text in {', '.join(columns)} too, which is not read",
            "Where the label is about two texts, one alone does not tell it.",
            f"--text-pair-column {columns[0]}, if a row is a pair",
        )


# --- tokenizers -----------------------------------------------------------------------------------------


def of_length(found: Mapping[str, Tokens], max_length: int, limit: int | None) -> Iterator[Finding]:
    """Training rows that are cut.

    Args:
        found: by who reads them; all of the same rows.
        limit: the most tokens that all of the models read.
    """
    if not found:
        return
    most = max(found.values(), key=lambda one: one.cut(max_length))
    rows = len(most.lengths)
    if most.cut(max_length) <= CUT * rows:
        return
    wanted = most.fitting(FITTING)
    advice = f"--max-length {wanted}, in which {FITTING:.0%} of the rows fit"
    if limit is not None and wanted > limit:
        advice = (
            f"--max-length {limit}, the most that the models read, cuts {most.cut(limit) / rows:.1%} "
            f"({FITTING:.0%} of the rows would need {wanted:,})"
        )
        if max_length >= limit:
            advice = f"put what decides into the first {limit} tokens, or use models that read {wanted:,}"
    shares = [f"{one.cut(max_length) / rows:.1%} for {who}" for who, one in found.items()]
    lost = np.maximum(most.lengths - max_length, 0).sum() / most.lengths.sum()
    yield Finding(
        "cut-texts",
        "warning",
        f"--max-length {max_length} cuts {', '.join(shares)} of {rows:,} rows looked at, up to {lost:.0%} "
        "of their text",
        "What is cut cannot be learned.",
        advice,
    )


def of_cut_rows(lengths: NDArray[np.int64], max_length: int) -> Iterator[Finding]:
    """As `of_length`, from rows that are cut already: how much longer they were is not known."""
    if (cut := int(np.count_nonzero(lengths >= max_length))) > CUT * len(lengths):
        yield Finding(
            "cut-texts",
            "warning",
            f"{cut:,} of {len(lengths):,} rows fill the {max_length} tokens of --max-length: most were cut",
            "What is cut cannot be learned.",
            "a higher --max-length; distilkit doctor says which one fits",
        )


def of_unknown(who: str, found: Tokens, limit: float, advice: str) -> Iterator[Finding]:
    """Text that a tokenizer has no token for."""
    if found.unknown_share > limit:
        yield Finding(
            "unknown-tokens",
            "warning",
            f"{who}: {found.unknown:,} of {found.content:,} tokens of validation rows are the unknown one "
            f"({found.unknown_share:.0%})",
            "All of them look the same to it, whatever they mean.",
            advice,
        )


def of_case(teacher: str, folds: bool, student_folds: bool, capitals: int, rows: int) -> Iterator[Finding]:
    """One of the two takes "A" for "a", and the other does not."""
    if folds != student_folds and capitals > CAPITALS * rows:
        one, other = ("teacher", "student") if student_folds else ("student", "teacher")
        yield Finding(
            "case",
            "warning",
            f"the {one} tells capital letters from small ones and the {other} does not, and {capitals:,} of "
            f"{rows:,} texts looked at have some",
            "Where they decide, the student cannot follow the teacher, or learns a difference it never made.",
            f"a student that reads as {teacher} does: --vocabulary teacher for a bilstm, --init teacher else",
        )


def of_reach(who: str, max_length: int, limit: int | None) -> Iterator[Finding]:
    """More tokens asked for than a model reads."""
    if limit is not None and max_length > limit:
        yield Finding(
            "max-length",
            "error",
            f"--max-length {max_length} is more than {who} reads, {limit} tokens",
            "It has no positions for the others, so `distill` stops.",
            f"--max-length {limit}, or leave it out",
        )


# --- teachers -------------------------------------------------------------------------------------------


def of_broken_teacher(problem: str) -> Finding:
    """A teacher that cannot be loaded as a classifier."""
    return Finding(
        "teacher",
        "error",
        problem.rstrip("."),
        "A head that was never trained answers at random, and that is what a student would learn.",
        "distilkit train --model MODEL -o runs/teacher, then --teacher runs/teacher",
    )


def of_broken_student(problem: str) -> Finding:
    """A student that cannot be made."""
    return Finding(
        "student",
        "error",
        problem.rstrip("."),
        "`distill` stops there.",
        "change --student, --init, --layers or --hidden-size as it says",
    )


def of_names(who: str, own: Sequence[str], names: Sequence[str]) -> Finding:
    """Classes of a teacher that are not the data's."""
    hidden = " (-1 often stands for a hidden label)" if "-1" in names and len(own) < len(names) else ""
    do = "a teacher that was trained on these classes"
    if len(own) == len(names):
        renamed = f'in the teacher\'s config.json, "id2label": {_id2label(names)}'
        do = f"{renamed} if that is what its outputs mean; else {do}"
    return Finding(
        "label-names",
        "error",
        f"{who} has the classes {', '.join(own)}, the data {', '.join(names)}{hidden}",
        "They cannot be matched by name, and an answer would be learned as another class.",
        do,
    )


def of_skill(
    where: str, who: str, found: Skill, names: Sequence[str], columns: Sequence[int]
) -> Iterator[Finding]:
    """A teacher that mixes the classes up, or has not learned them.

    Args:
        found: of answers in the data's order of classes, `names`.
        columns: the teacher's output for each class of the data.
    """
    low, high = wilson(found.right, found.rows)
    level = f"{who} is right in {found.accuracy:.1%} of {found.rows:,} {where} rows ({low:.1%} to {high:.1%})"
    best, _ = wilson(found.ordered, found.rows)
    if best > max(high, found.majority + GAIN):
        meant = [names[index] for index in found.order]
        swaps = ", ".join(
            f"{real} where it says {name}" for name, real in zip(names, meant, strict=True) if name != real
        )
        outputs = [real for _, real in sorted(zip(columns, meant, strict=True))]
        yield Finding(
            "label-order",
            "error",
            f"{level}, but in {found.ordered / found.rows:.1%} if it means {swaps}",
            "Its outputs are in another order than its names say: a student would learn the opposite.",
            f'in the teacher\'s config.json, "id2label": {_id2label(outputs)}',
        )
        return
    constant = max(found.answered) == found.rows and found.rows >= 30
    chance = f"the most frequent class is {found.majority:.1%} of them, chance {found.chance:.1%}"
    if constant or high < found.chance + KAPPA * (1 - found.chance):
        always = f", as it says {names[int(np.argmax(found.answered))]} to every row" if constant else ""
        yield Finding(
            "teacher-level",
            "error",
            f"{level}{always}; {chance}",
            "Not fine-tuned? A student learns what its teacher says, and this one knows next to nothing.",
            "distilkit train on these rows (-o runs/teacher), then --teacher runs/teacher; "
            "--alpha 1 does without one",
        )
    elif (low <= found.chance and (found.rows >= FEW_ROWS or found.accuracy <= found.chance)) or (
        high < found.majority
    ):
        yield Finding(
            "teacher-level",
            "warning",
            f"{level}; {chance}",
            "It cannot be told from a teacher that guesses, or does worse than one constant answer would.",
            "look at it: distilkit evaluate TEACHER; train it longer, or compare with --alpha 1",
        )


def _id2label(names: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{index}": "{name}"' for index, name in enumerate(names)) + "}"


# --- cost -----------------------------------------------------------------------------------------------


def of_memory(device: str, needed: int, available: int) -> Iterator[Finding]:
    """Bytes that there are not."""
    if needed > available:
        yield Finding(
            "memory",
            "error",
            f"some {needed / 2**30:.1f} GiB are needed on the {device}, and {available / 2**30:.1f} are free",
            "The run would end, or the machine come to a halt, once they are used up.",
            "a lower --batch-size (with --gradient-accumulation-steps for the same steps) or --max-length",
        )


def of_full_memory(problem: str) -> Finding:
    """Memory that ran out while a few batches were timed."""
    return Finding(
        "memory",
        "error",
        f"a batch of the longest rows does not fit: {problem.partition('. ')[0]}",
        "The run would end there.",
        "a lower --batch-size (with --gradient-accumulation-steps for the same steps) or --max-length",
    )


def of_time(seconds: float) -> Iterator[Finding]:
    """A run of days."""
    if seconds > DAY:
        yield Finding(
            "time",
            "warning",
            f"the run would take some {seconds / DAY:.1f} days here",
            "Most of what there is to learn is learned in much less.",
            "--student bilstm, fewer --epochs, --max-train-samples N, or a machine with a GPU",
        )


# --- before `distill` -----------------------------------------------------------------------------------


def before_distilling(
    config: DistillConfig,
    data: TextData,
    lengths: NDArray[np.int64],
    max_length_given: bool,
    answers: NDArray[np.int64] | None,
    columns: Sequence[int],
) -> list[Finding]:
    """What can be told of what `distill` has at hand, in well under a second: no model is run for it.

    Args:
        lengths: tokens of the training rows as the student reads them, cut.
        max_length_given: the length that goes with a known dataset was chosen for speed, and is not told.
        answers: what the teachers say of the training rows, int64 `[N]`, where it is known.
        columns: the (first) teacher's output for each class of the data.
    """
    ids = data.labels_of
    found = list(of_data(config, data, ids, overlap(data, ids.get("train"))))
    if max_length_given or config.dataset is None:
        assert config.max_length
        found += of_cut_rows(lengths, config.max_length)
    if answers is not None and "train" in ids:
        known = ids["train"] >= 0
        if len(np.unique(ids["train"][known])) > 1:
            held = skill(answers[known], ids["train"][known], len(data.names))
            found += of_skill("training", "the teacher", held, data.names, columns)
    return found
