"""The hand-built graph of a BiLSTM: torch's logits for every variant, whatever a row is batched with."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from distilkit.workflows.exporting.bilstm_graph import build_bilstm_graph

VOCABULARY = 60


def make_model(**options: Any) -> BiLSTMForSequenceClassification:
    """A random BiLSTM with logits far from zero, biases among its weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "embedding_size": 8, "hidden_size": 5, "head_size": 7}
    model = BiLSTMForSequenceClassification(BiLSTMConfig(**sizes, num_labels=3, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter) * 0.3)
        model.classifier.weight.mul_(10)
    return model


def make_batch(rows: int, longest: int, seed: int, *, siamese: bool) -> dict[str, Any]:
    """Rows of random lengths, empty ones and empty first or second texts among them."""
    generator = np.random.default_rng(seed)
    positions = np.arange(longest)[None]
    mask = (positions < generator.integers(0, longest + 1, rows)[:, None]).astype(np.int64)
    batch = {"input_ids": generator.integers(1, VOCABULARY, (rows, longest)) * mask, "attention_mask": mask}
    if siamese:
        batch["token_type_ids"] = (positions >= generator.integers(0, longest + 1, rows)[:, None]) * mask
    return batch


def run_torch(model: Any, batch: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**{name: torch.from_numpy(values) for name, values in batch.items()}).logits.numpy()


def open_session(model: BiLSTMForSequenceClassification) -> Any:
    return onnxruntime.InferenceSession(build_bilstm_graph(model).SerializeToString())


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", ["last", "max", "both"])
def test_logits_are_those_of_torch(pooling: str, layers: int, siamese: bool) -> None:
    """Gates in torch's order, a pool over padding or a second text off by one would still give answers."""
    model = make_model(pooling=pooling, num_layers=layers, siamese=siamese)
    session = open_session(model)
    for rows, longest in ((1, 1), (1, 7), (5, 9), (16, 3)):
        for seed in range(8):
            batch = make_batch(rows, longest, seed, siamese=siamese)
            expected = run_torch(model, batch)
            assert np.ptp(expected) > 0.1
            assert session.run(["logits"], batch)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
def test_padding_and_batch_mates_change_nothing(siamese: bool) -> None:
    """A server that batches requests must answer each as if it were alone."""
    session = open_session(make_model(pooling="both", siamese=siamese))
    batch = make_batch(6, 9, 0, siamese=siamese)
    together = session.run(["logits"], batch)[0]
    for row, length in enumerate(batch["attention_mask"].sum(axis=1)):
        alone = {name: values[row : row + 1, : max(1, length)] for name, values in batch.items()}
        assert session.run(["logits"], alone)[0][0] == pytest.approx(together[row], abs=1e-5)


def test_the_graph_names_its_inputs_as_transformers_does() -> None:
    """ONNX runtimes in other languages, and transformers.js, call it by these names."""
    session = open_session(make_model(siamese=True))
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        (name, ["batch", "length"]) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert [value.name for value in open_session(make_model()).get_inputs()] == [
        "input_ids",
        "attention_mask",
    ]
