"""Logits come back in the caller's order, whatever they were batched with."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, family, lively, needs_cuda, tiny_bert, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilkit.data.encoding import Encoded, encode
from distilkit.data.texts import Texts
from distilkit.engine.inference import logits as inference
from distilkit.engine.inference.logits import low_precision_copy, predict_logits, predict_texts, token_batches
from distilkit.errors import UserError
from distilkit.hardware.threads import single_threaded

# Lengths go up and down, so that rows sorted by length are in another order than these.
TEXTS = [text for both in zip(GOOD, BAD, strict=True) for text in both] + [
    "fun",
    "a moving and great story . " * 3,
]


def read_alone(model: Any, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
    """What transformers answers, a text at a time."""
    tokenizer = tiny_tokenizer()
    second = pairs or [None] * len(texts)
    with torch.no_grad():
        return torch.cat(
            [
                model(**tokenizer(text, pair, return_tensors="pt")).logits
                for text, pair in zip(texts, second, strict=True)
            ]
        )


def state(model: Any) -> dict[str, Tensor]:
    """Copies of all that a model is made of."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def bert() -> Any:
    return lively(tiny_bert())


@pytest.fixture(scope="module")
def rows(bert: Any) -> Encoded:
    return encode(tiny_tokenizer(), Texts(TEXTS), max_length=32, model=bert)


@pytest.fixture(scope="module")
def alone(bert: Any) -> Tensor:
    """Each text read alone by transformers, without any of our code."""
    return read_alone(bert, TEXTS)


@pytest.mark.parametrize("tokens", [1, 20, 40, 1000, None])
def test_rows_keep_the_callers_order_and_do_not_depend_on_their_batch(
    bert: Any, rows: Encoded, alone: Tensor, tokens: int | None
) -> None:
    """Batches are sorted by length inside: answers not put back would be other rows' answers."""
    assert list(rows.lengths) != sorted(rows.lengths, reverse=True)
    logits = predict_logits(bert, rows, tokens=tokens, precision="fp32")
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    # No two rows are so alike that the wrong one would pass.
    distances = torch.cdist(alone, alone) + torch.eye(len(TEXTS))
    assert distances.min() > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_put_back(
    bert: Any, rows: Encoded, alone: Tensor, training: bool
) -> None:
    bert.train(training)
    try:
        logits = predict_logits(bert, rows, tokens=40, precision="fp32")
        assert bert.training is training
    finally:
        bert.eval()
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)


def test_the_mode_is_put_back_after_an_error_too(rows: Encoded) -> None:
    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, **_: Tensor) -> Any:
            raise RuntimeError("out of memory")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_logits(model, rows, tokens=40, precision="fp32")
    assert model.training


def test_logits_are_float32_on_the_cpu_and_carry_no_gradient(bert: Any, rows: Encoded, alone: Tensor) -> None:
    logits = predict_logits(bert, rows, tokens=40, precision="bf16")
    assert logits.dtype == torch.float32 and logits.device.type == "cpu" and not logits.requires_grad
    torch.testing.assert_close(logits, alone, atol=0.2, rtol=0.05)
    assert not torch.equal(logits, predict_logits(bert, rows, tokens=40, precision="fp32"))


def test_progress_counts_every_row_once(bert: Any, rows: Encoded) -> None:
    told: list[int] = []
    with single_threaded(), watched(bert) as shapes:
        predict_logits(bert, rows, tokens=40, precision="fp32", advance=told.append)
    assert told == np.cumsum([shape[0] for shape in shapes]).tolist()
    assert len(told) > 2 and told[-1] == len(TEXTS)


def test_the_longest_rows_go_first_so_that_memory_runs_out_at_once(bert: Any, rows: Encoded) -> None:
    with single_threaded(), watched(bert) as shapes:
        predict_logits(bert, rows, tokens=10, precision="fp32")
    widths = [shape[1] for shape in shapes]
    assert widths == sorted(widths, reverse=True) and widths[0] == rows.lengths.max()
    assert widths[-1] == rows.lengths.min()  # and nothing is padded beyond its batch


# --- how much a batch holds --------------------------------------------------------------------------------


@contextmanager
def watched(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """The shapes `[N, L]` that the model is given."""
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda module, arguments, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield shapes
    finally:
        hook.remove()


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=120).map(np.asarray),
    tokens=st.integers(1, 300),
)
@settings(max_examples=100, deadline=None)
def test_a_batch_never_exceeds_its_tokens_padding_included_but_for_one_long_row(
    lengths: Any, tokens: int
) -> None:
    """Counted without padding, a batch would grow past what fits; cut too early, it would be slow."""
    batches = list(token_batches(lengths, tokens))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    widths = [max(1, int(lengths[batch].max())) for batch in batches]
    assert widths == sorted(widths, reverse=True)
    for number, (batch, width) in enumerate(zip(batches, widths, strict=True)):
        assert len(batch) * width <= tokens or len(batch) == 1
        if number + 1 < len(batches):
            assert (len(batch) + 1) * width > tokens, "another row would have fitted"


@pytest.mark.parametrize("tokens", [1, 7, 20, 50, 500])
def test_the_model_is_given_no_more_tokens_than_asked_for(bert: Any, rows: Encoded, tokens: int) -> None:
    with watched(bert) as shapes:
        predict_logits(bert, rows, tokens=tokens, precision="fp32")
    assert sum(shape[0] for shape in shapes) == len(TEXTS)
    assert all(count * width <= tokens or count == 1 for count, width in shapes)
    assert tokens < 20 or max(shape[0] for shape in shapes) > 1


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


@contextmanager
def little_memory(model: Any, fits: int, error: Exception = OUT_OF_MEMORY) -> Iterator[list[tuple[int, ...]]]:
    """A device on which batches of more than `fits` tokens run out of memory; the shapes that were tried."""

    def refuse(module: Any, arguments: Any, inputs: dict[str, Tensor]) -> None:
        if inputs["input_ids"].numel() > fits:
            raise error

    with watched(model) as shapes:
        hook = model.register_forward_pre_hook(refuse, with_kwargs=True)
        try:
            yield shapes
        finally:
            hook.remove()


def test_out_of_memory_halves_the_budget_for_the_rest_and_loses_no_row(
    bert: Any, rows: Encoded, alone: Tensor
) -> None:
    """Rows of the batch that failed left out, or put in another place, would be other rows' logits."""
    told: list[int] = []
    with little_memory(bert, fits=40) as tried:
        logits = predict_logits(bert, rows, tokens=160, precision="fp32", advance=told.append)
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    sizes = [count * width for count, width in tried]
    failed = [size for size in sizes if size > 40]
    assert len(failed) == 2 and failed[0] > 80 >= failed[1], "160, then 80, then 40"
    assert sizes[: len(failed)] == failed, "and no batch is too large again"
    assert told == sorted(set(told)) and told[-1] == len(TEXTS)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be reported later.",
    ],
)
def test_what_libraries_call_out_of_memory_halves_the_budget_too(
    bert: Any, rows: Encoded, alone: Tensor, message: str
) -> None:
    with little_memory(bert, 40, RuntimeError(message)) as tried:
        logits = predict_logits(bert, rows, tokens=160, precision="fp32")
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    assert tried[0][0] * tried[0][1] > 40
    with little_memory(bert, 40, RuntimeError("mat1 and mat2")), pytest.raises(RuntimeError, match="mat1"):
        predict_logits(bert, rows, tokens=160, precision="fp32")


def test_memory_that_runs_out_later_than_at_the_first_batch_keeps_what_is_done(
    bert: Any, rows: Encoded, alone: Tensor
) -> None:
    calls = 0

    def refuse_the_third(module: Any, arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = bert.register_forward_pre_hook(refuse_the_third)
    told: list[int] = []
    try:
        with watched(bert) as shapes:
            logits = predict_logits(bert, rows, tokens=20, precision="fp32", advance=told.append)
    finally:
        hook.remove()
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    assert calls > 3 and told[-1] == len(TEXTS)
    assert all(count * width <= 10 or count == 1 for count, width in shapes[3:])


def test_a_row_that_fits_no_memory_by_itself_is_an_error_the_user_can_mend(bert: Any, rows: Encoded) -> None:
    """Halved for ever, the budget would end in an endless loop."""
    with little_memory(bert, fits=3) as tried, pytest.raises(UserError, match="--max-length"):
        predict_logits(bert, rows, tokens=1000, precision="fp32")
    assert len(tried) < 20
    assert not bert.training


# --- low precision -----------------------------------------------------------------------------------------


def test_bf16_leaves_the_model_itself_as_it_is(bert: Any, rows: Encoded) -> None:
    """A teacher or student left in bf16 would be saved, and trained, with 8 bits of its weights."""
    before = state(bert)
    bert.train()
    try:
        predict_logits(bert, rows, precision="bf16")
        assert bert.training
    finally:
        bert.eval()
    after = bert.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype and torch.equal(after[name], value), name


def test_a_model_is_copied_only_where_its_weights_must_change(bert: Any) -> None:
    """A copy for nothing doubles the memory; none where it is needed changes the caller's model."""
    assert low_precision_copy(bert, "fp32") is bert and low_precision_copy(bert, "fp16") is bert
    low = low_precision_copy(bert, "bf16")
    assert low is not bert and {p.dtype for p in low.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in bert.parameters()} == {torch.float32}
    assert low_precision_copy(low, "bf16") is low


@pytest.mark.parametrize("layers", [1, 2])
def test_an_lstm_keeps_its_weights_on_cuda(layers: int) -> None:
    """In bf16 cuDNN would find them scattered, warn, and put them together in every call."""
    model, cuda = family("bilstm", num_layers=layers), torch.device("cuda")
    assert low_precision_copy(model, "bf16", cuda) is model
    assert low_precision_copy(model, "bf16") is not model


def test_the_angles_of_rotary_positions_stay_exact_in_bf16() -> None:
    """At position 500 a frequency that is off by 0.4 % is off by two radians."""
    rotary = family("modernbert", layer_types=["full_attention"])
    exact = {name: buffer for name, buffer in rotary.named_buffers() if "inv_freq" in name}
    kept = dict(low_precision_copy(rotary, "bf16").named_buffers())
    assert exact and all(torch.equal(kept[name], buffer) for name, buffer in exact.items())


def test_a_bf16_copy_predicts_what_the_model_predicts_in_bf16(bert: Any, rows: Encoded) -> None:
    """`evaluate` makes the copy once and passes that."""
    low = low_precision_copy(bert, "bf16")
    assert torch.equal(
        predict_logits(low, rows, precision="bf16"), predict_logits(bert, rows, precision="bf16")
    )


def test_memory_is_given_back_between_batches(
    bert: Any, rows: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(inference, "trim_heap", lambda: given.append(1))
    monkeypatch.setattr(inference, "GIVE_BACK", 2)
    with watched(bert) as shapes:
        predict_logits(bert, rows, tokens=20, precision="fp32")
    assert len(given) == len(shapes) // 2 > 0


# --- texts, chunk by chunk ---------------------------------------------------------------------------------


def texts_like(kind: str, texts: list[str]) -> Any:
    return texts if kind == "list" else datasets.Dataset.from_dict({"text": texts})["text"]


@pytest.mark.parametrize("kind", ["list", "column"])
@pytest.mark.parametrize("chunk", [1, 3, 4, 8192])
def test_texts_in_chunks_are_answered_as_their_encoded_rows_are(
    bert: Any, rows: Encoded, chunk: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks joined to other positions than they were read from would give each row another's logits."""
    monkeypatch.setattr(inference, "CHUNK", {"cpu": chunk})
    expected = predict_logits(bert, rows, precision="fp32")
    positions = [7, 2, 9, 0, 1, 8, 3, 6, 5, 4]
    told: list[int] = []
    answered: list[int] = []
    for where, logits in predict_texts(
        bert,
        tiny_tokenizer(),
        Texts(texts_like(kind, TEXTS)),
        positions,
        max_length=32,
        precision="fp32",
        advance=told.append,
    ):
        assert len(where) == len(logits) <= chunk and logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected[where], atol=1e-5, rtol=1e-4)
        answered += where.tolist()
        assert told[-1] == len(answered), "progress goes on from chunk to chunk"
    assert answered == positions
    assert told == sorted(set(told)) and told[-1] == len(positions)


@pytest.mark.parametrize("kind", ["list", "column"])
def test_pairs_stay_together_and_only_the_positions_asked_for_are_read(
    bert: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second text taken by its place in the chunk, and not in the data, is another pair's."""
    monkeypatch.setattr(inference, "CHUNK", {"cpu": 2})
    pairs = TEXTS[3:] + TEXTS[:3]
    expected = read_alone(bert, TEXTS, pairs)
    positions = np.asarray([5, 1, 8, 2, 6])
    texts = Texts(texts_like(kind, TEXTS), texts_like(kind, pairs))
    parts = list(predict_texts(bert, tiny_tokenizer(), texts, positions, max_length=32, precision="fp32"))
    assert np.concatenate([where for where, _ in parts]).tolist() == positions.tolist()
    logits = torch.cat([logits for _, logits in parts])
    torch.testing.assert_close(logits, expected[positions], atol=1e-5, rtol=1e-4)


def test_texts_are_read_in_eval_mode_and_the_mode_is_put_back(bert: Any, alone: Tensor) -> None:
    bert.train()
    try:
        parts = list(
            predict_texts(bert, tiny_tokenizer(), Texts(TEXTS), range(10), max_length=32, precision="fp32")
        )
        assert bert.training
    finally:
        bert.eval()
    torch.testing.assert_close(torch.cat([logits for _, logits in parts]), alone, atol=1e-5, rtol=1e-4)


def test_no_position_is_no_chunk(bert: Any) -> None:
    assert not list(predict_texts(bert, tiny_tokenizer(), Texts(TEXTS), [], max_length=32, precision="fp32"))


# --- CUDA --------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@needs_cuda
def test_texts_tokenized_ahead_on_cuda_are_answered_as_on_the_cpu(
    bert: Any, alone: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next chunk is tokenized while this one is computed: mixed up, they would change places."""
    monkeypatch.setattr(inference, "CHUNK", {"cpu": 3, "cuda": 3})
    try:
        parts = predict_texts(
            bert.cuda(), tiny_tokenizer(), Texts(TEXTS), range(10), max_length=32, precision="fp32"
        )
        logits = torch.cat([logits for _, logits in parts])
    finally:
        bert.cpu()
    torch.testing.assert_close(logits, alone, atol=1e-3, rtol=1e-3)


@pytest.mark.cuda
@needs_cuda
def test_logits_on_cuda_equal_those_on_the_cpu(bert: Any, rows: Encoded, alone: Tensor) -> None:
    try:
        logits = predict_logits(bert.cuda(), rows, tokens=40, precision="fp32")
    finally:
        bert.cpu()
    torch.testing.assert_close(logits, alone, atol=1e-3, rtol=1e-3)


# --- several batches at a time ------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
        assert torch.get_num_threads() == 2, "the number of threads is put back"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2, "for threads that start later too"
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("tokens", [1, 20, 40])
def test_batches_computed_at_the_same_time_are_answered_in_the_callers_order(
    bert: Any, rows: Encoded, alone: Tensor, tokens: int
) -> None:
    told: list[int] = []
    threads: list[tuple[str, int, bool]] = []

    def note(module: Any, arguments: Any) -> None:
        threads.append(
            (threading.current_thread().name, torch.get_num_threads(), torch.is_inference_mode_enabled())
        )

    hook = bert.register_forward_pre_hook(note)
    try:
        logits = predict_logits(bert, rows, tokens=tokens, precision="fp32", advance=told.append)
    finally:
        hook.remove()
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    assert told == sorted(set(told)) and told[-1] == len(TEXTS)
    main = threading.current_thread().name
    assert threads[0] == (main, 2, True), "the longest batch goes first, and alone"
    assert all(name != main and (number, inference) == (1, True) for name, number, inference in threads[1:])


@pytest.mark.usefixtures("two_threads")
def test_memory_that_runs_out_in_a_lane_loses_no_row(bert: Any, rows: Encoded, alone: Tensor) -> None:
    told: list[int] = []
    with little_memory(bert, fits=20) as tried:
        logits = predict_logits(bert, rows, tokens=80, precision="fp32", advance=told.append)
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    assert max(count * width for count, width in tried) > 20
    assert told == sorted(set(told)) and told[-1] == len(TEXTS)


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_lane_ends_the_others_soon(bert: Any, rows: Encoded) -> None:
    calls = 0

    def refuse_the_second(module: Any, arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("broken")
        time.sleep(0.05 if calls > 2 else 0)

    hook = bert.register_forward_pre_hook(refuse_the_second)
    try:
        with pytest.raises(RuntimeError, match="broken"):
            predict_logits(bert, rows, tokens=1, precision="fp32")
    finally:
        hook.remove()
    assert calls < len(rows)


def test_batches_of_equal_length_hold_no_padding(bert: Any, alone: Tensor) -> None:
    """A model whose answers depend on padding reads each row as it would be alone."""
    lengths = np.array([3, 7, 3, 3, 7, 1])
    batches = [batch.tolist() for batch in token_batches(lengths, 6, equal_lengths=True)]
    assert batches == [[1], [4], [0, 2], [3], [5]]
    bert.needs_equal_lengths = True
    try:
        rows = encode(tiny_tokenizer(), Texts(TEXTS), max_length=32, model=bert)
        widths: list[Tensor] = []
        hook = bert.register_forward_pre_hook(
            lambda *inputs: widths.append(inputs[2]["attention_mask"]), with_kwargs=True
        )
        logits = predict_logits(bert, rows, precision="fp32")
        hook.remove()
    finally:
        del bert.needs_equal_lengths
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
    assert all(bool(mask.all()) for mask in widths) and sum(len(mask) for mask in widths) == len(TEXTS)


@pytest.mark.parametrize("tokens", [20, 40, 60])
def test_pieces_of_a_stream_have_one_shape_per_length(bert: Any, tokens: int) -> None:
    """oneDNN keeps megabytes for every shape of an LSTM's input: memory would grow with the rows read."""
    random = np.random.default_rng(0)
    shapes = set()
    for _ in range(200):
        lengths = random.integers(1, 12, size=random.integers(20, 60))
        plain = list(token_batches(lengths, tokens))
        batches = inference.fill_last(plain, lengths, tokens)
        assert [batch.tolist() for batch in batches[:-1]] == [batch.tolist() for batch in plain[:-1]]
        assert set(batches[-1].tolist()) == set(plain[-1].tolist())
        shapes |= {(len(batch), int(lengths[batch].max())) for batch in batches}
    assert len(shapes) == len({length for _, length in shapes})
    assert inference.fill_last([np.arange(3)], np.ones(3, np.int64), tokens)[0].tolist() == [0, 1, 2]


def test_filled_batches_give_every_row_its_answer(bert: Any, alone: Tensor, monkeypatch: Any) -> None:
    monkeypatch.setitem(inference.TOKENS, "cpu", 24)
    told: list[int] = []
    pieces = [("a", Texts(TEXTS[:7])), ("b", Texts(TEXTS[7:]))]
    answers = inference.predict_stream(
        bert,
        tiny_tokenizer(),
        pieces,
        max_length=32,
        precision="fp32",
        few_shapes=True,
        advance=told.append,
    )
    names, logits = zip(*answers, strict=True)
    assert names == ("a", "b")
    torch.testing.assert_close(torch.cat(logits), alone, atol=1e-5, rtol=1e-4)
    assert told == sorted(told) and told[-1] == len(TEXTS)
