"""What rows look like to a model: how long they are, how many are cut, how much of them it does not know."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilkit.data.encoding import Tokenizer, tokenized
from distilkit.data.texts import Texts

MAX_ROWS = 5_000  # of a split that are looked at


def evenly(rows: int, max_rows: int = MAX_ROWS) -> NDArray[np.int64]:
    """Row numbers, `most` of them at most, spread evenly from the first of `rows` to the last."""
    return np.linspace(0, rows - 1, min(rows, max_rows)).round().astype(np.int64)


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer makes of N rows: tokens of each, uncut and with special ones, int64 `[N]`.

    `unknown` of `content` tokens, those that stand for text, are the unknown one.
    """

    lengths: NDArray[np.int64]
    unknown: int
    content: int

    @property
    def unknown_share(self) -> float:
        """Return the share of unknown tokens among those that stand for text."""
        return self.unknown / max(1, self.content)

    def cut(self, max_length: int) -> int:
        """Count the rows of more than `max_length` tokens."""
        return int(np.count_nonzero(self.lengths > max_length))

    def fitting(self, share: float) -> int:
        """Return the least length that this share of the rows fits in."""
        return int(np.quantile(self.lengths, share, method="higher"))


def tokens(tokenizer: Tokenizer, texts: Texts) -> Tokens:
    """Read rows as the `tokenizer` does, without cutting them."""
    lengths: list[int] = []
    unknown = content = 0
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for output in tokenized(tokenizer, texts):
        for ids in output["input_ids"]:
            lengths.append(len(ids))
            unknown += ids.count(tokenizer.unk_token_id)
            content += sum(token not in special for token in ids)
    return Tokens(np.array(lengths, np.int64), unknown, content)


@dataclass(frozen=True)
class Inputs:
    """`tokens_*`: with the special ones and before anything is cut; `truncated` and `unknown` are shares."""

    rows: int
    tokens_mean: float
    tokens_p95: float
    truncated: float
    unknown: float


def measure_inputs(tokenizer: Tokenizer, texts: Texts, max_length: int) -> Inputs:
    """Measure at most `MAX_ROWS` rows: tokens a row, the share that is cut, the share of unknown tokens."""
    rows = evenly(len(texts))
    measured = tokens(tokenizer, texts.take(rows))
    return Inputs(
        rows=len(rows),
        tokens_mean=float(measured.lengths.mean()),
        tokens_p95=float(np.quantile(measured.lengths, 0.95)),
        truncated=measured.cut(max_length) / len(rows),
        unknown=measured.unknown_share,
    )
