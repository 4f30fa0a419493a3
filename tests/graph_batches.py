"""Random batches for the graphs of word models, and how a graph is compared with its model in torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch

Batch = dict[str, Any]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def enlarge_weights(model: Any) -> None:
    """Move logits far from zero: larger weights, and biases that are not zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter) * 0.3)


def open_session(graph: Any) -> Any:
    return onnxruntime.InferenceSession(graph.SerializeToString())


def make_batch(model: Any, rows: int, longest: int, seed: int) -> Batch:
    """Rows of random lengths, empty ones among them; of a siamese model, empty first or second texts too."""
    generator = np.random.default_rng(seed)
    positions = np.arange(longest)[None]
    mask = (positions < generator.integers(0, longest + 1, rows)[:, None]).astype(np.int64)
    ids = generator.integers(1, model.config.vocab_size, (rows, longest)) * mask
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.siamese:
        batch["token_type_ids"] = (positions >= generator.integers(0, longest + 1, rows)[:, None]) * mask
    return batch


def run_torch(model: Any, batch: Batch) -> Any:
    with torch.no_grad():
        return model(**{name: torch.from_numpy(values) for name, values in batch.items()}).logits.numpy()


def assert_close(logits: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance, equal_nan=False)


def check_inputs(session: Any, names: Sequence[str]) -> None:
    """Assert that a graph has these inputs, for any number of rows and tokens."""
    inputs = [(value.name, value.shape) for value in session.get_inputs()]
    assert inputs == [(name, ["batch", "length"]) for name in names]


def check_logits(session: Any, model: Any, tolerance: float) -> None:
    """Assert that a graph computes what its model computes in torch, whatever the sizes of a batch."""
    for rows, longest in ((1, 1), (1, 7), (5, 9), (16, 3)):
        for seed in range(8):
            batch = make_batch(model, rows, longest, seed)
            expected = run_torch(model, batch)
            assert np.ptp(expected) > 0.1
            assert_close(session.run(["logits"], batch)[0], expected, tolerance)


def check_rows_alone(session: Any, model: Any) -> None:
    """Assert that the rows of a batch have the logits that each has alone, without padding."""
    batch = make_batch(model, 6, 9, 0)
    together = session.run(["logits"], batch)[0]
    assert np.ptp(together) > 0.1
    for row, length in enumerate(batch["attention_mask"].sum(axis=1)):
        alone = {name: values[row : row + 1, : max(1, length)] for name, values in batch.items()}
        assert_close(session.run(["logits"], alone)[0][0], together[row], 1e-5)
