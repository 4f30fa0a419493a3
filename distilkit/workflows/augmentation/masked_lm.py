"""Words that a masked language model proposes: many masks of many texts in one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilkit.data.encoding import Encoded, Tokenizer, leave_out_full_mask, longest_input
from distilkit.engine.inference.logits import low_precision_copy, predict_logits
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved
from distilkit.workflows.augmentation.rules import Ints, Words

TOKENS = 1 << 22  # of the copies that are made at a time


@dataclass(frozen=True)
class Pieces:
    """Each of N words in a tokenizer's pieces, end to end: word i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: Ints
    offsets: Ints

    @classmethod
    def of(cls, tokenizer: Tokenizer, words: Sequence[str]) -> "Pieces":
        """Tokenize the words as they stand behind a space."""
        encoded: Any = tokenizer([f" {word}" for word in words], add_special_tokens=False, verbose=False)
        rows: list[list[int]] = encoded["input_ids"]
        return cls(
            np.array([piece for row in rows for piece in row], np.int64),
            np.cumsum([0, *map(len, rows)], dtype=np.int64),
        )

    @property
    def counts(self) -> Ints:
        """Return the number of pieces of each word."""
        return np.diff(self.offsets)


def is_word(text: str) -> bool:
    """Return whether a text may replace a word: letters and digits, with hyphens and apostrophes."""
    return text.replace("-", "").replace("'", "").isalnum()


def whole_words(tokenizer: Tokenizer) -> list[str]:
    """Return the word of each id, and "" for special tokens, parts of words and punctuation."""
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    texts = [tokenizer.convert_tokens_to_string([token or ""]).strip() for token in tokens]
    words = [text if is_word(text) and token_id not in special else "" for token_id, text in enumerate(texts)]
    # A part of a word is one that comes out as other pieces, or as another piece, when it stands alone.
    word_ids = [token_id for token_id, word in enumerate(words) if word]
    pieces = Pieces.of(tokenizer, [words[token_id] for token_id in word_ids])
    for token_id, start, count in zip(
        word_ids, pieces.offsets[:-1].tolist(), pieces.counts.tolist(), strict=True
    ):
        if count != 1 or pieces.ids[start] != token_id:
            words[token_id] = ""
    return words


class MaskedLM:
    """A masked language model over the words of one split."""

    def __init__(
        self, name: str, model: Any, tokenizer: Tokenizer, vocabulary: Sequence[str], precision: Resolved
    ) -> None:
        """Attach the hook to a model.

        Args:
            name: for errors.
            model: a transformers model `...ForMaskedLM`, on its device; it gets a hook.
            vocabulary: the words of the split, by their ids.
        """
        if tokenizer.mask_token_id is None or tokenizer.unk_token_id is None:
            raise UserError(
                f"--mlm {name}: its tokenizer has no mask token. "
                "Use a masked language model, such as --mlm bert-base-uncased."
            )
        self.words = whole_words(tokenizer)
        self.precision, self._padding = precision, {"input_ids": int(tokenizer.pad_token_id or 0)}
        self._mask = int(tokenizer.mask_token_id)
        pieces = Pieces.of(tokenizer, vocabulary)
        # A text may hold the mask token itself; there must be no mask but ours.
        ids = np.where(pieces.ids == self._mask, int(tokenizer.unk_token_id), pieces.ids)
        self.pieces = Pieces(ids, pieces.offsets)
        unknown = np.isin(ids[np.minimum(pieces.offsets[:-1], len(ids) - 1)], tokenizer.all_special_ids)
        self.is_single = (pieces.counts == 1) & ~unknown & np.array([is_word(word) for word in vocabulary])
        framed: Any = tokenizer(" a")["input_ids"]
        bare: Any = tokenizer(" a", add_special_tokens=False)["input_ids"]
        before = next(at for at in range(len(framed)) if framed[at : at + len(bare)] == bare)
        self._before, self._after = framed[:before], framed[before + len(bare) :]
        longest = longest_input(tokenizer, model)
        self._room = longest - len(self._before) - len(self._after) if longest else None
        allowed = torch.zeros(model.config.vocab_size, dtype=torch.bool)
        allowed[: len(self.words)] = torch.tensor([bool(word) for word in self.words])[: len(allowed)]
        self._max_candidates = int(allowed.sum()) - 1
        self._proposer = _Proposer(low_precision_copy(model, precision), self._mask, allowed).to(model.device)

    def candidates(self, words: Words, k: int) -> tuple[Ints, Ints]:
        """Propose the `k` most probable replacements of each word of one piece, without the word itself.

        Each such word is masked in a copy of its text. A text is cut where the model reads no more, and words
        behind that have no candidates.

        Returns:
            The positions of those words, int64 `[P]`, and ids of pieces, most probable first, int64 `[P, k]`
            (fewer where the tokenizer has fewer words).
        """
        k = min(k, self._max_candidates)
        counts = self.pieces.counts[words.ids]
        ends = np.concatenate([[0], np.cumsum(counts)])
        ids = self.pieces.ids[_ranges(self.pieces.offsets[words.ids], counts)]
        framed = [
            np.concatenate([self._before, ids[ends[start] : ends[stop]][: self._room], self._after])
            for start, stop in pairwise(words.offsets.tolist())
        ]
        lengths = np.array([len(text) for text in framed], np.int64)
        starts, flat = np.cumsum(lengths) - lengths, np.concatenate(framed).astype(np.int64)
        text_of = np.repeat(np.arange(len(words)), np.diff(words.offsets))
        inside = ends[:-1] - ends[words.offsets[:-1]][text_of]
        positions = np.flatnonzero(self.is_single[words.ids] & (inside < (self._room or len(flat))))
        parts = [np.empty((0, k), np.int64)]
        for some in _split(positions, lengths[text_of[positions]]):
            texts = text_of[some]
            copies = flat[_ranges(starts[texts], lengths[texts])]
            offsets = np.concatenate([[0], np.cumsum(lengths[texts])])
            at = offsets[:-1] + len(self._before) + inside[some]
            masked_ids, copies[at] = copies[at][:, None], self._mask
            rows = Encoded({"input_ids": torch.from_numpy(copies.astype(np.int32))}, offsets, self._padding)
            self._proposer.k = k + 1
            proposed = predict_logits(self._proposer, rows, precision=self.precision).long().numpy()
            last = np.argsort(
                proposed == masked_ids, axis=1, kind="stable"
            )  # puts the word itself at the end
            parts.append(np.take_along_axis(proposed, last, axis=1)[:, :k])
        return positions, np.concatenate(parts)


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Concatenate the ranges `starts[i], starts[i] + 1, ...` of these lengths."""
    before = np.cumsum(lengths) - lengths
    positions: Ints = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
    return positions


def _split(positions: Ints, lengths: Ints) -> list[Ints]:
    """Split the positions into parts of about `TOKENS` tokens."""
    part = np.cumsum(lengths) // TOKENS
    return np.split(positions, np.flatnonzero(np.diff(part)) + 1) if len(positions) else []


class _Proposer(torch.nn.Module):
    """Answers rows of one mask each with the ids of the `k` most probable words there, int64 `[N, k]`.

    The output names them logits, as `predict_logits` expects. The head of the model reads the hidden
    state of the mask alone: over a whole vocabulary it costs more than some bodies do.
    """

    def __init__(self, model: Any, mask: int, allowed: Tensor) -> None:
        super().__init__()
        self.model, self.mask, self.k = model, mask, 1
        self.register_buffer("forbidden", ~allowed)
        model.base_model.register_forward_hook(self._keep_mask, with_kwargs=True)

    def _keep_mask(self, body: Any, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        ids: Tensor = positional[0] if positional else named["input_ids"]
        at = (ids == self.mask).int().argmax(dim=1)
        hidden: Tensor = output.last_hidden_state
        output.last_hidden_state = hidden[torch.arange(len(ids), device=ids.device), at][:, None]
        return output

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        scores: Tensor = self.model(**leave_out_full_mask(self.model, inputs)).logits
        if scores.shape[:2] != (len(input_ids), 1):
            raise ValueError(
                f"the head of a {type(self.model).__name__} does not read its body's last states"
            )
        words = scores[:, 0].masked_fill(self.get_buffer("forbidden"), float("-inf"))
        return SimpleNamespace(logits=words.topk(self.k).indices)
