"""Temperature scaling: one number that makes a classifier as sure as it is right (Guo et al. 2017)."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distilkit.hardware.dropout import eval_mode

BOUNDS = (0.05, 20.0)  # of the temperature


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Find the T above 0 for which `softmax(logits / T)` has the least NLL (Guo et al. 2017, section 4.2).

    The NLL is convex in 1/T, so it is least where its slope, `mean(E_p[logit] - logit of the label)`, changes
    sign.

    Args:
        logits: float `[N, C]`.
        labels: int64 `[N]`.

    Returns:
        T, or `None` where none within `BOUNDS` is best: with all predictions right the NLL falls as long as
        confidence rises, and with mere guesses as long as it sinks.

    Raises:
        ValueError: when the shapes do not fit.
    """
    from scipy.optimize import brentq  # takes a while to import, and most commands never calibrate

    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    logits = logits.double()
    target = logits.gather(1, labels[:, None]).mean()

    def slope(log_inverse: float) -> float:
        weights = (math.exp(log_inverse) * logits).softmax(dim=1)
        return float((weights * logits).sum(dim=1).mean() - target)

    # In logarithms, because T is a scale: a root in 1/T itself would be less exact for a large T.
    low, high = (-math.log(bound) for bound in reversed(BOUNDS))
    if not slope(low) < 0 < slope(high):
        return None
    return math.exp(-brentq(slope, low, high, xtol=1e-15, rtol=1e-15))


@contextmanager
def divided_logits(model: nn.Module, inputs: Mapping[str, Tensor], temperature: float) -> Iterator[bool]:
    """Divide the logits of `model` by `temperature` within the block, through its weights alone.

    The last linear layer with an output per class is scaled, `(W / T) x + b / T`, and put back afterwards.

    Args:
        model: returns `.logits` `[N, C]`.
        inputs: a batch to try it on.

    Yields:
        Whether the model's logits on the batch are divided. Where they are not, its weights are unchanged.
    """
    called: list[nn.Linear] = []

    def note(module: Any, *_: Any) -> None:
        called.append(module)

    hooks = [
        module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Linear)
    ]
    try:
        before = _logits(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    heads = [linear for linear in called if linear.out_features == before.shape[1]]
    weights: list[Tensor] = [w for head in heads[-1:] for w in (head.weight, head.bias) if w is not None]
    originals = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.div_(temperature)
        off = (_logits(model, inputs) * temperature - before).abs().max()
        divided = bool(weights) and bool(off <= 5e-3 * before.abs().max())  # fp16 rounds to a tenth of it
        if not divided:
            _restore(weights, originals)
        yield divided
    finally:
        _restore(weights, originals)


def _restore(weights: list[Tensor], originals: list[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, originals, strict=True):
            weight.copy_(value)


def _logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    with eval_mode(model), torch.no_grad():
        logits: Tensor = model(**inputs).logits.float()
    return logits
