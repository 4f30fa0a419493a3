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


def cut_texts(tokens_of_model: Mapping[str, Tokens], max_length: int, limit: int | None) -> Iterator[Finding]:
    """Training rows that are cut.

    Args:
        tokens_of_model: of the same rows, by the name of the model that reads them.
        limit: the most tokens that all of the models read.
    """
    if not tokens_of_model:
        return
    most_cut = max(tokens_of_model.values(), key=lambda model_tokens: model_tokens.cut(max_length))
    rows = len(most_cut.lengths)
    if most_cut.cut(max_length) <= CUT * rows:
        return
    fitting_length = most_cut.fitting(FITTING)
    advice = f"--max-length {fitting_length}, in which {FITTING:.0%} of the rows fit"
    if limit is not None and fitting_length > limit:
        advice = (
            f"--max-length {limit}, the most that the models read, cuts {most_cut.cut(limit) / rows:.1%} "
            f"({FITTING:.0%} of the rows would need {fitting_length:,})"
        )
        if max_length >= limit:
            advice = (
                f"put what decides into the first {limit} tokens, or use models that read {fitting_length:,}"
            )
    shares = [
        f"{model_tokens.cut(max_length) / rows:.1%} for {who}"
        for who, model_tokens in tokens_of_model.items()
    ]
    lost = np.maximum(most_cut.lengths - max_length, 0).sum() / most_cut.lengths.sum()
    yield Finding(
        "cut-texts",
        "warning",
        f"--max-length {max_length} cuts {', '.join(shares)} of {rows:,} rows looked at, up to {lost:.0%} "
        "of their text",
        "What is cut cannot be learned.",
        advice,
    )


def cut_rows(lengths: NDArray[np.int64], max_length: int) -> Iterator[Finding]:
    """Report cut texts as `cut_texts` does, from rows that are cut already, whose full length is lost."""
    if (cut := int(np.count_nonzero(lengths >= max_length))) > CUT * len(lengths):
        yield Finding(
            "cut-texts",
            "warning",
            f"{cut:,} of {len(lengths):,} rows fill the {max_length} tokens of --max-length: most were cut",
            "What is cut cannot be learned.",
            "a higher --max-length; distilkit doctor says which one fits",
        )


def unknown_tokens(who: str, tokens: Tokens, limit: float, advice: str) -> Iterator[Finding]:
    """Text that a tokenizer has no token for."""
    if tokens.unknown_share > limit:
        yield Finding(
            "unknown-tokens",
            "warning",
            f"{who}: {tokens.unknown:,} of {tokens.content:,} tokens of validation rows are the unknown one "
            f"({tokens.unknown_share:.0%})",
            "All of them look the same to it, whatever they mean.",
            advice,
        )


def lost_capitals(
    teacher: str, folds: bool, student_folds: bool, capitals: int, rows: int
) -> Iterator[Finding]:
    """One of the two takes "A" for "a", and the other does not."""
    if folds != student_folds and capitals > CAPITALS * rows:
        sensitive, folding = ("teacher", "student") if student_folds else ("student", "teacher")
        yield Finding(
            "case",
            "warning",
            f"the {sensitive} tells capital letters from small ones and the {folding} does not, "
            f"and {capitals:,} of {rows:,} texts looked at have some",
            "Where they decide, the student cannot follow the teacher, or learns a difference it never made.",
            f"a student that reads as {teacher} does: --vocabulary teacher for bilstm and static, "
            "--init teacher else",
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
