"""Nearest neighbours of words in a table of word vectors: a text file's, or a model's word-piece table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from distilkit.data.encoding import Tokenizer
from distilkit.errors import UserError
from distilkit.workflows.augmentation.masked_lm import Pieces, is_word, whole_words
from distilkit.workflows.augmentation.rules import Ints

QUERIES = 64  # words that are looked up at a time


@dataclass(frozen=True)
class WordVectors:
    """Words that may replace others, with vectors of length 1, float32 `[N, D]`.

    `find` gives the vectors of any words, float32 `[n, D]`, zeros where there is none.
    """

    words: tuple[str, ...]
    vectors: Tensor
    find: Callable[[Sequence[str]], Tensor]

    def neighbours(
        self, words: Sequence[str], k: int, advance: Callable[[int], None] = lambda done: None
    ) -> tuple[Ints, Ints]:
        """Find the `k` words of the table whose vectors have the greatest cosine with those of each word.

        A word is no neighbour of itself, in whatever case.

        Returns:
            Ids of `self.words`, nearest first, int64 `[n, k]`, and how many of them count, int64 `[n]`: none
            for a word without a vector.
        """
        ids_of: dict[str, list[int]] = {}
        for at, word in enumerate(self.words):
            ids_of.setdefault(word.casefold(), []).append(at)
        k = min(k, len(self.words) - 1)
        ids, counts = np.zeros((len(words), k), np.int64), np.zeros(len(words), np.int64)
        for start in range(0, len(words), QUERIES):
            some = words[start : start + QUERIES]
            queries = normalize(self.find(some).to(self.vectors.device))
            cosines = queries @ self.vectors.T
            for row, word in enumerate(some):
                cosines[row, ids_of.get(word.casefold(), [])] = float("-inf")
            best = cosines.topk(k)
            has_vector = (queries != 0).any(dim=1, keepdim=True)
            chunk = slice(start, start + len(some))
            ids[chunk] = best.indices.cpu().numpy()
            counts[chunk] = (has_vector & best.values.isfinite()).sum(dim=1).cpu().numpy()
            advance(start + len(some))
        return ids, counts


def of_model(tokenizer: Tokenizer, table: Tensor) -> WordVectors:
    """Return the whole words of a model's word-piece table; a word of several pieces has their mean vector.

    Args:
        table: float `[vocabulary, D]`.
    """
    words = whole_words(tokenizer)[: len(table)]
    word_ids = [token_id for token_id, word in enumerate(words) if word]
    unknown = torch.tensor(tokenizer.all_special_ids)

    def find(asked: Sequence[str]) -> Tensor:
        pieces = Pieces.of(tokenizer, asked)
        ids = torch.from_numpy(pieces.ids)
        owner = torch.from_numpy(np.repeat(np.arange(len(asked)), pieces.counts))
        result = torch.zeros(len(asked), table.shape[1]).index_add_(0, owner, table[ids].float())
        result[owner[torch.isin(ids, unknown)]] = 0  # the unknown token's vector says nothing of a word
        return result

    return WordVectors(
        tuple(words[token_id] for token_id in word_ids), normalize(table[word_ids].float()), find
    )


def read_word_vectors(file: Path, advance: Callable[[int], None] = lambda done: None) -> WordVectors:
    """Read a text file of `word v1 v2 ...` lines as GloVe and word2vec write them.

    The first line may be word2vec's header with the counts of words and dimensions.

    Raises:
        UserError: naming the line that is something else.
    """
    words: dict[str, int] = {}
    vectors: list[NDArray[np.float32]] = []
    width = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for line_count, line in enumerate(lines, start=1):
                parts = line.rstrip().split(" ")
                if line_count == 1 and len(parts) == 2:
                    continue
                width = width or len(parts) - 1
                word = " ".join(parts[: len(parts) - width])
                if not word or len(parts) <= width or width < 1:
                    raise UserError(
                        f"--embeddings {file}, line {line_count}: expected a word and {width} numbers. "
                        "Write `word 0.1 -0.2 ...`."
                    )
                if is_word(word) and word not in words:
                    words[word] = len(vectors)
                    vectors.append(np.array(parts[-width:], np.float32))
    except UnicodeDecodeError as error:
        raise UserError(f"--embeddings {file} is not UTF-8 text: {error}. Save it as UTF-8.") from None
    except ValueError as error:
        raise UserError(
            f"--embeddings {file}, line {line_count}: {error}. Write `word 0.1 -0.2 ...`."
        ) from None
    except OSError as error:
        raise UserError(f"--embeddings {file} cannot be read: {error.strerror}.") from None
    if len(words) < 2:
        raise UserError(
            f"--embeddings {file}: it has fewer than two word vectors. Use a GloVe or word2vec text file."
        )
    table = torch.from_numpy(np.stack(vectors))

    def find(asked: Sequence[str]) -> Tensor:
        result = torch.zeros(len(asked), width)
        for row, word in enumerate(asked):
            if (at := words.get(word, words.get(word.lower()))) is not None:
                result[row] = table[at]
        return result

    return WordVectors(tuple(words), normalize(table), find)
