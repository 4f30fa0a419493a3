"""Which number format the forward pass runs in, and the Accelerator that goes with it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distilkit.config import Precision
from distilkit.errors import UserError

Resolved = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU, as Accelerate chooses."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """`auto` becomes the format the device is fast in; anything else stays.

    bf16 on CUDA of compute capability 8.0 and on CPUs with AMX or AVX512_BF16, fp16 on older CUDA, else fp32.

    Raises:
        UserError: fp16 on a CPU, or bf16 on a CUDA device that lacks it.
    """
    cuda = device.type == "cuda"
    fast_bf16 = torch.cuda.get_device_capability(device) >= (8, 0) if cuda else _cpu_has_bf16()
    if precision == "fp16" and not cuda:
        raise UserError("--precision fp16 needs CUDA, and this machine has none. Use auto, bf16 or fp32.")
    if precision == "bf16" and cuda and not fast_bf16:
        raise UserError(
            f"--precision bf16: {torch.cuda.get_device_name(device)} has none. Use auto, fp16 or fp32."
        )
    if precision != "auto":
        return precision
    if fast_bf16:
        return "bf16"
    return "fp16" if cuda else "fp32"


def _cpu_has_bf16() -> bool:
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def make_accelerator(precision: Resolved) -> Accelerator:
    """An Accelerator for one run.

    Accelerate keeps the mixed precision of the first one for the whole process; a second call of the Python
    API may want another, so that state is dropped here.
    """
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision)


def autocast(device: torch.device, precision: Resolved) -> AbstractContextManager[Any]:
    """The context in which a forward pass runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
