"""Precision and the Accelerator."""

import pytest
import torch

from distilkit.engine.precision import explaining_memory, make_accelerator, resolve_precision
from distilkit.errors import UserError


def test_accumulation_that_accelerate_launch_asks_for_does_not_divide_the_loss_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop weighs a step's batches itself; divided twice, the same command trains another model."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.nn.Parameter(torch.ones(()))
    make_accelerator("fp32").backward(weight * 1.0)
    assert weight.grad is not None and weight.grad.item() == 1.0


def test_a_second_run_in_one_process_may_have_another_precision() -> None:
    assert make_accelerator("bf16").mixed_precision == "bf16"
    assert make_accelerator("fp32").mixed_precision == "no"


def test_auto_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert resolve_precision("auto", cpu) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert resolve_precision("auto", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16", "what is asked for is done, if slowly"
    with pytest.raises(UserError, match="fp16 needs CUDA"):
        resolve_precision("fp16", cpu)


def test_running_out_of_memory_says_which_flag_to_lower() -> None:
    with pytest.raises(UserError, match="--batch-size"), explaining_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
