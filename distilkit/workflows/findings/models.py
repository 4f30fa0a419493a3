"""Findings on models: broken weights, class names, skill."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from distilkit.data.checks import AnswerSkill
from distilkit.data.labels import list_classes, list_pairs, show_name
from distilkit.errors import MAX_NAMES
from distilkit.scores.statistics import wilson
from distilkit.workflows.findings.finding import Finding
from distilkit.workflows.findings.rows import FEW_ROWS

KAPPA = 0.1  # Cohen's: a teacher that is surely below it has learned next to nothing


GAIN = 0.1  # of accuracy, by which another order of the classes must surely beat the best constant answer


# --- teachers -------------------------------------------------------------------------------------------


def broken_teacher(problem: str) -> Finding:
    """Report a teacher that cannot be loaded as a classifier."""
    return Finding(
        "teacher",
        "error",
        problem.rstrip("."),
        "A head that was never trained answers at random, and that is what a student would learn.",
        "distilkit train --model MODEL -o runs/teacher, then --teacher runs/teacher",
    )


def broken_teacher_file(problem: str) -> Finding:
    """Report a teacher's file that cannot be read, or that the loss cannot use."""
    return Finding(
        "teacher-file",
        "error",
        problem.rstrip("."),
        "`distill` stops there.",
        "change the file or the options as it says",
    )


def missing_targets(problem: str) -> Finding:
    """Report rows that a teacher's file lacks."""
    return Finding(
        "teacher-file-rows",
        "error",
        problem.rstrip("."),
        "A row without a target teaches nothing, so `distill` stops there.",
        "add the rows to the file, or --missing skip to train on the others",
    )


def labels_contradicted(sentence: str) -> Finding:
    """Report labels that a teacher's file surely contradicts."""
    return Finding(
        "label-disagreement",
        "warning",
        sentence,
        "Where a good teacher is sure of another class, the label is often wrong.",
        "look at these rows: correct the labels, or let the teacher decide: --alpha 0",
    )


def broken_student(problem: str) -> Finding:
    """Report a student that cannot be made."""
    return Finding(
        "student",
        "error",
        problem.rstrip("."),
        "`distill` stops there.",
        "change --student, --init, --layers or --hidden-size as it says",
    )


def class_names_differ(who: str, model_names: Sequence[str], names: Sequence[str]) -> Finding:
    """Report a teacher with other classes than the data's."""
    has_hidden = "-1" in names and len(model_names) < len(names)
    hidden = " (-1 often stands for a hidden label)" if has_hidden else ""
    do = "a teacher that was trained on these classes"
    if len(model_names) == len(names):
        renamed = f'in the teacher\'s config.json, "id2label": {_id2label(names)}'
        do = f"{renamed} if that is what its outputs mean; else {do}"
    return Finding(
        "label-names",
        "error",
        f"{who} has the classes {list_classes(model_names)}, the data {list_classes(names)}{hidden}",
        "They cannot be matched by name, and an answer would be learned as another class.",
        do,
    )


def teacher_skill(
    where: str,
    who: str,
    skill: AnswerSkill,
    names: Sequence[str],
    columns: Sequence[int],
    *,
    is_file: bool = False,
) -> Iterator[Finding]:
    """Report a teacher that swaps classes, or that has not learned them.

    Args:
        skill: of answers in the data's order of classes, `names`.
        columns: the teacher's output for each class of the data.
        is_file: whether the teacher is a file, whose classes are renamed there.
    """
    low, high = wilson(skill.right, skill.rows)
    level = f"{who} is right in {skill.accuracy:.1%} of {skill.rows:,} {where} rows ({low:.1%} to {high:.1%})"
    best, _ = wilson(skill.ordered, skill.rows)
    if best > max(high, skill.majority + GAIN):
        meant = [names[index] for index in skill.order]
        swapped = [(name, real) for name, real in zip(names, meant, strict=True) if name != real]
        swaps = ", ".join(f"{show_name(real)} where it says {show_name(name)}" for name, real in swapped[:4])
        swaps += f" and {len(swapped) - 4:,} more" if len(swapped) > 4 else ""
        outputs = [real for _, real in sorted(zip(columns, meant, strict=True))]
        yield Finding(
            "label-order",
            "error",
            f"{level}, but in {skill.ordered / skill.rows:.1%} if it means {swaps}",
            "Its outputs are in another order than its names say: a student would learn the opposite.",
            f"rename the classes in the file: {list_pairs(names, meant)}"
            if is_file
            else f'in the teacher\'s config.json, "id2label": {_id2label(outputs)}',
        )
        return
    constant = max(skill.answered) == skill.rows and skill.rows >= 30
    chance = f"the most frequent class is {skill.majority:.1%} of them, chance {skill.chance:.1%}"
    if constant or high < skill.chance + KAPPA * (1 - skill.chance):
        always = (
            f", as it says {show_name(names[int(np.argmax(skill.answered))])} to every row"
            if constant
            else ""
        )
        yield Finding(
            "teacher-level",
            "error",
            f"{level}{always}; {chance}",
            "The teacher is at chance level; was it fine-tuned on this task? A student learns what it says.",
            "distilkit train on these rows (-o runs/teacher), then --teacher runs/teacher; "
            "--alpha 1 does without one",
        )
    elif (low <= skill.chance and (skill.rows >= FEW_ROWS or skill.accuracy <= skill.chance)) or (
        high < skill.majority
    ):
        yield Finding(
            "teacher-level",
            "warning",
            f"{level}; {chance}",
            "It cannot be told from a teacher that guesses, or does worse than one constant answer would.",
            "look at it: distilkit evaluate TEACHER; train it longer, or compare with --alpha 1",
        )


def _id2label(names: Sequence[str]) -> str:
    entries = [f'"{index}": {json.dumps(name, ensure_ascii=False)}' for index, name in enumerate(names)]
    return "{" + ", ".join(entries[:MAX_NAMES]) + (", …" if len(entries) > MAX_NAMES else "") + "}"
