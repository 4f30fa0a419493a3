"""What requests may cost: counted before they are sent, so that no limit is ever passed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition

from distilkit.engine.inference.chat import Usage
from distilkit.errors import UserError

TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True)
class Prices:
    """Give the prices of a million tokens that are read and written."""

    input: float
    output: float

    def cost(self, usage: Usage) -> float:
        """Return what tokens cost."""
        return (self.input * usage.input_tokens + self.output * usage.output_tokens) / TOKENS_PER_PRICE

    def cost_of(self, counts: Sequence[int] | None) -> float:
        """Return what stored counts of tokens cost, those that were read and those that were written."""
        return self.cost(Usage(*counts)) if counts else 0.0


class BudgetSpent(UserError):
    """The next request might pass a limit."""


class Stopped(Exception):
    """Another request failed, so that no further one is sent."""


@dataclass
class Budget:
    """Count requests and costs, from several threads.

    What a request may cost at most is set apart before it is sent. Where that might pass the limit, the
    request waits until others have said what they did cost.

    Attributes:
        requests: how many were sent, failed ones included.
        cost: of the answers so far.
    """

    max_requests: int | None
    max_cost: float | None
    requests: int = 0
    cost: float = 0.0
    is_stopped: bool = False
    _reserved: float = 0.0
    _in_flight: int = 0
    _changed: Condition = field(default_factory=Condition)

    def stop(self) -> None:
        """Let no further request be sent."""
        with self._changed:
            self.is_stopped = True
            self._changed.notify_all()

    def reserve(self, bound: float) -> None:
        """Count a request that costs no more than `bound`.

        Raises:
            BudgetSpent: where that might pass a limit.
            Stopped: after `stop`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_stopped or not self._in_flight or self._fits(bound))
            if self.is_stopped:
                raise Stopped
            self._count()
            if not self._fits(bound):
                self.requests -= 1
                raise BudgetSpent(
                    f"--max-cost {self.max_cost:g}: {self.cost:g} is spent, and the next answer might cost "
                    "more than is left. Raise it, and add --resume to go on."
                )
            self._reserved += bound
            self._in_flight += 1

    def repeat(self, bound: float, was_lost: bool) -> None:
        """Count a request that is sent again; one whose answer was lost may have cost its bound."""
        with self._changed:
            if self.is_stopped:
                raise Stopped
            if was_lost:
                self.cost += bound
                if not self._fits(0.0):
                    raise BudgetSpent(
                        f"--max-cost {self.max_cost:g}: answers were lost that may have cost as much. "
                        "Raise it, and add --resume to go on."
                    )
            self._count()

    def settle(self, bound: float, cost: float) -> None:
        """Replace the bound of a request by what it did cost."""
        with self._changed:
            self._in_flight -= 1
            # Sums of floats leave a rest, for which a request would wait for ever.
            self._reserved = max(0.0, self._reserved - bound) if self._in_flight else 0.0
            self.cost += cost
            self._changed.notify_all()

    def _fits(self, bound: float) -> bool:
        return self.max_cost is None or self.cost + self._reserved + bound <= self.max_cost

    def _count(self) -> None:
        if self.max_requests is not None and self.requests >= self.max_requests:
            raise BudgetSpent(
                f"--max-requests {self.max_requests}: so many were sent, those of earlier commands for this "
                "file included. Raise it, and add --resume to go on."
            )
        self.requests += 1
