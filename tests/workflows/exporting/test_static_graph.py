"""The hand-built graph of a static student: torch's logits, whatever a row is batched with."""

from typing import Any

import numpy as np
import pytest
import torch
from graph_batches import (
    INPUTS,
    check_inputs,
    check_logits,
    check_rows_alone,
    enlarge_weights,
    make_batch,
    open_session,
    run_torch,
)

from distilkit.models.static import StaticConfig, StaticForSequenceClassification
from distilkit.workflows.exporting.quantization import shrink_tables
from distilkit.workflows.exporting.static_graph import build_static_graph


def make_model(*, siamese: bool) -> StaticForSequenceClassification:
    """A random static model with logits far from zero, scores and biases among its weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 300, "embedding_size": 8, "hidden_size": 7}
    model = StaticForSequenceClassification(StaticConfig(**sizes, num_labels=3, siamese=siamese)).eval()
    enlarge_weights(model)
    return model


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
def test_logits_are_those_of_torch(siamese: bool) -> None:
    model = make_model(siamese=siamese)
    session = open_session(build_static_graph(model))
    check_inputs(session, INPUTS if siamese else INPUTS[:2])
    check_logits(session, model, tolerance=1e-5)


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
@pytest.mark.parametrize("table_format", ["fp32", "int8"])
def test_padding_and_batch_mates_change_nothing(siamese: bool, table_format: str) -> None:
    """Not in int8 either, where other students' activations take the range of a whole batch."""
    model = make_model(siamese=siamese)
    graph = build_static_graph(model)
    if table_format == "int8":
        graph = shrink_tables(graph, "int8")
        assert {value.name for value in graph.graph.initializer} >= {"embeddings_int8", "scores"}
    check_rows_alone(open_session(graph), model)


def test_int8_changes_logits_by_little() -> None:
    model = make_model(siamese=False)
    session = open_session(shrink_tables(build_static_graph(model), "int8"))
    batch = make_batch(model, 64, 9, 0)
    expected = run_torch(model, batch)
    difference = np.abs(session.run(["logits"], batch)[0] - expected).max()
    assert 0 < difference < 0.02 * np.abs(expected).max()
