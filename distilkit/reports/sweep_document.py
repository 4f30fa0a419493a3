"""Define the sweep document, schema distilkit.sweep/1: `sweep report --json` prints it, the report keeps it.

Scores and differences are in the units of the metric, intervals are `[low, high]` or null.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

from pydantic import Field

from distilkit.runs.records import Record

SCHEMA: Final = "distilkit.sweep/1"
LABELS_ALONE = "labels alone"
Ends = tuple[float, float]


class SweepRunEntry(Record):
    """Hold a finished cell.

    Attributes:
        setting: the swept options without the seed; those that do not apply are missing.
        score: the metric on validation at the best epoch.
        labels_only: whether alpha is 1, so that no teacher has a part in it.
        latency_p50_ms: median of single rows; measured where the sweep compares students, once for each.
    """

    cell: str
    folder: str
    setting: dict[str, Any]
    seed: int
    score: float
    validation: dict[str, float]
    labels_only: bool
    parameters: int
    parameters_without_embeddings: int
    bytes: int
    best_epoch: int
    steps: int
    seconds: float
    start: str
    end: str
    student: str
    formula: str
    latency_p50_ms: float | None = None


class FailureEntry(Record):
    """Hold a cell that failed, and how often it was tried."""

    cell: str
    setting: dict[str, Any]
    seed: int
    error: str
    attempts: int


class TeacherEntry(Record):
    """Hold the teacher's score on the same validation rows."""

    name: str
    score: float
    validation: dict[str, float]


class DifferenceEntry(Record):
    """Compare a setting with its reference on the seeds that both have.

    Attributes:
        reference: name of the setting that it is compared with.
        value: mean of the paired differences, the setting's score less the reference's.
        interval: t interval over the seeds; `None` with a single one.
        p_adjusted: the p value after Holm's correction over the settings.
        rows_interval: bootstrap interval of the difference in accuracy, over seeds and validation rows.
        rows_p_adjusted: p value of that difference, after Holm's correction.
        different: whether the settings are told apart.
        on_these_rows: whether they would be, if other validation rows could not turn the difference around.
        differs_in: options other than alpha in which the two differ.
    """

    reference: str
    seeds: list[int]
    value: float
    interval: Ends | None
    p_value: float | None
    p_adjusted: float | None
    rows_interval: Ends | None
    rows_p_adjusted: float | None
    different: bool
    on_these_rows: bool
    differs_in: list[str]


class SettingEntry(Record):
    """Hold a setting: its runs over the seeds.

    Attributes:
        interval: t interval of the mean; `None` with a single seed.
        pruned: whether it was ended early, and is left out of the statistics.
        tied: whether it cannot be told from the best setting, or is the best.
        steps, seconds: means over the runs.
    """

    name: str
    setting: dict[str, Any]
    labels_only: bool
    seeds: list[int]
    mean: float
    interval: Ends | None
    pruned: bool
    tied: bool
    steps: float
    seconds: float
    difference: DifferenceEntry | None

    @property
    def key(self) -> str:
        """Return what tells it from all others."""
        return setting_key(self.setting, self.labels_only)


class FinalScore(Record):
    """Hold the test score of the setting that is best on validation.

    Attributes:
        scores: by seed, of the runs that validation chose.
        interval: t interval of the mean over the seeds; `None` with a single one.
    """

    setting: str
    rows: int
    scores: dict[int, float]
    mean: float
    interval: Ends | None


class SweepDescription(Record):
    """Say what was swept.

    Attributes:
        rows: how many rows the validation split has.
        metric: what picks the epoch, on validation.
        swept: options with more than one value, without the seed.
        searched: whether a search chose the settings, not a grid.
    """

    name: str
    dataset: str
    rows: int
    metric: str
    higher_is_better: bool
    swept: list[str]
    searched: bool = False


class SweepDocument(SweepDescription):
    """Hold a sweep and what it says.

    Attributes:
        missing: cells that have not run.
        best: name of the setting with the best mean on validation.
        compared_with: what differences are counted from: labels alone, or the best setting.
        confidence: of all intervals.
        replicates: bootstrap samples behind each `rows_interval`.
        spread: standard deviation of paired differences, pooled over the settings.
        seeds_for_point: how many seeds would tell a difference of 0.01; `None` where that is not known or
            more than `seeds_limit`.
        verdict: sentences, the most important first.
    """

    schema_version: Literal["distilkit.sweep/1"] = Field(
        default=SCHEMA, validation_alias="schema", serialization_alias="schema"
    )
    runs: list[SweepRunEntry]
    failures: list[FailureEntry]
    missing: int
    teacher: TeacherEntry | None
    settings: list[SettingEntry]
    best: str | None
    compared_with: Literal["labels_only", "best"]
    confidence: float
    replicates: int
    spread: float | None
    seeds_for_point: int | None
    seeds_limit: int
    verdict: list[str]
    test: FinalScore | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document, the schema first."""
        values = self.model_dump(mode="json", by_alias=True)
        return {"schema": values.pop("schema"), **values}

    @cached_property
    def settings_by_key(self) -> dict[str, SettingEntry]:
        """Return the settings by `key`."""
        return {entry.key: entry for entry in self.settings}

    @cached_property
    def settings_by_name(self) -> dict[str, SettingEntry]:
        """Return the settings by name."""
        return {entry.name: entry for entry in self.settings}

    def setting_of(self, run: SweepRunEntry) -> SettingEntry:
        """Return the setting that a run belongs to."""
        return self.settings_by_key[setting_key(run.setting, run.labels_only)]

    def entry(self, name: str) -> SettingEntry:
        """Return a setting by its name."""
        return self.settings_by_name[name]


def setting_key(setting: Mapping[str, Any], labels_only: bool) -> str:
    """Return a text that is equal for equal settings."""
    return repr((sorted((name, _plain(value)) for name, value in setting.items()), labels_only))


def _plain(value: object) -> str:
    """Return equal texts for 1 and 1.0, and for a tuple and the list that JSON makes of it."""
    if isinstance(value, list | tuple):
        return str([_plain(item) for item in value])
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(float(value)) if is_number else repr(value)  # type: ignore[arg-type]


def name_setting(setting: Mapping[str, Any], labels_only: bool, swept: Sequence[str]) -> str:
    """Return a setting's name, such as `alpha 0.25, student bilstm`."""
    order = [*(name for name in swept if name in setting), *(name for name in setting if name not in swept)]
    parts = [f"{name_option(name)} {name_value(setting[name])}" for name in order]
    if labels_only and "alpha" not in setting:
        parts.append(LABELS_ALONE)
    return ", ".join(parts) or "the setting"


def name_option(option: str) -> str:
    """Return the name of an option as words."""
    return option.replace("_", " ")


def name_value(value: object) -> str:
    """Return a value of an option as short text; of a path the last part."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple):
        return "+".join(map(name_value, value)) or "none"
    text = " ".join(str(value).split())
    return text.rstrip("/").rsplit("/", 1)[-1] or text
