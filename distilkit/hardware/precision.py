"""Which number format the forward pass runs in, and the Accelerator that goes with it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import GradientAccumulationPlugin

from distilkit.config import Precision
from distilkit.errors import UserError

Resolved = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def default_device() -> torch.device:
    """CUDA where there is one, and which Accelerate chooses; else the CPU, also where there is MPS."""
    device: torch.device = PartialState(cpu=_has_mps_alone()).device
    return device


def _has_mps_alone() -> bool:
    # Only there: told of a CPU, Accelerate would look for other processes in the environment.
    return torch.backends.mps.is_available() and not torch.cuda.is_available()


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """`auto` becomes the format the device is fast in; anything else stays.

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


def make_accelerator(precision: Resolved) -> Accelerator:
    """An Accelerator for one run. Of the formats it is told of fp16 alone, for its scaler.

    The loop and the predictions enter `autocast` themselves: Accelerate would build it into the model.

    Accelerate keeps the mixed precision of the first one for the whole process; a second call of the Python
    API may want another, so that state is dropped here.
    """
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=_has_mps_alone(),
        mixed_precision="fp16" if precision == "fp16" else "no",
        # The loop weighs a step's batches itself; an environment variable of `accelerate launch` must not
        # divide them once more.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    if accelerator.num_processes > 1:
        raise UserError(
            f"{accelerator.num_processes} processes were started, but distilkit trains in one. "
            "Start it without torchrun or accelerate launch."
        )
    return accelerator


@contextmanager
def explaining_memory(advice: str) -> Iterator[None]:
    """Turn the device's running out of memory into what the user can do about it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(".")[0]
        raise UserError(f"{reason}. {advice}") from None


def autocast(device: torch.device, precision: Resolved) -> AbstractContextManager[Any]:
    """The context in which a forward pass runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
