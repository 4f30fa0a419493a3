"""Raw text becomes chunks: all of it, in order, framed as a text is; the same are held out each time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WORDS, lively, tiny_bert, tiny_tokenizer
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from distilkit import UserError
from distilkit.data.corpus import encode_chunks, read_corpus
from distilkit.data.encoding import Encoded
from distilkit.data.texts import Texts

CHOICE = np.random.default_rng(0)
TEXTS = [" ".join(CHOICE.choice(WORDS, CHOICE.integers(1, 30)).tolist()) for _ in range(100)]


def ids_of(rows: Encoded) -> list[list[int]]:
    flat = rows.flat["input_ids"].tolist()
    return [flat[start:end] for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]


def test_every_token_is_in_one_chunk_in_order_between_the_special_tokens() -> None:
    """Lost or doubled tokens, or chunks without [CLS], would train on what no classifier ever reads."""
    tokenizer = tiny_tokenizer()
    train, held_out = encode_chunks(tokenizer, Texts(TEXTS), max_length=10, model=tiny_bert())
    chunks = ids_of(train) + ids_of(held_out)
    expected = [token for text in TEXTS for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(chunks) == -(-len(expected) // 8)
    assert len(held_out) == max(1, len(chunks) // 100) and len(train) == len(chunks) - len(held_out)
    assert sorted(map(len, chunks))[1:] == [10] * (len(chunks) - 1)
    for chunk in chunks:
        assert (chunk[0], chunk[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    bodies = [expected[start : start + 8] for start in range(0, len(expected), 8)]
    held = [chunk[1:-1] for chunk in ids_of(held_out)]
    assert [chunk[1:-1] for chunk in ids_of(train)] == [body for body in bodies if body not in held]
    assert held == [body for body in bodies if body in held]


def test_a_model_is_given_what_it_takes_and_the_same_chunks_are_held_out() -> None:
    tokenizer = tiny_tokenizer()
    bert, again = (encode_chunks(tokenizer, Texts(TEXTS), max_length=10, model=tiny_bert()) for _ in range(2))
    size = {"dim": 24, "n_layers": 1, "n_heads": 2, "hidden_dim": 48}
    distilbert = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=40, **size))
    other = encode_chunks(tokenizer, Texts(TEXTS), max_length=10, model=distilbert)
    assert set(bert[0].flat) == {"input_ids", "token_type_ids"} and set(other[0].flat) == {"input_ids"}
    for one, two, three in zip(bert, again, other, strict=True):
        assert ids_of(one) == ids_of(two) == ids_of(three)
        assert not one.flat["token_type_ids"].any() and len(one.flat["token_type_ids"]) == one.offsets[-1]
    batch = bert[0].inputs(np.arange(len(bert[0])))
    assert lively(tiny_bert())(**batch).logits.isfinite().all()


def test_a_chunk_is_as_the_tokenizer_makes_a_text() -> None:
    """Whatever its special tokens are: here [SEP] stands on both sides."""
    tokenizer: Any = tiny_tokenizer()
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[SEP] $A", special_tokens=[("[SEP]", tokenizer.sep_token_id)]
    )
    train, _ = encode_chunks(tokenizer, Texts(TEXTS), max_length=10, model=tiny_bert())
    assert ids_of(train)[0] == tokenizer(" ".join(TEXTS[:9]))["input_ids"][:10]


def test_files_are_read_in_order_without_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("first\n\n  second \n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("third\n", encoding="utf-8")
    files = [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]
    assert list(read_corpus(files)["text"]) == ["first", "second", "third"]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """wikitext-103 needs the Hub, which tests have not: the message names a way without it."""
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    for name, named in (
        ("wikitext-103", r"--corpus wikitext-103 cannot be loaded.*\.txt"),
        (str(tmp_path / "empty.txt"), r"no line in it"),
        ("wikitext-2", r"wikitext-2 is not there.*wikitext-103"),
        (str(tmp_path), r"is not there"),
    ):
        with pytest.raises(UserError, match=named):
            read_corpus([name])
    with pytest.raises(UserError, match=r"5 tokens .* --max-length 16"):
        encode_chunks(tiny_tokenizer(), Texts(["a great film , well"]), max_length=16, model=tiny_bert())
