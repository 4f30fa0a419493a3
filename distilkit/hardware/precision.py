"""The number format that a model is computed in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from distilkit.config import Precision
from distilkit.errors import UserError
from distilkit.hardware.cpu_formats import FormatSpeed, Workload, format_speed, has_bf16, workload_of
from distilkit.hardware.device import describe_cpu_choice
from distilkit.progress import Reporter

Resolved = Literal["fp32", "bf16", "fp16"]
LogitFormat = (
    Resolved | Literal["tf32"]
)  # of logits: that of an LSTM on CUDA is not the one that is asked for


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a number format that the device does not have.

    Raises:
        UserError: fp16 on a CPU, or bf16 on a CUDA device that lacks it.
    """
    cuda = device.type == "cuda"
    if precision == "fp16" and not cuda:
        remedy = "Leave that out, or use" if torch.cuda.is_available() else "Use"
        raise UserError(
            f"--precision fp16 needs CUDA, and {describe_cpu_choice()}. {remedy} auto, bf16 or fp32."
        )
    if precision == "bf16" and cuda and not _cuda_has_bf16(device):
        raise UserError(
            f"--precision bf16: {torch.cuda.get_device_name(device)} has none. Use auto, fp16 or fp32."
        )


def resolve_precision(precision: Precision, device: torch.device, workload: Workload) -> Resolved:
    """Replace `auto` by the format that the device computes `workload` faster in; keep anything else.

    On CUDA bf16 from compute capability 8.0 and fp16 below; on a CPU what was measured on it.

    Raises:
        UserError: as `check_precision`.
    """
    check_precision(precision, device)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if _cuda_has_bf16(device) else "fp16"
    speed = measured_speed(precision, device, workload)
    return speed.choice if speed else "fp32"


def measured_speed(precision: Precision, device: torch.device, workload: Workload) -> FormatSpeed | None:
    """Return the measurement that decides about `auto`; `None` where nothing is to be measured."""
    if precision != "auto" or device.type != "cpu" or not has_bf16() or workload.kind == "lookup":
        return None
    return format_speed(workload)


def choose_precision(
    precision: Precision, device: torch.device, model: torch.nn.Module, reporter: Reporter
) -> Resolved:
    """Return the format to train `model` in, and note what was measured for it.

    Raises:
        UserError: as `check_precision`.
    """
    workload = workload_of(model, training=True)
    if speed := measured_speed(precision, device, workload):
        reporter.note(f"precision: {speed.describe()}")
        return speed.choice
    return resolve_precision(precision, device, workload)


def _cuda_has_bf16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def lstm_precision(device: torch.device) -> Literal["fp32", "tf32"]:
    """Return the format of an LSTM on CUDA, whatever that of the rest: fp32, with cuDNN's rounding to TF32.

    TF32 needs compute capability 8.0, and torch's permission, which is the default.
    """
    recurrent: Any = torch.backends.cudnn.rnn
    return (
        "tf32"
        if recurrent.fp32_precision == "tf32" and torch.cuda.get_device_capability(device) >= (8, 0)
        else "fp32"
    )


def logit_format(precision: Resolved, device: torch.device, *, is_recurrent: bool) -> LogitFormat:
    """Return the format that a model's logits are computed in when `precision` is asked for.

    Args:
        is_recurrent: whether the model has an LSTM.
    """
    if precision == "fp32" and device.type == "cuda" and is_recurrent:
        return lstm_precision(device)
    return precision


def autocast(device: torch.device, precision: Resolved) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
