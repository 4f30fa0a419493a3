"""Make the document of a sweep from its finished runs."""

from collections.abc import Collection, Mapping, Sequence

from distilkit.reports.sweep_document import (
    DifferenceEntry,
    Ends,
    FailureEntry,
    SettingEntry,
    SweepDescription,
    SweepDocument,
    SweepRunEntry,
    TeacherEntry,
    name_setting,
    setting_key,
)
from distilkit.reports.sweep_verdict import write_verdict
from distilkit.scores.statistics import CONFIDENCE
from distilkit.scores.sweeps import (
    MAX_SEEDS,
    REPLICATES,
    PairedDifference,
    Rows,
    SettingComparison,
    SettingScores,
    compare_settings,
)


def make_document(
    description: SweepDescription,
    runs: Sequence[SweepRunEntry],
    *,
    failures: Sequence[FailureEntry] = (),
    missing: int = 0,
    teacher: TeacherEntry | None = None,
    pruned: Collection[str] = (),
    right: Mapping[str, Rows] | None = None,
) -> SweepDocument:
    """Compare the settings of a sweep, and say in words what that shows.

    Args:
        runs: the finished cells, in any order.
        missing: how many cells have not run, without those that failed.
        pruned: cells of the settings that were ended early.
        right: bool `[N]`, the validation rows that a run has right, by its cell; runs may be missing.
    """
    groups = _group_runs(runs, description.swept)
    if description.searched:  # values that TPE chose have no order that says anything
        sign = -1 if description.higher_is_better else 1
        groups.sort(key=lambda group: sign * sum(run.score for run in group) / len(group))
    scores = [
        SettingScores(
            values=group[0].setting,
            labels_only=group[0].labels_only,
            scores={run.seed: run.score for run in group},
            right={run.seed: right[run.cell] for run in group if run.cell in right} if right else {},
            pruned=any(run.cell in pruned for run in group),
        )
        for group in groups
    ]
    comparison = compare_settings(
        scores,
        higher_is_better=description.higher_is_better,
        # A loss comes in no steps; every other metric changes by about this much with one row.
        resolution=1 / description.rows if description.higher_is_better and description.rows else 0.0,
        by_rows=description.metric == "accuracy",
        searched=description.searched,
    )
    names = [name_setting(setting.values, setting.labels_only, description.swept) for setting in scores]
    settings = [
        _setting_entry(names, i, groups[i], scores[i], compared)
        for i, compared in enumerate(comparison.settings)
    ]
    document = SweepDocument(
        **description.model_dump(),
        runs=[run for group in groups for run in group],
        failures=list(failures),
        missing=missing,
        teacher=teacher,
        settings=settings,
        best=None if comparison.best is None else names[comparison.best],
        compared_with="labels_only" if comparison.from_labels_only else "best",
        confidence=CONFIDENCE,
        replicates=REPLICATES,
        spread=comparison.spread,
        seeds_for_point=comparison.seeds_for_point,
        seeds_limit=MAX_SEEDS,
        verdict=[],
    )
    return document.model_copy(update={"verdict": write_verdict(document)})


def _group_runs(runs: Sequence[SweepRunEntry], swept: Sequence[str]) -> list[list[SweepRunEntry]]:
    """Return the runs of each setting by seed; settings are in the order of their values."""
    groups: dict[str, list[SweepRunEntry]] = {}
    for run in runs:
        groups.setdefault(setting_key(run.setting, run.labels_only), []).append(run)

    def rank(group: list[SweepRunEntry]) -> list[tuple[bool, float, str]]:
        values = [group[0].setting.get(name) for name in swept]
        numeric = [isinstance(value, int | float) for value in values]
        parts = [
            (not is_number, float(value) if is_number and value is not None else 0.0, str(value))
            for value, is_number in zip(values, numeric, strict=True)
        ]
        return [*parts, (group[0].labels_only, 0.0, "")]

    return [sorted(group, key=lambda run: run.seed) for group in sorted(groups.values(), key=rank)]


def _setting_entry(
    names: Sequence[str],
    i: int,
    group: Sequence[SweepRunEntry],
    setting: SettingScores,
    compared: SettingComparison,
) -> SettingEntry:
    difference = None
    if compared.difference is not None and compared.reference is not None:
        difference = _difference_entry(names[compared.reference], compared, compared.difference)
    return SettingEntry(
        name=names[i],
        setting=dict(setting.values),
        labels_only=setting.labels_only,
        seeds=sorted(setting.scores),
        mean=setting.mean,
        interval=_ends(compared.score.low, compared.score.high),
        pruned=setting.pruned,
        tied=compared.tied,
        steps=sum(run.steps for run in group) / len(group),
        seconds=sum(run.seconds for run in group) / len(group),
        difference=difference,
    )


def _difference_entry(
    reference: str, compared: SettingComparison, difference: PairedDifference
) -> DifferenceEntry:
    return DifferenceEntry(
        reference=reference,
        seeds=list(difference.seeds),
        value=difference.value,
        interval=_ends(difference.low, difference.high),
        p_value=difference.p_value,
        p_adjusted=difference.p_adjusted,
        rows_interval=_ends(difference.rows_low, difference.rows_high),
        rows_p_adjusted=difference.rows_p_adjusted,
        different=difference.different,
        on_these_rows=difference.on_these_rows,
        differs_in=list(compared.differs_in),
    )


def _ends(low: float | None, high: float | None) -> Ends | None:
    return None if low is None or high is None else (low, high)
