"""Forward passes without gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from distilkit.data.encoding import Encoded
from distilkit.engine.precision import Resolved, autocast, explaining_memory


def predict_logits(
    model: torch.nn.Module,
    rows: Encoded,
    *,
    batch_size: int,
    precision: Resolved,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Logits of every row, in the caller's order, in eval mode; the model's mode is put back afterwards.

    Rows of like length are batched together, longest first, so that little is padding and a batch that does
    not fit in memory fails at once.

    Args:
        model: returns `.logits` `[N, C]` for a batch of `rows`.
        batch_size: rows per forward pass.
        advance: called with the number of finished rows.

    Returns:
        float32 `[N, C]` on the CPU.
    """
    device = next(model.parameters()).device
    order = torch.from_numpy(rows.lengths).argsort(descending=True, stable=True)
    was_training = model.training
    model.eval()
    parts = []
    try:
        with torch.inference_mode(), autocast(device, precision), explaining_memory():
            for indices in order.split(batch_size):
                batch = {name: value.to(device) for name, value in rows.inputs(indices.numpy()).items()}
                parts.append(model(**batch).logits.float().cpu())
                advance(sum(map(len, parts)))
    finally:
        model.train(was_training)
    logits = torch.cat(parts)
    restored = torch.empty_like(logits)
    restored[order] = logits
    return restored
