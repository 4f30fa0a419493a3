"""The teacher's logits are its own, the same on every pass, and land on the row they belong to."""

import random
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, lively, tiny_bert, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilkit.data.encoding import encode
from distilkit.engine.teacher_logits import TeacherLogits, compute_teacher_logits, row_key, row_keys
from distilkit.models.vocabulary import word_tokenizer

TEXTS = [*GOOD, *BAD]
SECOND = [*BAD, *GOOD]


@pytest.fixture(scope="module")
def teacher() -> Any:
    return lively(tiny_bert())


def run_teacher(
    teacher: Any, texts: list[str], pairs: list[str] | None = None, **options: Any
) -> TeacherLogits:
    """The teacher over `texts`, three rows at a time."""
    return compute_teacher_logits(
        teacher, tiny_tokenizer(), texts, pairs, max_length=32, batch_size=3, precision="fp32", **options
    )


def own_logits(teacher: Any, texts: list[str], pairs: list[str] | None = None) -> Tensor:
    """What transformers answers for each row alone: the truth that everything here is held against."""
    tokenizer = tiny_tokenizer()
    second = pairs or [None] * len(texts)
    with torch.no_grad():
        return torch.cat(
            [
                teacher(**tokenizer(text, pair, return_tensors="pt")).logits
                for text, pair in zip(texts, second, strict=True)
            ]
        )


def test_trap_2_two_passes_of_a_teacher_left_in_train_mode_are_identical(teacher: Any) -> None:
    """With dropout on, the student would learn noise, other noise on every pass."""
    assert teacher.config.hidden_dropout_prob > 0
    teacher.train()
    try:
        with torch.no_grad():
            batch = tiny_tokenizer()(TEXTS[0], return_tensors="pt")
            assert not torch.equal(teacher(**batch).logits, teacher(**batch).logits)
        first, second = run_teacher(teacher, TEXTS), run_teacher(teacher, TEXTS)
    finally:
        teacher.eval()
    assert torch.equal(first.logits, second.logits)
    torch.testing.assert_close(first.join(TEXTS, None), own_logits(teacher, TEXTS), atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 1000), copies=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_trap_3_logits_follow_their_row_through_shuffling_and_repeats(seed: int, copies: int) -> None:
    """Joined by position, a shuffled row learns from another row's teacher, and nothing fails."""
    cache = TeacherLogits(
        {key: row for row, key in enumerate(row_keys(TEXTS, None))}, torch.arange(16.0).reshape(8, 2)
    )
    order = [row for row in range(len(TEXTS)) for _ in range(copies)]
    random.Random(seed).shuffle(order)
    joined = cache.join([TEXTS[row] for row in order], None)
    assert joined[:, 0].tolist() == [2.0 * row for row in order]


def test_trap_3_the_teachers_own_logits_arrive_at_shuffled_and_repeated_rows(teacher: Any) -> None:
    order = [5, 0, 0, 7, 3, 5, 1]
    shuffled = [TEXTS[row] for row in order]
    joined = run_teacher(teacher, TEXTS + TEXTS[::-1]).join(shuffled, None)
    torch.testing.assert_close(joined, own_logits(teacher, shuffled), atol=1e-5, rtol=1e-4)


def test_a_row_that_repeats_is_read_once(teacher: Any) -> None:
    told: list[tuple[int, int]] = []
    logits = run_teacher(teacher, TEXTS * 3, advance=lambda done, total: told.append((done, total)))
    assert len(logits.logits) == len(logits.index) == len(TEXTS)
    assert told[-1] == (len(TEXTS), len(TEXTS))


def test_pairs_are_joined_by_both_texts(teacher: Any) -> None:
    """By the first text alone, MRPC's repeated sentences would get each other's logits."""
    texts, pairs = [TEXTS[0], TEXTS[0], TEXTS[1]], [SECOND[0], SECOND[1], SECOND[1]]
    joined = run_teacher(teacher, texts, pairs).join(texts[::-1], pairs[::-1])
    expected = own_logits(teacher, texts, pairs).flip(0)
    torch.testing.assert_close(joined, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected[1], expected[2], atol=1e-3)


def test_a_text_that_the_teacher_never_read_is_an_error_and_not_a_neighbour(teacher: Any) -> None:
    logits = run_teacher(teacher, TEXTS)
    with pytest.raises(KeyError):
        logits.join([TEXTS[0], "another film"], None)
    with pytest.raises(KeyError):
        logits.join([TEXTS[0]], [TEXTS[1]])


texts = st.text(st.characters(codec=None), max_size=12)


@given(one=st.tuples(texts, texts), other=st.tuples(texts, texts))
@settings(max_examples=200, deadline=None)
def test_a_row_key_is_equal_exactly_for_equal_rows(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (row_key(*one) == row_key(*other)) == (one == other)
    assert row_key(one[0]) != row_key(*one)


@given(text=st.text(min_size=2, max_size=12), cut=st.integers(0, 12), other=st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_a_row_key_tells_where_the_first_text_ends(text: str, cut: int, other: int) -> None:
    """("ab", "c") and ("a", "bc") are different rows with the same letters in a row."""
    one, two = (text[:cut], text[cut:]), (text[:other], text[other:])
    assert (row_key(*one) == row_key(*two)) == (one == two)
    assert row_key("ab", "c") != row_key("a", "bc")


def test_lone_surrogates_of_broken_files_have_a_key_too() -> None:
    assert row_key("a\ud800") != row_key("a\ud801")


def test_trap_5_the_teacher_reads_its_own_tokenizer_beside_a_student_with_another(teacher: Any) -> None:
    """Fed the student's ids, the teacher answers about other words, without any error."""
    student_tokenizer = word_tokenizer(TEXTS, 100, pairs=False, max_length=32)
    student_rows = encode(student_tokenizer, TEXTS, None, max_length=32, model=teacher)
    teacher_rows = encode(tiny_tokenizer(), TEXTS, None, max_length=32, model=teacher)
    assert student_rows.flat["input_ids"].tolist() != teacher_rows.flat["input_ids"].tolist()
    rows = student_rows.join(teacher_logits=run_teacher(teacher, TEXTS).join(TEXTS, None))
    expected = own_logits(teacher, TEXTS)
    for row in range(len(TEXTS)):
        batch = rows.batch([row])
        torch.testing.assert_close(batch["teacher_logits"][0], expected[row], atol=1e-5, rtol=1e-4)
        ids = student_tokenizer(TEXTS[row])["input_ids"]
        assert batch["input_ids"][0].tolist() == ids


def test_trap_6_columns_put_the_teachers_classes_into_the_datas_order(teacher: Any) -> None:
    plain, swapped = run_teacher(teacher, TEXTS), run_teacher(teacher, TEXTS, columns=[1, 0])
    assert torch.equal(swapped.logits, plain.logits.flip(1))
    assert not torch.equal(swapped.logits, plain.logits)
