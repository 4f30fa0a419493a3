"""New texts by the rules of Tang et al. and of TinyBERT, on word ids.

The draws for a text depend on its seed alone, so that the block size changes nothing.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from distilkit.errors import UserError

TANG_RULES, TINYBERT_RULES = ("mask", "pos", "ngram"), ("mlm", "embeddings")


CHUNK = 1000  # texts that are tagged between two reports

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """N texts as word ids: text i is `ids[offsets[i]:offsets[i + 1]]`, a word is `vocabulary[id]`."""

    vocabulary: tuple[str, ...]
    ids: Ints
    offsets: Ints

    @classmethod
    def of(cls, texts: Iterable[str], *more: str) -> "Words":
        """Split `texts` at white space; `more` words join the vocabulary."""
        word_ids: dict[str, int] = {}
        ids: list[int] = []
        offsets = [0]
        for text in texts:
            ids += [word_ids.setdefault(word, len(word_ids)) for word in text.split()]
            offsets.append(len(ids))
        for word in more:
            word_ids.setdefault(word, len(word_ids))
        return cls(tuple(word_ids), np.array(ids, np.int64), np.array(offsets, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, texts: Ints) -> "Words":
        """Return some of the texts, in this order."""
        lengths = self.offsets[texts + 1] - self.offsets[texts]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.repeat(self.offsets[texts] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Words(self.vocabulary, self.ids[positions], offsets)

    def texts(self) -> list[str]:
        """Return the texts, with one space between words."""
        words = [self.vocabulary[word] for word in self.ids.tolist()]
        return [" ".join(words[start:stop]) for start, stop in pairwise(self.offsets.tolist())]


@dataclass(frozen=True)
class Tags:
    """The part of speech of each word of a `Words`, as an id, int64 `[W]`."""

    ids: Ints

    @cached_property
    def order(self) -> Ints:
        """Return the positions of words, sorted by part of speech."""
        order: Ints = np.argsort(self.ids, kind="stable")
        return order

    @cached_property
    def counts(self) -> Ints:
        """Count the words of each part of speech."""
        counts: Ints = np.bincount(self.ids)
        return counts

    def draw(self, positions: Ints, uniform: NDArray[np.float64]) -> Ints:
        """Draw for each position another of the same part of speech, by a uniform value in [0, 1).

        Every position of the split is as likely as any other, so a word is as likely as it is frequent.
        """
        tags = self.ids[positions]
        starts = np.cumsum(self.counts) - self.counts
        drawn: Ints = self.order[starts[tags] + (uniform * self.counts[tags]).astype(np.int64)]
        return drawn


def tag_words(words: Words, advance: Callable[[int], None] = lambda done: None) -> Tags:
    """Tag every word with TextBlob's tagger for English: from a lexicon, unknown words by their endings.

    Args:
        advance: called with the number of finished texts.

    Raises:
        UserError: when TextBlob is not installed.
    """
    try:
        from textblob.en import parser
    except ImportError:
        raise UserError("--rule tang needs a tagger, TextBlob: pip install 'distilkit[augment]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # TextBlob does not close its lexicon's file
        parser.find_tags(["film"])
    tag_ids: dict[str, int] = {}
    tags: list[int] = []
    offsets = words.offsets.tolist()
    ids = words.ids.tolist()
    for text, (start, stop) in enumerate(pairwise(offsets)):
        tagged = parser.find_tags([words.vocabulary[word] for word in ids[start:stop]])
        tags += [tag_ids.setdefault(tag, len(tag_ids)) for _, tag in tagged]
        if text % CHUNK == 0:
            advance(text)
    advance(len(words))
    return Tags(np.array(tags, np.int64))


@dataclass(frozen=True)
class Variants:
    """New texts: all variants of the first old text, then those of the next.

    Bit i of `shown`, int64 `[N]`, says whether rule `rules[i]` changed what is left in the text.
    """

    words: Words
    rules: tuple[str, ...]
    shown: Ints


def named(rules: Sequence[str]) -> list[str]:
    """Return the name of each combination of rules, by its bits: `["", "mask", "pos", "mask+pos"]`."""
    return [
        "+".join(rule for bit, rule in enumerate(rules) if shown >> bit & 1)
        for shown in range(2 ** len(rules))
    ]


@dataclass(frozen=True)
class _Copies:
    """The words of several copies of some texts, and uniform draws in [0, 1) for each word and copy.

    `positions` are those of the copied words in the split, `inside` those in their text; `owner` is the
    index of the copy. `by_word` is float64 `[2, words]`, `by_copy` `[3, copies]`.
    """

    positions: Ints
    inside: Ints
    owner: Ints
    lengths: Ints
    by_word: NDArray[np.float64]
    by_copy: NDArray[np.float64]

    @classmethod
    def draw(cls, words: Words, texts: Ints, seeds: Sequence[Sequence[int]], copies: int) -> "_Copies":
        per_text = words.offsets[texts + 1] - words.offsets[texts]
        drawn = [
            np.random.default_rng(seed).random(copies * (2 * length + 3))
            for seed, length in zip(seeds, per_text.tolist(), strict=True)
        ]
        cuts = [copies * length for length in per_text.tolist()]
        by_word = [
            np.concatenate(
                [draws[part * cut : (part + 1) * cut] for draws, cut in zip(drawn, cuts, strict=True)]
            )
            for part in (0, 1)
        ]
        by_copy = [draws[2 * cut :].reshape(3, copies) for draws, cut in zip(drawn, cuts, strict=True)]
        lengths = np.repeat(per_text, copies)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        inside = np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]
        return cls(
            positions=np.repeat(words.offsets[texts], copies)[owner] + inside,
            inside=inside,
            owner=owner,
            lengths=lengths,
            by_word=np.stack(by_word),
            by_copy=np.concatenate(by_copy, axis=1),
        )

    def having(self, words: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which copies have at least one of these words, bool `[copies]`."""
        has_word: NDArray[np.bool_] = np.bincount(self.owner[words], minlength=len(self.lengths)) > 0
        return has_word


@dataclass(frozen=True)
class TangSettings:
    """The probabilities of Tang's rules, and `max_ngram`, the most words in a sampled n-gram."""

    p_mask: float
    p_pos: float
    p_ngram: float
    max_ngram: int


def tang_variants(
    words: Words,
    tags: Tags,
    texts: Ints,
    seeds: Sequence[Sequence[int]],
    *,
    variants: int,
    settings: TangSettings,
    mask: int,
) -> Variants:
    """Mask words, replace them by part of speech and sample n-grams (Tang et al. 2019, section 3.3).

    For each word a number X is drawn from [0, 1): X < p_mask masks it, p_mask <= X < p_mask + p_pos replaces
    it with a word of the same part of speech. Then, with probability p_ngram, only n consecutive words are
    kept, n uniform in 1..max_ngram; a shorter text is kept whole.

    Args:
        words: all texts of the split; replacements are drawn from their words.
        tags: the parts of speech of `words`.
        texts: indices of the texts to vary, int64 `[N]`.
        seeds: a seed for each of `texts`.
        variants: new texts for each of `texts`.
        mask: the word id that masks.
    """
    copies = _Copies.draw(words, texts, seeds, variants)
    chance, which = copies.by_word
    masked = chance < settings.p_mask
    swapped = ~masked & (chance < settings.p_mask + settings.p_pos)
    old = words.ids[copies.positions]
    ids = np.where(masked, mask, old)
    ids[swapped] = words.ids[tags.draw(copies.positions[swapped], which[swapped])]
    cut, size, start = copies.by_copy
    length = np.minimum(1 + (size * settings.max_ngram).astype(np.int64), copies.lengths)
    length = np.where(cut < settings.p_ngram, length, copies.lengths)
    first = (start * (copies.lengths - length + 1)).astype(np.int64)
    remaining = (copies.inside >= first[copies.owner]) & (copies.inside < (first + length)[copies.owner])
    shown = [
        copies.having(remaining & masked),
        copies.having(remaining & swapped & (ids != old)),
        length < copies.lengths,
    ]
    new = Words(words.vocabulary, ids[remaining], np.concatenate([[0], np.cumsum(length)]))
    return Variants(new, TANG_RULES, _bits(shown))


@dataclass(frozen=True)
class Candidates:
    """The candidates to replace each word: `ids[position, :counts[position]]`, int64 `[W, K]` and `[W]`.

    `neighbours`, bool `[W]`, says which come from word vectors instead of a masked language model.
    """

    ids: Ints
    counts: Ints
    neighbours: NDArray[np.bool_]


def tinybert_variants(
    words: Words,
    candidates: Candidates,
    seeds: Sequence[Sequence[int]],
    *,
    variants: int,
    p_replace: float,
) -> Variants:
    """Replace each word by one of its candidates with probability p_replace (Jiao et al. 2020, alg. 1).

    Args:
        words: the texts to vary; their vocabulary holds the candidates too.
        candidates: of every word; where there are none, the word stays.
        seeds: of each text.
    """
    copies = _Copies.draw(words, np.arange(len(words)), seeds, variants)
    chance, which = copies.by_word
    count = candidates.counts[copies.positions]
    new = (chance < p_replace) & (count > 0)
    ids = words.ids[copies.positions]
    ids[new] = candidates.ids[copies.positions[new], (which[new] * count[new]).astype(np.int64)]
    near = candidates.neighbours[copies.positions]
    offsets = np.concatenate([[0], np.cumsum(copies.lengths)])
    return Variants(
        Words(words.vocabulary, ids, offsets),
        TINYBERT_RULES,
        _bits([copies.having(new & ~near), copies.having(new & near)]),
    )


def _bits(shown: Sequence[NDArray[np.bool_]]) -> Ints:
    bits: Ints = np.sum([changed.astype(np.int64) << bit for bit, changed in enumerate(shown)], axis=0)
    return bits


def in_turn(variants: int) -> Iterator[tuple[bool, bool]]:
    """Yield which texts of a pair vary: the first only, the second only, both, and so on in turn."""
    for index in range(variants):
        yield index % 3 != 1, index % 3 != 0
