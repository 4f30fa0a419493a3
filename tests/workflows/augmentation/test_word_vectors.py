"""Nearest neighbours, from text files and from a model's table."""

from pathlib import Path

import pytest
import torch
from conftest import wordpiece
from torch.nn.functional import cosine_similarity

from distilkit.errors import UserError
from distilkit.workflows.augmentation import word_vectors
from distilkit.workflows.augmentation.word_vectors import of_model, read_word_vectors

LINES = ["good 1 0", "great 0.9 0.1", "Good 1 0.01", "bad -1 0", "film 0 5", ". 1 0", "movie 0.1 1"]


def write(folder: Path, *lines: str) -> Path:
    file = folder / "vectors.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("header", [[], ["7 2"]])
def test_neighbours_are_the_nearest_by_angle_and_not_the_word_itself(
    tmp_path: Path, header: list[str]
) -> None:
    vectors = read_word_vectors(write(tmp_path, *header, *LINES))
    assert vectors.words == ("good", "great", "Good", "bad", "film", "movie")
    ids, counts = vectors.neighbours(["good", "film", "GREAT", "nowhere"], 2)
    names = [[vectors.words[at] for at in row[:count]] for row, count in zip(ids, counts, strict=True)]
    assert names == [["great", "movie"], ["movie", "great"], ["Good", "good"], []]


def test_more_neighbours_than_words_are_as_many_as_there_are(tmp_path: Path) -> None:
    vectors = read_word_vectors(write(tmp_path, *LINES))
    _, counts = vectors.neighbours(["good", "film"], 100)
    assert counts.tolist() == [4, 5], "the other spelling of `good` is not among them"


def test_many_words_are_looked_up_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = read_word_vectors(write(tmp_path, *LINES))
    asked = ["good", "film", "nowhere", "bad", "movie"]
    whole = vectors.neighbours(asked, 3)
    monkeypatch.setattr(word_vectors, "QUERIES", 2)
    parts = vectors.neighbours(asked, 3)
    assert all((left == right).all() for left, right in zip(whole, parts, strict=True))


def test_words_with_spaces_as_in_glove_and_repeated_words_do_no_harm(tmp_path: Path) -> None:
    vectors = read_word_vectors(write(tmp_path, *LINES, "at name@domain.com 1 2", "good 7 7"))
    assert vectors.words.count("good") == 1
    assert vectors.find(["good"]).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["good 1 0", "bad 1"], "line 2"),
        (["good 1 0", "bad one two"], "line 2"),
        (["good"], "line 1"),
        ([], "line 1|fewer than two word vectors"),
        ([". 1 0", ", 0 1"], "fewer than two word vectors"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, lines: list[str], named: str) -> None:
    with pytest.raises(UserError, match=rf"--embeddings .*vectors\.txt.*({named})"):
        read_word_vectors(write(tmp_path, *lines))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_bytes(b"good 1 0\n\xff\xfe 1 0\n")
    with pytest.raises(UserError, match=r"--embeddings .*vectors\.txt"):
        read_word_vectors(file)


def test_a_models_table_gives_whole_words_near_the_mean_of_the_pieces() -> None:
    tokenizer = wordpiece()
    torch.manual_seed(0)
    table = torch.randn(len(tokenizer) + 3, 8)
    vectors = of_model(tokenizer, table)
    assert "great" in vectors.words and "##s" not in vectors.words and "[MASK]" not in vectors.words
    ids, counts = vectors.neighbours(["films", "great", "zzz"], 3)
    assert counts.tolist() == [3, 3, 0]
    film, ending = tokenizer.convert_tokens_to_ids(["film", "##s"])
    query = (table[film] + table[ending]) / 2
    numbers = tokenizer.convert_tokens_to_ids(list(vectors.words))
    cosines = cosine_similarity(query[None], table[numbers])
    assert ids[0].tolist() == cosines.topk(3).indices.tolist()
    assert "great" not in [vectors.words[at] for at in ids[1]]
