"""Search settings: Optuna's TPE proposes them, and each is scored as the mean over the same seeds.

Settings on labels alone are searched in a study of their own, with as many trials, so that both have had the
same chance. The files in `settings/` are the truth, as the runs are: a study that is lost is made again.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import WilcoxonPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from distilkit.config import SweepConfig
from distilkit.config.searching import SearchRange, Space
from distilkit.errors import UserError, pluralize
from distilkit.progress import Reporter
from distilkit.reports.sweep_document import name_setting
from distilkit.workflows.sweeping.cells import TEACHERS_OWN, Cell, make_setting
from distilkit.workflows.sweeping.folder import SettingRecord, SweepFolder
from distilkit.workflows.sweeping.leases import Lease
from distilkit.workflows.sweeping.queue import ERROR, OUTCOME, RELEASED, WORKER
from distilkit.workflows.sweeping.storage import SweepStorage
from distilkit.workflows.sweeping.worker import Worker

SETTING = "setting"
TOGETHER = 4  # settings of a study that a worker tries side by side
DIGITS = 4  # of a number that TPE suggests: enough for any option, and readable
SAMPLING_SEED = 42
ENDED = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


@dataclass
class Setting:
    """A setting in the hands of this worker.

    Attributes:
        cells: by seed, in the order in which they are trained.
    """

    name: str
    record: SettingRecord
    cells: Mapping[int, Cell]
    trial: Trial


@dataclass
class SettingStudy:
    """The trials of one kind of setting: with the teacher, or on labels alone."""

    folder: SweepFolder
    config: SweepConfig
    storage: SweepStorage
    lease: Lease
    reporter: Reporter
    labels_only: bool
    _spaces: dict[str, Space] = field(init=False)

    def __post_init__(self) -> None:
        ignored = TEACHERS_OWN | {"alpha"} if self.labels_only else frozenset()
        self._spaces = {name: space for name, space in self.config.search.items() if name not in ignored}
        self._distributions = {name: _make_distribution(space) for name, space in self._spaces.items()}
        suffix = "-labels-only" if self.labels_only else "-settings"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            pruner = WilcoxonPruner()
        self._study = self.storage.open_study(suffix, pruner=pruner)

    @property
    def trials(self) -> int:
        """Return how many settings it tries: a single one where nothing is searched."""
        return self.config.trials if self._spaces else 1

    def list_trials(self) -> list[FrozenTrial]:
        """Return the trials that count: all but those that were given back."""
        trials = self.storage.ask(partial(self._study.get_trials, deepcopy=False))
        return [
            trial
            for trial in trials
            if trial.state != TrialState.FAIL or trial.user_attrs.get(OUTCOME) == ERROR
        ]

    def count_running(self) -> int:
        """Return how many settings any worker is trying."""
        return sum(trial.state == TrialState.RUNNING for trial in self.list_trials())

    def restore(self) -> None:
        """Queue again what dead workers left, and put in what the folder holds and the study does not."""
        with self.folder.lock():
            for trial in self.list_trials():
                worker = str(trial.user_attrs.get(WORKER))
                if trial.state == TrialState.RUNNING and not self.lease.is_alive(worker):
                    self._tell(trial.number, TrialState.FAIL)
            present = {trial.user_attrs.get(SETTING) for trial in self.list_trials()}
            for record in self.folder.settings():
                if record.labels_only == self.labels_only and record.id not in present:
                    self._put_back(record)

    def _put_back(self, record: SettingRecord) -> None:
        facts = {SETTING: record.id}
        if record.state not in ENDED:
            self.storage.ask(partial(self._study.enqueue_trial, record.parameters, user_attrs=facts))
            return
        trial = create_trial(
            state=ENDED[record.state],
            value=float(np.mean(list(record.scores.values()))),
            params=record.parameters,
            distributions=self._distributions,
            intermediate_values=record.scores,
            user_attrs=facts,
        )
        self.storage.ask(partial(self._study.add_trial, trial))

    def take(self, limit: int) -> list[Setting]:
        """Return up to `limit` settings that nobody has tried; none when there were trials enough.

        Raises:
            UserError: when too many settings do not go together.
        """
        settings: list[Setting] = []
        while len(settings) < limit:
            with self.folder.lock():
                trials = self.list_trials()
                is_waiting = any(trial.state == TrialState.WAITING for trial in trials)
                if not is_waiting and len(trials) >= self.trials:
                    break
                # A sampler of its own: what it proposes follows from the trials before, also after a stop.
                seed = SAMPLING_SEED + 2 * len(trials) + self.labels_only
                self._study.sampler = TPESampler(seed=seed)
                trial = self.storage.ask(partial(self._study.ask, self._distributions))
                setting = self._begin(trial)
            if setting:
                settings.append(setting)
        return settings

    def _begin(self, trial: Trial) -> Setting | None:
        """Return the setting of a trial; `None` where its values do not go together."""
        values = {name: _round(value, self._spaces[name]) for name, value in trial.params.items()}
        setting_id = _hash(values, self.labels_only)
        self._set(trial, WORKER, self.lease.name)
        self._set(trial, SETTING, setting_id)
        record = SettingRecord(
            id=setting_id,
            labels_only=self.labels_only,
            values=values,
            parameters=trial.params,
            cells=[],
            scores={},
            state="running",
        )
        name = name_setting(values, self.labels_only, list(self._spaces))
        try:
            cells = make_setting(self.config, values, labels_only=self.labels_only)
        except UserError as error:
            self.reporter.warn(f"{name} was not tried: {str(error).splitlines()[0]}")
            self.folder.write_setting(record.model_copy(update={"state": "failed", "error": str(error)}))
            self._set(trial, OUTCOME, ERROR)
            self._tell(trial.number, TrialState.FAIL)
            return None
        self.folder.write_setting(record)
        return Setting(name, record, {cell.config.seed: cell for cell in cells}, trial)

    def judge(self, setting: Setting, seed: int) -> None:
        """Take in the run of a seed: end the setting where it failed, did badly, or has all seeds."""
        cell = self.folder.locate(setting.cells[seed], self.folder.records())
        run = self.folder.find_run(cell.name)
        record = setting.record
        if run is None:
            self._end(setting, "failed")
            return
        metric = str(run.metrics["metric"])
        score = float(run.metrics["validation"][metric])
        cells, scores = [*record.cells, cell.id], {**record.scores, seed: score}
        setting.record = record.model_copy(update={"cells": cells, "scores": scores})
        with suppress(UpdateFinishedTrialError):  # others took this worker for dead
            self.storage.ask(partial(setting.trial.report, score, seed))
        if len(scores) == len(setting.cells):
            self._end(setting, "complete", metric)
        elif self.storage.ask(setting.trial.should_prune):
            self._end(setting, "pruned", metric)
        else:
            self.folder.write_setting(setting.record)

    def _end(
        self, setting: Setting, state: Literal["complete", "pruned", "failed"], metric: str = ""
    ) -> None:
        setting.record = setting.record.model_copy(update={"state": state})
        self.folder.write_setting(setting.record)
        if state == "failed":
            self._set(setting.trial, OUTCOME, ERROR)
            self._tell(setting.trial.number, TrialState.FAIL)
            return
        scores = list(setting.record.scores.values())
        mean = float(np.mean(scores))
        self._tell(setting.trial.number, ENDED[state], mean if state == "complete" else None)
        tried = sum(trial.state.is_finished() for trial in self.list_trials())
        how = "over" if state == "complete" else "ended early after"
        self.reporter.note(
            f"{setting.name}: {metric} {mean:.4f} {how} {pluralize(len(scores), 'seed')} "
            f"({tried:,} of {self.trials:,} settings)"
        )

    def release(self, setting: Setting) -> None:
        """Give back a setting that is not done; `restore` queues it again."""
        self._set(setting.trial, OUTCOME, RELEASED)
        self._tell(setting.trial.number, TrialState.FAIL)

    def _set(self, trial: Trial, name: str, value: str) -> None:
        with suppress(UpdateFinishedTrialError):
            self.storage.ask(partial(trial.set_user_attr, name, value))

    def _tell(self, trial_number: int, state: TrialState, value: float | None = None) -> None:
        with suppress(UpdateFinishedTrialError):
            self.storage.ask(
                partial(self._study.tell, trial_number, value, state=state, skip_if_finished=True)
            )


@dataclass
class SettingSearch:
    """Try settings until there were trials enough, with a worker that trains their cells."""

    worker: Worker
    studies: Sequence[SettingStudy]
    lease: Lease

    def run(self) -> None:
        """Try what nobody has tried; help the workers that try the last ones.

        Raises:
            TimeIsUp, TooManyFailures: as `Worker.run`.
        """
        while True:
            for study in self.studies:
                study.restore()
            batch = [(study, setting) for study in self.studies for setting in study.take(TOGETHER)]
            if batch:
                self._try(batch)
            elif not any(study.count_running() for study in self.studies):
                return
            elif not self.worker.help(self.lease.count_alive()):
                self.worker.pause()

    def _try(self, batch: Sequence[tuple[SettingStudy, Setting]]) -> None:
        """Train the settings side by side, a seed after the other; give back what is not done."""
        seeds = list(batch[0][1].cells)
        running = list(batch)
        try:
            for seed in seeds:
                cells = {setting.cells[seed].id: setting.cells[seed] for _, setting in running}
                self.worker.cells = self.worker.folder.add(list(cells.values()))
                self.worker.run(self.lease.count_alive)
                for study, setting in running:
                    study.judge(setting, seed)
                running = [pair for pair in running if pair[1].record.state == "running"]
        finally:
            for study, setting in running:
                study.release(setting)


def make_studies(
    folder: SweepFolder, config: SweepConfig, storage: SweepStorage, lease: Lease, reporter: Reporter
) -> list[SettingStudy]:
    """Return the studies of a search: with the teacher, if there is one, and on labels alone."""
    kinds = [False, True] if config.teacher or config.teacher_file else [True]
    return [SettingStudy(folder, config, storage, lease, reporter, labels_only) for labels_only in kinds]


def _make_distribution(space: Space) -> BaseDistribution:
    if not isinstance(space, SearchRange):
        return CategoricalDistribution(space)
    if space.whole:
        step = int(space.step or 1)
        return IntDistribution(int(space.low), int(space.high), log=space.log, step=step)
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _round(value: Any, space: Space) -> Any:
    """Return a suggested number with few digits, and still within its range; anything else as it is."""
    if not isinstance(space, SearchRange) or space.whole:
        return value
    return min(space.high, max(space.low, float(f"{value:.{DIGITS}g}")))


def _hash(values: Mapping[str, Any], labels_only: bool) -> str:
    text = json.dumps([values, labels_only], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
