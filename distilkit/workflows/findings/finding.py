"""`Finding`: one thing that is wrong, how bad, and what to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something wrong: what it is, with numbers, why it matters, and what to do or type next.

    An `error` makes a distillation fail or worthless; a `warning` makes it worse than it could be.
    """

    check: str
    severity: Severity
    what: str
    why: str
    do: str

    @property
    def line(self) -> str:
        """Return all but severity and why, in one line."""
        return f"{self.what}. To do: {self.do}"
