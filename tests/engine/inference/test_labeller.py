"""`Labeller` gives the logits of transformers, and the same ones to every part of a job."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, lively, tiny_bert, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilkit.data.texts import Texts
from distilkit.engine.inference import logits as inference
from distilkit.engine.inference.labeller import Labeller, load_labeller
from distilkit.engine.inference.logits import predict_texts

TEXTS = [f"{good} {bad} " * (1 + i % 4) for i, good in enumerate(GOOD) for bad in BAD] + [*GOOD, *BAD, "fun"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lively")
    lively(tiny_bert()).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def labeller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Labeller:
    monkeypatch.setitem(inference.TOKENS, "cpu", 64)
    return load_labeller(str(folder), precision="fp32", device="cpu")


def test_logits_are_those_of_transformers_in_order(folder: Path, labeller: Labeller) -> None:
    """Rows are sorted by length inside, and repeated ones computed once: neither may show."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [*TEXTS, *TEXTS[3:9]]
    with torch.no_grad():
        expected = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).numpy()
    logits = labeller.label_batch(texts)
    assert logits.dtype == np.float32 and logits.shape == (len(texts), 2)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_shares_of_all_parts_are_every_row_once_and_equal_one_process_to_the_bit(
    labeller: Labeller,
) -> None:
    """Logits that depend on how many parts there are would train another student."""
    texts = Texts([*TEXTS, *TEXTS[:5]])
    whole = labeller.label_batch(texts)
    for parts in (1, 2, 3, 7, 40):
        shares = [labeller.share(texts, part, parts) for part in range(1, parts + 1)]
        assert sorted(np.concatenate(shares).tolist()) == list(range(len(texts)))
        for rows in shares:
            np.testing.assert_array_equal(labeller.label_batch(texts.take(rows)), whole[rows])


def test_logits_are_those_that_distill_computes(labeller: Labeller) -> None:
    """A file of logits must train the student that the teacher itself trains."""
    model, tokenizer = labeller._model, labeller._tokenizer
    answers = predict_texts(
        model, tokenizer, Texts(TEXTS), range(len(TEXTS)), max_length=64, precision="fp32"
    )
    expected = np.concatenate([logits.numpy() for _, logits in answers])
    np.testing.assert_array_equal(labeller.label_batch(TEXTS), expected)


def test_no_texts_have_no_logits(labeller: Labeller) -> None:
    assert labeller.label_batch([]).shape == (0, 2)
    assert not len(labeller.share(Texts([]), 1, 2))
