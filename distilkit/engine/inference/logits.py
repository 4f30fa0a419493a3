"""Forward passes without gradients: the rows of like length together, in the device's fast number format."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilkit.data.encoding import Encoded, Tokenizer, encode, leave_out_full_mask
from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.hardware.dropout import eval_mode
from distilkit.hardware.kernels import FastAttention, forward_context
from distilkit.hardware.memory import explain_out_of_memory, is_out_of_memory, trim_heap
from distilkit.hardware.precision import Resolved
from distilkit.models.exported import ExportedModel

Item = TypeVar("Item")

# Tokens per forward pass: on a CPU activations should stay in a core's cache, and a GPU wants to be full.
TOKENS = {"cpu": 4096, "cuda": 1 << 14}
LANES = 8  # batches at a time on a CPU: Python serves no more
FIRST = np.zeros(1, np.int64)
EXACT = "inv_freq"  # of rotary positions: multiplied by a position, a rounded one is another angle
GIVE_BACK = 32  # batches after which unused memory goes back to the system; no slower, and it stays flat
# Texts that are tokenized, and sorted by length, together: enough for many batches, each of like lengths.
CHUNK = {"cpu": 8192, "cuda": 1 << 16}


def predict_logits(
    model: torch.nn.Module,
    rows: Encoded,
    *,
    precision: Resolved,
    tokens: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return the logits of every row, in the caller's order, in eval mode; the model is left as it is.

    Rows of like length are batched together, longest first, so that little is padding and a batch that does
    not fit in memory fails at once.

    Args:
        model: returns `.logits` `[N, C]` for a batch of `rows`.
        tokens: a batch holds at most so many, padding included, and at least one row; by default what suits
            the device. Halved for the rest of the rows whenever a CUDA device runs out of memory.
        advance: called with the number of finished rows.

    Returns:
        float32 `[N, C]` on the CPU.
    """
    with _evaluating(model, precision) as low:
        return _predict(low, rows, precision, tokens, advance)


def predict_texts(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: Texts,
    positions: Sequence[int] | NDArray[np.int64],
    *,
    max_length: int,
    precision: Resolved,
    advance: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield `positions` and their logits, float32 `[n, C]` on the CPU, in chunks of texts (`CHUNK`).

    What is in memory at a time does not grow with the number of texts. The next chunk is tokenized while the
    device computes.

    Args:
        positions: which of `texts` are read, in any order.
        advance: called with the number of finished rows.
    """
    size = chunk_rows(next(model.parameters()).device)
    chunks = (np.asarray(positions[i : i + size], np.int64) for i in range(0, len(positions), size))
    pieces = ((chunk, texts.take(chunk)) for chunk in chunks)
    yield from predict_stream(
        model, tokenizer, pieces, max_length=max_length, precision=precision, advance=advance
    )


def predict_stream(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    pieces: Iterable[tuple[Item, Texts]],
    *,
    max_length: int,
    precision: Resolved,
    few_shapes: bool = False,
    advance: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Item, Tensor]]:
    """Yield each item with the logits of its texts, float32 `[n, C]` on the CPU, in order.

    No more than two pieces are in memory: the next is tokenized while the device computes.

    Args:
        few_shapes: fill up the last batch of each piece, as `fill_last` does, where pieces go on and on.
        advance: called with the number of finished rows.
    """
    done = 0

    def encoded(texts: Texts) -> Encoded:
        return encode(tokenizer, texts, max_length=max_length, model=model)

    def compute(low: torch.nn.Module, item: Item, rows: Encoded) -> tuple[Item, Tensor]:
        if not len(rows):
            return item, torch.empty(0, int(low.config.num_labels))  # type: ignore[union-attr, arg-type]
        return item, _predict(low, rows, precision, None, partial(_add, done, advance), few_shapes)

    with _evaluating(model, precision) as low, ThreadPoolExecutor(1) as ahead:
        current: tuple[Item, Future[Encoded]] | None = None
        for item, texts in pieces:  # read in the caller's thread, where a signal ends the wait for input
            upcoming = item, ahead.submit(encoded, texts)
            if current:
                yield compute(low, current[0], rows := current[1].result())
                done += len(rows)
            current = upcoming
        if current:
            yield compute(low, current[0], current[1].result())


def predict_at_once(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: Texts,
    *,
    max_length: int,
    precision: Resolved,
    few_shapes: bool = False,
) -> Tensor:
    """Return the logits of texts, float32 `[N, C]` on the CPU: those of `predict_stream` for a single piece.

    There is nothing to tokenize ahead of, so no thread is started for it, which takes longer than a small
    model does for a text. Texts that fill several batches are still computed in lanes.
    """
    with _evaluating(model, precision) as low:
        rows = encode(tokenizer, texts, max_length=max_length, model=low)
        return _predict(low, rows, precision, None, lambda done: None, few_shapes)


@contextmanager
def answering(
    model: torch.nn.Module, tokenizer: Tokenizer, *, max_length: int, precision: Resolved
) -> Iterator[Callable[[Texts], Tensor]]:
    """Provide a function that answers a request of a single row with its logits `[C]`.

    The logits are float32 and on the CPU, so the device has finished when it returns.
    """
    with _evaluating(model, precision) as low:
        device = next(low.parameters()).device

        def answer(request: Texts) -> Tensor:
            row = encode(tokenizer, request, max_length=max_length, model=low).to(device)
            logits: Tensor = low(**leave_out_full_mask(low, row.inputs(FIRST))).logits
            return logits[0].float().cpu()

        with _computing(device, "fp32" if precision == "bf16" else precision):
            yield answer


def check_finite(logits: Tensor, name: str, split: str, precision: Resolved) -> None:
    """Refuse logits that hold NaN or infinity: their largest is class 0, which looks like an answer.

    Args:
        logits: float `[N, C]`, in the order of the rows.
        name: what the message calls the model.
        precision: what they were computed in.

    Raises:
        UserError: with the number of such rows, the first of them, and what to try.
    """
    broken = (~logits.isfinite()).any(dim=1)
    if not broken.any():
        return
    first = int(broken.nonzero()[0]) + 1
    retry = "" if precision == "fp32" else "Try --precision fp32. "
    raise UserError(
        f"{name}: its logits are NaN or infinite in {int(broken.sum()):,} of {len(logits):,} {split} rows "
        f"(the first is row {first:,}), so it cannot be scored. {retry}If its weights are broken, train it "
        "again with a lower --learning-rate."
    )


def chunk_rows(device: torch.device) -> int:
    """Return how many texts are tokenized, and sorted by length, together."""
    return CHUNK.get(device.type, CHUNK["cpu"])


def tokens_of(device: torch.device) -> int:
    """Return how many tokens a forward pass reads by default, padding included."""
    return TOKENS.get(device.type, TOKENS["cpu"])


def token_batches(
    lengths: NDArray[np.int64], tokens: int, *, equal_lengths: bool = False
) -> Iterator[NDArray[np.int64]]:
    """Yield row numbers, batch by batch, longest first: as many rows as fit into `tokens`, padding included.

    Args:
        equal_lengths: whether a batch holds rows of one length only, so that there is no padding.
    """
    order = np.argsort(-lengths, kind="stable")
    ascending = -lengths[order]
    start = 0
    while start < len(order):
        longest = max(1, int(-ascending[start]))
        stop = start + max(1, tokens // longest)
        if equal_lengths:
            stop = min(stop, int(np.searchsorted(ascending, ascending[start], side="right")))
        yield order[start:stop]
        start = stop


def fill_last(
    batches: list[NDArray[np.int64]], lengths: NDArray[np.int64], tokens: int
) -> list[NDArray[np.int64]]:
    """Repeat rows of the last batch until it is as large as one of its length among others.

    oneDNN keeps code and buffers for every shape that an LSTM reads, two megabytes each, and never gives them
    back. All batches but the last have one shape per length; the last would have a new one in every piece.
    A single batch stays as it is.
    """
    if len(batches) < 2:
        return batches
    last = batches[-1]
    rows = max(len(last), tokens // max(1, int(lengths[last].max())))
    return [*batches[:-1], np.resize(last, rows)]


def low_precision_copy(
    model: torch.nn.Module, precision: Resolved, device: torch.device | None = None
) -> torch.nn.Module:
    """Return a copy of the model with bf16 weights where that is the precision, else the model itself.

    Weights in the format cost less than autocast, which casts activations to and fro. fp16 keeps autocast:
    its range is too small for what some models hold. A model with an LSTM stays fp32 on CUDA: cuDNN wants an
    LSTM's weights in one piece, and torch puts them so in no bf16.

    Args:
        device: the one that will run it; by default the one that holds it.
    """
    first = next(model.parameters())
    if precision != "bf16" or first.dtype == torch.bfloat16 or isinstance(model, ExportedModel):
        return model
    if (device or first.device).type == "cuda" and has_lstm(model):
        return model
    low: dict[int, Any] = {}  # what deepcopy takes in the place of each tensor
    for parameter in model.parameters():
        low[id(parameter)] = torch.nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
    for name, buffer in model.named_buffers():
        exact = EXACT in name or not buffer.is_floating_point()
        low[id(buffer)] = buffer.clone() if exact else buffer.bfloat16()
    return copy.deepcopy(model, low)


def has_lstm(model: torch.nn.Module) -> bool:
    """Return whether part of the model is an LSTM, or another of torch's recurrent layers."""
    return any(isinstance(module, torch.nn.RNNBase) for module in model.modules())


@contextmanager
def _evaluating(model: torch.nn.Module, precision: Resolved) -> Iterator[torch.nn.Module]:
    low = low_precision_copy(model, precision)
    with eval_mode(low):
        yield low


def _predict(
    model: torch.nn.Module,
    rows: Encoded,
    precision: Resolved,
    tokens: int | None,
    advance: Callable[[int], None],
    few_shapes: bool = False,
) -> Tensor:
    device = next(model.parameters()).device
    budget = tokens or tokens_of(device)
    rows = rows.to(device)
    split = partial(token_batches, equal_lengths=rows.needs_equal_lengths)
    batches = list(split(rows.lengths, budget))
    if few_shapes and device.type == "cpu":
        batches = fill_last(batches, rows.lengths, budget)
    parts: list[Tensor] = []
    computing = partial(_computing, device, "fp32" if precision == "bf16" else precision)
    with (
        computing(),
        explain_out_of_memory("One row of so many tokens does not fit: use a lower --max-length."),
    ):
        while len(parts) < len(batches):
            waiting = batches[len(parts) :]
            try:
                for logits in _forward(model, rows, waiting, computing):
                    parts.append(logits)
                    advance(min(len(rows), sum(map(len, parts))))
                    if device.type == "cpu" and len(parts) % GIVE_BACK == 0:
                        trim_heap()
            except RuntimeError as error:
                waiting = batches[len(parts) :]
                if not is_out_of_memory(error) or len(waiting[0]) == 1:
                    raise
                rest = np.concatenate(waiting)
                budget //= 2
                again = split(rows.lengths[rest], budget)
                batches[len(parts) :] = [rest[batch] for batch in again]
    logits = torch.cat(parts).cpu()
    restored = logits.new_empty(len(rows), logits.shape[1])
    restored[torch.from_numpy(np.concatenate(batches))] = logits
    return restored


def _forward(
    model: torch.nn.Module,
    rows: Encoded,
    batches: Sequence[NDArray[np.int64]],
    computing: Callable[[], AbstractContextManager[None]],
) -> Iterator[Tensor]:
    """Yield float32 logits of each batch; on a CPU, each core computes a batch at a time.

    Cores that share a batch wait for each other at every operation, and for whichever of them another process
    is using.
    """

    def run(indices: NDArray[np.int64]) -> Tensor:
        logits: Tensor = model(**leave_out_full_mask(model, rows.inputs(indices))).logits.float()
        return logits

    def run_in_lane(indices: NDArray[np.int64]) -> Tensor:
        with computing():
            return run(indices)

    # All cores take the longest batch, for what models may keep of a length, such as tables of positions.
    yield run(batches[0])
    threads = torch.get_num_threads() if rows.device.type == "cpu" else 1
    lanes = min(threads, LANES, len(batches) - 1)
    if lanes < 2:
        yield from map(run, batches[1:])
        return
    try:
        with ThreadPoolExecutor(
            lanes, initializer=torch.set_num_threads, initargs=(threads // lanes,)
        ) as pool:
            yield from pool.map(run_in_lane, batches[1:])
    finally:
        torch.set_num_threads(threads)  # what threads that start later begin with


@contextmanager
def _computing(device: torch.device, precision: Resolved) -> Iterator[None]:
    """Enter what the forward passes of a thread run in."""
    fast = FastAttention() if device.type == "cpu" else nullcontext()
    with torch.inference_mode(), forward_context(device, precision), fast:
        yield


def _add(before: int, advance: Callable[[int], None], done: int) -> None:
    advance(before + done)
