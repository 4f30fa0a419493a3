"""The space that a sweep searches: for each option a range of numbers, or a few choices."""

import operator
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from distilkit.config.fields import clip

RANGE = re.compile(r"(?P<low>[-+\d.eE]+?)\.\.(?P<high>[-+\d.eE]+?)(?::(?P<step>[-+\d.eE]+))?(?P<log>\s+log)?")
KEYS = ("low", "high", "step", "log")
HINT = "write 0..1, 0..1:0.1, 1e-4..1e-2 log, or a list of choices"
COMPARISONS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
Choice = str | int | float | bool


@dataclass(frozen=True)
class SearchRange:
    """Numbers from `low` to `high`, both included; `log` draws orders of magnitude evenly."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def first(self) -> float:
        """Return its lower end, as a value of the option."""
        return int(self.low) if self.whole else self.low

    def __str__(self) -> str:
        step = "" if self.step is None else f":{self.step:g}"
        return f"{self.low:g}..{self.high:g}{step}{' log' if self.log else ''}"


Space = SearchRange | tuple[Choice, ...]


def describe_space(space: Space) -> str:
    """Return it as it is written in YAML."""
    return str(space) if isinstance(space, SearchRange) else ", ".join(map(str, space))


def parse_space(value: Any, annotation: Any) -> Space:
    """Return the range or the choices that a value of `search:` stands for.

    Args:
        value: a text as in `HINT`, a mapping with `low` and `high`, a list, or a parsed space.
        annotation: type of the option, which must be a number for a range.

    Raises:
        ValueError: when it is none of these, empty, or of the wrong type.
    """
    if isinstance(value, SearchRange):
        value = asdict(value)
    if isinstance(value, list | tuple):
        choices = tuple(dict.fromkeys(value))
        if len(choices) < 2 or not all(isinstance(choice, Choice) for choice in choices):
            raise ValueError("give two choices or more, single values each")
        return choices
    parts = _read_range(value)
    types = get_args(annotation) or (annotation,)
    if not {int, float} & set(types):
        raise ValueError("a range is for numbers; give a list of choices")
    return _make_range(**parts, whole=float not in types)


def _read_range(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        if not {"low", "high"} <= value.keys() <= {*KEYS, "whole"}:
            raise ValueError(f"a range has low and high, and may have step and log; {HINT}")
        parts = {key: value[key] for key in KEYS if value.get(key) is not None}
    elif isinstance(value, str) and (match := RANGE.fullmatch(value.strip())):
        parts = {key: part for key, part in match.groupdict().items() if part is not None}
        parts["log"] = "log" in parts
    else:
        raise ValueError(f"{clip(value)} is neither a range nor a list; {HINT}")
    is_log = parts.pop("log", False)
    if not isinstance(is_log, bool):
        raise ValueError("log is true or false")
    try:  # YAML takes 1e-4 for a text
        return {key: float(part) for key, part in parts.items()} | {"log": is_log}
    except (TypeError, ValueError):
        raise ValueError(f"{clip(value)} has ends that are no numbers; {HINT}") from None


def _make_range(low: float, high: float, step: float | None = None, *, log: bool, whole: bool) -> SearchRange:
    if not low < high < float("inf"):
        raise ValueError(f"the range {low:g}..{high:g} is empty. Write the lower end first")
    if log and (low <= 0 or step is not None):
        raise ValueError("a range on a log scale begins above 0 and has no step")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"the step {step:g} must be above 0 and within the range")
    if whole and not all(end == int(end) for end in (low, high, step or 1)):
        raise ValueError("the option takes whole numbers; give whole ends, and a whole step")
    return SearchRange(low, high, step, log, whole)


def check_limits(space: SearchRange, info: FieldInfo) -> None:
    """Refuse a range that reaches beyond what the option takes.

    Raises:
        ValueError: naming the end that is refused.
    """
    for end in (space.low, space.high):
        for limit in info.metadata:
            for key, is_within in COMPARISONS.items():
                if hasattr(limit, key) and not is_within(end, getattr(limit, key)):
                    raise ValueError(f"the option does not take {end:g}")
