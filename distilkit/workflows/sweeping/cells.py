"""The cells of a sweep: a `distill` config for each combination of values, labels only among them."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilkit.config import DistillConfig, SweepConfig, resolve
from distilkit.config.fields import field_infos, make_config
from distilkit.config.fitting import HARDWARE_FIELDS, RESUME_FIELDS
from distilkit.config.searching import SearchRange, describe_space
from distilkit.config.sweeping import DEFAULT_ALPHAS, DEFAULT_SEEDS, MAX_CELLS, SHARED, SWEPT
from distilkit.errors import UserError

RUNS = "runs"
NAME_LENGTH = 100  # of a run's folder; longer ones end in a hash
# What a cell's id leaves out: where its run lies, and what all cells share but for the teacher's part in it.
NOT_IN_ID = frozenset(("output_dir", "overwrite", "data_dir", "teacher", *RESUME_FIELDS, *HARDWARE_FIELDS))
# What only a teacher or a soft loss gives a meaning to.
TEACHERS_OWN = frozenset(
    (
        *("alpha_end", "soft_loss", "temperature", "method", "layer_epochs", "layer_learning_rate", "beta"),
        *("transfer", "transfer_ratio", "corpus"),
    )
)


@dataclass(frozen=True)
class Cell:
    """One student of a sweep.

    Attributes:
        id: a hash of the resolved config; the same in every sweep and on every machine.
        values: of the options that any cell varies, the seed among them.
        shape: equal for cells whose data and student are the same, which are trained together.
    """

    id: str
    values: Mapping[str, Any]
    config: DistillConfig
    shape: str

    @property
    def name(self) -> str:
        """Return the name of its run's folder."""
        return self.config.output_dir.name


def make_cells(config: SweepConfig) -> list[Cell]:
    """Return the cells, those of one shape side by side; none yet for a search, which makes them as it goes.

    For each student that a teacher teaches there is also the one that learns from the labels alone, with the
    same options and seeds.

    Raises:
        UserError: when a combination is not a valid `distill` config, or when there are too many.
    """
    if config.search:
        return []
    combinations = list(_combine(config))
    combinations += [_without_teacher(values) for values in combinations]
    varying = {name for name in SWEPT if len({repr(values.get(name)) for values in combinations}) > 1}
    varying |= {"seed"}
    cells: dict[str, Cell] = {}
    for values in combinations:
        cell = _make_cell(config, values, varying)
        cells.setdefault(cell.id, cell)
    names: dict[str, str] = {}
    for cell in cells.values():
        if names.setdefault(cell.name, cell.id) != cell.id:
            raise UserError(f"two cells have the name {cell.name}. Write their values in another way.")
    return sorted(cells.values(), key=lambda cell: cell.shape)


def make_setting(config: SweepConfig, values: Mapping[str, Any], *, labels_only: bool) -> list[Cell]:
    """Return the cells of one setting of a search, by seed.

    Args:
        values: of the options that are searched.
        labels_only: whether the student learns from the labels alone.

    Raises:
        UserError: when the values do not go together.
    """
    shared = {name: getattr(config, name) for name in SHARED if name in config.model_fields_set}
    flags = list_flags(config)
    fixed = {name: single[0] for name, single in flags.items() if name != "seed"}
    options = shared | fixed | dict(values)
    if labels_only:
        options = _without_teacher(options)
    varying = {*config.search, "seed"}
    return [_make_cell(config, options | {"seed": seed}, varying) for seed in flags["seed"]]


def make_sample(config: SweepConfig) -> list[Cell]:
    """Return the cells of one setting that a search could try, and of the same on labels alone.

    Raises:
        UserError: when its values do not go together.
    """
    values = {
        name: space.first if isinstance(space, SearchRange) else space[0]
        for name, space in config.search.items()
    }
    cells = [
        *make_setting(config, values, labels_only=False),
        *make_setting(config, values, labels_only=True),
    ]
    return list({cell.id: cell for cell in cells}.values())


def list_flags(config: SweepConfig) -> dict[str, Sequence[Any]]:
    """Return the values of each option that was given outside `grid`, and the defaults of a sweep."""
    flags: dict[str, Sequence[Any]] = {name: values for name in SWEPT if (values := getattr(config, name))}
    has_several = any(len(values) > 1 for name, values in flags.items() if name != "seed")
    if (
        not has_several
        and not config.grid
        and not config.search
        and "alpha" not in flags
        and config.recipe is None
    ):
        flags["alpha"] = DEFAULT_ALPHAS if config.teacher or config.teacher_file else (1.0,)
    flags.setdefault("seed", DEFAULT_SEEDS)
    return flags


def _combine(config: SweepConfig) -> Iterator[dict[str, Any]]:
    """Yield the options of each cell as they were given: one value each.

    Raises:
        UserError: when there are too many cells.
    """
    shared = {name: getattr(config, name) for name in SHARED if name in config.model_fields_set}
    flags = list_flags(config)
    grids = [flags | grid for grid in config.grid] or [flags]
    count = sum(math.prod(len(values) for values in grid.values()) for grid in grids)
    if count > MAX_CELLS:
        raise UserError(f"that is {count:,} cells, and a sweep has {MAX_CELLS:,} at most. Give fewer values.")
    for grid in grids:
        for values in itertools.product(*grid.values()):
            yield shared | dict(zip(grid, values, strict=True))


def _without_teacher(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the same student on labels alone."""
    return {name: value for name, value in values.items() if name not in TEACHERS_OWN} | {"alpha": 1.0}


def _reads_labels(values: Mapping[str, Any]) -> bool:
    """Return whether labels are weighed: at alpha 0 they are not, and class weights mean nothing there."""
    with suppress(ValueError, TypeError):  # which the config explains
        return float(values.get("alpha", 1)) > 0 or float(values.get("alpha_end") or 0) > 0
    return True


def _make_cell(config: SweepConfig, values: Mapping[str, Any], varying: Iterable[str]) -> Cell:
    shown = ", ".join(f"{name} {values[name]}" for name in sorted(varying) if name in values)
    home = config.output_dir / RUNS
    if not _reads_labels(values):
        values = {name: value for name, value in values.items() if name != "class_weights"}
    try:
        made = make_config(DistillConfig, {**values, "output_dir": home / "cell"}, source=f"cell {shown}")
        resolved = resolve(made)
    except UserError as error:
        raise UserError(
            f"{error}\nLeave this combination out: give only values that go together, or several mappings "
            "under grid: in a --config file."
        ) from None
    if not resolved.runs_teacher:  # none of its values matters then
        plain = {name: value for name, value in values.items() if name not in TEACHERS_OWN}
        made = make_config(DistillConfig, {**plain, "output_dir": home / "cell"})
        resolved = resolve(made)
    has_teacher = resolved.runs_teacher
    chosen = {
        name: getattr(resolved, name) if has_teacher or name not in TEACHERS_OWN else None
        for name in sorted(varying)
    }
    folder = home / _name_run(chosen)
    return Cell(
        _hash_config(resolved), chosen, made.model_copy(update={"output_dir": folder}), _hash_shape(made)
    )


def _name_run(values: Mapping[str, Any]) -> str:
    parts = [
        f"{name}-{show_value(value)}"
        for name, value in values.items()
        if name != "seed" and value is not None
    ]
    name = re.sub(r"[^\w.+-]+", "-", "-".join([*parts, f"seed-{values['seed']}"]))
    if len(name) <= NAME_LENGTH:
        return name
    return f"{name[:NAME_LENGTH]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def show_value(value: Any) -> str:
    """Return the value of an option as names of folders and messages show it."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return Path(value).name if isinstance(value, str) else str(value)


def _hash_config(config: DistillConfig) -> str:
    """Return the hash of all that is not an option's own default: options that come later change no id."""
    infos = field_infos(DistillConfig)
    values = config.model_dump(mode="json", exclude=set(NOT_IN_ID))
    set_values = {name: value for name, value in values.items() if value != infos[name].default}
    return _hash(set_values)


def _hash_shape(config: DistillConfig) -> str:
    """Return the hash of what students must share to be distilled together."""
    infos = field_infos(DistillConfig)
    shared = {
        name
        for name, info in infos.items()
        if info.json_schema_extra["panel"] not in ("Loss", "Training", "Output") or name in HARDWARE_FIELDS
    }
    return _hash(config.model_dump(mode="json", include=shared))


def _hash(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def describe_cells(cells: Sequence[Cell]) -> str:
    """Return what a sweep consists of: "36 cells: alpha 0, 0.5, 1; seed 1, 2, 3"."""
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        for name, value in cell.values.items():
            if value is not None:
                values.setdefault(name, {})[show_value(value)] = None
    listed = "; ".join(f"{name} {', '.join(shown)}" for name, shown in values.items())
    return f"{len(cells):,} cells: {listed}"


def describe_search(config: SweepConfig) -> str:
    """Return what is searched: "a search of 20 settings, and 1 on labels alone: alpha 0..1; seed 1, 2"."""
    spaces = [f"{name} {describe_space(space)}" for name, space in config.search.items()]
    seeds = ", ".join(map(str, list_flags(config)["seed"]))
    with_teacher, labels_only = count_settings(config)
    counts = [f"{with_teacher:,} settings, and "] if with_teacher else []
    counts.append(f"{labels_only:,} on labels alone")
    return f"a search of {''.join(counts)}: {'; '.join([*spaces, f'seed {seeds}'])}"


def count_settings(config: SweepConfig) -> tuple[int, int]:
    """Return how many settings a search tries with the teacher, and how many on labels alone."""
    searches_labels = any(name not in TEACHERS_OWN and name != "alpha" for name in config.search)
    has_teacher = bool(config.teacher or config.teacher_file)
    return config.trials if has_teacher else 0, config.trials if searches_labels else 1
