"""Text to token ids, and ids to padded batches."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distilkit.data.texts import Texts
from distilkit.errors import UserError

Tokenizer = PreTrainedTokenizerBase
NO_LABEL = -100  # in `labels`: what torch's cross-entropy leaves out


@dataclass(frozen=True)
class Encoded:
    """Token ids of N rows, end to end without padding, and what is joined to them.

    `flat` holds per input name one integer tensor of all rows' values, on the device that is to read them;
    row i is `offsets[i]:offsets[i + 1]`. The offsets stay on the host, so that making a batch never waits
    for a device.
    """

    flat: dict[str, Tensor]
    offsets: NDArray[np.int64]
    padding: dict[str, int]
    labels: Tensor | None = None
    teacher_logits: Tensor | None = None

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
        return Encoded(
            flat={name: torch.cat([values, appended.flat[name]]) for name, values in self.flat.items()},
            offsets=np.concatenate([self.offsets, self.offsets[-1] + appended.offsets[1:]]),
            padding=self.padding,
        )

    def with_inputs_of(self, encoding: "Encoded") -> "Encoded | None":
        """Add the inputs that only another encoding has; return `None` unless both have the same tokens."""
        same = np.array_equal(self.offsets, encoding.offsets) and torch.equal(
            self.flat["input_ids"], encoding.flat["input_ids"]
        )
        if not same:
            return None
        return replace(self, flat=encoding.flat | self.flat, padding=encoding.padding | self.padding)

    def to(self, device: torch.device) -> "Encoded":
        """Put the rows on `device`, where batches are made of them."""
        return replace(
            self,
            flat={name: values.to(device) for name, values in self.flat.items()},
            labels=None if self.labels is None else self.labels.to(device),
            teacher_logits=None if self.teacher_logits is None else self.teacher_logits.to(device),
        )

    def inputs(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """Model inputs of these rows, int64 `[n, longest]`, padded on the right."""
        ends = self.offsets[indices + 1]
        lengths = ends - self.offsets[indices]
        longest = max(1, int(lengths.max()))
        starts, real_lengths = self._send(self.offsets[indices]), self._send(lengths)
        position = torch.arange(longest, device=self.device)
        where = starts[:, None] + position
        if padded := bool(lengths.min() < longest):
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
        UserError: when `max_length` is more than the model reads.
    """
    check_length(max_length, tokenizer, model)
    names = input_names(tokenizer, model)
    stored = {"input_ids": np.int32, "token_type_ids": np.uint8}
    parts: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, stored[name])] for name in names}
    lengths: list[int] = []
    for output in tokenized(tokenizer, texts, truncation=True, max_length=max_length):
        start = len(lengths)
        lengths += [len(row) for row in output["input_ids"]]
        for name in names:
            ids = itertools.chain.from_iterable(output[name])
            parts[name].append(np.fromiter(ids, stored[name], count=sum(lengths[start:])))
        advance(len(lengths))
    return Encoded(
        flat={name: torch.from_numpy(np.concatenate(rows)) for name, rows in parts.items()},
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        padding=padding_of(tokenizer, names),
    )


def check_length(max_length: int, tokenizer: Tokenizer, model: torch.nn.Module) -> None:
    """Raise `UserError` when `max_length` is more than the model reads."""
    limit = longest_input(tokenizer, model)
    if limit is not None and max_length > limit:
        raise UserError(f"--max-length {max_length} is more than the model reads: use {limit} or less.")


def tokenized(tokenizer: Tokenizer, texts: Texts, **options: object) -> Iterator[Any]:
    """Yield what the tokenizer makes of the rows, without the mask, a chunk of them at a time."""
    for chunk in texts.chunks():
        yield tokenizer(chunk.first, chunk.second, return_attention_mask=False, verbose=False, **options)


def input_names(tokenizer: Tokenizer, model: torch.nn.Module) -> list[str]:
    """Return which of a tokenizer's outputs a model takes, besides the mask."""
    taken = set(inspect.signature(model.forward).parameters)
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
    """Return the most tokens that a model with position embeddings reads; `None` for an LSTM.

    The tokenizer's own limit counts too.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return min(int(positions) - _not_for_tokens(model), tokenizer.model_max_length) if positions else None


def _not_for_tokens(model: torch.nn.Module) -> int:
    """Positions up to that of padding, behind which RoBERTa and its kin begin to count."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0
