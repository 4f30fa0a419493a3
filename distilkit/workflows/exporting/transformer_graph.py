"""Transformers as ONNX graphs, through torch's exporter."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distilkit.errors import UserError
from distilkit.models.loading import embedding_table

MAX_REASON = 300
EXAMPLE_LENGTH = 8  # tokens of the longer of two rows


class _LogitsOnly(torch.nn.Module):
    """Return a classifier's logits as a tensor."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        logits: Tensor = self.model(**inputs).logits
        return logits


def build_transformer_graph(model: PreTrainedModel, input_names: Sequence[str], name: str) -> Any:
    """Return an ONNX model with the inputs and the logits of `model`, for any number of rows and tokens.

    The example holds two rows, of which one is padded: the exporter takes a size of 1 for a constant.
    Attention is computed step by step, which every graph can hold.

    Raises:
        UserError: when torch cannot export the architecture.
    """
    eager = copy.deepcopy(model).float().eval()
    example = _make_example(model, input_names)
    sizes = {key: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for key in example}
    try:
        with _hushing(), torch.no_grad():
            eager.set_attn_implementation("eager")
            program = torch.onnx.export(
                _LogitsOnly(eager),
                kwargs=example,
                input_names=list(example),
                output_names=["logits"],
                dynamic_shapes=sizes,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        graph = program.model_proto
    # The exporter runs the model's own code, which may raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise UserError(
            f"{name}: torch cannot export a {type(model).__name__} to ONNX ({reason}). Distill it into a "
            "student that it can: --student bilstm, tinybert or distilbert."
        ) from None
    for value in (*graph.graph.input, *graph.graph.output):
        _name_sizes(value)
    return graph


def _make_example(model: PreTrainedModel, input_names: Sequence[str]) -> dict[str, Tensor]:
    rows = len(embedding_table(model))
    pad = int(getattr(model.config, "pad_token_id", None) or 0)
    ids = torch.arange(2 * EXAMPLE_LENGTH).view(2, EXAMPLE_LENGTH) % rows
    mask = torch.ones_like(ids)
    mask[0, EXAMPLE_LENGTH // 2 :] = 0
    example = {"input_ids": ids.masked_fill(mask.eq(0), pad), "attention_mask": mask}
    if "token_type_ids" in input_names:
        example["token_type_ids"] = torch.zeros_like(ids)
    return example


def _name_sizes(value: Any) -> None:
    """Call the sizes that vary `batch` and `length`."""
    for size, name in zip(value.type.tensor_type.shape.dim, ("batch", "length"), strict=False):
        if size.dim_param:
            size.dim_param = name


@contextmanager
def _hushing() -> Iterator[None]:
    """Keep the exporter's own reports from the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
