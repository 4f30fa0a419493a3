"""Which device computes, and in which number format."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import parse_flag_from_env, patch_environment

from distilkit.config import Precision
from distilkit.errors import UserError
from distilkit.hardware.formats import FormatSpeed, Workload, format_speed, has_bf16, workload_of
from distilkit.progress import Reporter

Resolved = Literal["fp32", "bf16", "fp16"]


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"


class _Selection:
    """The device that a `--device` has selected in this process, if any."""

    name: str | None = None


def select_device(name: str | None) -> torch.device:
    """Make a device that of this process until the next call, and return it.

    Args:
        name: `cpu`, `cuda` or `cuda:N`. `None` leaves the choice to ACCELERATE_TORCH_DEVICE,
            ACCELERATE_USE_CPU and Accelerate, as `default_device`.

    Raises:
        UserError: when there is no such device.
    """
    if name is not None:
        _check_device(name, "--device")
    if name is not None or _Selection.name is not None:
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001  # there is no public way
        if name is not None:
            with patch_environment(**{DEVICE_VARIABLE: name}):
                PartialState()
    _Selection.name = name
    device = default_device()
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # else pinned memory would open a context on the first
    return device


def default_device() -> torch.device:
    """Return the device of this process: what was selected, else what the environment or Accelerate chooses.

    That is CUDA where there is some, else the CPU, even where there is MPS.
    """
    if not PartialState._shared_state:  # noqa: SLF001  # there is no public way
        if name := os.environ.get(DEVICE_VARIABLE):
            _check_device(name, f"{DEVICE_VARIABLE}=")
        elif parse_flag_from_env("ACCELERATE_USE_CPU"):
            # Not with `cpu=True`, with which Accelerate looks for other processes in the environment.
            with patch_environment(**{DEVICE_VARIABLE: "cpu"}):
                PartialState()
    device: torch.device = PartialState(cpu=has_only_mps()).device
    return device


def _check_device(name: str, source: str) -> None:
    """Raise `UserError` where `name` is a CUDA device that this machine lacks."""
    kind, _, index = name.partition(":")
    if kind != "cuda":
        return
    what = f"{source}{name}" if source.endswith("=") else f"{source} {name}"
    if not torch.cuda.is_available():
        raise UserError(f"{what}: there is no CUDA device that torch can use. Use cpu, or leave it out.")
    count = torch.cuda.device_count()
    if index and not (index.isdigit() and int(index) < count):
        raise UserError(f"{what}: the last of {count} CUDA devices is cuda:{count - 1}. Use that or another.")


def name_device(device: torch.device) -> str:
    """Return what records call a device: the name of the GPU, else `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def has_only_mps() -> bool:
    """Return whether MPS is the only accelerator."""
    # Only with MPS: with `cpu=True`, Accelerate would look for other processes in the environment.
    return torch.backends.mps.is_available() and not torch.cuda.is_available()


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a number format that the device does not have.

    Raises:
        UserError: fp16 on a CPU, or bf16 on a CUDA device that lacks it.
    """
    cuda = device.type == "cuda"
    if precision == "fp16" and not cuda:
        raise UserError("--precision fp16 needs CUDA, and this machine has none. Use auto, bf16 or fp32.")
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
    if precision != "auto" or device.type != "cpu" or not has_bf16():
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


def autocast(device: torch.device, precision: Resolved) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
