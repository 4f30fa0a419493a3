"""Logits come back in the caller's order, whatever they were batched with."""

from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, lively, tiny_bert, tiny_tokenizer
from torch import Tensor

from distilkit.data.encoding import Encoded, encode
from distilkit.engine.inference import predict_logits

# Lengths go up and down, so that rows sorted by length are in another order than these.
TEXTS = [text for both in zip(GOOD, BAD, strict=True) for text in both] + [
    "fun",
    "a moving and great story . " * 3,
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def bert() -> Any:
    return lively(tiny_bert())


@pytest.fixture(scope="module")
def rows(bert: Any) -> Encoded:
    return encode(tiny_tokenizer(), TEXTS, None, max_length=32, model=bert)


@pytest.fixture(scope="module")
def alone(bert: Any) -> Tensor:
    """Each text read alone by transformers, without any of our code."""
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        return torch.cat([bert(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_rows_keep_the_callers_order_and_do_not_depend_on_their_batch(
    bert: Any, rows: Encoded, alone: Tensor, batch_size: int
) -> None:
    """Batches are sorted by length inside: answers not put back would be other rows' answers."""
    assert list(rows.lengths) != sorted(rows.lengths, reverse=True)
    logits = predict_logits(bert, rows, batch_size=batch_size, precision="fp32")
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
        logits = predict_logits(bert, rows, batch_size=4, precision="fp32")
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
        predict_logits(model, rows, batch_size=4, precision="fp32")
    assert model.training


def test_logits_are_float32_on_the_cpu_and_carry_no_gradient(bert: Any, rows: Encoded, alone: Tensor) -> None:
    logits = predict_logits(bert, rows, batch_size=4, precision="bf16")
    assert logits.dtype == torch.float32 and logits.device.type == "cpu" and not logits.requires_grad
    torch.testing.assert_close(logits, alone, atol=0.2, rtol=0.05)
    assert not torch.equal(logits, predict_logits(bert, rows, batch_size=4, precision="fp32"))


def test_progress_counts_every_row_once(bert: Any, rows: Encoded) -> None:
    told: list[int] = []
    predict_logits(bert, rows, batch_size=4, precision="fp32", advance=told.append)
    assert told == [4, 8, 10]


def test_the_longest_rows_go_first_so_that_memory_runs_out_at_once(bert: Any, rows: Encoded) -> None:
    widths: list[int] = []
    hook = bert.register_forward_pre_hook(
        lambda module, arguments, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        predict_logits(bert, rows, batch_size=3, precision="fp32")
    finally:
        hook.remove()
    assert widths == sorted(widths, reverse=True) and widths[0] == rows.lengths.max()
    assert widths[-1] == rows.lengths.min()  # and nothing is padded beyond its batch


@pytest.mark.cuda
@needs_cuda
def test_logits_on_cuda_equal_those_on_the_cpu(bert: Any, rows: Encoded, alone: Tensor) -> None:
    try:
        logits = predict_logits(bert.cuda(), rows, batch_size=4, precision="fp32")
    finally:
        bert.cpu()
    torch.testing.assert_close(logits, alone, atol=1e-3, rtol=1e-3)
