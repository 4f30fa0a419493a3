"""The folder of a sweep. Its runs are the truth: a cell whose run is complete is done, whatever else says.

sweep.yaml       the options; `distilkit sweep --config DIR/sweep.yaml` goes on
cells/           a JSON file per cell: its options, its values, the name of its run
runs/            a run per cell, as `distill` writes it
failures/        a JSON file per cell that has failed: the error, and how often
settings/        of a search, a JSON file per setting that was tried: its values, its scores, how it ended
workers/         a file per process that trains, locked and touched while it lives
queue.log        Optuna's journal, unless --storage names a database
study.json       the name of Optuna's study, and its storage
material.json    fingerprints of data and teachers, which all runs share
report/          what `distilkit sweep report` writes
"""

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock
from pydantic import ValidationError

from distilkit.config import DistillConfig, SweepConfig, resolve
from distilkit.config.fields import field_infos, flag, make_config, read_values
from distilkit.config.sweeping import SHARED, SWEPT, parse_values
from distilkit.errors import UserError, list_names
from distilkit.runs.folder import check_folder, read_object, write_json, write_text
from distilkit.runs.records import Record
from distilkit.runs.run import Run
from distilkit.workflows.sweeping.cells import NOT_IN_ID, RUNS, Cell, list_flags, make_sample

OPTIONS, CELLS, FAILURES, SETTINGS, WORKERS = "sweep.yaml", "cells", "failures", "settings", "workers"
LOCK = ".lock"
JOURNAL, STUDY, MATERIAL = "queue.log", "study.json", "material.json"
# Options of the command that say how a sweep is computed, not what it is.
NOT_KEPT = ("output_dir", "jobs", "time_limit", "max_failures", "dry_run", "storage")


class SweepChanged(UserError):
    """Data or teachers are not those that the sweep began with."""


class CellRecord(Record):
    """The content of `cells/<id>.json`."""

    id: str
    run: str
    shape: str
    values: dict[str, Any]
    options: dict[str, Any]


class FailureRecord(Record):
    """The content of `failures/<id>.json`: the last error of a cell."""

    error: str
    attempts: int
    traceback: str | None = None


class SettingRecord(Record):
    """The content of `settings/<id>.json`: a setting that a search tries.

    Attributes:
        parameters: what Optuna suggested, before rounding.
        cells: ids of those that were begun.
        scores: by seed.
        state: `pruned` where it did so badly that not all seeds were trained.
    """

    id: str
    labels_only: bool
    values: dict[str, Any]
    parameters: dict[str, Any]
    cells: list[str]
    scores: dict[int, float]
    state: Literal["running", "complete", "pruned", "failed"]
    error: str | None = None


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk."""

    path: Path

    @classmethod
    def load(cls, path: Path) -> "SweepFolder":
        """Return the sweep in `path`. Raises `UserError` when there is none."""
        if not (path / OPTIONS).is_file():
            raise UserError(
                f"{path} is not a sweep: it has no {OPTIONS}. Give a folder that `distilkit sweep` wrote."
            )
        return cls(path)

    @classmethod
    def check(cls, path: Path) -> None:
        """Refuse early a folder that could not hold a sweep. Raises `UserError`.

        A folder without options that holds nothing but cells is a sweep that another process is about to
        begin, or was killed beginning.
        """

        def check_contents() -> None:
            drafts = {draft.name for draft in path.glob(f".{OPTIONS}.*")}
            names = {file.name for file in path.iterdir()} - drafts
            if OPTIONS not in names and not names <= {LOCK, CELLS}:
                raise UserError(f"--output-dir {path} holds no sweep. Name a new folder, or that of a sweep.")

        check_folder(path, "--output-dir", check_contents)

    @classmethod
    def open(cls, config: SweepConfig, cells: Sequence[Cell]) -> tuple["SweepFolder", list[Cell]]:
        """Make or continue the sweep in `config.output_dir`; return it, and the cells with their run folders.

        Raises:
            UserError: when the folder holds another sweep, or something else.
        """
        cls.check(config.output_dir)
        folder = cls(config.output_dir)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.lock():
            _check_same_search(folder.path, config)
            compared = make_sample(config) if config.search else cells
            _check_same_sweep(folder.path, folder.records().values(), compared, ignored=config.search)
            cells = folder.add(cells)
            _write_options(folder.path / OPTIONS, config)
        return folder, cells

    def add(self, cells: Sequence[Cell]) -> list[Cell]:
        """Put cells into the sweep where they are not; return them with their run folders."""
        records = self.records()
        cells = [self.locate(cell, records) for cell in cells]
        for cell in cells:
            if cell.id not in records:
                write_json(self.path / CELLS / f"{cell.id}.json", _record(cell).as_dict())
        return cells

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from changing the sweep within."""
        with FileLock(self.path / LOCK):
            yield

    def locate(self, cell: Cell, records: Mapping[str, CellRecord]) -> Cell:
        """Return the cell with the run folder that it has: the name it got when it was first in a sweep."""
        name = records[cell.id].run if cell.id in records else cell.name
        path = self.path / RUNS / name
        return replace(cell, config=cell.config.model_copy(update={"output_dir": path}))

    def records(self) -> dict[str, CellRecord]:
        """Return every cell that ever was in the sweep, by id; damaged files are left out."""
        records = {}
        for file in sorted((self.path / CELLS).glob("*.json")):
            with suppress(ValidationError):
                record = CellRecord.model_validate(read_object(file))
                records[record.id] = record
        return records

    def read_cell(self, cell_id: str) -> Cell:
        """Return a cell that another process has put into the sweep.

        Raises:
            UserError: when its file is damaged.
        """
        file = self.path / CELLS / f"{cell_id}.json"
        try:
            record = CellRecord.model_validate(read_object(file))
        except ValidationError:
            raise UserError(f"{file} is damaged. Type the command again that made this cell.") from None
        options = record.options | {"output_dir": self.path / RUNS / record.run}
        return Cell(record.id, record.values, make_config(DistillConfig, options, str(file)), record.shape)

    def find_run(self, name: str) -> Run | None:
        """Return the complete run of that name, if there is one."""
        try:
            return Run.load(self.path / RUNS / name)
        except UserError:
            return None

    def list_missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that have no complete run."""
        return [cell for cell in cells if self.find_run(cell.name) is None]

    def open_study(self, storage: str) -> str:
        """Return the name of Optuna's study, which is chosen once, as the storage is.

        Args:
            storage: a journal or a database, without a password.

        Raises:
            UserError: when the sweep's queue is in another storage, where other workers would not see it.
        """
        file = self.path / STUDY
        with self.lock():
            facts = read_object(file)
            if "study" not in facts:
                facts = {"study": f"{self.path.resolve().name}-{secrets.token_hex(4)}", "storage": storage}
                write_json(file, facts)
        if facts["storage"] != storage:
            raise UserError(
                f"--storage: the queue of {self.path} is {facts['storage']}, not {storage}. Give that, so "
                f"that workers see each other; when none is at work, {file} may be removed to move the queue."
            )
        return str(facts["study"])

    def check_material(self, fingerprints: Mapping[str, str]) -> None:
        """Hold data and teachers against those of the sweep's other runs.

        Raises:
            SweepChanged: naming what differs.
        """
        file = self.path / MATERIAL
        with self.lock():
            stored = read_object(file)
            changed = [
                name for name in fingerprints if stored.get(name, fingerprints[name]) != fingerprints[name]
            ]
            if changed:
                raise SweepChanged(
                    f"{list_names(changed)} changed since the sweep in {self.path} began, so runs before and "
                    "after could not be compared. Put back what it was, or begin a sweep in another folder."
                )
            if stored.keys() != stored.keys() | fingerprints.keys():
                write_json(file, {**stored, **fingerprints})

    def failures(self) -> dict[str, FailureRecord]:
        """Return the last error of each cell that has failed, by the cell's id."""
        failures = {}
        for file in sorted((self.path / FAILURES).glob("*.json")):
            with suppress(ValidationError):
                failures[file.stem] = FailureRecord.model_validate(read_object(file))
        return failures

    def record_failure(self, cell: Cell, error: str, traceback: str | None = None) -> None:
        """Keep the error of a cell. Raises `OSError` when the disk refuses."""
        previous = self.failures().get(cell.id)
        record = FailureRecord(
            error=error, attempts=previous.attempts + 1 if previous else 1, traceback=traceback
        )
        write_json(self.path / FAILURES / f"{cell.id}.json", record.as_dict())

    def settings(self) -> list[SettingRecord]:
        """Return the settings that a search has tried or tries."""
        settings = []
        for file in sorted((self.path / SETTINGS).glob("*.json")):
            with suppress(ValidationError):
                settings.append(SettingRecord.model_validate(read_object(file)))
        return settings

    def write_setting(self, record: SettingRecord) -> None:
        """Keep a setting of a search."""
        write_json(self.path / SETTINGS / f"{record.id}.json", record.as_dict())

    def forget_failure(self, cell: Cell) -> None:
        """Remove the error of a cell that is now complete."""
        (self.path / FAILURES / f"{cell.id}.json").unlink(missing_ok=True)


def _record(cell: Cell) -> CellRecord:
    options = cell.config.model_dump(mode="json", exclude_unset=True, exclude={"output_dir"})
    return CellRecord(id=cell.id, run=cell.name, shape=cell.shape, values=dict(cell.values), options=options)


def _check_same_sweep(
    path: Path, records: Collection[CellRecord], cells: Sequence[Cell], ignored: Collection[str]
) -> None:
    """Refuse to mix two sweeps: what is one value in the folder and another one now.

    Args:
        ignored: options that may differ.

    Raises:
        UserError: naming the options.
    """
    if not records:
        return
    before = [resolve_options(record.options).model_dump(mode="json") for record in records]
    now = [resolve(cell.config).model_dump(mode="json") for cell in cells]
    different = []
    for name, info in field_infos(DistillConfig).items():
        old = {repr(values.get(name, info.default)): values.get(name) for values in before}
        new = {repr(values[name]): values[name] for values in now}
        if (
            name not in NOT_IN_ID
            and name not in ignored
            and len(old) == len(new) == 1
            and old.keys() != new.keys()
        ):
            different.append(f"{flag(name)} {next(iter(old.values()))} (now {next(iter(new.values()))})")
    if different:
        raise UserError(
            f"--output-dir {path} is a sweep with {list_names(different)}. Name another folder; to compare "
            "both values, give both, with a comma."
        )


def _check_same_search(path: Path, config: SweepConfig) -> None:
    """Refuse to change what a search is, as its settings could not be compared any more.

    Raises:
        UserError: naming what differs.
    """
    if not (path / OPTIONS).is_file():
        return
    before = read_values(path / OPTIONS)
    now = config.model_dump(mode="json")
    if before.get("search", {}) != now["search"]:
        is_search = "another search" if before.get("search") else "a grid"
        raise UserError(
            f"--output-dir {path} is {is_search if config.search else 'a search'}. Name another folder."
        )
    if config.search:
        seeds = {str(seed) for seed in parse_values(before["seed"])}
        if seeds != {str(seed) for seed in list_flags(config)["seed"]}:
            shown = list_names(sorted(seeds, key=int))
            raise UserError(
                f"--seed: the settings of {path} were scored on the seeds {shown}, and only settings with "
                "the same seeds can be compared. Give those, or name another folder."
            )


def resolve_options(options: Mapping[str, Any]) -> DistillConfig:
    """Return the resolved config of a cell from the options in its file."""
    existing = {name: value for name, value in options.items() if name in field_infos(DistillConfig)}
    return resolve(make_config(DistillConfig, {**existing, "output_dir": "run"}))


def _as_number(value: Any) -> Any:
    """Return a number for a text that is written as YAML writes that number."""
    for number_type in (int, float):
        with suppress(TypeError, ValueError):
            if str(number_type(value)) == value:
                return number_type(value)
    return value


def _write_options(file: Path, config: SweepConfig) -> None:
    """Write the options; values that were swept before stay in it."""
    before = read_values(file) if file.exists() else {}
    values = config.model_dump(mode="json", exclude_unset=True, exclude=set(NOT_KEPT))
    values |= {
        name: [_as_number(value) for value in flag_values] for name, flag_values in list_flags(config).items()
    }
    for name in SWEPT:
        old = before.get(name, [])
        merged = [*(old if isinstance(old, list) else [old]), *values.pop(name, [])]
        if merged:
            values[name] = list({str(value): value for value in merged}.values())
            if len(values[name]) == 1:
                (values[name],) = values[name]
    grids = [*before.get("grid", []), *values.get("grid", [])]
    if grids:
        values["grid"] = list({repr(grid): grid for grid in grids}.values())
    shared_or_swept = (name for name in field_infos(DistillConfig) if name in SHARED or name in SWEPT)
    order = [*shared_or_swept, "grid", "search", "trials"]
    text = yaml.safe_dump(
        {"output_dir": str(config.output_dir)} | {name: values[name] for name in order if name in values},
        sort_keys=False,
        allow_unicode=True,
    )
    write_text(file, text)
