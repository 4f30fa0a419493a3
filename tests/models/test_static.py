"""The static model: a weighted mean by hand, and nothing that padding could change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from distilkit.models.static import StaticConfig, StaticForSequenceClassification

SIZES: dict[str, Any] = {"vocab_size": 30, "embedding_size": 6, "hidden_size": 5, "num_labels": 3}


def make_model(**options: Any) -> StaticForSequenceClassification:
    """A random model in eval mode, with scores that differ and logits far from zero."""
    torch.manual_seed(0)
    model = StaticForSequenceClassification(StaticConfig(**(SIZES | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        model.encoder.embeddings.weight[0] = 0
    return model


@torch.no_grad()
def average(model: StaticForSequenceClassification, ids: list[int]) -> Tensor:
    """The weighted mean of some tokens, written out token by token."""
    total, mean = 0.0, torch.zeros(model.config.embedding_size)
    for token in ids:
        weight = float(model.encoder.scores[token].exp())
        mean = mean + weight * model.encoder.embeddings.weight[token]
        total += weight
    return mean / total if ids else mean


@torch.no_grad()
def classify(model: StaticForSequenceClassification, features: Tensor) -> Tensor:
    """Hidden layer and classifier by hand."""
    hidden = (model.hidden.weight @ features + model.hidden.bias).clamp(min=0)
    return model.classifier.weight @ hidden + model.classifier.bias


@torch.no_grad()
def logits(model: Any, ids: list[list[int]], mask: list[list[int]] | None = None, **more: Any) -> Tensor:
    attention_mask = None if mask is None else torch.tensor(mask)
    values: Tensor = model(input_ids=torch.tensor(ids), attention_mask=attention_mask, **more).logits
    return values


def test_a_text_is_the_mean_of_its_vectors_weighted_by_their_scores() -> None:
    model = make_model()
    answered = logits(model, [[3, 7, 3, 20]], [[1, 1, 1, 1]])[0]
    torch.testing.assert_close(answered, classify(model, average(model, [3, 7, 3, 20])))
    unweighted = model.encoder.embeddings.weight[[3, 7, 3, 20]].mean(dim=0)
    assert (answered - classify(model, unweighted)).abs().max() > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("filler", [0, 9], ids=["padding", "a word"])
def test_padding_and_batch_mates_change_no_logit(side: str, filler: int) -> None:
    """A batch of other lengths would else change the answer to a text."""
    model = make_model()
    texts = [[3, 7, 3, 20], [5], [11, 2, 8, 4, 6, 29, 1, 1, 2]]
    alone = torch.cat([logits(model, [text], [[1] * len(text)]) for text in texts])
    for longest in (9, 40):
        pads = [[filler] * (longest - len(text)) for text in texts]
        holes = [[0] * len(pad) for pad in pads]
        ids = [pad + text if side == "left" else text + pad for text, pad in zip(texts, pads, strict=True)]
        mask = [
            hole + [1] * len(text) if side == "left" else [1] * len(text) + hole
            for text, hole in zip(texts, holes, strict=True)
        ]
        torch.testing.assert_close(logits(model, ids, mask), alone, atol=1e-5, rtol=0)


def test_a_text_without_tokens_is_the_zero_vector_however_it_is_padded() -> None:
    model = make_model()
    expected = classify(model, torch.zeros(6))
    torch.testing.assert_close(logits(model, [[0, 0], [4, 5]], [[0, 0], [1, 1]])[0], expected)
    torch.testing.assert_close(logits(model, [[]])[0], expected)
    torch.testing.assert_close(logits(model, [[0]])[0], expected)


def test_large_scores_stay_finite() -> None:
    model = make_model()
    with torch.no_grad():
        model.encoder.scores.mul_(1e4)
    assert logits(model, [[3, 7, 3, 20]], [[1, 1, 1, 0]]).isfinite().all()


def test_a_pair_is_its_two_texts_averaged_alone_and_combined_by_hand() -> None:
    """Tokens of one text in the mean of the other would still give logits."""
    model = make_model(siamese=True)
    ids, types = [[3, 7, 20, 5, 9, 0], [4, 6, 0, 0, 0, 0]], [[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]
    mask = [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]
    answered = logits(model, ids, mask, token_type_ids=torch.tensor(types))
    for row, (first, second) in enumerate([([3, 7], [20, 5, 9]), ([4, 6], [])]):
        u, v = average(model, first), average(model, second)
        expected = classify(model, torch.cat([u, v, u * v, (u - v).abs()]))
        torch.testing.assert_close(answered[row], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="pass token_type_ids"):
        logits(model, ids, mask)


@pytest.mark.parametrize("siamese", [False, True])
def test_gradient_reaches_every_parameter_but_the_padding_vector(siamese: bool) -> None:
    model = make_model(siamese=siamese, dropout=0.0)
    ids = torch.tensor([[3, 7, 20, 5, 0]])
    types = torch.tensor([[0, 0, 1, 1, 0]]) if siamese else None
    output = model(ids, token_type_ids=types, labels=torch.tensor([1]))
    output.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    table = model.encoder.embeddings.weight.grad
    assert not table[0].any() and table[[3, 7, 20, 5]].any(dim=1).all()
    assert output.loss == torch.nn.functional.cross_entropy(output.logits, torch.tensor([1]))


def test_word_dropout_leaves_tokens_out_of_the_mean_in_training_alone() -> None:
    """Zeroed vectors in place of tokens left out would shrink the mean of a text."""
    model = make_model(dropout=0.0, word_dropout=0.5)
    rows, mask = [[3, 7]] * 200, [[1, 1]] * 200
    assert len({tuple(row) for row in logits(model, rows, mask).tolist()}) == 1
    model.train()
    expected = [classify(model, average(model, tokens)) for tokens in ([3, 7], [3], [7], [])]
    distances = (logits(model, rows, mask)[:, None] - torch.stack(expected)).abs().amax(dim=2)
    assert distances.amin(dim=1).max() < 1e-4
    assert (distances.argmin(dim=1).bincount(minlength=4) > 20).all()


@pytest.mark.parametrize("siamese", [False, True])
def test_it_comes_back_from_disk_with_equal_logits_and_its_class_names(tmp_path: Path, siamese: bool) -> None:
    model = make_model(siamese=siamese, id2label={0: "bad", 1: "fair", 2: "good"}, word_dropout=0.25)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is StaticForSequenceClassification and loaded.config.word_dropout == 0.25
    assert loaded.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    more = {"token_type_ids": torch.tensor([[0, 1, 1]])} if siamese else {}
    expected = logits(model, [[3, 7, 20]], **more)
    torch.testing.assert_close(logits(loaded.eval(), [[3, 7, 20]], **more), expected)
    saved, read = model.state_dict(), loaded.state_dict()
    assert saved.keys() == read.keys() and all(torch.equal(saved[name], read[name]) for name in saved)
    body = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(body(torch.tensor([[3, 7]])).last_hidden_state[0], average(model, [3, 7]))
    assert AutoConfig.from_pretrained(tmp_path).model_type == "static"


def test_scores_begin_equal_and_the_padding_vector_at_zero() -> None:
    model = StaticForSequenceClassification(StaticConfig(**SIZES))
    assert not model.encoder.scores.any() and not model.encoder.embeddings.weight[0].any()
    assert model.encoder.embeddings.weight[1:].any(dim=1).all()
