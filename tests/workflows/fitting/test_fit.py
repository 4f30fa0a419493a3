"""What `train` and `distill` share, where it concerns the model that is trained."""

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Notes, family
from torch import nn

import distilkit.models  # noqa: F401  # the Auto classes learn of the BiLSTM
from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.training.learners import ModelLearner, OptimizerSettings
from distilkit.engine.training.loop import fit
from distilkit.engine.training.losses import DistillationLoss
from distilkit.engine.training.sparse_adamw import can_be_table
from distilkit.errors import UserError
from distilkit.hardware.processes import make_accelerator
from distilkit.workflows.fitting import fit as fitting

# --- tables of which only the rows read are updated --------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(fitting.LOOK_UP_THEIR_INPUT))
def test_models_whose_tables_are_updated_by_the_row_train_as_with_all_rows(kind: str, cpu: None) -> None:
    """A family that looks up a token it was not given, or one twice, would fail or train another model."""
    trained = []
    for by_row in (False, True):
        model = family(kind, dropout=False)
        tables = [model.get_input_embeddings()] if by_row else []
        assert not by_row or can_be_table(tables[0])
        ids = [np.arange(5, 5 + length) for length in (3, 7, 4, 9, 3, 6)]
        flat = torch.from_numpy(np.concatenate(ids).astype(np.int32))
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
        rows = Encoded({"input_ids": flat}, offsets, {"input_ids": 1}, labels=torch.tensor([0, 1] * 3))
        loader = step_loader(rows, batch_size=2, gradient_accumulation_steps=1, seed=0)
        learner = ModelLearner(
            model,
            DistillationLoss(alpha=1.0),
            OptimizerSettings(steps=3 * len(loader), learning_rate=1e-2),
            accelerator=make_accelerator("fp32"),
            tables=tables,
        )
        records = fit(learner, loader, epochs=3, validate=lambda _: {"metric": 0.0}, metric="metric")
        assert list(records)
        trained.append([parameter.detach().clone() for parameter in model.parameters()])
    moved = max(
        float((a - b).detach().abs().max())
        for a, b in zip(trained[1], family(kind, dropout=False).parameters(), strict=True)
    )
    assert moved > 3e-2
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)  # eps, where gradients are tiny


def test_other_models_update_all_of_their_table() -> None:
    """Longformer pads what it is given, T5 reads its table through three modules."""
    assert {"longformer", "t5", "big_bird", "reformer"}.isdisjoint(fitting.LOOK_UP_THEIR_INPUT)


# --- memory ------------------------------------------------------------------------------------------------


def rows_of(lengths: list[int]) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded({"input_ids": torch.arange(offsets[-1], dtype=torch.int32)}, offsets, {"input_ids": 1})


@pytest.mark.parametrize(("accumulation", "count"), [(1, 1), (2, 2), (7, 2)])
def test_a_rehearsal_reads_the_longest_rows(accumulation: int, count: int) -> None:
    """Shorter ones would fit, and the run end at whichever step has the longest."""
    options = SimpleNamespace(batch_size=2, gradient_accumulation_steps=accumulation)
    batches = fitting._longest_batches(SimpleNamespace(config=options), rows_of([3, 9, 2, 7, 7, 1]))  # type: ignore[arg-type]
    assert len(batches) == count
    for batch in batches:
        assert batch["attention_mask"].sum(dim=1).tolist() == [9, 7]


def test_fewer_rows_at_a_time_are_noted_once() -> None:
    notes, learner = Notes(), SimpleNamespace(max_batch_rows=None)
    assert fitting._note_batch_rows(learner, 32, notes) == 32 and not notes.notes  # type: ignore[arg-type]
    learner.max_batch_rows = 8
    assert fitting._note_batch_rows(learner, 32, notes) == 8  # type: ignore[arg-type]
    assert fitting._note_batch_rows(learner, 8, notes) == 8  # type: ignore[arg-type]
    (note,) = notes.notes
    assert "32 rows do not fit" in note and "8 at a time" in note


def make_job(model: nn.Module) -> Any:
    return SimpleNamespace(
        model=model,
        pair=None,
        loss=DistillationLoss(alpha=1.0),
        mix=None,
        precision="fp32",
        decays=True,
        objective="logits",
        metric="metric",
        higher_is_better=True,
        config=SimpleNamespace(
            batch_size=2,
            gradient_accumulation_steps=1,
            seed=0,
            epochs=1,
            learning_rate=1e-3,
            weight_decay=0.0,
            warmup_ratio=0.0,
            max_grad_norm=1.0,
            patience=None,
        ),
    )


def test_a_training_that_fails_leaves_nothing_with_the_accelerator() -> None:
    """Of several students in a process, those that failed would stay in the device's memory to the end."""
    model = family("bert")
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    accelerator = make_accelerator("fp32")
    rows = rows_of([3, 4, 5]).join(labels=torch.tensor([0, 1, 0]))
    job = make_job(model)
    with pytest.raises(UserError, match="finite"), fitting._occupying(accelerator, job):
        list(fitting._epochs(job, rows, lambda: {"metric": 0.0}, accelerator, Notes(), None))
    assert not accelerator._models and not accelerator._optimizers


def test_memory_is_freed_once_the_learner_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freed while its optimizer is alive, a GPU's memory stays with a process that no longer needs it."""
    learners: list[Any] = []

    class Watched(ModelLearner):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            learners.append(weakref.ref(self))

    monkeypatch.setattr(fitting, "ModelLearner", Watched)
    accelerator = make_accelerator("fp32")
    freed: list[bool] = []
    monkeypatch.setattr(accelerator, "free_memory", lambda: freed.append(learners[0]() is None))
    rows = rows_of([3, 4, 5]).join(labels=torch.tensor([0, 1, 0]))
    assert fitting.measure_examples_per_second(make_job(family("bert")), rows, accelerator) > 0
    assert freed == [True]


def test_the_teacher_of_a_pair_leaves_the_device_also_where_training_fails() -> None:
    """It would take the memory that the next student needs."""
    moves: list[str] = []
    teacher = SimpleNamespace(to=lambda device: moves.append(str(device)), cpu=lambda: moves.append("cpu"))
    accelerator: Any = SimpleNamespace(device="cuda:0", free_memory=lambda: moves.append("freed"))
    job: Any = SimpleNamespace(pair=SimpleNamespace(teacher=teacher))
    with pytest.raises(UserError), fitting._occupying(accelerator, job):
        moves.append("training")
        raise UserError("it failed")
    assert moves == ["cuda:0", "training", "freed", "cpu"]
