"""Dropout whose random numbers are cheap: two bytes a value, where torch draws one number after another."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def draw(count: int, generator: torch.Generator) -> Tensor:
    """Draw random integers, int16 `[count]`, uniform, on the device of the generator."""
    random = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    random.random_(-(2**63), None, generator=generator)
    return random.view(torch.int16)[:count]


def drop(values: Tensor, dropped: int, random: Tensor) -> Tensor:
    """Zero `dropped` in 2^16 of `values` and scale the rest, so that the mean stays.

    Args:
        random: of `draw`, in the shape of `values`: small ones drop.
    """
    mask = random >= dropped - 2**15
    return values * mask.to(values.dtype).mul_(2**16 / (2**16 - dropped))


def leave_out(vectors: Tensor, probability: float, random: Tensor) -> Tensor:
    """Zero some of `vectors` `[..., width]` as a whole; the rest stay as they are.

    Args:
        probability: in steps of 2^-16.
        random: of `draw`, `[...]`: small ones are left out.
    """
    left_out = min(round(probability * 2**16), 2**16 - 1)
    return vectors * (random >= left_out - 2**15)[..., None]


class Dropout(nn.Module):
    """Inverted dropout whose random numbers are the module's own, and cheap: two bytes a value.

    The numbers follow from torch's seed when the module is made, and from nothing else that runs later:
    students that are trained at the same time draw what each would draw alone. The probability is a multiple
    of 2^-16, and kept values are scaled by exactly that.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.dropped = round(probability * 2**16)
        self.seed = int(torch.randint(2**62, (), device="cpu"))
        self._generators: dict[torch.device, torch.Generator] = {}

    def forward(self, values: Tensor) -> Tensor:
        """Drop some of `values` in training; return them unchanged in eval mode."""
        if not self.training or not self.dropped:
            return values
        return drop(values, self.dropped, self.draw(values.numel(), values.device).view(values.shape))

    def draw(self, count: int, device: torch.device) -> Tensor:
        """Draw the module's next random integers, int16 `[count]`."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return draw(count, self._generators[device])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Dropout":
        """Copy the module without its generators: the copy draws the same sequence from its start."""
        copied = Dropout.__new__(Dropout)
        nn.Module.__init__(copied)
        copied.dropped, copied.seed, copied.training = self.dropped, self.seed, self.training
        copied._generators = {}  # noqa: SLF001  # a copy of this class
        return copied


def random_state(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Return the state, uint8, of the generators that training draws from, by name.

    Those of each `Dropout` of `model`; without any, torch's own. Several students with a `Dropout` may train
    at the same time, and draw nothing from torch's.
    """
    dropouts = _named_dropouts(model)
    if not dropouts:
        states = {"torch": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})
    return {
        f"dropout.{name}": dropout._generators[device].get_state()  # noqa: SLF001  # a class of this module
        for name, dropout in dropouts.items()
        if device in dropout._generators  # noqa: SLF001
    }


def load_random_state(model: nn.Module, device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Go on drawing where `random_state` was taken."""
    for name, dropout in _named_dropouts(model).items():
        if f"dropout.{name}" in states:
            generator = torch.Generator(device)
            generator.set_state(states[f"dropout.{name}"])
            dropout._generators = {device: generator}  # noqa: SLF001  # a class of this module
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _named_dropouts(model: nn.Module) -> dict[str, Dropout]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Dropout)}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Turn off dropout within it, which would also draw from the generator that training goes on with."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


@contextmanager
def keep_random_state(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Leave the random numbers that training will draw as they are, whatever is drawn within.

    Those of torch, and those of each `Dropout` of `model`.
    """
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    generators = [dropout._generators for dropout in dropouts]  # noqa: SLF001  # a class of this module
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            for dropout in dropouts:
                dropout._generators = {}  # noqa: SLF001
            yield
        finally:
            for dropout, kept_generators in zip(dropouts, generators, strict=True):
                dropout._generators = kept_generators  # noqa: SLF001
