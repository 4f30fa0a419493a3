"""Whether a model answers the same however its rows are padded, and whether it can compute in a format."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilkit.config.student import WORD_STUDENTS
from distilkit.data.encoding import NEEDS_EQUAL_LENGTHS, Encoded, Tokenizer, encode, leave_out_full_mask
from distilkit.data.inputs import evenly
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import low_precision_copy
from distilkit.errors import UserError
from distilkit.hardware.dropout import eval_mode
from distilkit.hardware.kernels import forward_context
from distilkit.hardware.memory import is_out_of_memory
from distilkit.hardware.precision import Resolved
from distilkit.models.exported import ExportedModel

SAMPLE = 256  # rows of a split of which a few are compared
COMPARED = 4  # of different lengths, each alone and in a batch with the longest
# In fp32, logits of a row that is padded may differ by `absolute + relative * its largest logit`: that much
# another order of sums explains. Other formats round so coarsely that only gross differences show.
TOLERANCES = {torch.float32: (1e-5, 1e-3)}
COARSE_TOLERANCE = (0.1, 0.05)

NOTE = (
    "its answers depend on padding, so rows of different lengths are not put into one batch, and every row "
    "is answered as it would be alone"
)


def check_batching(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    texts: Texts,
    *,
    max_length: int,
    precision: Resolved,
    device: torch.device,
    name: str,
) -> str | None:
    """Find out, once per model, how its rows must be batched, and remember it with the model.

    Args:
        texts: rows such as it will read, of which a few are computed.
        name: what the user calls the model.

    Returns:
        A note for the user where rows of different lengths must not share a batch.

    Raises:
        UserError: when the model cannot compute in `precision`.
    """
    if hasattr(model, NEEDS_EQUAL_LENGTHS) or is_known_to_ignore_padding(model) or not len(texts):
        return None
    sample = texts.take(evenly(len(texts), SAMPLE))
    rows = encode(tokenizer, sample, max_length=max_length, model=model)
    # A copy in bf16 is what will be on the device: there may be no room for the model in fp32.
    if device.type != "cpu" and precision == "bf16":
        with _refusing(precision, name):
            depends = padding_changes_logits(low_precision_copy(model, precision, device).to(device), rows)
    else:
        depends = padding_changes_logits(model.to(device), rows)
        check_model_supports(model, rows, precision, name)
    setattr(model, NEEDS_EQUAL_LENGTHS, depends)
    return f"{name}: {NOTE}" if depends else None


def is_known_to_ignore_padding(model: Any) -> bool:
    """Return whether padding never reaches a model: distilkit's own, or one that was checked at export."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return model_type in WORD_STUDENTS or isinstance(model, ExportedModel)


def padding_changes_logits(model: torch.nn.Module, rows: Encoded) -> bool:
    """Compare the logits of a few rows alone with those in a batch with the longest row, in eval mode.

    A model without a mask (FNet), with convolutions over tokens (ConvBERT) or with a pattern of attention
    that depends on the length of the batch (BigBird) answers otherwise in another batch.
    """
    order = np.argsort(rows.lengths, kind="stable")
    shorter = order[rows.lengths[order] < rows.lengths[order[-1]]]
    if not len(shorter):
        return False
    compared = shorter[np.unique(np.linspace(0, len(shorter) - 1, COMPARED).round().astype(np.int64))]
    parameter = next(model.parameters())
    rows = replace(rows, labels=None, teacher_logits=None).to(parameter.device)
    # Without gradients, but not in inference mode: what a model keeps of it must be fit for training.
    with eval_mode(model), torch.no_grad(), forward_context(parameter.device, "fp32"):
        alone = torch.cat([_logits(model, rows, compared[i : i + 1]) for i in range(len(compared))])
        together = _logits(model, rows, np.append(compared, order[-1]))[:-1]
    absolute, relative = TOLERANCES.get(parameter.dtype, COARSE_TOLERANCE)
    allowed = absolute + relative * alone.abs().amax(dim=1, keepdim=True)
    return bool(((alone - together).abs() > allowed).any())


def check_model_supports(model: torch.nn.Module, rows: Encoded, precision: Resolved, name: str) -> None:
    """Compute a row in `precision`, as inference and as training do.

    Raises:
        UserError: when the model cannot.
    """
    if precision == "fp32" or not len(rows):
        return
    device, shortest = next(model.parameters()).device, np.argsort(rows.lengths)[:1]
    rows = rows.to(device)
    with _refusing(precision, name), eval_mode(model), torch.no_grad():
        with forward_context(device, precision):
            _logits(model, rows, shortest)
        if precision == "bf16":
            _logits(low_precision_copy(model, precision), rows, shortest)


@contextmanager
def _refusing(precision: Resolved, name: str) -> Iterator[None]:
    """Turn an operation that has no kernel for a format into an error that names another format."""
    try:
        yield
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{name}: it cannot compute in {precision} on this device ({reason}). Use --precision fp32."
        ) from None


def _logits(model: torch.nn.Module, rows: Encoded, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    logits: Tensor = model(**leave_out_full_mask(model, rows.inputs(indices))).logits.float()
    return logits
