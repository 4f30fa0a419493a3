"""A training that is saved between two steps goes on as if it had never stopped."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import family

from distilkit import stopping
from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.training import checkpoints as saving
from distilkit.engine.training.checkpoints import Checkpoints, Position
from distilkit.engine.training.learners import LearnerState, ModelLearner, OptimizerSettings
from distilkit.engine.training.loop import StudentRecord, fit
from distilkit.engine.training.losses import DistillationLoss
from distilkit.errors import UserError
from distilkit.hardware.processes import make_accelerator
from distilkit.runs.records import EpochRecord

EPOCHS = 4


def rows() -> Encoded:
    """Return 20 rows of 2 to 6 tokens; the label is whether the first token is odd."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 7, 20)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = random.integers(5, 60, offsets[-1]).astype(np.int32)
    encoded = Encoded({"input_ids": torch.from_numpy(flat)}, offsets, {"input_ids": 1})
    return encoded.join(labels=torch.from_numpy(flat[offsets[:-1]].astype(np.int64) % 2))


def parameters(model: torch.nn.Module) -> torch.Tensor:
    """Return all of a model's parameters, flat."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Training:
    """A training of four epochs; keeps its records and every state that is saved."""

    def __init__(self, kind: str, scores: list[float], patience: int | None = None) -> None:
        self.model, self.scores, self.patience = family(kind), scores, patience
        self.epochs: list[EpochRecord] = []
        self.saved: list[tuple[Position, LearnerState, list[EpochRecord]]] = []

    def save(self, position: Position, state: LearnerState) -> None:
        copy = LearnerState(
            {name: value.clone() for name, value in state.tensors.items()}, dict(state.values)
        )
        self.saved.append((position, copy, list(self.epochs)))

    def run(self, checkpoints: Checkpoints | None) -> "Training":
        loader = step_loader(rows(), batch_size=3, gradient_accumulation_steps=2, seed=1)
        settings = OptimizerSettings(steps=EPOCHS * len(loader), learning_rate=1e-2)
        learner = ModelLearner(
            self.model,
            DistillationLoss(alpha=1.0),
            settings,
            accelerator=make_accelerator("fp32"),
            tables=[self.model.get_input_embeddings()],
        )
        if checkpoints and checkpoints.learner:
            torch.manual_seed(99)
            learner.load_state_dict(checkpoints.learner)
            self.epochs += checkpoints.history
        for record in fit(
            learner,
            loader,
            epochs=EPOCHS,
            validate=lambda _: {"metric": self.scores[len(self.epochs)]},
            metric="metric",
            patience=self.patience,
            checkpoints=checkpoints,
        ):
            if isinstance(record, Position):
                self.save(record, learner.state_dict())
            elif isinstance(record, StudentRecord):
                assert isinstance(record.outcome, EpochRecord)
                self.epochs.append(record.outcome)
        return self

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record.model_dump(exclude={"seconds", "examples_per_second"}) for record in self.epochs]


def ignore(position: Position, state: LearnerState) -> None: ...


@pytest.mark.parametrize("kind", ["bert", "bilstm"])
@pytest.mark.parametrize("patience", [None, 1])
def test_a_training_goes_on_from_every_step_to_the_same_bits(
    kind: str, patience: int | None, cpu: None
) -> None:
    """Dropout, momentum, schedule, sums of losses, best epoch: whatever is forgotten changes a number."""
    scores = [0.5, 0.7, 0.6, 0.8]
    whole = Training(kind, scores, patience).run(None)
    watched = Training(kind, scores, patience)
    watched.run(Checkpoints(ignore, steps=1))
    assert torch.equal(parameters(watched.model), parameters(whole.model)), "saving changes nothing"
    assert len(watched.saved) == (16 if patience is None else 12)
    for position, state, history in watched.saved:
        resumed = Training(kind, scores, patience)
        resumed.run(Checkpoints(ignore, start=position, learner=state, history=history))
        assert torch.equal(parameters(resumed.model), parameters(whole.model)), position
        assert resumed.records == whole.records
    assert len(whole.records) == (4 if patience is None else 3)


def test_a_request_to_stop_is_answered_after_the_step_and_after_the_epoch(
    monkeypatch: pytest.MonkeyPatch, cpu: None
) -> None:
    """One that comes during the last validation would otherwise throw the whole training away."""
    training = Training("bert", [0.5] * EPOCHS)
    monkeypatch.setattr(saving, "is_stop_requested", lambda: len(training.epochs) == EPOCHS)
    training.run(Checkpoints(ignore))
    ((position, state, history),) = training.saved
    assert (position.epoch, position.steps) == (EPOCHS + 1, 0)
    resumed = Training("bert", [])
    monkeypatch.setattr(saving, "is_stop_requested", stopping.is_stop_requested)
    resumed.run(Checkpoints(ignore, start=position, learner=state, history=history))
    assert torch.equal(parameters(resumed.model), parameters(training.model))
    assert resumed.records == training.records


@pytest.mark.parametrize("broken", ["parameters", "losses"])
def test_a_state_that_is_not_finite_is_never_saved(broken: str, cpu: None) -> None:
    """The last good checkpoint would be replaced by one that nobody can go on with."""
    model = family("bert")
    loader = step_loader(rows(), batch_size=5, gradient_accumulation_steps=1, seed=1)
    settings = OptimizerSettings(steps=4, learning_rate=1e-2)
    learner = ModelLearner(model, DistillationLoss(alpha=1.0), settings, accelerator=make_accelerator("fp32"))
    steps: Iterator[int] = iter(range(10))
    step = learner.step

    def breaking(batches: Any, progress: float) -> Any:
        losses = step(batches, progress)
        if next(steps) == 2:
            if broken == "losses":
                return losses._replace(total=losses.total * float("nan"))
            with torch.no_grad():
                model.classifier.bias[0] = float("inf")
        return losses

    learner.step = breaking  # type: ignore[method-assign]
    checkpoints = Checkpoints(ignore, steps=1)
    records = list(
        fit(learner, loader, epochs=1, validate=lambda _: {"m": 0.0}, metric="m", checkpoints=checkpoints)
    )
    *positions, last = records
    assert [position.steps for position in positions if isinstance(position, Position)] == [1, 2]
    assert isinstance(last, StudentRecord) and isinstance(last.outcome, UserError)
    assert "step 3" in str(last.outcome)


def test_a_checkpoint_is_due_by_steps_or_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: clock[0])
    assert [step for step in range(1, 8) if Checkpoints(ignore, steps=3).is_due(step)] == [3, 6]
    assert not any(Checkpoints(ignore).is_due(step) for step in range(1, 8))
    timed = Checkpoints(ignore, seconds=10.0, _saved_at=0.0)
    due = []
    for second in range(1, 32):
        clock[0] = float(second)
        due += [second] if timed.is_due(step=1) else []
    assert due == [10, 20, 30]
