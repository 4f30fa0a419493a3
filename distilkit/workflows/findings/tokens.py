"""Findings on tokens: cut rows, unknown words, capitals."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from distilkit.data.inputs import Tokens
from distilkit.workflows.findings.finding import Finding

CUT, FITTING = 0.05, 0.99  # rows that are cut; rows that should fit


UNKNOWN_TO_STUDENT, UNKNOWN_TO_TEACHER = 0.1, 0.05  # of the tokens


CAPITALS = 0.01  # of the texts


# --- tokenizers -----------------------------------------------------------------------------------------


def cut_texts(found: Mapping[str, Tokens], max_length: int, limit: int | None) -> Iterator[Finding]:
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


def cut_rows(lengths: NDArray[np.int64], max_length: int) -> Iterator[Finding]:
    """As `cut_texts`, from rows that are cut already: how much longer they were is not known."""
    if (cut := int(np.count_nonzero(lengths >= max_length))) > CUT * len(lengths):
        yield Finding(
            "cut-texts",
            "warning",
            f"{cut:,} of {len(lengths):,} rows fill the {max_length} tokens of --max-length: most were cut",
            "What is cut cannot be learned.",
            "a higher --max-length; distilkit doctor says which one fits",
        )


def unknown_tokens(who: str, found: Tokens, limit: float, advice: str) -> Iterator[Finding]:
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


def lost_capitals(
    teacher: str, folds: bool, student_folds: bool, capitals: int, rows: int
) -> Iterator[Finding]:
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


def short_positions(who: str, max_length: int, limit: int | None) -> Iterator[Finding]:
    """More tokens asked for than a model reads."""
    if limit is not None and max_length > limit:
        yield Finding(
            "max-length",
            "error",
            f"--max-length {max_length} is more than {who} reads, {limit} tokens",
            "It has no positions for the others, so `distill` stops.",
            f"--max-length {limit}, or leave it out",
        )
