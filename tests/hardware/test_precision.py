"""Precision and the Accelerator."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, state
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from conftest import Notes, needs_cuda, tiny_bert

from distilkit.errors import UserError
from distilkit.hardware import cpu_formats
from distilkit.hardware import precision as precision_hardware
from distilkit.hardware.cpu_formats import FormatSpeed, Workload
from distilkit.hardware.device import default_device, select_device
from distilkit.hardware.memory import explain_out_of_memory
from distilkit.hardware.precision import (
    autocast,
    check_precision,
    choose_precision,
    logit_format,
    resolve_precision,
)
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
@needs_cuda
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


@pytest.mark.parametrize(("bf16_ms", "expected"), [(1.0, "bf16"), (3.9, "fp32"), (8.0, "fp32")])
def test_auto_follows_the_measurement_and_not_the_flags(
    bf16_ms: float, expected: str, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    """Some CPUs with AVX512_BF16 compute bf16 at half the speed of fp32: training takes twice as long."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    measured = FormatSpeed(fp32_ms=4.0, bf16_ms=bf16_ms)
    monkeypatch.setattr(cpu_formats, "_measure_once", lambda workload: measured)
    notes = Notes()
    model = tiny_bert()
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu, Workload()) == expected
    assert choose_precision("auto", cpu, model, notes) == expected
    assert notes.notes == [
        f"precision: {expected} (measured on this CPU: 4.00 ms in fp32, {bf16_ms:.2f} ms in bf16)"
    ]


def test_a_cpu_without_bf16_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(workload: Workload) -> FormatSpeed:
        raise AssertionError("there is nothing to choose from")

    cpu = torch.device("cpu")
    monkeypatch.setattr(cpu_formats, "_measure_once", measure)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert resolve_precision("auto", cpu, Workload()) == "fp32"


def test_a_format_that_is_asked_for_is_taken_or_refused() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("bf16", cpu, Workload()) == "bf16", "what is asked for is done, if slowly"
    for check in (check_precision, partial(resolve_precision, workload=Workload())):
        with pytest.raises(UserError, match=r"fp16 needs CUDA.* auto, bf16 or fp32"):
            check("fp16", cpu)


def test_running_out_of_memory_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"out of memory\. Do this\."), explain_out_of_memory("Do this."):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


def test_a_device_is_chosen_without_looking_for_other_processes() -> None:
    """Where a cluster sets these for every job, Accelerate would wait for the others to come."""
    code = "from distilkit.hardware.device import default_device; print(default_device().type)"
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


# --- which device ------------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two CUDA devices, on which nothing is computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(state, "check_cuda_p2p_ib_support", lambda: True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def state_of_its_own() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1"])
def test_the_named_device_is_taken_until_the_next_command(name: str, two_gpus: None) -> None:
    """Accelerate chooses once for a whole process: a second call of the Python API would get the first's."""
    assert select_device(name) == torch.device(name) == default_device()
    assert make_accelerator("fp32").device == torch.device(name)
    assert select_device(None) == torch.device("cuda") == default_device()
    assert make_accelerator("fp32").device == torch.device("cuda")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ACCELERATE_TORCH_DEVICE": "cuda:1"}, "cuda:1"),
        ({"ACCELERATE_TORCH_DEVICE": "cpu"}, "cpu"),
        ({"ACCELERATE_USE_CPU": "1"}, "cpu"),
        ({"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2"}, "cpu"),
        ({}, "cuda"),
    ],
)
def test_accelerates_variables_choose_where_no_device_is_named(
    variables: dict[str, str], expected: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_device() == torch.device(expected) == make_accelerator("fp32").device
    assert select_device("cuda:0") == torch.device("cuda:0"), "an option wins"
    assert make_accelerator("fp32").device == torch.device("cuda:0")


def test_a_device_that_is_not_there_is_refused_with_what_is(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else torch says so in a traceback, after the data is read."""
    with pytest.raises(UserError, match=r"--device cuda:2: .*cuda:1"):
        select_device("cuda:2")
    assert select_device(None) == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--device cuda: .*Use cpu"):
        select_device("cuda")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda:1")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(UserError, match=r"ACCELERATE_TORCH_DEVICE=cuda:1: "):
        default_device()


@pytest.mark.parametrize(
    ("device", "variables", "selection"),
    [
        ("cpu", {}, "--device cpu selects the CPU"),
        (None, {"ACCELERATE_USE_CPU": "1"}, "ACCELERATE_USE_CPU selects the CPU"),
        (None, {"ACCELERATE_TORCH_DEVICE": "cpu"}, "ACCELERATE_TORCH_DEVICE selects the CPU"),
    ],
)
def test_fp16_on_a_selected_cpu_names_what_selects_it(
    device: str | None,
    variables: dict[str, str],
    selection: str,
    two_gpus: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told that this machine has no CUDA, a user would look for a fault in the driver."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        check_precision("fp16", select_device(device))
    expected = f"fp16 needs CUDA, and {selection}. Leave that out, or use auto, bf16 or fp32."
    assert str(refused.value).endswith(expected)


@pytest.mark.parametrize(
    ("precision", "device", "is_recurrent", "expected"),
    [
        ("fp32", "cuda", True, "tf32"),
        ("fp32", "cuda", False, "fp32"),
        ("fp32", "cpu", True, "fp32"),
        ("bf16", "cuda", True, "bf16"),
    ],
)
def test_logits_of_an_lstm_on_cuda_are_in_tf32(
    precision: Any, device: str, is_recurrent: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached under one key, those of a CPU and of a GPU would be compared and refused."""
    monkeypatch.setattr(precision_hardware, "lstm_precision", lambda device: "tf32")
    assert logit_format(precision, torch.device(device), is_recurrent=is_recurrent) == expected


def test_a_process_of_torchrun_is_refused_even_if_it_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate wraps its model in DDP, and a loss that leaves parameters out ends in an error of DDP's."""
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.MULTI_GPU)
    with pytest.raises(UserError, match="1 process was started by torchrun"):
        make_accelerator("fp32")


@pytest.mark.cuda
@needs_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_the_second_gpu_computes_and_the_first_stays_empty() -> None:
    before = torch.cuda.memory_allocated(0)
    model = make_accelerator_on("cuda:1").prepare(torch.nn.Linear(8, 8))
    assert next(model.parameters()).device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 1 and torch.cuda.memory_allocated(0) == before


def make_accelerator_on(name: str) -> Accelerator:
    select_device(name)
    return make_accelerator("fp32")
