"""Findings on models: broken weights, class names, skill."""

from collections.abc import Iterator, Sequence

import numpy as np

from distilkit.data.checks import AnswerSkill
from distilkit.scores.statistics import wilson
from distilkit.workflows.findings.finding import Finding
from distilkit.workflows.findings.rows import FEW_ROWS

KAPPA = 0.1  # Cohen's: a teacher that is surely below it has learned next to nothing


GAIN = 0.1  # of accuracy, by which another order of the classes must surely beat the best constant answer


# --- teachers -------------------------------------------------------------------------------------------


def broken_teacher(problem: str) -> Finding:
    """A teacher that cannot be loaded as a classifier."""
    return Finding(
        "teacher",
        "error",
        problem.rstrip("."),
        "A head that was never trained answers at random, and that is what a student would learn.",
        "distilkit train --model MODEL -o runs/teacher, then --teacher runs/teacher",
    )


def broken_student(problem: str) -> Finding:
    """A student that cannot be made."""
    return Finding(
        "student",
        "error",
        problem.rstrip("."),
        "`distill` stops there.",
        "change --student, --init, --layers or --hidden-size as it says",
    )


def class_names_differ(who: str, own: Sequence[str], names: Sequence[str]) -> Finding:
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


def teacher_skill(
    where: str, who: str, found: AnswerSkill, names: Sequence[str], columns: Sequence[int]
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
