"""Which number format a CPU computes faster in: measured, since its flags do not tell.

CPUs that have bf16 instructions differ: with AMX a product in bf16 takes a sixth of the time that it takes in
fp32, with AVX512_BF16 alone between a quarter and twice that time.
"""

import copy
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import linear

from distilkit.errors import pluralize
from distilkit.hardware.threads import single_threaded
from distilkit.runs.cache import cache_root
from distilkit.runs.environment import cpu_name
from distilkit.runs.folder import read_object, write_whole
from distilkit.runs.records import PrecisionFacts

FILE = "cpu-formats.json"
PROCEDURE = 1  # count up when what is measured changes, or how: older measurements then hold no longer
REPEATS = 5  # the fastest counts: what other processes take is not the CPU's doing
TOKENS = 128  # rows of the products
LSTM_ROWS, LSTM_LENGTH = 32, 20
MIN_WIDTH, MIN_LSTM_WIDTH = 256, 128  # narrower layers take too little time to be measured
MIN_SPEEDUP = 1.1  # below it bf16 costs exactness and gains nothing
FLAGS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Workload:
    """What a model spends its time on.

    Attributes:
        kind: the products of a transformer's feed-forward layers, the steps of an LSTM, or looking up word
            vectors, which no format makes faster.
        training: forward and backward pass under autocast, or the forward pass of bf16 weights.
        width: features that go in.
        inner: features in the middle of a feed-forward layer, or in a direction of an LSTM.
    """

    kind: Literal["linear", "lstm", "lookup"] = "linear"
    training: bool = False
    width: int = 768
    inner: int = 3072

    @property
    def name(self) -> str:
        """Return the name that its measurement is kept under."""
        return f"{self.kind} {'training' if self.training else 'inference'} {self.width}x{self.inner}"


class FormatSpeed(PrecisionFacts):
    """What the milliseconds that a workload took in either format mean."""

    @property
    def speedup(self) -> float:
        """Return how many times as fast bf16 is."""
        return self.fp32_ms / self.bf16_ms

    @property
    def choice(self) -> Literal["fp32", "bf16"]:
        """Return the format to compute in."""
        return "bf16" if self.speedup >= MIN_SPEEDUP else "fp32"

    def describe(self) -> str:
        """Say in words what was measured."""
        times = f"{self.fp32_ms:.2f} ms in fp32, {self.bf16_ms:.2f} ms in bf16"
        return f"{self.choice} (measured on this CPU: {times})"


def workload_of(model: nn.Module, *, training: bool) -> Workload:
    """Return the workload of a classifier, from its config."""
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type == "bilstm":
        return Workload("lstm", training, config.embedding_size, config.hidden_size)
    if model_type == "static":
        return Workload("lookup", training, config.embedding_size, config.hidden_size)
    width = getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        return Workload(training=training)
    inner = next(
        (
            size
            for name in ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "encoder_ffn_dim")
            if isinstance(size := getattr(config, name, None), int)
        ),
        4 * width,
    )
    return Workload("linear", training, width, inner)


def has_bf16() -> bool:
    """Check whether the CPU has instructions for bf16; without them it is always slower."""
    features = torch.cpu.get_capabilities()
    return any(features.get(flag) for flag in FLAGS)


def format_speed(workload: Workload) -> FormatSpeed:
    """Return the speed of both formats, measured once per CPU, version of torch and of the procedure.

    It is kept in the cache folder; where that cannot be written, it is measured in every process.
    """
    file, machine = cache_root() / FILE, describe_machine()
    speeds = read_object(file)
    with suppress(KeyError, TypeError, ValidationError):
        return FormatSpeed.model_validate(speeds[machine][workload.name])
    speed = _measure_once(workload)
    entries = speeds.get(machine)
    speeds[machine] = (entries if isinstance(entries, dict) else {}) | {workload.name: speed.model_dump()}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(speeds, indent=2) + "\n").encode())
    return speed


def describe_machine() -> str:
    """Return what a measurement holds for: CPU, its bf16 instructions, threads, torch and `PROCEDURE`."""
    features = torch.cpu.get_capabilities()
    flags = ",".join(flag for flag in FLAGS if features.get(flag)) or "no bf16"
    threads = pluralize(torch.get_num_threads(), "thread")
    return f"{cpu_name()} ({flags}), {threads}, torch {torch.__version__}, procedure {PROCEDURE}"


@cache
def _measure_once(workload: Workload) -> FormatSpeed:
    return measure(workload)


def measure(workload: Workload) -> FormatSpeed:
    """Time the workload in both formats, in turns; the fastest of a few repeats counts."""
    if workload.kind == "lstm":  # a BiLSTM is computed on one thread per direction
        with single_threaded():
            return _time(_lstm_step(workload))
    return _time(_linear_step(workload))


def _time(step: Callable[[bool], None]) -> FormatSpeed:
    """Time a step in both formats, in turns."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(REPEATS + 1):
        for low in (False, True):
            started = time.perf_counter()
            step(low)
            if repeat:  # the first prepares kernels and memory
                seconds[low].append(time.perf_counter() - started)
    return FormatSpeed(fp32_ms=1000 * min(seconds[False]), bf16_ms=1000 * min(seconds[True]))


def _linear_step(workload: Workload) -> Callable[[bool], None]:
    """Return a pass through a feed-forward layer, in bf16 or not."""
    width, inner = max(workload.width, MIN_WIDTH), max(workload.inner, MIN_WIDTH)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(TOKENS, width, generator=generator)
    up, down = torch.randn(inner, width, generator=generator), torch.randn(width, inner, generator=generator)
    if workload.training:
        weights = (nn.Parameter(up), nn.Parameter(down))
        return lambda low: _train(lambda: linear(linear(values, weights[0]), weights[1]), weights, low)
    tensors = {low: [t.bfloat16() if low else t for t in (values, up, down)] for low in (False, True)}

    def infer(low: bool) -> None:
        rows, first, second = tensors[low]
        with torch.inference_mode():
            linear(linear(rows, first), second)

    return infer


def _lstm_step(workload: Workload) -> Callable[[bool], None]:
    """Return a pass of an LSTM over a batch of short texts, in bf16 or not."""
    width, inner = max(workload.width, MIN_LSTM_WIDTH), max(workload.inner, MIN_LSTM_WIDTH)
    with torch.random.fork_rng(devices=[]):
        lstm = nn.LSTM(width, inner, batch_first=True)
        values = torch.randn(LSTM_ROWS, LSTM_LENGTH, width)
    halved = copy.deepcopy(lstm).bfloat16()
    if workload.training:
        weights = tuple(lstm.parameters())
        return lambda low: _train(lambda: lstm(values)[0], weights, low)

    def infer(low: bool) -> None:
        with torch.inference_mode():
            halved(values.bfloat16()) if low else lstm(values)

    return infer


def _train(forward: Callable[[], Tensor], weights: tuple[nn.Parameter, ...], low: bool) -> None:
    """Run a forward pass, under autocast where `low`, and the backward pass to `weights`."""
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        output = forward()
    torch.autograd.grad(output.float().sum(), weights)
