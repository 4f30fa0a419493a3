"""Graphs of a model: one in fp32, or one in int8 for each kind of CPU."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distilkit.config import ExportConfig
from distilkit.errors import UserError
from distilkit.models.classifier import Classifier
from distilkit.progress import Reporter
from distilkit.runs.exports import GRAPH
from distilkit.workflows.exporting.contents import list_inputs

MAX_WEIGHT_BYTES = 2_000_000_000  # of a protobuf file, which holds 2 GiB, less room for nodes


def check_size(classifier: Classifier) -> None:
    """Raise `UserError` where the weights in fp32 are more than a file in ONNX's format holds."""
    parameters = classifier.parameters[0]
    if 4 * parameters > MAX_WEIGHT_BYTES:
        raise UserError(
            f"{classifier.name}: {parameters:,} parameters take {4 * parameters / 1e9:.1f} GB in fp32, and "
            "a file with a graph holds 2 GB. Distill it, and export the student."
        )


def build_graphs(classifier: Classifier, config: ExportConfig, reporter: Reporter) -> dict[str, bytes]:
    """Return the graphs as files: one, or with `int8` one for each kind of CPU that can be checked here.

    That of a static student in int8 multiplies no integers, so one serves every CPU.
    """
    from distilkit.models.bilstm import BiLSTMForSequenceClassification
    from distilkit.models.standalone import ANY
    from distilkit.models.static import StaticForSequenceClassification
    from distilkit.workflows.exporting.bilstm_graph import build_bilstm_graph
    from distilkit.workflows.exporting.quantization import KINDS, quantize, shrink_tables
    from distilkit.workflows.exporting.static_graph import build_static_graph
    from distilkit.workflows.exporting.transformer_graph import build_transformer_graph

    model: Any = classifier.model
    if isinstance(model, BiLSTMForSequenceClassification):
        graph = build_bilstm_graph(model)
    elif isinstance(model, StaticForSequenceClassification):
        graph = build_static_graph(model)
    else:
        graph = build_transformer_graph(model, list_inputs(classifier), classifier.name)
    if not config.int8:
        graph = shrink_tables(graph, "fp16") if config.fp16_table else graph
        return {GRAPH: graph.SerializeToString()}
    if isinstance(model, StaticForSequenceClassification):  # all but its table is a hundredth of it
        return {ANY: shrink_tables(graph, "int8").SerializeToString()}
    names = list(KINDS)
    if config.format == "web":
        names = [ANY]  # a browser does not say what CPU it is on
    elif not _can_check_all():
        names = [ANY]
        reporter.note(
            f"int8: this CPU has no VNNI instructions, so that only {ANY} can be checked here and is written"
        )
    with TemporaryDirectory() as folder:
        return {name: quantize(graph, KINDS[name], Path(folder)).SerializeToString() for name in names}


def _can_check_all() -> bool:
    """Return whether the graphs for all kinds of CPU are right on this one: not on x86 without VNNI."""
    from distilkit.models.standalone import ANY, ARM, VNNI, choose_graph

    return choose_graph([VNNI, ARM, ANY]) != ANY
