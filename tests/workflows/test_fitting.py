"""What `train` and `distill` share, where it concerns the model that is trained."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import distilkit.models  # noqa: F401  # the Auto classes learn of the BiLSTM
from distilkit.data.batching import step_loader
from distilkit.data.encoding import Encoded
from distilkit.engine.loop import fit
from distilkit.engine.losses import distillation_loss
from distilkit.engine.optimizer import can_be_table
from distilkit.engine.precision import make_accelerator
from distilkit.workflows import fitting

# --- tables of which only the rows read are updated --------------------------------------------------------


def small(kind: str) -> Any:
    """A random tiny classifier of a model family."""
    sizes: dict[str, Any] = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "pad_token_id": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 24}
    if kind == "bilstm":
        sizes = {"vocab_size": 60, "embedding_size": 8, "hidden_size": 4, "pad_token_id": 1}
    if kind == "distilbert":
        sizes = {"vocab_size": 60, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "pad_token_id": 1}
    torch.manual_seed(0)
    found = AutoConfig.for_model(kind, **sizes)
    for name in vars(found):
        if "drop" in name:
            setattr(found, name, 0.0)
    return AutoModelForSequenceClassification.from_config(found)


@pytest.mark.parametrize("kind", sorted(fitting.LOOK_UP_THEIR_INPUT))
def test_models_whose_tables_are_updated_by_the_row_train_as_with_all_rows(kind: str) -> None:
    """A family that looks up a token it was not given, or one twice, would fail or train another model."""
    trained = []
    for by_row in (False, True):
        model = small(kind)
        tables = [model.get_input_embeddings()] if by_row else []
        assert not by_row or can_be_table(tables[0])
        ids = [np.arange(5, 5 + length) for length in (3, 7, 4, 9, 3, 6)]
        flat = torch.from_numpy(np.concatenate(ids).astype(np.int32))
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
        rows = Encoded({"input_ids": flat}, offsets, {"input_ids": 1}, labels=torch.tensor([0, 1] * 3))
        records = fit(
            model,
            step_loader(rows, batch_size=2, gradient_accumulation_steps=1, seed=0),
            lambda logits, batch: distillation_loss(logits, batch["labels"], None, 1.0),
            accelerator=make_accelerator("fp32"),
            tables=tables,
            validate=lambda model: {"metric": 0.0},
            metric="metric",
            epochs=3,
            learning_rate=1e-2,
        )
        assert list(records)
        trained.append([parameter.detach().clone() for parameter in model.parameters()])
    moved = max(
        float((a - b).detach().abs().max()) for a, b in zip(trained[1], small(kind).parameters(), strict=True)
    )
    assert moved > 3e-2
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)  # eps, where gradients are tiny


def test_other_models_update_all_of_their_table() -> None:
    """Longformer pads what it is given, T5 reads its table through three modules."""
    assert {"longformer", "t5", "big_bird", "reformer"}.isdisjoint(fitting.LOOK_UP_THEIR_INPUT)
