"""The static student as an ONNX graph, built by hand: a lookup, a softmax, a product and two layers."""

from typing import Any

import numpy as np
from onnx import TensorProto

from distilkit.models.static import StaticForSequenceClassification
from distilkit.workflows.exporting.graph_parts import Graph, Weights, add_head, compare_texts, make_model

FLOOR = np.float32(-3e38)  # below every score: what is no token of a text has no weight in it


def build_static_graph(model: StaticForSequenceClassification) -> Any:
    """Return an ONNX model with the inputs and the logits of `model`, for any number of rows and tokens."""
    weights: Weights = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    config, graph = model.config, Graph()
    graph.constant("first", np.array([1], np.int64))
    graph.constant("floor", FLOOR)
    ids, mask = _pick_texts(graph) if config.siamese else ("input_ids", "attention_mask")
    features = _average(graph, weights, ids, mask)
    if config.siamese:
        features = compare_texts(graph, features)
    add_head(graph, weights, features)
    return make_model(graph, "static", siamese=config.siamese, classes=len(weights["classifier.bias"]))


def _pick_texts(graph: Graph) -> tuple[str, str]:
    """Return ids and mask `[2N, L]` of the first texts, then of the second."""
    in_second = graph.add("Mul", ["attention_mask", "token_type_ids"], "in_second")
    in_first = graph.add("Sub", ["attention_mask", in_second], "in_first")
    ids = graph.add("Concat", ["input_ids", "input_ids"], "both_ids", axis=0)
    return ids, graph.add("Concat", [in_first, in_second], "both_masks", axis=0)


def _average(graph: Graph, weights: Weights, ids: str, mask: str) -> str:
    """Return the weighted mean of the vectors of each text, `[N, E]`; 0 for a text without tokens.

    The scores are a constant of one dimension, so that no quantization takes them for a table of vectors.
    """
    table = graph.constant("embeddings", weights["encoder.embeddings.weight"])
    scores = graph.constant("scores", weights["encoder.scores"])
    vectors = graph.add("Gather", [table, ids], "vectors")  # [N, L, E]
    token_scores = graph.add("Gather", [scores, ids], "token_scores")  # [N, L]
    is_token = graph.add("Cast", [mask], "is_token", to=TensorProto.BOOL)
    masked = graph.add("Where", [is_token, token_scores, "floor"], "masked")
    shares = graph.add("Softmax", [masked], "shares", axis=1)
    float_mask = graph.add("Cast", [mask], "float_mask", to=TensorProto.FLOAT)
    token_weights = graph.add("Mul", [shares, float_mask], "token_weights")
    row = graph.add("Unsqueeze", [token_weights, "first"], "weight_row")  # [N, 1, L]
    mean = graph.add("MatMul", [row, vectors], "mean_row")
    return graph.add("Squeeze", [mean, "first"], "features")
