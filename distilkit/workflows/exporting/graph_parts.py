"""Parts of the ONNX graphs that are built by hand: the nodes, the head, and the model around them."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 18, 10

Weights = dict[str, NDArray[np.float32]]


class Graph:
    """Collect nodes and constants; a node is named after its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node and return its last output."""
        outputs = output.split()
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[-1], **attributes))
        return outputs[-1]

    def constant(self, name: str, value: Any) -> str:
        """Add a constant and return its name."""
        self.constants[name] = np.ascontiguousarray(value)
        return name


def compare_texts(graph: Graph, features: str) -> str:
    """Return what a siamese model classifies: h1, h2, h1 * h2 and |h1 - h2|."""
    graph.add("Split", [features], "text_1 text_2", axis=0, num_outputs=2)
    product = graph.add("Mul", ["text_1", "text_2"], "product")
    difference = graph.add("Sub", ["text_1", "text_2"], "difference")
    distance = graph.add("Abs", [difference], "distance")
    return graph.add("Concat", ["text_1", "text_2", product, distance], "compared", axis=1)


def add_head(graph: Graph, weights: Weights, features: str) -> None:
    """Add the hidden layer and the classifier, whose output is the logits."""
    hidden = graph.add("Gemm", [features, *_add_linear(graph, weights, "hidden")], "hidden", transB=1)
    active = graph.add("Relu", [hidden], "active")
    graph.add("Gemm", [active, *_add_linear(graph, weights, "classifier")], "logits", transB=1)


def _add_linear(graph: Graph, weights: Weights, name: str) -> list[str]:
    return [graph.constant(f"{name}_{kind}", weights[f"{name}.{kind}"]) for kind in ("weight", "bias")]


def make_model(graph: Graph, name: str, *, siamese: bool, classes: int) -> Any:
    """Return the ONNX model of a graph, with the inputs of a tokenizer and the constants that are read."""
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if siamese else [])]
    integers = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    read = {name for node in graph.nodes for name in node.input}
    constants = [
        numpy_helper.from_array(value, name) for name, value in graph.constants.items() if name in read
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, integers, [logits], constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="distilkit",
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model
