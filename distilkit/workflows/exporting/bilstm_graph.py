"""The BiLSTM as an ONNX graph, built by hand: torch's exporter freezes the number of steps of an LSTM."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from distilkit.models.bilstm import BiLSTMForSequenceClassification
from distilkit.workflows.exporting.graph_parts import Graph, Weights, add_head, compare_texts, make_model

FLOOR = np.float32(-3e38)  # below every state: what lies beyond the end of a text never is its maximum


def build_bilstm_graph(model: BiLSTMForSequenceClassification) -> Any:
    """Return an ONNX model with the inputs and the logits of `model`, for any number of rows and tokens.

    Padding must come after the tokens of a row, as its tokenizer puts it. Gates are in the order i, o, f, c
    (torch: i, f, g, o).
    """
    weights: Weights = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    config, graph = model.config, Graph()
    for name, value in {"zero": 0, "unit": 1, "first": [0], "second": [1]}.items():
        graph.constant(name, np.array(value, np.int64))
    ids, lengths = _pick_texts(graph) if config.siamese else _read_lengths(graph)
    states = _embed(graph, weights, ids)
    for layer in range(config.num_layers):
        last, outputs = _run_lstm(graph, weights, layer, states, lengths)
        if layer + 1 < config.num_layers:  # [L, 2, N, H] -> [L, N, 2H]
            turned = graph.add("Transpose", [outputs], f"turned_{layer}", perm=[0, 2, 1, 3])
            shape = graph.constant("width_last", np.array([0, 0, -1], np.int64))
            states = graph.add("Reshape", [turned, shape], f"states_{layer + 1}")
    features = _pool(graph, config.pooling, last, outputs, lengths)
    if config.siamese:
        features = compare_texts(graph, features)
    add_head(graph, weights, features)
    return make_model(graph, "bilstm", siamese=config.siamese, classes=len(weights["classifier.bias"]))


def _read_lengths(graph: Graph) -> tuple[str, str]:
    """Return the ids `[N, L]` and the tokens of each row; a text without any is read as one of padding."""
    return "input_ids", _count(graph, "attention_mask", "length")


def _count(graph: Graph, mask: str, name: str) -> str:
    counts = graph.add("ReduceSum", [mask, "second"], f"{name}_counted", keepdims=0)
    at_least = graph.add("Max", [counts, "second"], f"{name}_at_least_1")
    return graph.add("Cast", [at_least], name, to=TensorProto.INT32)


def _pick_texts(graph: Graph) -> tuple[str, str]:
    """Return ids `[2N, L]` of the first texts, then of the second, and the tokens of each.

    The second text of a row begins where the first ends; without tokens it is read as the row's first one,
    as the model in torch does.
    """
    in_second = graph.add("Mul", ["attention_mask", "token_type_ids"], "in_second")
    in_first = graph.add("Sub", ["attention_mask", in_second], "in_first")
    lengths = [_count(graph, mask, f"length_of_{mask}") for mask in (in_first, in_second)]
    start = graph.add("ReduceSum", [in_first, "second"], "start", keepdims=1)  # [N, 1]
    size = graph.add("ReduceSum", [in_second, "second"], "size", keepdims=1)
    shape = graph.add("Shape", ["input_ids"], "shape")
    longest = graph.add("Gather", [shape, "unit"], "longest")
    steps = graph.add("Range", ["zero", longest, "unit"], "steps")
    shifted = graph.add("Add", [start, steps], "shifted")  # [N, L]
    end = graph.add("Sub", [longest, "unit"], "end")
    inside = graph.add("Min", [shifted, end], "inside")
    is_empty = graph.add("Equal", [size, "zero"], "is_empty")
    where = graph.add("Where", [is_empty, "zero", inside], "where")
    second_ids = graph.add("GatherElements", ["input_ids", where], "second_ids", axis=1)
    ids = graph.add("Concat", ["input_ids", second_ids], "both_ids", axis=0)
    return ids, graph.add("Concat", lengths, "both_lengths", axis=0)


def _embed(graph: Graph, weights: Weights, ids: str) -> str:
    """Return the word vectors `[L, N, E]`."""
    table = graph.constant("embeddings", weights["encoder.embeddings.weight"])
    steps_first = graph.add("Transpose", [ids], "steps_first", perm=[1, 0])
    return graph.add("Gather", [table, steps_first], "states_0")


def _run_lstm(graph: Graph, weights: Weights, layer: int, states: str, lengths: str) -> tuple[str, str]:
    """Return the last states `[2, N, H]` and all states `[L, 2, N, H]` of a layer, forwards and backwards."""
    names = [f"encoder.{direction}.{layer}" for direction in ("forwards", "backwards")]

    def stack(kind: str) -> NDArray[np.float32]:
        return np.stack([_to_onnx_gates(weights[f"{name}.{kind}_l0"]) for name in names])

    biases = np.concatenate([stack("bias_ih"), stack("bias_hh")], axis=1)
    inputs = [
        graph.constant(f"lstm_{layer}_input", stack("weight_ih")),
        graph.constant(f"lstm_{layer}_recurrent", stack("weight_hh")),
        graph.constant(f"lstm_{layer}_bias", biases),
    ]
    size = weights[f"{names[0]}.weight_hh_l0"].shape[1]
    graph.add(
        "LSTM",
        [states, *inputs, lengths],
        f"all_{layer} last_{layer}",
        hidden_size=size,
        direction="bidirectional",
    )
    return f"last_{layer}", f"all_{layer}"


def _to_onnx_gates(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    i, f, g, o = np.split(weight, 4)
    return np.concatenate([i, o, f, g])


def _pool(graph: Graph, pooling: str, last: str, outputs: str, lengths: str) -> str:
    """Return what represents a text, `[N, text_size]`: of each direction last state, maximum, or both."""
    pooled = last
    if pooling != "last":
        largest = _take_maximum(graph, outputs, lengths)
        pooled = largest
        if pooling == "both":
            pooled = graph.add("Concat", [last, largest], "last_and_largest", axis=2)
    rows_first = graph.add("Transpose", [pooled], "rows_first", perm=[1, 0, 2])
    flat = graph.constant("flat", np.array([0, -1], np.int64))
    return graph.add("Reshape", [rows_first, flat], "features")


def _take_maximum(graph: Graph, outputs: str, lengths: str) -> str:
    """Return the maximum of the states over the tokens of each text, `[2, N, H]`."""
    graph.constant("row_and_width", np.array([1, 3], np.int64))
    graph.constant("floor", FLOOR)
    shape = graph.add("Shape", [outputs], "states_shape")
    count = graph.add("Gather", [shape, "zero"], "state_count")
    steps = graph.add("Range", ["zero", count, "unit"], "state_steps")
    column = graph.add("Unsqueeze", [steps, "second"], "state_column")  # [L, 1]
    long_lengths = graph.add("Cast", [lengths], "long_lengths", to=TensorProto.INT64)
    is_inside = graph.add("Less", [column, long_lengths], "is_inside")  # [L, N]
    mask = graph.add("Unsqueeze", [is_inside, "row_and_width"], "mask")  # [L, 1, N, 1]
    masked = graph.add("Where", [mask, outputs, "floor"], "masked")
    return graph.add("ReduceMax", [masked, "first"], "largest", keepdims=0)
