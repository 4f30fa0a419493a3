"""The BiLSTM's tokenizers: what words they know, and that they are the same from disk."""

from pathlib import Path

import pytest
from conftest import BAD, GOOD, tiny_bert, tiny_tokenizer
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

from distilkit.errors import UserError
from distilkit.models.loading import save_model
from distilkit.models.vocabulary import piece_tokenizer, word_tokenizer

TRAINING = ["A great film, great FUN!", "the film is great", "no fun"]


def words(size: int = 100, pairs: bool = False, max_length: int = 16) -> PreTrainedTokenizerFast:
    return word_tokenizer(TRAINING, size, pairs=pairs, max_length=max_length)


def wordpieces(tmp_path: Path) -> BertTokenizerFast:
    """BERT's own tokenizer class over a vocabulary with pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "great", "film", "##s", "##maker", ","]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    return BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), do_lower_case=True)


def test_the_vocabulary_is_that_of_the_texts_given_and_lower_case() -> None:
    expected = {"[PAD]", "[UNK]", "a", "great", "film", ",", "fun", "!", "the", "is", "no"}
    tokenizer = words()
    assert set(tokenizer.get_vocab()) == expected
    assert tokenizer.convert_ids_to_tokens(tokenizer("GREAT Movie")["input_ids"]) == ["great", "[UNK]"]


def test_padding_is_0_and_unknown_is_1() -> None:
    """The BiLSTM's padding vector is row 0, and every unknown word shares row 1."""
    tokenizer = words()
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)
    assert tokenizer("zebra")["input_ids"] == [1]


@pytest.mark.parametrize("size", [3, 4, 6])
def test_the_size_counts_the_special_tokens_and_the_most_frequent_words_stay(size: int) -> None:
    tokenizer = words(size)
    assert len(tokenizer) == size
    assert tokenizer("great")["input_ids"] == [2]  # three times in the texts, more than any other


def test_the_vocabulary_repeats() -> None:
    """Ties in frequency broken at random would give every run another embedding row per word."""
    assert words().get_vocab() == words().get_vocab()


def test_no_special_token_frames_a_text() -> None:
    tokenizer = words()
    ids = tokenizer("great film")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["great", "film"]
    assert list(tokenizer("great film")) == ["input_ids", "attention_mask"]


def test_pairs_are_told_apart_by_their_type_ids() -> None:
    tokens = words(pairs=True)("great film", "no fun !")
    assert tokens["token_type_ids"] == [0, 0, 1, 1, 1]
    assert words(pairs=True).convert_ids_to_tokens(tokens["input_ids"]) == ["great", "film", "no", "fun", "!"]


def test_long_texts_are_cut() -> None:
    tokenizer = words(max_length=3)
    assert len(tokenizer("great film no fun", truncation=True)["input_ids"]) == 3


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("kind", ["words", "pieces", "bert"])
def test_a_tokenizer_reloads_to_the_same_ids(tmp_path: Path, kind: str, pairs: bool) -> None:
    """Reloaded as another class, a tokenizer frames texts with [CLS] or forgets to lower-case them."""
    if kind == "words":
        tokenizer = words(pairs=pairs)
    else:
        teacher = tiny_tokenizer() if kind == "pieces" else wordpieces(tmp_path)
        tokenizer = piece_tokenizer(teacher, pairs=pairs, max_length=16)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in [*GOOD, *BAD, "A GREAT film,", "Unheard of", "héros"]:
        assert dict(again(text)) == dict(tokenizer(text))
        assert dict(again(text, "a film")) == dict(tokenizer(text, "a film"))
    assert (again.pad_token_id, again.unk_token_id) == (tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert again.model_max_length == 16
    assert again(["a", "a great film"], padding=True)["attention_mask"][0] == [1, 0, 0]


def test_the_teachers_word_pieces_keep_their_ids_and_lose_their_frame(tmp_path: Path) -> None:
    teacher = wordpieces(tmp_path)
    tokenizer = piece_tokenizer(teacher, pairs=False, max_length=16)
    framed = teacher("Great films, a filmmaker")["input_ids"]
    assert tokenizer("Great films, a filmmaker")["input_ids"] == framed[1:-1]
    assert tokenizer.get_vocab() == teacher.get_vocab()
    # The teacher itself is not changed by being read.
    assert teacher("Great films, a filmmaker")["input_ids"] == framed


def test_a_truncation_the_teacher_was_saved_with_does_not_come_along(tmp_path: Path) -> None:
    """sentence-transformers saves its tokenizer cutting at 128 and padding to it: the student would too."""
    teacher = wordpieces(tmp_path)
    teacher.backend_tokenizer.enable_truncation(3)
    teacher.backend_tokenizer.enable_padding(length=12)
    tokenizer = piece_tokenizer(teacher, pairs=False, max_length=16)
    assert len(tokenizer("a great film , a great film")["input_ids"]) == 7


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_is_cut_on_the_side_where_its_teacher_cuts_it(side: str, tmp_path: Path) -> None:
    """A student that reads the start of long texts cannot learn what its teacher says of their ends."""
    teacher = tiny_tokenizer()
    teacher.truncation_side = side
    pieces = piece_tokenizer(teacher, pairs=False, max_length=2)
    counted = word_tokenizer(TRAINING, 100, pairs=False, max_length=2, truncation_side=side)
    for tokenizer in (pieces, counted):
        save_model(tiny_bert(), tokenizer, tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        for reader in (tokenizer, again):
            ids = reader("great film no fun", truncation=True)["input_ids"]
            assert reader.decode(ids) == ("no fun" if side == "left" else "great film")


def test_texts_without_a_word_are_refused() -> None:
    """The student would be saved with a tokenizer that nothing can load."""
    with pytest.raises(UserError, match="hold no word"):
        word_tokenizer(["\u200b", " "], 100, pairs=False, max_length=8)
