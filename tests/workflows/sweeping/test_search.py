"""A search: each setting on the same seeds, as many on labels alone, and nothing lost with a process."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Notes

from distilkit import UserError
from distilkit.workflows.sweeping import search
from distilkit.workflows.sweeping.folder import SettingRecord, SweepFolder
from distilkit.workflows.sweeping.planning import plan_sweep
from distilkit.workflows.sweeping.workflow import sweep

MakeSweep = Any
# TPE's first three rates are one that learns and two that do not.
SEARCH = {"search": {"alpha": "0..0.9", "learning_rate": "1e-9..1e-1 log"}, "seed": "1..5", "epochs": 6}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are tried one after the other, so that the second can be held against the first."""
    monkeypatch.setattr(search, "TOGETHER", 1)


def settings_of(folder: Path) -> dict[str, SettingRecord]:
    return {record.id: record for record in SweepFolder.load(folder).settings()}


@pytest.fixture(scope="module")
def whole_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs it puts an uninterrupted search."""
    return tmp_path_factory.mktemp("search") / "whole"


def run_whole(make_sweep: MakeSweep, folder: Path) -> Path:
    if not folder.exists():
        sweep(make_sweep(**SEARCH, trials=3, output_dir=folder))
    return folder


def test_both_kinds_of_settings_get_as_many_trials_and_the_same_seeds(
    make_sweep: MakeSweep, whole_search: Path
) -> None:
    settings = settings_of(run_whole(make_sweep, whole_search)).values()
    assert [setting.labels_only for setting in settings].count(True) == 3 == len(settings) / 2
    for setting in settings:
        seeds = list(setting.scores)
        assert seeds == [1, 2, 3, 4, 5] if setting.state == "complete" else seeds == [1, 2, 3, 4]
        assert ("alpha" in setting.values) is not setting.labels_only
    assert {setting.state for setting in settings} == {"complete", "pruned"}


def test_pruned_settings_are_in_no_statistic_and_the_reference_is_the_best_on_labels_alone(
    make_sweep: MakeSweep, whole_search: Path
) -> None:
    folder = run_whole(make_sweep, whole_search)
    document = sweep(make_sweep(**SEARCH, trials=3, output_dir=folder)).typed_document
    pruned = [entry for entry in document.settings if entry.pruned]
    assert pruned and all(entry.interval is None and entry.difference is None for entry in pruned)
    assert len(pruned) == sum(setting.state == "pruned" for setting in settings_of(folder).values())
    labels_only = [entry for entry in document.settings if entry.labels_only and not entry.pruned]
    best = max(labels_only, key=lambda entry: entry.mean).name
    assert {entry.difference.reference for entry in document.settings if entry.difference} == {best}
    assert any("with the best of 3 settings on labels alone" in sentence for sentence in document.verdict)


def test_an_interrupted_search_goes_on_to_the_same_settings(
    make_sweep: MakeSweep, whole_search: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stopped"
    judge, calls = search.SettingStudy.judge, [0]

    def stop(*arguments: Any) -> None:
        judge(*arguments)
        calls[0] += 1
        if calls[0] in (3, 15):
            raise KeyboardInterrupt

    monkeypatch.setattr(search.SettingStudy, "judge", stop)
    config = make_sweep(**SEARCH, trials=3, output_dir=folder)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep(config)
    sweep(config)
    assert settings_of(folder) == settings_of(run_whole(make_sweep, whole_search))


def test_a_lost_queue_is_made_again_and_more_trials_extend_a_search(
    make_sweep: MakeSweep, whole_search: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was tried counts as tried, and TPE learns from it."""
    folder = tmp_path / "lost"
    shutil.copytree(run_whole(make_sweep, whole_search), folder)
    for name in ("queue.log", "study.json"):
        (folder / name).unlink()
    before = settings_of(folder)
    begun: list[bool] = []
    begin = search.SettingStudy._begin

    def counted(study: search.SettingStudy, trial: Any) -> Any:
        begun.append(study.labels_only)
        return begin(study, trial)

    monkeypatch.setattr(search.SettingStudy, "_begin", counted)
    sweep(make_sweep(**SEARCH, trials=3, output_dir=folder))
    assert not begun and settings_of(folder) == before
    sweep(make_sweep(**SEARCH, trials=4, output_dir=folder), notes := Notes())
    assert sorted(begun) == [False, True] and len(settings_of(folder)) == 8
    assert any("(4 of 4 settings)" in note for note in notes.notes)


def test_what_does_not_go_together_is_reported_and_the_search_goes_on(make_sweep: MakeSweep) -> None:
    """Hidden states of 4 are a BiLSTM's: another student cannot have them."""
    config = make_sweep(search={"student": ["bilstm", "tinybert"]}, alpha=0.5, trials=4, seed=1)
    sweep(config, notes := Notes())
    states = {setting.values["student"]: setting.state for setting in settings_of(config.output_dir).values()}
    assert states == {"bilstm": "complete", "tinybert": "failed"}
    assert any("student tinybert was not tried: " in note for note in notes.notes)


def test_without_anything_to_search_on_labels_alone_a_single_setting_is_tried(make_sweep: MakeSweep) -> None:
    config = make_sweep(search={"alpha": [0, 0.5]}, trials=2, seed="1..2")
    assert "2 settings, and 1 on labels alone: alpha 0, 0.5; seed 1, 2" in plan_sweep(config).text()
    assert not config.output_dir.exists()
    sweep(config)
    assert sum(setting.labels_only for setting in settings_of(config.output_dir).values()) == 1


def test_two_processes_share_a_search(make_sweep: MakeSweep) -> None:
    config = make_sweep(**SEARCH | {"seed": "1..2"}, trials=2, jobs=2)
    sweep(config)
    settings = settings_of(config.output_dir).values()
    assert [setting.state for setting in settings] == ["complete"] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": {"alpha": "0..0.5"}}, "is another search. Name another folder"),
        ({"seed": "1..3"}, r"scored on the seeds 1 and 2|scored on the seeds 1, 2"),
        ({"search": {}, "alpha": [0, 0.5]}, "is a search. Name another folder"),
        ({"epochs": 3}, r"epochs 2 \(now 3\)"),
    ],
)
def test_another_search_is_not_mixed_in(make_sweep: MakeSweep, options: dict[str, Any], message: str) -> None:
    config = make_sweep(search={"alpha": [0, 0.5]}, trials=1, seed="1..2")
    sweep(config)
    with pytest.raises(UserError, match=message):
        sweep(make_sweep(**{"search": {"alpha": [0, 0.5]}, "seed": "1..2"} | options))
