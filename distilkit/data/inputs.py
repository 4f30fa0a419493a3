"""What a split looks like to a model: how long its rows are, how many are cut, how much it does not know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distilkit.data.encoding import Tokenizer

ROWS = 5_000  # that are looked at, spread evenly over the split
CHUNK = 1_000


@dataclass(frozen=True)
class Inputs:
    """`tokens_*`: with the special ones and before anything is cut; `truncated` and `unknown` are shares."""

    rows: int
    tokens_mean: float
    tokens_p95: float
    truncated: float
    unknown: float


def measure_inputs(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> Inputs:
    """Of `ROWS` rows at most: tokens a row, the share that `max_length` cuts, that of unknown tokens."""
    looked_at = np.unique(np.linspace(0, len(texts) - 1, min(ROWS, len(texts))).round().astype(np.int64))
    lengths: list[int] = []
    unknown = 0
    for start in range(0, len(looked_at), CHUNK):
        chunk = looked_at[start : start + CHUNK]
        found: Any = tokenizer(
            [texts[int(row)] for row in chunk],
            None if pairs is None else [pairs[int(row)] for row in chunk],
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        lengths += map(len, found)
        unknown += sum(row.count(tokenizer.unk_token_id) for row in found)
    return Inputs(
        rows=len(looked_at),
        tokens_mean=float(np.mean(lengths)),
        tokens_p95=float(np.quantile(lengths, 0.95)),
        truncated=float(np.mean(np.asarray(lengths) > max_length)),
        unknown=unknown / max(1, sum(lengths)),
    )
