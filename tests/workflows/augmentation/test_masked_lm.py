"""Candidates in batches are those of one masked text at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEVICES, PARTS, SPECIAL, WHOLE, lively, wordpiece
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from distilkit.errors import UserError
from distilkit.workflows.augmentation import masked_lm
from distilkit.workflows.augmentation.masked_lm import MaskedLM, Pieces, is_word, whole_words
from distilkit.workflows.augmentation.rules import Words

TEXTS = [
    "a great film .",
    "films and stories",
    "a dull unwatchable story and a great moving film , film",
    "Great",
    ".",
]


SIZES: dict[str, Any] = {"vocab_size": len(SPECIAL) + len(WHOLE) + len(PARTS) + 3}
BERT: dict[str, Any] = SIZES | {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}


def make_model(kind: str = "bert") -> Any:
    torch.manual_seed(1)
    if kind == "roberta":
        return lively(RobertaForMaskedLM(RobertaConfig(**BERT, pad_token_id=0)), 8)
    if kind == "distilbert":
        config = DistilBertConfig(
            **SIZES, dim=24, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=16
        )
        return lively(DistilBertForMaskedLM(config), 8)
    return lively(BertForMaskedLM(BertConfig(**BERT)), 8)


def make_lm(words: Words, kind: str = "bert", device: str = "cpu", precision: Any = "fp32") -> MaskedLM:
    return MaskedLM("m", make_model(kind).to(device), wordpiece(), words.vocabulary, precision)


def by_word(lm: MaskedLM, words: Words, k: int = 4) -> dict[tuple[int, int], list[str]]:
    """(text, word) -> candidates."""
    places, ids = lm.candidates(words, k)
    texts = np.searchsorted(words.offsets, places, side="right") - 1
    return {
        (int(text), int(place - words.offsets[text])): [lm.words[number] for number in row]
        for text, place, row in zip(texts, places, ids.tolist(), strict=True)
    }


def one_at_a_time(kind: str, texts: list[str], k: int = 4) -> dict[tuple[int, int], list[str]]:
    """The same by the tokenizer and the whole model, a masked text each: as plain as can be."""
    tokenizer, model = wordpiece(), make_model(kind).eval()
    whole = whole_words(tokenizer)
    found = {}
    for number, text in enumerate(texts):
        for place, word in enumerate(text.split()):
            if tokenizer.tokenize(word.lower()) != [word.lower()] or not word.isalnum():
                continue
            masked = text.split()
            masked[place] = "[MASK]"
            inputs = tokenizer(" ".join(masked), return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                logits = model(**inputs).logits[0, inputs["input_ids"][0].tolist().index(4)]
            order = [
                whole[at] for at in logits.argsort(descending=True).tolist() if at < len(whole) and whole[at]
            ]
            found[number, place] = [one for one in order if one != word.lower()][:k]
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_the_candidates_are_those_of_one_masked_text_at_a_time(kind: str, device: str) -> None:
    """Padding, the other texts of a batch, or a neighbour's mask would show."""
    words = Words.of(TEXTS)
    found = by_word(make_lm(words, kind, device), words)
    assert found == one_at_a_time(kind, TEXTS)
    assert len({tuple(row) for row in found.values()}) > 5, "the model says the same of everything"


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many small parts instead of one."""
    monkeypatch.setattr(masked_lm, "TOKENS", 20)
    yield


def test_texts_in_several_parts_give_the_same(few_tokens: None) -> None:
    words = Words.of(TEXTS)
    assert by_word(make_lm(words), words) == one_at_a_time("bert", TEXTS)


def test_a_text_does_not_depend_on_its_batch_mates() -> None:
    words = Words.of(TEXTS)
    lm = make_lm(words)
    together = by_word(lm, words)
    for number in range(len(TEXTS)):
        alone = by_word(lm, words.take(np.array([number])))
        assert alone == {(0, place): row for (text, place), row in together.items() if text == number}


def test_no_candidate_is_special_or_a_part_of_a_word_or_punctuation_or_the_word_itself() -> None:
    words = Words.of(TEXTS)
    for (text, place), row in by_word(make_lm(words), words, k=100).items():
        own = TEXTS[text].split()[place].lower()
        assert sorted(row) == sorted(set(WHOLE) - {own})


def test_a_text_that_is_longer_than_the_model_reads_has_candidates_as_far_as_it_does() -> None:
    text = "film unwatchable " * 10  # 4 pieces a turn; 14 have room
    words = Words.of([text])
    assert sorted(by_word(make_lm(words), words)) == [(0, 0), (0, 2), (0, 4), (0, 6)]


def test_a_mask_that_a_text_holds_already_is_not_taken_for_ours() -> None:
    words = Words.of(["a [MASK] film and story"])
    lm = make_lm(words)
    plain = Words.of(["a [UNK] film and story"])
    assert by_word(lm, words) == by_word(make_lm(plain), plain)


def test_bf16_proposes_nearly_the_same() -> None:
    words = Words.of(TEXTS)
    full, low = by_word(make_lm(words), words), by_word(make_lm(words, precision="bf16"), words)
    assert full.keys() == low.keys()
    assert np.mean([len(set(full[at]) & set(low[at])) / 4 for at in full]) > 0.8


def test_whole_words_are_those_that_stand_alone() -> None:
    found = whole_words(wordpiece())
    assert [word for word in found if word] == WHOLE
    assert len(found) == len(wordpiece())


@pytest.mark.parametrize("text", ["", ".", "##s", "[UNK]", "<unk>", "...", "a b", "--", "s."])
def test_what_is_no_word(text: str) -> None:
    assert not is_word(text)


@pytest.mark.parametrize("text", ["a", "café", "n't", "well-told", "1999"])
def test_what_is_a_word(text: str) -> None:
    assert is_word(text)


def test_pieces_of_words_are_in_their_order() -> None:
    pieces = Pieces.of(wordpiece(), ["films", "a", "zzz"])
    assert pieces.counts.tolist() == [2, 1, 1]
    assert wordpiece().convert_ids_to_tokens(pieces.ids.tolist()) == ["film", "##s", "a", "[UNK]"]


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = wordpiece()
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="--mlm m: its tokenizer has no mask"):
        MaskedLM("m", make_model(), tokenizer, ["a"], "fp32")
