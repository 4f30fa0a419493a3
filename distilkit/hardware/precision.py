"""Which number format the forward pass runs in, and the Accelerator that goes with it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from accelerate.state import PartialState

from distilkit.config import Precision
from distilkit.errors import UserError

Resolved = Literal["fp32", "bf16", "fp16"]


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def default_device() -> torch.device:
    """Return the CUDA device that Accelerate chooses; without CUDA the CPU, even where there is MPS."""
    device: torch.device = PartialState(cpu=has_only_mps()).device
    return device


def has_only_mps() -> bool:
    """Return whether MPS is the only accelerator."""
    # Only with MPS: with `cpu=True`, Accelerate would look for other processes in the environment.
    return torch.backends.mps.is_available() and not torch.cuda.is_available()


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """Replace `auto` by the format the device is fast in; keep anything else.

    bf16 on CUDA of compute capability 8.0 and on CPUs with AMX or AVX512_BF16, fp16 on older CUDA, else fp32.

    Raises:
        UserError: fp16 on a CPU, or bf16 on a CUDA device that lacks it.
    """
    cuda, cpu = device.type == "cuda", device.type == "cpu"
    fast_bf16 = torch.cuda.get_device_capability(device) >= (8, 0) if cuda else cpu and _cpu_has_bf16()
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


def autocast(device: torch.device, precision: Resolved) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
