"""The faster number format is measured once per CPU, and remembered."""

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_bert
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from distilkit.hardware import cpu_formats
from distilkit.hardware.cpu_formats import FILE, FormatSpeed, Workload, format_speed, measure, workload_of
from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification

WORKLOAD = Workload("linear", False, 300, 400)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> list[Workload]:
    """The workloads that were measured; fp32 takes 3 ms and bf16 2 ms."""
    workloads: list[Workload] = []

    def record(workload: Workload) -> FormatSpeed:
        workloads.append(workload)
        return FormatSpeed(fp32_ms=3, bf16_ms=2)

    monkeypatch.setattr(cpu_formats, "_measure_once", record)
    return workloads


def test_a_workload_is_measured_once_and_the_answer_kept(measured: list[Workload], fresh_cache: Path) -> None:
    """Measured in every run, two runs of one command might choose different formats."""
    for _ in range(2):
        assert format_speed(WORKLOAD) == FormatSpeed(fp32_ms=3, bf16_ms=2)
    assert measured == [WORKLOAD]
    other = Workload("lstm", True, 300, 150)
    assert format_speed(other).choice == "bf16"
    kept = json.loads((fresh_cache / FILE).read_text())
    assert list(kept) == [cpu_formats.describe_machine()]
    assert list(kept[cpu_formats.describe_machine()]) == [WORKLOAD.name, other.name]


def test_another_machine_measures_for_itself(
    measured: list[Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home folder is shared by machines of a cluster: the answer of one is wrong on another."""
    format_speed(WORKLOAD)
    monkeypatch.setattr(cpu_formats, "cpu_name", lambda: "another CPU")
    format_speed(WORKLOAD)
    assert measured == [WORKLOAD, WORKLOAD]


def test_another_procedure_measures_again(
    measured: list[Workload], monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    """What an older distilkit measured in another way would decide for ever."""
    unversioned = cpu_formats.describe_machine().removesuffix(f", procedure {cpu_formats.PROCEDURE}")
    old = {unversioned: {WORKLOAD.name: {"fp32_ms": 1, "bf16_ms": 9}}}
    (fresh_cache / FILE).write_text(json.dumps(old))
    assert format_speed(WORKLOAD).choice == "bf16" and measured == [WORKLOAD]
    monkeypatch.setattr(cpu_formats, "PROCEDURE", cpu_formats.PROCEDURE + 1)
    format_speed(WORKLOAD)
    assert measured == [WORKLOAD, WORKLOAD]


@pytest.mark.parametrize(
    "content", ["", "[1]", "null", '{"MACHINE": 3}', '{"MACHINE": {"NAME": {"fp32_ms": "x"}}}']
)
def test_a_damaged_file_is_measured_again(content: str, measured: list[Workload], fresh_cache: Path) -> None:
    text = content.replace("MACHINE", cpu_formats.describe_machine()).replace("NAME", WORKLOAD.name)
    (fresh_cache / FILE).write_text(text)
    assert format_speed(WORKLOAD).fp32_ms == 3 and measured == [WORKLOAD]
    format_speed(WORKLOAD)
    assert measured == [WORKLOAD]


def test_a_cache_that_cannot_be_written_is_no_error(
    measured: list[Workload], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh_cache / "file").write_text("")
    monkeypatch.setenv("DISTILKIT_CACHE", str(fresh_cache / "file" / "below"))
    assert format_speed(WORKLOAD).fp32_ms == 3


@pytest.mark.parametrize("kind", ["linear", "lstm"])
@pytest.mark.parametrize("training", [False, True])
def test_both_formats_are_timed_and_nothing_random_moves(kind: str, training: bool) -> None:
    """A number drawn here would change the weights of every model that is made later."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    speed = measure(Workload(kind, training, 32, 16))  # type: ignore[arg-type]
    assert speed.fp32_ms > 0 and speed.bf16_ms > 0
    assert torch.equal(torch.rand(2), expected)


def test_bf16_has_to_be_clearly_faster() -> None:
    assert FormatSpeed(fp32_ms=1.0, bf16_ms=0.95).choice == "fp32"
    assert FormatSpeed(fp32_ms=1.0, bf16_ms=0.5).choice == "bf16"


def test_the_workload_has_the_sizes_of_the_model() -> None:
    def build(kind: str, **sizes: int) -> nn.Module:
        model: nn.Module = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes))
        return model

    bert = tiny_bert()
    assert workload_of(bert, training=True) == Workload(
        "linear", True, bert.config.hidden_size, bert.config.intermediate_size
    )
    distilbert = build("distilbert", dim=24, n_layers=1, n_heads=2, hidden_dim=40, vocab_size=9)
    assert workload_of(distilbert, training=False) == Workload("linear", False, 24, 40)
    bilstm = BiLSTMForSequenceClassification(BiLSTMConfig(vocab_size=9, embedding_size=5, hidden_size=7))
    assert workload_of(bilstm, training=True) == Workload("lstm", True, 5, 7)
    assert workload_of(nn.Linear(2, 2), training=True) == Workload(training=True)
