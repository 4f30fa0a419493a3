"""What `train` and `distill` share, where it concerns the model that is trained."""

import numpy as np
import pytest
import torch
from conftest import family

import distilkit.models  # noqa: F401  # the Auto classes learn of the BiLSTM
from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.training.learners import ModelLearner, OptimizerSettings
from distilkit.engine.training.loop import fit
from distilkit.engine.training.losses import DistillationLoss
from distilkit.engine.training.sparse_adamw import can_be_table
from distilkit.hardware.processes import make_accelerator
from distilkit.workflows.fitting import fit as fitting

# --- tables of which only the rows read are updated --------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(fitting.LOOK_UP_THEIR_INPUT))
def test_models_whose_tables_are_updated_by_the_row_train_as_with_all_rows(kind: str) -> None:
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
