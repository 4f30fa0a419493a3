"""Parameter groups, clipping and AdamW's constants."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def clip(gradients: list[Tensor], max_norm: float) -> None:
    """Scale `gradients` in place so that their norm, taken over all of them, is at most `max_norm`."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases, norms and other vectors without."""
    return decay_groups(
        [parameter for parameter in model.parameters() if parameter.requires_grad], weight_decay
    )


def decay_groups(weights: Iterable[Tensor], weight_decay: float, matrix: int = 2) -> list[dict[str, Any]]:
    """Weights of `matrix` dimensions and more with weight decay, others without."""
    weights = list(weights)
    return [
        {"params": [weight for weight in weights if weight.ndim >= matrix], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim < matrix], "weight_decay": 0.0},
    ]


BETAS, EPS = (0.9, 0.999), 1e-8
