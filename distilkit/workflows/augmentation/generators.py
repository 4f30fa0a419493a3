"""Generators of new texts: by Tang's rules, by TinyBERT's."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilkit.config import AugmentConfig, Precision
from distilkit.data.duplicates import REPEATED, UNCHANGED, SeenRows, content_keys
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.hardware.cpu_formats import workload_of
from distilkit.hardware.device import default_device, select_device
from distilkit.hardware.precision import check_precision, resolve_precision
from distilkit.models.loading import fingerprint, load_embedding_table, load_masked_lm, load_tokenizer
from distilkit.progress import Reporter
from distilkit.runs.locating import find_model
from distilkit.workflows.augmentation.masked_lm import MaskedLM, is_word
from distilkit.workflows.augmentation.rules import (
    Candidates,
    Ints,
    TangSettings,
    Variants,
    Words,
    in_turn,
    named,
    tag_words,
    tang_variants,
    tinybert_variants,
)
from distilkit.workflows.augmentation.word_vectors import WordVectors, of_model, read_word_vectors

SOURCE, RULE, SEED = "source", "rule", "seed"


METADATA, DROPPED = b"distilkit", b"dropped"


# Indices of texts and a seed for each -> the new texts, all variants of a text in a row.
Make = Callable[[Ints, Sequence[Sequence[int]]], Variants]


def tang_generator(
    config: AugmentConfig, sides: list[list[str]], reporter: Reporter
) -> tuple[Make, dict[str, Any]]:
    """Return the generator of Tang et al. for these texts, and the tagger's version for the identity."""
    words = Words.of(chain(*sides), mask := str(config.mask_token))
    masked = words.vocabulary.index(mask)
    tags = tag_words(words, lambda done: reporter.advance("texts tagged", done, len(words)))

    settings = TangSettings(config.p_mask or 0, config.p_pos or 0, config.p_ngram or 0, config.max_ngram or 1)

    def make(texts: Ints, seeds: Sequence[Sequence[int]]) -> Variants:
        return tang_variants(
            words,
            tags,
            texts,
            seeds,
            variants=config.variants or 0,
            settings=settings,
            mask=masked,
        )

    return make, {"tagger": f"textblob {version('textblob')}"}


def tinybert_generator(
    config: AugmentConfig, sides: list[list[str]], reporter: Reporter
) -> tuple[Make, dict[str, Any]]:
    """Return TinyBERT's generator for these texts, and the fingerprints of its models for the identity."""
    select_device(config.device, reporter)
    words, top_k = Words.of(chain(*sides)), config.top_k or 0
    vocabulary, made_with = list(words.vocabulary), dict[str, Any]()
    lm, first_piece, near = None, len(vocabulary), np.ones(len(vocabulary), bool)
    if config.mlm:
        lm, made_with = _load_mlm(config.mlm, words, config.precision or "auto")
        near = ~lm.is_single
        vocabulary += lm.words
    neighbours, counts = (
        np.zeros((len(words.vocabulary), top_k), np.int64),
        np.zeros(len(words.vocabulary), np.int64),
    )
    if config.embeddings:
        vectors, made_with["vectors"] = _load_vectors(config.embeddings)
        asked = np.flatnonzero(near & np.array([is_word(word) for word in words.vocabulary]))
        nearest, counts[asked] = vectors.neighbours(
            [words.vocabulary[word] for word in asked],
            top_k,
            lambda done: reporter.advance("neighbours", done, len(asked)),
        )
        neighbours[asked, : nearest.shape[1]] = nearest + len(vocabulary)
        vocabulary += vectors.words
    everything = replace(words, vocabulary=tuple(vocabulary))

    def make(texts: Ints, seeds: Sequence[Sequence[int]]) -> Variants:
        block = everything.take(texts)
        candidates = Candidates(neighbours[block.ids], counts[block.ids], near[block.ids])
        if lm:
            positions, proposed = lm.candidates(block, top_k)
            candidates.ids[positions, : proposed.shape[1]] = proposed + first_piece
            candidates.counts[positions] = proposed.shape[1]
        return tinybert_variants(
            block, candidates, seeds, variants=config.variants or 0, p_replace=config.p_replace or 0
        )

    return make, made_with


def _load_mlm(name: str, words: Words, precision: Precision) -> tuple[MaskedLM, dict[str, Any]]:
    device = default_device()
    check_precision(precision, device)
    try:
        source = find_model(name)
    except UserError as error:
        raise UserError(
            f"--mlm: {error} Or work without it: --candidates embeddings --embeddings FILE_OR_MODEL"
        ) from None
    model: Any = load_masked_lm(source)
    resolved = resolve_precision(precision, device, workload_of(model, training=False))
    tokenizer = load_tokenizer(source)
    made_with = {"masked language model": fingerprint(model), "precision used": resolved}
    return MaskedLM(name, model.to(device), tokenizer, words.vocabulary, resolved), made_with


def _load_vectors(name: str) -> tuple[WordVectors, str]:
    """Return the word vectors of a text file or a model, and their fingerprint."""
    if Path(name).is_file():
        vectors = read_word_vectors(Path(name))
    else:
        source = find_model(name)
        vectors = of_model(load_tokenizer(source), load_embedding_table(source))
    digest = sha256("\n".join(vectors.words).encode("utf-8", "surrogatepass"))
    digest.update(vectors.vectors.numpy().tobytes())
    return replace(vectors, vectors=vectors.vectors.to(default_device())), digest.hexdigest()


class RowMaker:
    """Makes new rows block by block, and refuses rows that exist already."""

    def __init__(
        self, config: AugmentConfig, data: TextData, rows: Ints, sides: list[list[str]], make: Make
    ) -> None:
        self.rows, self.sides, self.seed, self._make = rows, sides, config.seed, make
        self.variants = config.variants or 0
        turns = list(in_turn(self.variants))
        self.varies = (
            [list(turn) for turn in zip(*turns, strict=True)] if len(sides) == 2 else [[True] * self.variants]
        )
        self.columns = [column for column in (data.text_column, data.pair_column) if column]
        if taken := [column for column in self.columns if column in (SOURCE, RULE, SEED)]:
            raise UserError(
                f"the column {taken[0]!r} of the texts has a name that augment uses itself. Rename it."
            )
        self.schema = pa.schema(
            [(column, pa.string()) for column in self.columns]
            + [(SOURCE, pa.int64()), (RULE, pa.string()), (SEED, pa.int64())]
        )
        self.seen = SeenRows()
        for split in ("validation", "test", "train"):
            if split in data.splits:
                self.seen.add(split, content_keys(data.texts(split)))

    def remember(self, part: pa.Table) -> None:
        """Add rows that an earlier command made, so that no new row repeats them."""
        texts = Texts(*(part[column].to_pylist() for column in self.columns))
        self.seen.add(REPEATED, content_keys(texts))

    def make(self, block: Ints) -> pa.Table:
        """Return the new rows of a block of training rows; the schema's metadata counts the dropped ones."""
        old = [[side[text] for text in block.tolist()] for side in self.sides]
        new, shown = [], np.zeros((len(block), self.variants), np.int64)
        for side, texts in enumerate(old):
            seeds = [(self.seed, row, side) for row in self.rows[block].tolist()]
            made = self._make(block + side * len(self.rows), seeds)
            varies = self.varies[side] * len(block)
            fixed = (text for text in texts for _ in range(self.variants))
            new.append([t if v else f for t, v, f in zip(made.words.texts(), varies, fixed, strict=True)])
            shown |= made.shown.reshape(shown.shape) * np.array(self.varies[side])
        accepted, dropped = self._sift(
            content_keys(Texts(*new)), shown.ravel().tolist(), content_keys(Texts(*old))
        )
        names = np.array(named(made.rules), object)
        columns = [
            *([texts[index] for index in accepted] for texts in new),
            np.repeat(self.rows[block], self.variants)[accepted],
            names[shown.ravel()[accepted]],
            np.full(len(accepted), self.seed),
        ]
        metadata = {DROPPED: json.dumps(dropped, sort_keys=True)}
        return pa.table(columns, schema=self.schema.with_metadata(metadata))

    def _sift(self, new: list[bytes], shown: list[int], old: list[bytes]) -> tuple[list[int], Counter[str]]:
        """Return the positions of the rows to keep, and how many other rows exist already, by where."""
        accepted, dropped = [], Counter[str]()
        for index, key in enumerate(new):
            if not shown[index]:
                dropped[UNCHANGED] += 1
            elif split := self.seen.refuse(key, old[index // self.variants]):
                dropped[split] += 1
            else:
                accepted.append(index)
        return accepted, dropped
