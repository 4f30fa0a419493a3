"""The rules on a large sample, and what counts as a row that is there already."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distilkit.errors import UserError
from distilkit.workflows.augmentation.rules import (
    Candidates,
    Tags,
    TangSettings,
    Variants,
    Words,
    in_turn,
    named,
    tag_words,
    tang_variants,
    tinybert_variants,
)

# 400 texts of 12 words: nouns n0..n9, the first ones more often, and verbs v0..v4 at every third place.
SHARES = np.arange(10, 0, -1) / 55
RANDOM = np.random.default_rng(0)
TEXTS = [
    " ".join(
        f"v{RANDOM.integers(5)}" if place % 3 == 2 else f"n{RANDOM.choice(10, p=SHARES)}"
        for place in range(12)
    )
    for _ in range(400)
]
TANG = TangSettings(p_mask=0.1, p_pos=0.1, p_ngram=0.25, max_ngram=5)


def split_of(texts: Sequence[str] = TEXTS) -> tuple[Words, Tags]:
    """The texts' words, tagged by their first letter."""
    words = Words.of(texts, "[M]")
    letters = [words.vocabulary[number][0] for number in words.ids]
    return words, Tags(np.array([letter == "v" for letter in letters], np.int64))


def tang(texts: Sequence[str] = TEXTS, rows: Sequence[int] | None = None, **options: Any) -> Variants:
    words, tags = split_of(texts)
    which = range(len(texts)) if rows is None else rows
    seeds = [(7, row) for row in which]
    mask = words.vocabulary.index("[M]")
    settings = replace(TANG, **options)
    return tang_variants(words, tags, np.array(which), seeds, variants=50, settings=settings, mask=mask)


def copies_of(texts: Sequence[str], variants: int) -> list[str]:
    return [text for text in texts for _ in range(variants)]


def test_words_are_masked_and_replaced_as_often_as_asked_and_never_both() -> None:
    """20,000 copies of 12 words: the standard error of a share of 0.1 is 0.0006."""
    made = tang(p_ngram=0).words.texts()
    pairs = [
        (old, new)
        for before, after in zip(copies_of(TEXTS, 50), made, strict=True)
        for old, new in zip(before.split(), after.split(), strict=True)
    ]
    masked = sum(new == "[M]" for _, new in pairs) / len(pairs)
    assert masked == pytest.approx(0.1, abs=0.003)
    changed = sum(new not in ("[M]", old) for old, new in pairs) / len(pairs)
    nouns = np.array([old[0] == "n" for old, _ in pairs])
    same = np.where(nouns, (SHARES**2).sum(), 0.2).mean()  # the word that is drawn may be the old one
    assert changed == pytest.approx(0.1 * (1 - same), abs=0.004)


def test_a_replacement_has_the_part_of_speech_and_the_words_frequency_in_the_split() -> None:
    made = tang(p_mask=0, p_pos=1, p_ngram=0).words.texts()
    frequent = Counter(word for text in TEXTS for word in text.split() if word[0] == "n")
    drawn: Counter[str] = Counter()
    for before, after in zip(copies_of(TEXTS, 50), made, strict=True):
        for old, new in zip(before.split(), after.split(), strict=True):
            assert old[0] == new[0], "a verb is replaced by a verb, a noun by a noun"
            drawn[new] += new[0] == "n"
    for word, times in frequent.items():
        assert drawn[word] / drawn.total() == pytest.approx(times / frequent.total(), abs=0.01)


def test_n_grams_are_as_frequent_and_as_long_as_asked_and_lie_anywhere() -> None:
    made = tang(p_mask=0, p_pos=0)
    texts = made.words.texts()
    olds = copies_of(TEXTS, 50)
    cut = [(old.split(), new.split()) for old, new in zip(olds, texts, strict=True) if old != new]
    assert len(cut) / len(texts) == pytest.approx(0.25, abs=0.015)
    lengths = Counter(len(new) for _, new in cut)
    assert sorted(lengths) == [1, 2, 3, 4, 5]
    assert all(count / len(cut) == pytest.approx(0.2, abs=0.03) for count in lengths.values())
    starts: Counter[int] = Counter()
    for old, new in cut:
        places = [at for at in range(len(old)) if old[at : at + len(new)] == new]
        assert places, f"{new} does not stand in {old}"
        if len(new) == 5 and len(places) == 1:
            starts[places[0]] += 1
    assert sorted(starts) == list(range(8))
    assert max(starts.values()) < 1.6 * min(starts.values())


def test_a_text_shorter_than_the_n_gram_is_kept_whole() -> None:
    made = tang(["n1 n2", "v1"], p_mask=0, p_pos=0, p_ngram=1, max_ngram=50)
    assert {"n1 n2", "v1"} <= set(made.words.texts())
    assert all(made.words.texts()), "no text is empty"


def test_the_rules_named_are_those_that_show_in_what_is_left() -> None:
    """A mask that n-gram sampling dropped again must not be told of."""
    made = tang()
    names = named(made.rules)
    seen = set()
    for old, new, shown in zip(copies_of(TEXTS, 50), made.words.texts(), made.shown.tolist(), strict=True):
        rules = names[shown].split("+") if names[shown] else []
        seen.add(names[shown])
        assert ("mask" in rules) == ("[M]" in new.split())
        assert ("ngram" in rules) == (len(new.split()) < len(old.split()))
        assert (not rules) == (old == new)
    assert seen == {"", "mask", "pos", "mask+pos", "ngram", "mask+ngram", "pos+ngram", "mask+pos+ngram"}


def test_what_is_made_of_a_text_does_not_depend_on_its_block() -> None:
    """Else another size of block, or a resumed run, would be another data set."""
    whole = tang(TEXTS[:9]).words.texts()
    alone = [text for row in range(9) for text in tang(TEXTS[:9], [row]).words.texts()]
    assert whole == alone
    assert tang(TEXTS[:9], range(5, 9)).words.texts() == whole[5 * 50 :]


def test_every_text_has_a_stream_of_its_own() -> None:
    """Equal texts under equal numbers would be varied alike, and all but one copy dropped."""
    words, tags = split_of(["n1 n2 n3 v1 v2 n4"] * 2)
    seeds = [(7, 0), (7, 1)]
    made = tang_variants(
        words, tags, np.array([0, 1]), seeds, variants=50, settings=TANG, mask=0
    ).words.texts()
    assert made[:50] != made[50:]


def test_candidates_replace_words_as_often_as_asked_each_as_often_as_the_others() -> None:
    """Words at even places have three candidates, those at odd ones one from word vectors, `v` words none."""
    vocabulary = [*Words.of(TEXTS).vocabulary, "x", "y", "z", "near"]
    words = Words.of(TEXTS, "x", "y", "z", "near")
    assert list(words.vocabulary) == vocabulary
    first = vocabulary.index("x")
    places = np.arange(len(words.ids))
    is_verb = np.array([vocabulary[number][0] == "v" for number in words.ids])
    odd = places % 2 == 1
    ids = np.where(odd[:, None], first + 3, np.arange(first, first + 3)[None, :])
    counts = np.where(is_verb, 0, np.where(odd, 1, 3))
    seeds = [(7, row) for row in range(len(TEXTS))]
    made = tinybert_variants(words, Candidates(ids, counts, odd), seeds, variants=20, p_replace=0.4)
    drawn: Counter[str] = Counter()
    names = named(made.rules)
    for old, new, shown in zip(copies_of(TEXTS, 20), made.words.texts(), made.shown.tolist(), strict=True):
        pairs = list(enumerate(zip(old.split(), new.split(), strict=True)))
        drawn.update(
            f"{'near' if at % 2 else 'lm'}:{after if before != after else 'kept'}"
            for at, (before, after) in pairs
            if before[0] == "n"
        )
        assert all(before == after for _, (before, after) in pairs if before[0] == "v")
        rules = [
            r for r, found in (("mlm", set("xyz") & set(new.split())), ("embeddings", "near" in new)) if found
        ]
        assert names[shown] == "+".join(rules)
    for kind, candidates in (("lm", "xyz"), ("near", ["near"])):
        total = sum(count for name, count in drawn.items() if name.startswith(kind))
        assert drawn[f"{kind}:kept"] / total == pytest.approx(0.6, abs=0.01)
        for one in candidates:
            assert drawn[f"{kind}:{one}"] / total == pytest.approx(0.4 / len(candidates), abs=0.01)


def test_texts_are_taken_in_the_order_asked() -> None:
    words = Words.of(["a b", "c", "d a a", ""])
    taken = words.take(np.array([2, 0, 2, 3]))
    assert taken.texts() == ["d a a", "a b", "d a a", ""]


def test_words_are_those_between_white_space_and_come_back() -> None:
    words = Words.of([" a  b\ta ", "b\nc"], "[M]", "a")
    assert words.vocabulary == ("a", "b", "c", "[M]")
    assert words.texts() == ["a b a", "b c"]
    assert len(words) == 2


def test_pairs_vary_first_second_and_both_in_turn() -> None:
    assert list(in_turn(4)) == [(True, False), (False, True), (True, True), (True, False)]


def test_the_tagger_needs_no_download_and_reads_words_as_they_are_given() -> None:
    """TextBlob's other tagger, and its splitter of sentences, ask for NLTK's data."""
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    words = Words.of(["a truly wonderful film", "it 's moving ... well told .", "the films"])
    told: list[int] = []
    tags = tag_words(words, told.append)
    assert len(tags.ids) == len(words.ids)
    assert told[-1] == 3
    of = dict(zip([words.vocabulary[number] for number in words.ids], tags.ids.tolist(), strict=True))
    assert of["a"] == of["the"]
    assert len({of[word] for word in ("film", "a", "truly", "wonderful", "films", ".")}) == 6


def test_without_textblob_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    with pytest.raises(UserError, match=r"pip install 'distilkit\[augment\]'"):
        tag_words(Words.of(["a film"]))
