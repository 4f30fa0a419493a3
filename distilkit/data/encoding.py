"""Text to token ids, and ids to padded batches."""

import inspect
import itertools
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distilkit.data.large import ArrayWriter, LongArray, release_pages
from distilkit.data.texts import Texts
from distilkit.errors import UserError

Tokenizer = PreTrainedTokenizerBase
NO_LABEL = -100  # in `labels`: what torch's cross-entropy leaves out
CONCATENATED_VALUES = 1 << 22  # that are in memory at a time
NEEDS_EQUAL_LENGTHS = "needs_equal_lengths"  # attribute of models whose answers padding changes


@dataclass(frozen=True)
class Encoded:
    """Token ids of N rows, end to end without padding, and what is joined to them.

    `flat` holds per input name one integer tensor of all rows' values, on the device that is to read them;
    row i is `offsets[i]:offsets[i + 1]`. The offsets stay on the host, so that making a batch never waits
    for a device.

    Attributes:
        pads_left: whether padding comes before a row instead of after it.
        needs_equal_lengths: whether padding changes the model's answers, so that rows of different lengths
            must not share a batch of inference.
        mappings: files that hold long inputs, which are read as they are needed.
    """

    flat: dict[str, Tensor]
    offsets: NDArray[np.int64]
    padding: dict[str, int]
    labels: Tensor | None = None
    teacher_logits: Tensor | None = None
    pads_left: bool = False
    needs_equal_lengths: bool = False
    mappings: tuple[mmap.mmap, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, int64 `[N]`."""
        return np.diff(self.offsets)

    @property
    def labelled_share(self) -> float:
        """Return the share of the rows that have a label; -100 is none."""
        if self.labels is None or not len(self):
            return 0.0
        return int((self.labels != NO_LABEL).sum()) / len(self)

    @property
    def device(self) -> torch.device:
        """Return where batches are made."""
        return self.flat["input_ids"].device

    @property
    def bytes(self) -> int:
        """Return how much memory the rows take on their device."""
        columns = [*self.flat.values(), self.labels, self.teacher_logits]
        return sum(column.numel() * column.element_size() for column in columns if column is not None)

    def join(self, *, labels: Tensor | None = None, teacher_logits: Tensor | None = None) -> "Encoded":
        """Join rows with `labels` int64 `[N]`, -100 for none, and `teacher_logits` float32 `[N, C]`."""
        for column in (labels, teacher_logits):
            if column is not None and len(column) != len(self):
                raise ValueError(f"{len(column)} values cannot be joined to {len(self)} rows")
        return replace(self, labels=labels, teacher_logits=teacher_logits)

    def concat(self, appended: "Encoded") -> "Encoded":
        """Append rows with the same inputs; joined targets are dropped."""
        joined = {name: _concatenate(values, appended.flat[name]) for name, values in self.flat.items()}
        return Encoded(
            flat={name: torch.from_numpy(array.values) for name, array in joined.items()},
            offsets=np.concatenate([self.offsets, self.offsets[-1] + appended.offsets[1:]]),
            padding=self.padding,
            pads_left=self.pads_left,
            needs_equal_lengths=self.needs_equal_lengths,
            mappings=_mappings(joined),
        )

    def release(self) -> None:
        """Drop from memory what was read of `mappings`; it is read again where it is needed."""
        release_pages(self.mappings)

    def with_inputs_of(self, encoding: "Encoded") -> "Encoded | None":
        """Add the inputs that only another encoding has; return `None` unless both have the same tokens."""
        same = np.array_equal(self.offsets, encoding.offsets) and torch.equal(
            self.flat["input_ids"], encoding.flat["input_ids"]
        )
        if not same:
            return None
        return replace(
            self,
            flat=encoding.flat | self.flat,
            padding=encoding.padding | self.padding,
            mappings=self.mappings + encoding.mappings,
        )

    def to(self, device: torch.device) -> "Encoded":
        """Put the rows on `device`, where batches are made of them."""
        return replace(
            self,
            flat={name: values.to(device) for name, values in self.flat.items()},
            labels=None if self.labels is None else self.labels.to(device),
            teacher_logits=None if self.teacher_logits is None else self.teacher_logits.to(device),
        )

    def inputs(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """Model inputs of these rows, int64 `[n, longest]`, padded on the right, or on the left."""
        ends = self.offsets[indices + 1]
        lengths = ends - self.offsets[indices]
        longest = max(1, int(lengths.max()))
        starts, real_lengths = self._send(self.offsets[indices]), self._send(lengths)
        position = torch.arange(longest, device=self.device)
        where = starts[:, None] + position
        if padded := bool(lengths.min() < longest):
            if self.pads_left:
                shift = longest - real_lengths[:, None]
                where, real = where - shift, position >= shift
            else:
                real = position < real_lengths[:, None]
            where = where.masked_fill_(~real, 0)
        batch = {}
        for name, values in self.flat.items():
            chosen = values[where].long() if len(values) else torch.zeros_like(where)
            batch[name] = chosen.masked_fill_(~real, self.padding[name]) if padded else chosen
        if padded:
            batch["attention_mask"] = real.long()
        elif self.device.type != "cpu":  # to find out later would mean to wait
            batch["attention_mask"] = make_full_mask(len(indices), longest, self.device)
        else:
            batch["attention_mask"] = torch.ones_like(where)
        return batch

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return `inputs` with the joined `labels` int64 `[n]` and `teacher_logits` float32 `[n, C]`."""
        rows = np.asarray(indices, dtype=np.int64)
        batch = self.inputs(rows)
        for name in ("labels", "teacher_logits"):
            column = getattr(self, name)
            if column is not None:
                batch[name] = column[self._send(rows)]
        return batch

    def _send(self, values: NDArray[np.int64]) -> Tensor:
        """Host numbers on the device of the rows, without waiting for it."""
        sent = torch.from_numpy(values)
        return sent.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else sent


def make_full_mask(rows: int, length: int, device: torch.device) -> Tensor:
    """Return an int64 mask `[rows, length]` of ones, all in one place, by which `is_full_mask` knows it."""
    return torch.ones((), dtype=torch.int64, device=device).as_strided((rows, length), (0, 0))


def is_full_mask(mask: Tensor) -> bool:
    """Return whether a mask is one of `make_full_mask`, without waiting for the device."""
    return mask.ndim == 2 and mask.stride() == (0, 0)


def leave_out_full_mask(model: torch.nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of `model` without a mask that is known to hide nothing: attention is faster so.

    Only models of transformers that use torch's attention go without. Some of the others then look for
    padding in the ids, which makes the host wait for the device.
    """
    mask = inputs.get("attention_mask")
    if mask is None or not is_full_mask(mask) or not isinstance(model, PreTrainedModel):
        return dict(inputs)
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return dict(inputs)
    return {name: values for name, values in inputs.items() if name != "attention_mask"}


def encode(
    tokenizer: Tokenizer,
    texts: Texts,
    *,
    max_length: int,
    model: torch.nn.Module,
    advance: Callable[[int], None] = lambda done: None,
) -> Encoded:
    """Tokenize rows for `model`, cut at `max_length`; only inputs that its `forward` takes are kept.

    Raises:
        UserError: when `max_length` is more than the model reads, or a text holds a token that it lacks.
    """
    check_length(max_length, tokenizer, model)
    names = input_names(tokenizer, model)
    stored = {"input_ids": np.int32, "token_type_ids": np.uint8}
    writers = {name: ArrayWriter(stored[name]) for name in names}
    lengths = [np.zeros(1, np.int64)]
    done = 0
    for output in tokenized(tokenizer, texts, truncation=True, max_length=max_length):
        lengths.append(np.fromiter(map(len, output["input_ids"]), np.int64))
        for name in names:
            ids = itertools.chain.from_iterable(output[name])
            writers[name].append(np.fromiter(ids, stored[name], count=int(lengths[-1].sum())))
        done += len(lengths[-1])
        advance(done)
    arrays = {name: writer.finish() for name, writer in writers.items()}
    check_ids({name: array.values for name, array in arrays.items()}, tokenizer, model)
    return Encoded(
        flat={name: torch.from_numpy(array.values) for name, array in arrays.items()},
        offsets=np.cumsum(np.concatenate(lengths)),
        padding=padding_of(tokenizer, names),
        pads_left=pads_left(tokenizer, model),
        needs_equal_lengths=bool(getattr(model, NEEDS_EQUAL_LENGTHS, False)),
        mappings=_mappings(arrays),
    )


def _concatenate(first: Tensor, second: Tensor) -> LongArray:
    writer = ArrayWriter(first.numpy().dtype)
    for values in (first, second):
        for piece in values.split(CONCATENATED_VALUES):
            writer.append(piece.numpy())
    return writer.finish()


def _mappings(arrays: Mapping[str, LongArray]) -> tuple[mmap.mmap, ...]:
    return tuple(array.mapping for array in arrays.values() if array.mapping)


def check_length(max_length: int, tokenizer: Tokenizer, model: torch.nn.Module) -> None:
    """Raise `UserError` when `max_length` is more than the model reads."""
    limit = longest_input(tokenizer, model)
    if limit is not None and max_length > limit:
        raise UserError(f"--max-length {max_length} is more than the model reads: use {limit} or less.")


def check_ids(flat: Mapping[str, NDArray[Any]], tokenizer: Tokenizer, model: torch.nn.Module) -> None:
    """Raise `UserError` when the token ids `flat["input_ids"]` are more than the model's table has rows."""
    rows, ids = count_embeddings(model), flat["input_ids"]
    largest = int(ids.max(initial=0))
    if rows is None or largest < rows:
        return
    name = getattr(model, "name_or_path", "") or type(model).__name__
    raise UserError(
        f"{name}: its tokenizer gives {str(tokenizer.convert_ids_to_tokens(largest))[:40]!r} the id "
        f"{largest}, but its embedding table has {rows:,} rows, for ids below {rows}. Use the tokenizer "
        "that it was trained with; after adding tokens, call model.resize_token_embeddings(len(tokenizer))."
    )


def count_embeddings(model: Any) -> int | None:
    """Return the rows of a model's embedding table; `None` for a model without one."""
    try:
        table = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return None
    return len(table)


def pads_left(tokenizer: Tokenizer, model: Any) -> bool:
    """Return whether rows are padded on the left.

    Only where the head reads the last position, as XLNet's does: there, padding on the right would be the
    answer. Other heads find the last token by themselves, and absolute positions begin at the first token.
    """
    summary = getattr(model, "sequence_summary", None)
    return getattr(summary, "summary_type", None) == "last" and tokenizer.padding_side == "left"


def tokenized(tokenizer: Tokenizer, texts: Texts, **options: object) -> Iterator[Any]:
    """Yield what the tokenizer makes of the rows, without the mask, a chunk of them at a time."""
    for chunk in texts.chunks():
        yield tokenizer(chunk.first, chunk.second, return_attention_mask=False, verbose=False, **options)


def input_names(tokenizer: Tokenizer, model: torch.nn.Module) -> list[str]:
    """Return which of a tokenizer's outputs a model takes, besides the mask."""
    taken = set(inspect.signature(model.forward).parameters)
    types = getattr(getattr(model, "config", None), "type_vocab_size", None)
    if isinstance(types, int) and types < 2:
        taken.discard("token_type_ids")  # its table has no row for the second text of a pair
    return [
        name
        for name in ("input_ids", "token_type_ids")
        if name in tokenizer.model_input_names and name in taken
    ]


def padding_of(tokenizer: Tokenizer, names: Sequence[str]) -> dict[str, int]:
    """Return the value that pads each input of a shorter row."""
    pad = tokenizer.pad_token_id
    padding = {"input_ids": 0 if pad is None else int(pad), "token_type_ids": 0}
    return {name: padding[name] for name in names}


def longest_input(tokenizer: Tokenizer, model: torch.nn.Module) -> int | None:
    """Return the most tokens that a model with position embeddings reads.

    The tokenizer's own limit counts too. `None` for an LSTM, and where the config says -1, as XLNet's does.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not positions or positions < 1:
        return None
    return min(int(positions) - count_padding_positions(model), tokenizer.model_max_length)


def count_padding_positions(model: torch.nn.Module) -> int:
    """Return how many positions come before the first token's: in RoBERTa and its kin, up to padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0
