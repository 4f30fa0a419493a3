"""The device that computes."""

import os

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import parse_flag_from_env, patch_environment

from distilkit.errors import UserError
from distilkit.hardware.threads import leave_busy_cores
from distilkit.progress import Reporter

DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"


class _Selection:
    """The device that a `--device` has selected in this process, if any."""

    name: str | None = None


def select_device(name: str | None, reporter: Reporter | None = None) -> torch.device:
    """Make a device that of this process until the next call, and return it.

    Args:
        name: `cpu`, `cuda` or `cuda:N`. `None` leaves the choice to ACCELERATE_TORCH_DEVICE,
            ACCELERATE_USE_CPU and Accelerate, as `default_device`.
        reporter: told where a CPU computes on fewer cores than it has (`leave_busy_cores`).

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
    if device.type == "cpu":
        leave_busy_cores(reporter or Reporter())
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


def describe_cpu_choice() -> str:
    """Return why the device is a CPU: what selects it, or that there is nothing else."""
    if not torch.cuda.is_available():
        return "this machine has none"
    if _Selection.name is not None:
        return f"--device {_Selection.name} selects the CPU"
    variable = DEVICE_VARIABLE if os.environ.get(DEVICE_VARIABLE) else "ACCELERATE_USE_CPU"
    return f"{variable} selects the CPU"


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
