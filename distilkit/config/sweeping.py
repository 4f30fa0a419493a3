"""Options of `sweep`: its own, and those of `distill`, most of which take several values."""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

from pydantic import BeforeValidator, Field, create_model, model_validator

from distilkit.config.distillation import DistillConfig
from distilkit.config.fields import (
    AnyPath,
    Config,
    Strings,
    clip,
    closest,
    field_infos,
    flag,
    option,
    positional,
)
from distilkit.config.fitting import RESUME_FIELDS
from distilkit.config.searching import SearchRange, check_limits, parse_space
from distilkit.errors import list_names

# What all cells share: the rows they are scored on, the teachers, and what picks an epoch.
SHARED = frozenset(
    (
        *("dataset", "data_dir", "text_column", "text_pair_column", "label_column", "max_eval_samples"),
        *("metric", "device", "precision", "recipe", "calibrate", "targets", "missing"),
        *(name for name, info in field_infos(DistillConfig).items() if get_origin(info.annotation) is tuple),
    )
)
NOT_TAKEN = ("output_dir", "overwrite", *RESUME_FIELDS)
SWEPT = tuple(name for name in field_infos(DistillConfig) if name not in SHARED and name not in NOT_TAKEN)
# Where nothing but the seed takes several values.
DEFAULT_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DEFAULT_SEEDS = (1, 2, 3)
DEFAULT_TEXTS = {"alpha": "0, 0.25, 0.5, 0.75, 1 where nothing else is swept, or else 0.5", "seed": "1, 2, 3"}
MAX_CELLS = 10_000

RANGE = re.compile(r"([-+\d.eE]+?)\.\.([-+\d.eE]+?)(?::([-+\d.eE]+))?")
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
UNIT_SECONDS = {"s": 1, None: 1, "m": 60, "h": 3600, "d": 86_400}


def parse_values(value: Any) -> Any:
    """Return the values of an option: of `0,0.5,1`, of a range `1..5` or `0..1:0.25`, of a list or of one.

    Raises:
        ValueError: when there are none, or too many.
    """
    if value is None:
        return ()
    items = value if isinstance(value, Sequence | range) and not isinstance(value, str) else (value,)
    values = tuple(chain.from_iterable(_parse_item(item) for item in items))
    if len(values) > MAX_CELLS:
        raise ValueError(f"that is {len(values):,} values, and a sweep has {MAX_CELLS:,} cells at most")
    return tuple(dict.fromkeys(values))


def _parse_item(item: Any) -> Iterator[Any]:
    if not isinstance(item, str):
        yield item
        return
    for part in item.split(","):
        text = part.strip()
        if not text:
            raise ValueError("a value is missing beside a comma. Leave the comma out")
        match = RANGE.fullmatch(text)
        if match and _is_number(match[1]) and _is_number(match[2]):
            yield from _expand(*match.groups())
        else:
            yield text


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except ArithmeticError:
        return False


def _expand(first: str, last: str, step: str | None) -> Iterator[str]:
    """Yield the numbers of a range, both ends included, as they would be typed."""
    if step is None and not all(re.fullmatch(r"[-+]?\d+", end) for end in (first, last)):
        raise ValueError(f"the range needs a step: {first}..{last}:0.1, for example")
    if step is not None and not _is_number(step):
        raise ValueError(f"the step {step} is not a number")
    low, high, distance = Decimal(first), Decimal(last), Decimal(step or 1)
    if distance <= 0 or high < low:
        raise ValueError("the range is empty. Write the lower end first, and a step above 0")
    count = int((high - low) / distance) + 1
    if count > MAX_CELLS:
        raise ValueError(f"that is {count:,} values, and a sweep has {MAX_CELLS:,} cells at most")
    for i in range(count):
        yield f"{(low + i * distance).normalize():f}"


def _parse_duration(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    match = DURATION.fullmatch(str(value).strip())
    if not match:
        raise ValueError("write it as 90s, 30m, 2h or 1d")
    return float(match[1]) * UNIT_SECONDS[match[2]]


SweptValues = Annotated[tuple[Any, ...], BeforeValidator(parse_values)]


class SweepOptions(Config):
    """Train a student for each combination of values and compare them, labels only among them."""

    output_dir: AnyPath = option(
        panel="Output",
        short="-o",
        basic=True,
        help="Folder of the sweep. One that is there is continued: only what is missing is trained.",
    )
    grid: Annotated[tuple[dict[str, SweptValues], ...], BeforeValidator(lambda value: _as_grids(value))] = (
        option(
            (),
            panel="Sweep",
            yaml_only=True,
            help="In a --config file: options and their values, or several such mappings.",
        )
    )
    search: Annotated[dict[str, Any], BeforeValidator(lambda value: _as_search(value))] = option(
        {},
        panel="Sweep",
        yaml_only=True,
        help="In a --config file: options and the ranges or choices that TPE searches, instead of a grid.",
    )
    trials: int = option(
        20,
        ge=1,
        le=MAX_CELLS,
        panel="Sweep",
        help="Settings that a search tries, and as many again on labels alone.",
    )
    jobs: int = option(1, ge=1, le=256, panel="Sweep", basic=True, help="Processes that train side by side.")
    storage: str | None = option(
        None,
        panel="Sweep",
        help="Optuna storage of the queue, such as postgresql+psycopg://USER@HOST/DB. "
        "(default: a journal in the sweep's folder)",
    )
    time_limit: Annotated[float | None, BeforeValidator(_parse_duration)] = option(
        None, gt=0, panel="Sweep", help="End in time, say what was not trained: 90s, 30m, 2h."
    )
    max_failures: int = option(10, ge=0, panel="Sweep", help="Stop when more than N cells have failed.")
    dry_run: bool = option(
        False, panel="Sweep", basic=True, help="Print the cells and about how long they take; train nothing."
    )

    @classmethod
    def default_texts(cls) -> dict[str, str]:
        """Return the defaults that depend on the student, in words for `--help`."""
        return DistillConfig.default_texts()

    @property
    def input_paths(self) -> dict[str, tuple[Path, ...]]:
        """Return what the options name to be read, by flag."""
        return {flag("data_dir"): (self.data_dir,) if self.data_dir else ()}  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _check_sweep(self) -> "SweepOptions":
        if getattr(self, "method", ()) and "general" in map(str, self.method):  # type: ignore[attr-defined]
            raise ValueError("--method general has no validation score to compare. Use distill for it")
        if self.storage and self.storage.startswith("sqlite"):
            raise ValueError(
                f"--storage {self.storage}: SQLite lets several processes take the same cell. "
                "Leave it out for a journal file, or use PostgreSQL"
            )
        for names in self.grid:
            for name in names:
                _check_swept("grid", name)
        if self.search:
            self._check_search()
        elif "trials" in self.model_fields_set:
            raise ValueError("--trials is for a search: write one under search: in a --config file")
        return self

    def _check_search(self) -> None:
        if self.grid:
            raise ValueError("search and grid exclude each other. Write the values as choices under search")
        for name in SWEPT:
            values = getattr(self, name)
            if name in self.search and values:
                raise ValueError(f"search: {flag(name)} has a value already. Leave one of them out")
            if name != "seed" and len(values) > 1:
                raise ValueError(
                    f"{flag(name)} has several values beside search. Write them as choices in it"
                )


def _as_grids(value: Any) -> Any:
    return (value,) if isinstance(value, Mapping) else value or ()


def _as_search(value: Any) -> Any:
    """Return the space of each option. Raises `ValueError` naming the option."""
    if not isinstance(value, Mapping):
        raise ValueError("it is a mapping of options to ranges or choices")
    spaces = {}
    for name, written in value.items():
        _check_swept("search", name)
        if name == "seed":
            raise ValueError("search: every setting has the same seeds. Set seed beside search")
        info = field_infos(DistillConfig)[name]
        try:
            space = parse_space(written, info.annotation)
            if isinstance(space, SearchRange):
                check_limits(space, info)
            spaces[name] = space
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return spaces


def _check_swept(key: str, name: str) -> None:
    """Raise `ValueError` unless a grid or a search may hold values of the option."""
    if name in SHARED:
        raise ValueError(f"{key}: all cells share {name}. Set it beside {key}, or make a sweep for each")
    if name not in SWEPT:
        close = closest(name, SWEPT)
        hint = f"Did you mean {close!r}?" if close else f"It takes {list_names(SWEPT)}."
        raise ValueError(f"{key}: {clip(name)} is not an option of distill. {hint}")


def _distill_fields() -> dict[str, Any]:
    """Return the fields of `distill`: some as they are, the others with several values."""
    fields: dict[str, Any] = {}
    for name, info in field_infos(DistillConfig).items():
        if name in SHARED:
            fields[name] = (info.annotation, info)
        elif name in SWEPT:
            extra = {**info.json_schema_extra, "element": info.annotation}
            default = DEFAULT_TEXTS.get(name, info.default)
            text = info.description if default is None else f"{info.description} (default: {default})"
            fields[name] = (SweptValues, Field((), description=text, json_schema_extra=extra))
    return fields


if TYPE_CHECKING:

    class SweepConfig(SweepOptions):
        """The options of `sweep`: `SweepOptions` and, with one or several values, those of `distill`."""

        def __init__(self, **values: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
else:
    SweepConfig = create_model(
        "SweepConfig",
        __base__=SweepOptions,
        __module__=__name__,
        __doc__=SweepOptions.__doc__.partition("\n\n")[0],
        **_distill_fields(),
    )


class SweepReportConfig(Config):
    """Compare the runs of a sweep, and write a page of it."""

    folder: Strings = positional(help="Folder of a sweep.", min_length=1, max_length=1)
    test: bool = option(
        False, panel="Output", help="Also score the best setting on the test split, once chosen."
    )
