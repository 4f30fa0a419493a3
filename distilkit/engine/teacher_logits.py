"""The teacher's logits, computed once and joined to rows by content, never by position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from distilkit.data.encoding import Tokenizer, encode
from distilkit.engine.inference import predict_logits
from distilkit.engine.precision import Resolved


@dataclass(frozen=True)
class TeacherLogits:
    """Logits by row content: `index[row_key(text, pair)]` is a row of `logits`, float32 `[M, C]`."""

    index: dict[bytes, int]
    logits: Tensor

    def join(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Tensor:
        """The logits of these rows, float32 `[N, C]`. Raises `KeyError` for a text that was not read."""
        return self.logits[[self.index[key] for key in row_keys(texts, pairs)]]


def row_key(text: str, pair: str | None = None) -> bytes:
    """16 bytes that stand for the content of a row; ("ab", "c") and ("a", "bc") differ."""
    digest = blake2b(digest_size=16)
    for part in (text, pair):
        if part is not None:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    return digest.digest()


def row_keys(texts: Sequence[str], pairs: Sequence[str] | None) -> list[bytes]:
    """`row_key` of every row."""
    if pairs is None:
        return [row_key(text) for text in texts]
    return [row_key(text, pair) for text, pair in zip(texts, pairs, strict=True)]


def compute_teacher_logits(
    teacher: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    *,
    max_length: int,
    batch_size: int,
    precision: Resolved,
    columns: Sequence[int] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> TeacherLogits:
    """Run the teacher once over every distinct row, in eval mode, on its own tokenizer's encoding.

    Args:
        columns: the teacher's class for each class of the data, where their orders differ.
        advance: called with finished and total rows.
    """
    first: dict[bytes, int] = {}
    for position, key in enumerate(row_keys(texts, pairs)):
        first.setdefault(key, position)
    distinct = list(first.values())
    rows = encode(
        tokenizer,
        [texts[i] for i in distinct],
        None if pairs is None else [pairs[i] for i in distinct],
        max_length=max_length,
        model=teacher,
    )
    logits = predict_logits(
        teacher,
        rows,
        batch_size=batch_size,
        precision=precision,
        advance=lambda done: advance(done, len(distinct)),
    )
    if columns is not None:
        logits = logits[:, list(columns)]
    return TeacherLogits({key: row for row, key in enumerate(first)}, logits)
