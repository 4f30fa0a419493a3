"""Temperature scaling: one number that makes a classifier as sure as it is right (Guo et al. 2017)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BOUNDS = (0.05, 20.0)  # of the temperature
HALVINGS = 60  # of the interval between them, by when it is as narrow as float64 can say


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The T above 0 for which `softmax(logits / T)` has the least NLL (Guo et al. 2017, section 4.2).

    The NLL is convex in 1/T, so its least value is where its slope, `mean(E_p[logit] - logit of the label)`,
    changes sign: found by halving.

    Args:
        logits: float `[N, C]`.
        labels: int64 `[N]`.

    Returns:
        T, or `None` where none within `BOUNDS` is best: the more sure the better, as when all answers are
        right, or the less sure the better, as when they are mere guesses.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    logits = logits.double()
    target = logits.gather(1, labels[:, None]).mean()

    def slope(inverse: float) -> float:
        return float(((inverse * logits).softmax(dim=1) * logits).sum(dim=1).mean() - target)

    low, high = (1 / bound for bound in reversed(BOUNDS))
    if not slope(low) < 0 < slope(high):
        return None
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / high


@contextmanager
def divided_logits(model: nn.Module, inputs: Mapping[str, Tensor], temperature: float) -> Iterator[bool]:
    """Within, the logits of `model` are divided by `temperature`, by its weights alone; then it is as before.

    The last linear layer that has a class per output is scaled: `(W / T) x + b / T`.

    Args:
        model: returns `.logits` `[N, C]`.
        inputs: a batch, on which it is tried.

    Yields:
        Whether the model answers the batch so. Where it does not, nothing in it is changed.
    """
    called: list[nn.Linear] = []

    def note(module: Any, *_: Any) -> None:
        called.append(module)

    hooks = [one.register_forward_hook(note) for one in model.modules() if isinstance(one, nn.Linear)]
    try:
        before = _logits(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    heads = [one for one in called if one.out_features == before.shape[1]]
    weights: list[Tensor] = [w for head in heads[-1:] for w in (head.weight, head.bias) if w is not None]
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.div_(temperature)
        off = (_logits(model, inputs) * temperature - before).abs().max()
        divided = bool(weights) and bool(off <= 5e-3 * before.abs().max())  # fp16 rounds to a tenth of it
        if not divided:
            _put_back(weights, kept)
        yield divided
    finally:
        _put_back(weights, kept)


def _put_back(weights: list[Tensor], kept: list[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, kept, strict=True):
            weight.copy_(value)


def _logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits: Tensor = model(**inputs).logits.float()
    finally:
        model.train(was_training)
    return logits
