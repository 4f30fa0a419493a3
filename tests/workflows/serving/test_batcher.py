"""The batcher alone, with a model of which each call is seen."""

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import numpy as np
import pytest

from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions
from distilkit.workflows.serving.batcher import Batch, Batcher, BatcherClosed, QueueFull


class Model:
    """Answers a text with its number as probability; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.calls: list[Texts] = []
        self.gate, self.begun = threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def __call__(self, texts: Texts) -> Predictions:
        self.calls.append(texts)
        self.begun.release()
        assert self.gate.wait(60)
        if "bad" in texts.first:
            raise ValueError("bad")
        second = texts.second or [""] * len(texts)
        return Predictions(
            ("a",), np.array([[float(text + pair)] for text, pair in zip(texts.first, second, strict=True)])
        )

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


OPTIONS: dict[str, Any] = {"batch_size": 4, "wait_seconds": 0, "queue_size": 8}


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher]:
    """A batcher whose model is busy with a first text until the gate opens."""
    with Batcher(model, **OPTIONS) as batcher:
        model.gate.clear()
        batcher.submit(Texts(["0"]))
        assert model.begun.acquire(timeout=60)
        yield batcher
        model.gate.set()


def answer_of(future: Any) -> list[float]:
    numbers: list[float] = future.result(60).probabilities[:, 0].tolist()
    return numbers


def test_texts_of_several_requests_are_one_call_and_each_gets_its_answers(
    batcher: Batcher, model: Model
) -> None:
    futures = [batcher.submit(Texts(texts)) for texts in (["1", "2"], ["3"], ["4"], ["5"])]
    assert batcher.queued_rows == 5
    model.gate.set()
    assert [answer_of(future) for future in futures] == [[1, 2], [3], [4], [5]]
    assert model.sizes == [1, 4, 1] and batcher.queued_rows == 0


def test_a_request_is_not_split_and_overtakes_nobody(batcher: Batcher, model: Model) -> None:
    futures = [batcher.submit(Texts(texts)) for texts in (["1"], ["2"] * 6, ["3"])]
    model.gate.set()
    assert [answer_of(future) for future in futures] == [[1], [2] * 6, [3]]
    assert model.sizes == [1, 1, 6, 1]


def test_texts_and_pairs_are_not_mixed(batcher: Batcher, model: Model) -> None:
    futures = [batcher.submit(texts) for texts in (Texts(["1"]), Texts(["2"], ["3"]), Texts(["4"]))]
    model.gate.set()
    assert [answer_of(future) for future in futures] == [[1], [23], [4]]
    assert model.sizes == [1, 2, 1]


def test_a_full_queue_refuses_and_takes_again_once_there_is_room(batcher: Batcher, model: Model) -> None:
    future = batcher.submit(Texts(["1"] * 7))
    with pytest.raises(QueueFull) as full:
        batcher.submit(Texts(["2", "3"]))
    assert full.value.seconds >= 1
    batcher.submit(Texts(["2"]))
    model.gate.set()
    answer_of(future)
    assert answer_of(batcher.submit(Texts(["4"] * 8))) == [4] * 8


def test_what_makes_the_model_fail_fails_alone(batcher: Batcher, model: Model) -> None:
    """A text that is answered must not depend on what strangers send at the same time."""
    futures = [batcher.submit(Texts([text])) for text in ("1", "bad", "2")]
    model.gate.set()
    assert answer_of(futures[0]) == [1] and answer_of(futures[2]) == [2]
    with pytest.raises(ValueError, match="bad"):
        futures[1].result(60)
    assert answer_of(batcher.submit(Texts(["3"]))) == [3]


def test_what_is_cancelled_while_it_waits_is_never_computed(batcher: Batcher, model: Model) -> None:
    first, second = batcher.submit(Texts(["1"])), batcher.submit(Texts(["2"]))
    assert first.cancel()
    model.gate.set()
    assert answer_of(second) == [2]
    assert [call.first for call in model.calls] == [["0"], ["2"]]


def test_the_end_answers_all_that_was_taken_and_takes_nothing_more(model: Model) -> None:
    with Batcher(model, **OPTIONS) as batcher:
        model.gate.clear()
        futures = [batcher.submit(Texts([str(number)])) for number in range(8)]
        threading.Timer(0.05, model.gate.set).start()
    assert not batcher.is_alive
    assert all(future.done() for future in futures)
    assert [answer_of(future) for future in futures] == [[number] for number in range(8)]
    with pytest.raises(BatcherClosed):
        batcher.submit(Texts(["9"]))


def test_a_text_waits_for_others_until_the_batch_is_full(model: Model) -> None:
    """With an hour to wait, only the fourth text can have started the batch."""
    batches: list[Batch] = []
    options = OPTIONS | {"wait_seconds": 3600}
    with Batcher(model, **options, observe=batches.append) as batcher:
        futures = [batcher.submit(Texts([text])) for text in "1234"]
        assert not wait(futures, 60).not_done
    assert model.sizes == [4]
    assert batches[0].rows == 4 and len(batches[0].waits) == 4 and min(batches[0].waits) >= 0


def test_several_threads_answer_several_batches_at_a_time_and_none_is_left(model: Model) -> None:
    """Where another machine answers, one request at a time would make every other one wait."""
    with Batcher(model, **OPTIONS, threads=3) as batcher:
        model.gate.clear()
        futures = [batcher.submit(Texts([str(i)] * 2)) for i in range(4)]
        for _ in range(2):
            assert model.begun.acquire(timeout=60)
        model.gate.set()
        assert [answer_of(future) for future in futures] == [[i, i] for i in range(4)]
        assert batcher.queued_rows == 0
    assert not batcher.is_alive
