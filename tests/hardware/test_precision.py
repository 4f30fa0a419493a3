"""Precision and the Accelerator."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distilkit.errors import UserError
from distilkit.hardware.memory import explain_out_of_memory
from distilkit.hardware.precision import autocast, resolve_precision
from distilkit.hardware.processes import make_accelerator


def test_accumulation_that_accelerate_launch_asks_for_does_not_divide_the_loss_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop weighs a step's batches itself; divided twice, the same command trains another model."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.nn.Parameter(torch.ones(()))
    make_accelerator("fp32").backward(weight * 1.0)
    assert weight.grad is not None and weight.grad.item() == 1.0


def test_a_second_run_in_one_process_may_have_another_precision() -> None:
    """Accelerate keeps the first one's format for the whole process, and says nothing."""
    AcceleratorState._reset_state()
    Accelerator(mixed_precision="bf16")
    assert make_accelerator("fp32").mixed_precision == "no"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_accelerate_is_told_of_no_format_but_fp16(precision: Any) -> None:
    """Told of bf16 it wraps the model's forward in autocast for good, and predictions would run in it too."""
    accelerator = make_accelerator(precision)
    assert accelerator.mixed_precision == "no" and accelerator.scaler is None
    model = torch.nn.Linear(2, 2)
    prepared = accelerator.prepare(model)
    assert prepared is model and "forward" not in vars(model)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fp16_comes_with_a_scaler() -> None:
    """Without one, small gradients are rounded to zero and the model learns less."""
    accelerator = make_accelerator("fp16")
    assert accelerator.mixed_precision == "fp16" and accelerator.scaler is not None
    assert make_accelerator("bf16").mixed_precision == "no"


def test_the_formats_of_autocast_are_those_asked_for() -> None:
    """A format mixed up computes in another precision than the run says."""
    value = torch.ones(2, 2)
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
            assert (value @ value).dtype == expected


def test_auto_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert resolve_precision("auto", cpu) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert resolve_precision("auto", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16", "what is asked for is done, if slowly"
    with pytest.raises(UserError, match="fp16 needs CUDA"):
        resolve_precision("fp16", cpu)


def test_running_out_of_memory_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"out of memory\. Do this\."), explain_out_of_memory("Do this."):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


def test_a_device_is_chosen_without_looking_for_other_processes() -> None:
    """Where a cluster sets these for every job, Accelerate would wait for the others to come."""
    code = "from distilkit.hardware.precision import default_device; print(default_device().type)"
    environment = os.environ | {"WORLD_SIZE": "2", "PMI_SIZE": "2"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert result.stdout.strip() in ("cpu", "cuda"), result.stderr
