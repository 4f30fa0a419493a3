"""Plan a sweep: its cells, and about how long they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from distilkit.config import SweepConfig, resolve
from distilkit.hardware.device import select_device
from distilkit.progress import SILENT, Reporter, describe_duration
from distilkit.workflows.distillation.inputs import estimate_distillation
from distilkit.workflows.sweeping.cells import (
    Cell,
    count_settings,
    describe_cells,
    describe_search,
    list_flags,
    make_cells,
    make_sample,
)
from distilkit.workflows.sweeping.folder import SweepFolder

SCHEMA = "distilkit.sweep-plan/1"
MAX_LISTED = 50


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would train.

    Attributes:
        cells: none for a search, which makes them as it goes.
        complete: ids of those that are.
        seconds: for the others, `None` where it is not known; for a search for all, as if none ended early.
        search: of a search, its settings and ranges in words.
    """

    cells: Sequence[Cell]
    complete: frozenset[str]
    seconds: float | None
    search: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document."""
        cells = [
            {
                "id": cell.id,
                "run": cell.name,
                "values": dict(cell.values),
                "complete": cell.id in self.complete,
            }
            for cell in self.cells
        ]
        return {"schema": SCHEMA, "cells": cells, "seconds": self.seconds, "search": self.search}

    def text(self) -> str:
        """Return what a person reads: the cells, how many are complete, the time."""
        time = "" if self.seconds is None else f"about {describe_duration(self.seconds)}"
        if self.search:
            limit = f"At most {time}: bad settings end early. " if time else ""
            return f"{self.search[0].upper()}{self.search[1:]}.\n{limit}Nothing was trained."
        lines = [
            f"{cell.name}  complete" if cell.id in self.complete else cell.name
            for cell in self.cells[:MAX_LISTED]
        ]
        if len(self.cells) > MAX_LISTED:
            lines.append(f"and {len(self.cells) - MAX_LISTED:,} more (--json lists all)")
        todo = len(self.cells) - len(self.complete)
        left = f"{todo:,} to train{time and f', {time}'}. Nothing was trained."
        return "\n".join([*lines, "", describe_cells(self.cells), left])


def plan_sweep(config: SweepConfig, reporter: Reporter = SILENT) -> SweepPlan:
    """Return the cells of a sweep and an estimate of the time; train nothing, write nothing.

    Raises:
        UserError: as `sweep`.
    """
    cells = make_sample(config) if config.search else make_cells(config)
    SweepFolder.check(config.output_dir)
    folder = SweepFolder(config.output_dir)
    records = folder.records()
    cells = [folder.locate(cell, records) for cell in cells]
    complete = frozenset(cell.id for cell in cells if folder.find_run(cell.name))
    select_device(config.device, reporter)
    shapes: dict[str, list[Cell]] = {}
    for cell in cells:
        shapes.setdefault(cell.shape, []).append(cell)
    times = [_estimate(folder, group, complete, reporter) for group in shapes.values()]
    seconds = [time for time in times if time is not None]
    total = round(sum(seconds), 1) if len(seconds) == len(times) else None
    if not config.search:
        return SweepPlan(cells, complete, total)
    # The sample has a setting with the teacher, if there is one, and another on labels alone.
    settings = len(cells) / len(list_flags(config)["seed"])
    total = None if total is None else round(total * sum(count_settings(config)) / settings, 1)
    return SweepPlan((), frozenset(), total, describe_search(config))


def _estimate(
    folder: SweepFolder, cells: Sequence[Cell], complete: frozenset[str], reporter: Reporter
) -> float | None:
    """Return the seconds for the cells of one shape: by those that are complete, else by a few batches."""
    todo = [cell for cell in cells if cell.id not in complete]
    if not todo:
        return 0.0
    configs = [resolve(cell.config) for cell in todo]
    # Every core trains a small student of its own; others use all cores, one after the other.
    lanes = torch.get_num_threads() if configs[0].has_word_vectors else 1
    runs = [run for cell in cells if (run := folder.find_run(cell.name))]
    if runs:
        per_epoch: float = median(run.metrics["seconds"] / len(run.history) for run in runs)
        return sum(per_epoch * (config.epochs or 1) for config in configs) / min(lanes, len(todo))
    time = estimate_distillation([cell.config for cell in todo], reporter)
    if time.teacher is None or time.epoch is None:
        return None
    return time.teacher + sum(time.epoch * (config.epochs or 1) for config in configs) / min(lanes, len(todo))
