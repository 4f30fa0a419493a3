"""`Predictor` answers what transformers answers, in the caller's order."""

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, MakeModel, lively, tiny_bert, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import distilkit
from distilkit.data.texts import Texts
from distilkit.engine.inference import logits as inference
from distilkit.engine.inference.predictor import Predictions, Predictor, load
from distilkit.errors import UserError
from distilkit.runs.run import Run

TEXTS = [text for both in zip(GOOD, BAD, strict=True) for text in both] + ["fun", "a moving story . " * 5]
FP32: dict[str, Any] = {"precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lively")
    lively(tiny_bert()).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def read_alone(folder: Path, texts: list[str], pairs: list[str] | None = None) -> Any:
    """What transformers answers, a row at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seconds: list[Any] = pairs or [None] * len(texts)
    with torch.no_grad():
        return torch.cat(
            [
                model(**tokenizer(text, second, return_tensors="pt")).logits.softmax(dim=1)
                for text, second in zip(texts, seconds, strict=True)
            ]
        ).numpy()


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_answers_are_those_of_transformers_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Texts are sorted by length inside: answers not put back would be other texts' answers."""
    monkeypatch.setitem(inference.CHUNK, "cpu", chunk)
    predictor = distilkit.load(str(folder), **FP32)
    predictions = predictor.predict(TEXTS)
    expected = read_alone(folder, TEXTS)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-5)
    assert predictor.class_names == predictions.class_names == ("negative", "positive")
    assert predictions.labels == [predictor.class_names[i] for i in expected.argmax(axis=1)]
    assert len(np.unique(expected[:, 0].round(3))) > 5, "equal answers would hide mixed-up rows"
    np.testing.assert_allclose(predictions.scores, expected.max(axis=1), atol=1e-5)
    assert predictions.ids.tolist() == expected.argmax(axis=1).tolist()
    assert len(predictions) == len(TEXTS)


def test_pairs_are_read_together(folder: Path) -> None:
    seconds = TEXTS[::-1]
    predictions = load(str(folder), **FP32).predict(TEXTS, seconds)
    np.testing.assert_allclose(predictions.probabilities, read_alone(folder, TEXTS, seconds), atol=1e-5)
    with pytest.raises(ValueError, match="10 first texts, but 1 second"):
        load(str(folder), **FP32).predict(TEXTS, TEXTS[:1])


def test_a_single_text_is_one_text_and_not_its_letters(folder: Path) -> None:
    predictor = load(str(folder), **FP32)
    one = predictor.predict(TEXTS[0])
    assert len(one) == 1
    np.testing.assert_allclose(one.probabilities, predictor.predict(TEXTS[:1]).probabilities)


def test_no_texts_have_no_answers(folder: Path) -> None:
    predictions = load(str(folder), **FP32).predict([])
    assert predictions.probabilities.shape == (0, 2)
    assert predictions.labels == [] and predictions.scores.shape == (0,) and predictions.ids.shape == (0,)


@pytest.mark.parametrize("wrong", [None, float("nan"), 3, b"bytes"])
def test_what_is_no_text_is_refused_with_its_place(folder: Path, wrong: Any) -> None:
    """A missing value in a data frame is a float, and `str` would make a text of it."""
    with pytest.raises(TypeError, match="text 1 is "):
        load(str(folder), **FP32).predict(["a", wrong])


def test_a_run_is_read_at_the_length_that_it_was_trained_with(teacher_run: Run, folder: Path) -> None:
    assert load(str(teacher_run.path), **FP32).max_length == 16
    assert load(str(folder), **FP32).max_length == 64
    assert load(str(folder), max_length=8, **FP32).max_length == 8
    with pytest.raises(UserError, match="--max-length 65 is more than the model reads"):
        load(str(folder), max_length=65, **FP32)


def test_a_bilstm_is_loaded_too(bilstm_runs: tuple[Run, Run]) -> None:
    predictor = load(str(bilstm_runs[0].path), **FP32)
    alone = [predictor.predict([text]).probabilities for text in TEXTS]
    np.testing.assert_allclose(predictor.predict(TEXTS).probabilities, np.concatenate(alone), atol=1e-6)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run nor a model"):
        load(str(tmp_path))


def test_logits_that_are_not_finite_are_no_answer(make_bert: MakeModel) -> None:
    """Their largest is class 0, which looks like an answer."""
    path = make_bert(seed=3)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    model.save_pretrained(path)
    with pytest.raises(UserError, match="its logits are NaN or infinite in 2 of 2 predicted rows"):
        load(str(path), **FP32).predict(["a", "b"])


def test_a_stream_holds_two_pieces_at_most(folder: Path) -> None:
    """Memory stays flat only if pieces are read as they are answered: here, counted."""
    read = 0

    def pieces() -> Any:
        nonlocal read
        for i in range(20):
            read += 1
            yield i, Texts([TEXTS[i % len(TEXTS)]] * (i % 3))  # some of them empty

    predictor = load(str(folder), **FP32)
    assert isinstance(predictor, Predictor)
    for answered, (i, predictions) in enumerate(predictor.stream(pieces())):
        assert isinstance(predictions, Predictions)
        assert i == answered and len(predictions) == i % 3 and read - answered <= 2
    assert read == 20


def test_a_model_that_padding_changes_answers_each_text_as_it_does_alone(
    tmp_path: Path,
) -> None:
    """Which texts come first must not decide it, nor what they are batched with."""
    from transformers import FNetConfig, FNetForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 1}
    config = FNetConfig(**sizes, intermediate_size=8, max_position_embeddings=64)
    lively(FNetForSequenceClassification(config)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    predictor = load(str(tmp_path), **FP32)
    assert "depend on padding" in predictor.notes[-1]
    predictor.predict(TEXTS[:1])
    alone = np.concatenate([predictor.predict([text]).probabilities for text in TEXTS])
    np.testing.assert_allclose(predictor.predict(TEXTS).probabilities, alone, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, len(TEXTS)])
@pytest.mark.parametrize("kind", ["bert", "bilstm", "pairs"])
def test_a_few_texts_start_no_thread_and_get_the_same_bits(
    folder: Path, bilstm_runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch, kind: str, rows: int
) -> None:
    """A server asks for one text thousands of times a second: pools cost more than a small model does."""
    predictor = load(str(bilstm_runs[0].path if kind == "bilstm" else folder), **FP32)
    texts, pairs = TEXTS[:rows], TEXTS[::-1][:rows] if kind == "pairs" else None
    sides = [texts] if pairs is None else [texts, pairs]
    streamed = [answers.probabilities for _, answers in predictor.stream(iter([(0, Texts(*sides))]))]
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def count(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", count)
    answers = predictor.predict(texts, pairs)
    assert not started
    np.testing.assert_array_equal(answers.probabilities, streamed[0])
    list(predictor.stream(iter([(0, Texts(*sides))])))
    assert started, "threads of a stream would not be counted either"


@pytest.mark.parametrize("size", [None, 100])
def test_copied_weights_do_not_change_with_their_file(folder: Path, tmp_path: Path, size: int | None) -> None:
    """A file that is mapped and overwritten in place gives other answers; a shorter one ends the process."""
    shutil.copytree(folder, tmp_path / "model")
    predictor = load(str(tmp_path / "model"), **FP32)
    predictor.copy_weights()
    before = predictor.predict(TEXTS).probabilities
    file = tmp_path / "model/model.safetensors"
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
        stream.truncate(size)
    np.testing.assert_array_equal(predictor.predict(TEXTS).probabilities, before)
