"""The hand-built graph of a BiLSTM: torch's logits for every variant, whatever a row is batched with."""

from typing import Any

import pytest
import torch
from graph_batches import INPUTS, check_inputs, check_logits, check_rows_alone, enlarge_weights, open_session

from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from distilkit.workflows.exporting.bilstm_graph import build_bilstm_graph


def make_model(**options: Any) -> BiLSTMForSequenceClassification:
    """A random BiLSTM with logits far from zero, biases among its weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 60, "embedding_size": 8, "hidden_size": 5, "head_size": 7}
    model = BiLSTMForSequenceClassification(BiLSTMConfig(**sizes, num_labels=3, **options)).eval()
    enlarge_weights(model)
    with torch.no_grad():
        model.classifier.weight.mul_(10)
    return model


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", ["last", "max", "both"])
def test_logits_are_those_of_torch(pooling: str, layers: int, siamese: bool) -> None:
    """Gates in torch's order, a pool over padding or a second text off by one would still give answers."""
    model = make_model(pooling=pooling, num_layers=layers, siamese=siamese)
    check_logits(open_session(build_bilstm_graph(model)), model, tolerance=1e-4)


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
def test_padding_and_batch_mates_change_nothing(siamese: bool) -> None:
    """A server that batches requests must answer each as if it were alone."""
    model = make_model(pooling="both", siamese=siamese)
    check_rows_alone(open_session(build_bilstm_graph(model)), model)


def test_the_graph_names_its_inputs_as_transformers_does() -> None:
    """ONNX runtimes in other languages, and transformers.js, call it by these names."""
    check_inputs(open_session(build_bilstm_graph(make_model(siamese=True))), INPUTS)
    check_inputs(open_session(build_bilstm_graph(make_model())), INPUTS[:2])
