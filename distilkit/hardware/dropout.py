"""Dropout whose random numbers are cheap: two bytes a value, where torch draws one number after another."""

from typing import Any

import torch
from torch import Tensor, nn


def draw(number: int, generator: torch.Generator) -> Tensor:
    """Random numbers, int16 `[number]`, uniform, on the device of the generator."""
    random = torch.empty(-(-number // 4), dtype=torch.int64, device=generator.device)
    random.random_(-(2**63), None, generator=generator)
    return random.view(torch.int16)[:number]


def drop(values: Tensor, dropped: int, random: Tensor) -> Tensor:
    """`values`, of which `dropped` in 2^16 are zero and the others scaled, so that the mean stays.

    Args:
        random: of `draw`, in the shape of `values`: small ones drop.
    """
    kept = random >= dropped - 2**15
    return values * kept.to(values.dtype).mul_(2**16 / (2**16 - dropped))


def leave_out(vectors: Tensor, probability: float, random: Tensor) -> Tensor:
    """`vectors` `[..., width]`, of which some are zero as a whole; the others are as they were.

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
        """`values`, some of them zero, in training; as they are otherwise."""
        if not self.training or not self.dropped:
            return values
        return drop(values, self.dropped, self.draw(values.numel(), values.device).view(values.shape))

    def draw(self, number: int, device: torch.device) -> Tensor:
        """The module's next random numbers, int16 `[number]`."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return draw(number, self._generators[device])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Dropout":
        """The same numbers from the start: generators cannot be copied."""
        other = Dropout.__new__(Dropout)
        nn.Module.__init__(other)
        other.dropped, other.seed, other.training = self.dropped, self.seed, self.training
        other._generators = {}
        return other
