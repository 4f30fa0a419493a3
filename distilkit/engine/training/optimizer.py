"""Parameter groups, clipping and AdamW's constants."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trained parameters of a model: matrices with weight decay, biases and norms without."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return decay_groups(trained, weight_decay)


def decay_groups(weights: Iterable[Tensor], weight_decay: float, matrix: int = 2) -> list[dict[str, Any]]:
    """Group weights for AdamW: those of `matrix` dimensions and more decay, the others do not."""
    weights = list(weights)
    return [
        {"params": [weight for weight in weights if weight.ndim >= matrix], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim < matrix], "weight_decay": 0.0},
    ]


def clip_each_student(gradients: Sequence[Tensor], max_norm: float) -> None:
    """Scale each student's part of `gradients`, `[K, ...]`, in place to a norm of at most `max_norm`.

    The arithmetic of `torch.nn.utils.clip_grad_norm_`, which knows one norm for all.
    """
    norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    factors = (max_norm / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))
