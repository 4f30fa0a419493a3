"""The hand-built graph of a static student: torch's logits, whatever a row is batched with."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from distilkit.models.static import StaticConfig, StaticForSequenceClassification
from distilkit.workflows.exporting.quantization import shrink_tables
from distilkit.workflows.exporting.static_graph import build_static_graph

VOCABULARY = 300


def make_model(*, siamese: bool) -> StaticForSequenceClassification:
    """A random static model with logits far from zero, scores and biases among its weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "embedding_size": 8, "hidden_size": 7}
    model = StaticForSequenceClassification(StaticConfig(**sizes, num_labels=3, siamese=siamese)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter) * 0.3)
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


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
def test_logits_are_those_of_torch(siamese: bool) -> None:
    model = make_model(siamese=siamese)
    session = onnxruntime.InferenceSession(build_static_graph(model).SerializeToString())
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if siamese else [])]
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        (name, ["batch", "length"]) for name in names
    ]
    for rows, longest in ((1, 1), (1, 7), (5, 9), (16, 3)):
        for seed in range(8):
            batch = make_batch(rows, longest, seed, siamese=siamese)
            expected = run_torch(model, batch)
            assert session.run(["logits"], batch)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("siamese", [False, True], ids=["single", "siamese"])
@pytest.mark.parametrize("table_format", ["fp32", "int8"])
def test_padding_and_batch_mates_change_nothing(siamese: bool, table_format: str) -> None:
    """Not in int8 either, where other students' activations take the range of a whole batch."""
    graph = build_static_graph(make_model(siamese=siamese))
    if table_format == "int8":
        graph = shrink_tables(graph, "int8")
        assert {value.name for value in graph.graph.initializer} >= {"embeddings_int8", "scores"}
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    batch = make_batch(6, 9, 0, siamese=siamese)
    together = session.run(["logits"], batch)[0]
    assert np.ptp(together) > 0.1
    for row, length in enumerate(batch["attention_mask"].sum(axis=1)):
        alone = {name: values[row : row + 1, : max(1, length)] for name, values in batch.items()}
        assert session.run(["logits"], alone)[0][0] == pytest.approx(together[row], abs=1e-5)


def test_int8_changes_logits_by_little() -> None:
    model = make_model(siamese=False)
    session = onnxruntime.InferenceSession(
        shrink_tables(build_static_graph(model), "int8").SerializeToString()
    )
    batch = make_batch(64, 9, 0, siamese=False)
    expected = run_torch(model, batch)
    difference = np.abs(session.run(["logits"], batch)[0] - expected).max()
    assert 0 < difference < 0.02 * np.abs(expected).max()
