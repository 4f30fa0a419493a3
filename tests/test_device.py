"""Whole trainings and commands on the device that a user's command takes: CUDA where there is some.

Everything else is tested on the CPU in fp32; this is the road of everyone with a GPU, in its own formats.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Notes, family, lively, needs_cuda, tiny_bert, tiny_tokenizer, weights
from torch import Tensor

from distilkit import (
    DistillConfig,
    EvaluateConfig,
    TrainConfig,
    UserError,
    distill,
    distill_many,
    evaluate,
    train,
)
from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.inference.logits import predict_logits
from distilkit.engine.training.learners import ModelLearner, OptimizerSettings
from distilkit.engine.training.loop import StudentRecord, fit
from distilkit.engine.training.losses import DistillationLoss
from distilkit.hardware.device import select_device
from distilkit.hardware.processes import make_accelerator
from distilkit.models.loading import load_trained
from distilkit.runs.locating import find_model

AUTO: dict[str, Any] = {"max_length": 16, "batch_size": 8, "epochs": 2, "learning_rate": 1e-2}
MODELS: dict[str, dict[str, Any]] = {
    "bert": {},
    "bilstm": {},
    "bilstm of two layers": {"num_layers": 2},
    "siamese bilstm": {"siamese": True},
}


def make_model(kind: str) -> Any:
    return family("bilstm" if "bilstm" in kind else kind, dropout=False, **MODELS[kind])


def separable_rows(count: int = 96) -> Encoded:
    """Rows of 2 to 12 tokens, labelled by whether their first is below 30."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 13, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(2, 60, offsets[-1])
    types = np.concatenate([np.arange(length) >= length // 2 for length in lengths])
    flat = {"input_ids": torch.from_numpy(ids.astype(np.int32))}
    flat["token_type_ids"] = torch.from_numpy(types.astype(np.uint8))
    return Encoded(flat, offsets, {"input_ids": 1, "token_type_ids": 0}).join(
        labels=torch.from_numpy((ids[offsets[:-1]] < 30).astype(np.int64))
    )


def train_model(model: Any, rows: Encoded, precision: Any, epochs: int = 6) -> list[float]:
    """Train on the process's device; return the loss of each epoch."""
    accelerator = make_accelerator(precision)
    loader = step_loader(rows.to(accelerator.device), batch_size=16, gradient_accumulation_steps=1, seed=0)
    learner = ModelLearner(
        model,
        DistillationLoss(alpha=1.0),
        OptimizerSettings(steps=epochs * len(loader), learning_rate=1e-2),
        accelerator=accelerator,
        precision=precision,
    )
    records = fit(learner, loader, epochs=epochs, validate=lambda _: {"metric": 0.0}, metric="metric")
    return [record.outcome.loss for record in records if isinstance(record, StudentRecord)]  # type: ignore[union-attr]


def parameters(model: Any) -> Tensor:
    return torch.cat([parameter.detach().float().cpu().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_format_trains_nearly_what_fp32_trains_on_the_cpu(
    kind: str, precision: str, device: torch.device
) -> None:
    """A loss scale left out, or a layer in a format of its own, trains a worse model and says nothing."""
    if precision == "fp16" and device.type != "cuda":
        pytest.skip("no CUDA device: fp16 trains on CUDA only")
    rows, model = separable_rows(), make_model(kind)
    exact = copy.deepcopy(model)
    losses = train_model(model, rows, precision)
    select_device("cpu")
    expected = train_model(exact, rows, "fp32")
    assert losses[-1] < 0.95 * losses[0]
    assert losses == pytest.approx(expected, abs=0.1)
    moved = (parameters(exact) - parameters(make_model(kind))).norm()
    assert (parameters(model) - parameters(exact)).norm() < 0.5 * moved


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_logits_in_each_format_are_near_those_of_fp32_without_a_warning(
    kind: str, precision: Any, device: torch.device
) -> None:
    """A bf16 copy of an LSTM on CUDA warns of scattered weights in every call, which is an error here."""
    if precision == "fp16" and device.type != "cuda":
        pytest.skip("no CUDA device: fp16 is of CUDA only")
    rows, model = separable_rows(), lively(make_model(kind), 5)
    exact = predict_logits(copy.deepcopy(model), rows, precision="fp32")
    logits = predict_logits(model.to(device), rows, precision=precision, tokens=100)
    assert (logits - exact).norm() < 0.1 * exact.norm()
    assert next(model.parameters()).device.type == device.type


@pytest.fixture(scope="module")
def teacher(sst2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A teacher of `train` at `--precision auto`."""
    folder = tmp_path_factory.mktemp("auto")
    lively(tiny_bert(), factor=10).save_pretrained(folder / "bert")
    tiny_tokenizer().save_pretrained(folder / "bert")
    options = AUTO | {"model": str(folder / "bert"), "learning_rate": 5e-3}
    return train(TrainConfig(dataset="sst2", data_dir=sst2_dir, output_dir=folder / "teacher", **options))


@pytest.fixture
def nothing_left(device: torch.device) -> Iterator[None]:
    """What a command holds on the GPU it gives back."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    yield
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated(device) <= before + 2**20


STUDENTS: dict[str, dict[str, Any]] = {
    "bilstm": {"student": "bilstm", "hidden_size": 6, "embedding_size": 6},
    "two layers": {"student": "bilstm", "hidden_size": 6, "embedding_size": 6, "layers": 2},
    "logits": {"student": "tinybert", "init": "teacher", "layers": 1},
    "layers": {"student": "tinybert", "init": "teacher", "layers": 1, "method": "tinybert"},
    "pkd": {"student": "tinybert", "init": "teacher", "layers": 2, "method": "pkd"},
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_student_is_distilled_saved_read_on_the_cpu_and_scored(
    kind: str, teacher: Any, sst2_dir: Path, tmp_path: Path, nothing_left: None
) -> None:
    """At `--precision auto`, as every user's: each command has steps that only a GPU takes."""
    data: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir}
    options = AUTO | STUDENTS[kind] | {"output_dir": tmp_path / "student"}
    run = distill(DistillConfig(**data, teacher=(str(teacher.path),), alpha=0.5, **options))
    if run.environment["device"] != "cpu":  # on a CPU either model is measured
        assert run.environment["precision"] == teacher.environment["precision"]
    is_lstm_on_cuda = run.environment["device"] != "cpu" and "bilstm" in str(STUDENTS[kind])
    assert ("lstm_precision" in run.environment) is is_lstm_on_cuda
    assert all(np.isfinite(record["loss"]) for record in run.history)
    model = load_trained(find_model(str(run.path)))
    assert next(model.parameters()).device.type == "cpu"
    result = evaluate(EvaluateConfig(models=(str(teacher.path), str(run.path)), **data, latency=True))
    assert result.device == run.environment["device"]
    for score in result.scores:
        assert score.value("rows_per_second") and score.value("latency_p50_ms")


def test_the_same_command_twice_gives_the_same_student(
    teacher: Any, sst2_dir: Path, tmp_path: Path, device: torch.device
) -> None:
    """The same bytes on a CPU; on CUDA sums are added up in another order each time."""
    options: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir} | AUTO | STUDENTS["bilstm"]
    runs = [
        distill(DistillConfig(**options, teacher=(str(teacher.path),), alpha=0.5, output_dir=tmp_path / name))
        for name in ("first", "second")
    ]
    if device.type == "cpu":
        assert weights(runs[0]) == weights(runs[1])
    for one, other in zip(runs[0].history, runs[1].history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)


def test_many_students_in_the_format_of_the_device_are_what_each_is_alone(
    teacher: Any, sst2_dir: Path, tmp_path: Path
) -> None:
    """On CUDA four are computed as one model, whose LSTM is written out, in bf16."""
    options: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir} | AUTO | STUDENTS["bilstm"]
    options |= {"teacher": (str(teacher.path),), "alpha": 0.5}
    together = distill_many(
        [DistillConfig(**options, seed=seed, output_dir=tmp_path / f"{seed}") for seed in range(4)]
    )
    alone = distill(DistillConfig(**options, seed=2, output_dir=tmp_path / "alone"))
    for one, other in zip(together[2].history, alone.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=5e-2)


def test_logits_from_the_cpu_are_taken_by_the_device(
    sst2_dir: Path, teacher: Any, tmp_path: Path, fresh_cache: Path
) -> None:
    """They are rounded otherwise, and a teacher must not seem to be another one for it."""
    options: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "precision": "fp32"}
    options |= AUTO | STUDENTS["bilstm"] | {"teacher": (str(teacher.path),), "alpha": 0}
    distill(DistillConfig(**options, device="cpu", output_dir=tmp_path / "cpu"))
    notes = Notes()
    distill(DistillConfig(**options, output_dir=tmp_path / "auto"), notes)
    (note,) = [note for note in notes.notes if note.startswith("teacher: ")]
    assert "spot-checked" in note and note.endswith(", 0 computed")


def test_the_cpu_is_taken_where_it_is_named(teacher: Any, sst2_dir: Path, tmp_path: Path) -> None:
    data: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir, "device": "cpu"}
    options = AUTO | STUDENTS["bilstm"] | {"alpha": 1, "output_dir": tmp_path / "student"}
    run = distill(DistillConfig(**data, **options))
    assert run.environment["device"] == "cpu" and run.config.device == "cpu"
    assert evaluate(EvaluateConfig(models=(str(run.path),), **data, latency=False)).device == "cpu"


@pytest.mark.cuda
@needs_cuda
class TestLittleMemory:
    """A GPU of which the process may use a small part."""

    @pytest.fixture(autouse=True)
    def limited(self) -> Iterator[None]:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()

    def test_predictions_are_halved_and_complete(self) -> None:
        rows, model = separable_rows(20_000), family("bert", hidden_size=256, intermediate_size=1024)
        logits = predict_logits(model.cuda(), rows, precision="fp32", tokens=1 << 18)
        expected = predict_logits(model, rows, precision="fp32", tokens=1 << 12)
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)

    def test_training_cuts_its_batches(self) -> None:
        rows, model = separable_rows(8192), family("bert", hidden_size=256, intermediate_size=1024)
        accelerator = make_accelerator("fp32")
        learner = ModelLearner(
            model,
            DistillationLoss(alpha=1.0),
            OptimizerSettings(steps=2, learning_rate=1e-3),
            accelerator=accelerator,
        )
        batch = rows.to(accelerator.device).batch(range(8192))
        learner.start_epoch()
        learner.rehearse([batch])
        assert learner.max_batch_rows and learner.max_batch_rows < 8192
        assert learner.step([batch], 0.0).total.isfinite()

    def test_what_cannot_fit_is_an_error_that_a_user_can_mend(
        self, sst2_dir: Path, tmp_path: Path, teacher: Any
    ) -> None:
        options: dict[str, Any] = {"dataset": "sst2", "data_dir": sst2_dir} | AUTO
        options |= {"student": "bilstm", "hidden_size": 6, "embedding_size": 4_000_000, "alpha": 1}
        with pytest.raises(UserError, match="out of memory"):
            distill(DistillConfig(**options, output_dir=tmp_path / "large"))
        assert not (tmp_path / "large").exists()
