"""Smaller numbers: each row of a table has its own scale, and every kind of CPU its own weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from distilkit.models.standalone import ANY, ARM, VNNI
from distilkit.workflows.exporting.bilstm_graph import build_bilstm_graph
from distilkit.workflows.exporting.quantization import KINDS, quantize, shrink_tables

ROWS = 400


@pytest.fixture(scope="module")
def graph() -> Any:
    """A BiLSTM whose table has rows of very different sizes: one scale for all would lose the small ones."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": ROWS, "embedding_size": 16, "hidden_size": 8, "head_size": 8}
    model = BiLSTMForSequenceClassification(BiLSTMConfig(**sizes, pooling="both", num_labels=2)).eval()
    with torch.no_grad():
        model.encoder.embeddings.weight.mul_(torch.logspace(-3, 1, ROWS)[:, None])
        model.classifier.weight.mul_(5)
    return build_bilstm_graph(model)


def run(graph: Any) -> Any:
    """Logits of rows in the small and in the large words."""
    ids = np.arange(1, 385).reshape(16, 24)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return onnxruntime.InferenceSession(graph.SerializeToString()).run(["logits"], inputs)[0]


def constants(graph: Any) -> dict[str, Any]:
    return {value.name: numpy_helper.to_array(value) for value in graph.graph.initializer}


def test_a_table_in_int8_has_a_scale_for_each_row(graph: Any) -> None:
    """With one scale for the table, rare words of small vectors would all become zeros."""
    small, table = shrink_tables(graph, "int8"), constants(graph)["embeddings"]
    values = constants(small)
    restored = values["embeddings_int8"].astype(np.float32) * values["embeddings_scale"]
    assert values["embeddings_int8"].dtype == np.int8 and values["embeddings_scale"].shape == (ROWS, 1)
    largest = np.abs(table).max(axis=1, keepdims=True)
    assert (np.abs(restored - table) <= largest / 254 + 1e-7).all()
    assert not restored[0].any()  # the row of padding, of which zero would be a divisor
    assert np.abs(run(small) - run(graph)).max() < 0.05
    assert len(small.SerializeToString()) < 0.6 * len(graph.SerializeToString())


def test_a_table_in_fp16_is_half_as_large_and_nearly_exact(graph: Any) -> None:
    small = shrink_tables(graph, "fp16")
    assert constants(small)["embeddings_fp16"].dtype == np.float16
    assert np.abs(run(small) - run(graph)).max() < 1e-3
    assert "embeddings" in constants(graph)  # the graph that was given is not changed


@pytest.mark.parametrize("name", list(KINDS))
def test_answers_hardly_change_and_all_matrices_are_small(graph: Any, name: str, tmp_path: Path) -> None:
    small = quantize(graph, KINDS[name], tmp_path)
    operators = {node.op_type for node in small.graph.node}
    assert "DynamicQuantizeLSTM" in operators and "MatMulInteger" in operators
    assert not operators & {"LSTM", "Gemm", "MatMul"}
    assert np.abs(run(small) - run(graph)).max() < 0.2
    assert list(tmp_path.iterdir()) == []  # 50 MB each, of a real model


def test_without_vnni_weights_have_seven_bits(graph: Any, tmp_path: Path) -> None:
    """With eight, sums of products are cut off there, and answers are wrong without any error."""

    def read_weights(name: str) -> list[Any]:
        values = constants(quantize(graph, KINDS[name], tmp_path))
        return [value for key, value in values.items() if key.endswith("quantized")]

    reduced = read_weights(ANY)
    assert reduced and all(np.ptp(value.astype(int)) <= 128 for value in reduced)
    for name in (VNNI, ARM):
        weights = read_weights(name)
        assert weights and all(value.dtype == np.int8 for value in weights)
        assert max(np.ptp(value.astype(int)) for value in weights) > 200


def test_small_tables_stay(graph: Any) -> None:
    """Positions and types weigh little, and their rounding errors are in every token."""
    tiny = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Gather", ["table", "ids"], ["vectors"])],
            "tiny",
            [onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])],
            [onnx.helper.make_tensor_value_info("vectors", onnx.TensorProto.FLOAT, ["n", 2])],
            [numpy_helper.from_array(np.ones((8, 2), np.float32), "table")],
        )
    )
    assert list(constants(shrink_tables(tiny, "int8"))) == ["table"]
