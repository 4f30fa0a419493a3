"""Every row comes once an epoch, in steps that change with the epoch and repeat with the seed."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilkit.data import batching, large
from distilkit.data.batching import WINDOW, LengthBatchSampler, step_loader
from distilkit.data.encoding import Encoded
from distilkit.hardware.threads import prefetch


def rows_of(lengths: list[int]) -> Encoded:
    """Rows of these lengths; the first token of a row is its number."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.ones(offsets[-1], np.int32)
    flat[offsets[:-1]] = np.arange(len(lengths))
    return Encoded(flat={"input_ids": torch.from_numpy(flat)}, offsets=offsets, padding={"input_ids": 0})


def epoch_of(sampler: LengthBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=200),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 50),
)
@settings(max_examples=80, deadline=None)
def test_every_row_comes_exactly_once_an_epoch_the_short_last_step_too(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    sampler = LengthBatchSampler(rows_of(lengths), batch_size, seed)
    steps = epoch_of(sampler, epoch)
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    assert len(steps) == len(sampler)
    assert all(1 <= len(step) <= batch_size for step in steps)


def test_steps_that_are_skipped_are_the_first_of_this_epoch_alone() -> None:
    """A training that goes on would read rows twice, and others never."""
    loader = step_loader(
        rows_of([1 + i % 5 for i in range(21)]), batch_size=2, gradient_accumulation_steps=2, seed=3
    )

    def first_tokens() -> list[list[int]]:
        return [[row for batch in step for row in batch["input_ids"][:, 0].tolist()] for step in loader]

    loader.set_epoch(4)
    steps = first_tokens()
    for count in (0, 1, len(steps) - 1, len(steps)):
        loader.set_epoch(4)
        loader.skip(count)
        assert first_tokens() == steps[count:]
        assert len(loader) == len(steps)
    loader.set_epoch(4)
    assert first_tokens() == steps


def test_order_and_composition_differ_between_epochs_and_repeat_with_the_seed() -> None:
    """The same batches every epoch would be less random than the user thinks; another order each run
    would make no run repeatable."""
    rows = rows_of([1 + i % 9 for i in range(100)])
    sampler = LengthBatchSampler(rows, 8, seed=1)
    first, second = epoch_of(sampler, 1), epoch_of(sampler, 2)
    composition = [{frozenset(step) for step in steps} for steps in (first, second)]
    assert composition[0] != composition[1]
    assert [len(step) for step in first] != [len(step) for step in second] or first != second
    assert epoch_of(LengthBatchSampler(rows, 8, seed=1), 1) == first
    assert epoch_of(LengthBatchSampler(rows, 8, seed=2), 1) != first


def test_the_short_step_is_not_always_the_last_and_long_rows_not_always_the_end() -> None:
    sampler = LengthBatchSampler(rows_of(list(range(1, 42))), 4, seed=0)
    places = {[len(step) for step in epoch_of(sampler, epoch)].index(1) for epoch in range(8)}
    assert len(places) > 1


def test_a_step_holds_rows_of_like_length() -> None:
    """Otherwise bucketing is gone, and training silently takes several times as long."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, size=WINDOW * 8).tolist()
    steps = epoch_of(LengthBatchSampler(rows_of(lengths), 8, seed=0), 1)
    padded = sum(len(step) * max(lengths[row] for row in step) for step in steps)
    assert padded < 1.1 * sum(lengths)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 4), (4, 8), (5, 7), (32, 1)])
def test_a_step_is_cut_into_batches_after_it_is_drawn(batch_size: int, accumulation: int) -> None:
    rows = rows_of([1 + i % 5 for i in range(77)])
    loader = step_loader(rows, batch_size=batch_size, gradient_accumulation_steps=accumulation, seed=3)
    whole = LengthBatchSampler(rows, batch_size * accumulation, seed=3)
    for batches, step in zip(loader, whole, strict=True):
        assert [row for batch in batches for row in batch["input_ids"][:, 0].tolist()] == step
        assert all(len(batch["input_ids"]) == batch_size for batch in batches[:-1])
    seen = Counter(
        row for batches in loader for batch in batches for row in batch["input_ids"][:, 0].tolist()
    )
    assert seen == Counter(range(77))


def test_batches_made_ahead_are_all_of_them_in_their_order_and_errors_arrive() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("unreadable")

    with ThreadPoolExecutor(1) as spare_core:
        assert list(prefetch(range(5), spare_core)) == list(range(5))
        assert list(prefetch([], spare_core)) == []
        with pytest.raises(ValueError, match="unreadable"):
            list(prefetch(broken(), spare_core))


@given(
    own=st.integers(1, 20),
    behind=st.integers(1, 30),
    others=st.integers(1, 70),
    batch_size=st.integers(1, 9),
)
@settings(max_examples=80, deadline=None)
def test_a_mix_has_every_own_row_and_the_others_in_turn(
    own: int, behind: int, others: int, batch_size: int
) -> None:
    """In time the other rows must come equally often, or much of the transfer text is never read."""
    rows = rows_of([1 + i % 5 for i in range(own + behind)])
    sampler = LengthBatchSampler(rows, batch_size, seed=1, mix=(own, others))
    other_seed = LengthBatchSampler(rows, batch_size, seed=2, mix=(own, others))
    seen: Counter[int] = Counter()
    for epoch in range(7):
        steps = epoch_of(sampler, epoch)
        numbers = Counter(row for step in steps for row in step)
        assert len(steps) == len(sampler)
        assert {row: times for row, times in numbers.items() if row < own} == dict.fromkeys(range(own), 1)
        assert sum(numbers.values()) == own + others
        assert numbers == Counter(row for step in epoch_of(other_seed, epoch) for row in step)
        seen += Counter({row: times for row, times in numbers.items() if row >= own})
    turns = [seen[row] for row in range(own, own + behind)]
    assert max(turns) - min(turns) <= 1


def test_the_others_of_a_mix_come_in_another_order_each_round() -> None:
    """Else the same texts would be read together again and again, in each round at the same place."""
    sampler = LengthBatchSampler(rows_of([1] * 30), 5, seed=1, mix=(10, 10))
    others = [{row for step in epoch_of(sampler, epoch) for row in step if row >= 10} for epoch in range(4)]
    assert others[0] | others[1] == others[2] | others[3] == set(range(10, 30))
    assert others[0] not in (others[2], others[3])


def test_a_large_set_is_read_in_blocks_and_every_row_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows on disk that were read one here, one there would be as slow as the disk is at seeking."""
    monkeypatch.setattr(batching, "LARGE_ROWS", 100)
    monkeypatch.setattr(large, "BLOCK_ROWS", 16)
    monkeypatch.setattr(large, "BUFFER_BLOCKS", 4)
    rows = rows_of([1 + i % 9 for i in range(1003)])
    sampler = LengthBatchSampler(rows, 8, seed=1)
    first, second = epoch_of(sampler, 1), epoch_of(sampler, 2)
    assert first != second and epoch_of(LengthBatchSampler(rows, 8, seed=1), 1) == first
    assert epoch_of(LengthBatchSampler(rows, 8, seed=2), 1) != first
    for steps in (first, second):
        assert sorted(row for step in steps for row in step) == list(range(1003))
        assert len(steps) == len(sampler) and {len(step) for step in steps[:-1]} == {8}
    blocks = {row // 16 for step in first[:6] for row in step}
    assert len(blocks) <= 4, "the first steps are of the first buffer"
    padded = sum(8 * max(1 + row % 9 for row in step) for step in first)
    assert padded < 1.35 * int(rows.lengths.sum()), "rows of like length are together"
