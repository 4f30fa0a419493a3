"""Graphs with smaller numbers: matrices per channel and the embedding table per row, or the table in fp16."""

import copy
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from distilkit.models.standalone import ANY, ARM, VNNI

MIN_TABLE_ROWS = 256  # of an embedding table: smaller ones, of positions or types, weigh little
LARGEST_INT8 = 127


class Kind(NamedTuple):
    """How weights are quantized for a kind of CPU.

    `signed` weights suit VNNI and ARM. Without VNNI, x86 adds products of 8-bit integers in 16 bits: with
    weights of 7 bits (`reduce_range`) no sum is cut off.
    """

    signed: bool
    reduce_range: bool


KINDS = {VNNI: Kind(True, False), ARM: Kind(True, False), ANY: Kind(False, True)}


def quantize(graph: Any, kind: Kind, folder: Path, *, lstm: bool = True) -> Any:
    """Return a graph whose matrices and embedding tables are 8-bit integers, for one kind of CPU.

    Activations are quantized while it runs, by the range of a whole batch.

    Args:
        folder: receives files of the quantizer, which are removed.
        lstm: whether the weights of LSTMs are quantized too.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, prepared, target = (folder / f"{name}.onnx" for name in ("source", "prepared", "target"))
    onnx.save(shrink_tables(graph, "int8"), source)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the quantizer advises on the root logger
    try:
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm", *(["LSTM"] if lstm else [])],
            per_channel=True,
            reduce_range=kind.reduce_range,
            weight_type=QuantType.QInt8 if kind.signed else QuantType.QUInt8,
        )
        return onnx.load(target)
    finally:
        logger.setLevel(level)
        for file in (source, prepared, target):
            file.unlink(missing_ok=True)


def shrink_tables(graph: Any, table_format: str) -> Any:
    """Return a graph whose embedding tables are `int8`, with a scale for each row, or `fp16`.

    What is looked up is turned into fp32.
    """
    graph = copy.deepcopy(graph)
    tables = {value.name: value for value in graph.graph.initializer if _is_table(value)}
    nodes = []
    for node in graph.graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" and not _axis(node) else None
        if table is None or _count_readers(graph, table.name) > 1:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(table)
        graph.graph.initializer.remove(table)
        constants, lookups = (_read_int8 if table_format == "int8" else _read_fp16)(node, values)
        graph.graph.initializer.extend(constants)
        nodes.extend(lookups)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    onnx.checker.check_model(graph)
    return graph


def _is_table(value: Any) -> bool:
    return value.data_type == TensorProto.FLOAT and len(value.dims) == 2 and value.dims[0] >= MIN_TABLE_ROWS


def _axis(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _count_readers(graph: Any, name: str) -> int:
    return sum(list(node.input).count(name) for node in graph.graph.node)


def _read_int8(node: Any, values: Any) -> tuple[list[Any], list[Any]]:
    """Return the table with a scale for each row, and the nodes that look rows up."""
    name, ids, output = node.input[0], node.input[1], node.output[0]
    scales = np.abs(values).max(axis=1, keepdims=True) / LARGEST_INT8
    scales = np.where(scales == 0, 1, scales).astype(np.float32)  # a row of zeros, as that of padding
    integers = np.rint(values / scales).astype(np.int8)
    constants = [
        numpy_helper.from_array(integers, f"{name}_int8"),
        numpy_helper.from_array(scales, f"{name}_scale"),
    ]
    nodes = [
        helper.make_node("Gather", [f"{name}_int8", ids], [f"{output}_int8"], f"{output}_row"),
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{output}_scale"], f"{output}_scale_row"),
        helper.make_node(
            "Cast", [f"{output}_int8"], [f"{output}_float"], f"{output}_cast", to=TensorProto.FLOAT
        ),
        helper.make_node("Mul", [f"{output}_float", f"{output}_scale"], [output], f"{output}_scaled"),
    ]
    return constants, nodes


def _read_fp16(node: Any, values: Any) -> tuple[list[Any], list[Any]]:
    name, ids, output = node.input[0], node.input[1], node.output[0]
    constants = [numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16")]
    nodes = [
        helper.make_node("Gather", [f"{name}_fp16", ids], [f"{output}_fp16"], f"{output}_row"),
        helper.make_node("Cast", [f"{output}_fp16"], [output], f"{output}_cast", to=TensorProto.FLOAT),
    ]
    return constants, nodes
