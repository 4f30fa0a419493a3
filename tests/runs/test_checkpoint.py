"""Checkpoints are neither overlooked nor dropped before any work begins."""

from pathlib import Path
from typing import Any

import pytest

from distilkit.config import DistillConfig
from distilkit.errors import UserError
from distilkit.runs import checkpoint
from distilkit.runs.checkpoint import check_outputs, checkpoint_folder, find_checkpoint, is_finished


def config(folder: Path, name: str = "run", **options: Any) -> DistillConfig:
    return DistillConfig(dataset="sst2", alpha=1, output_dir=folder / name, **options)


def make_checkpoint(folder: Path, *names: str, run: str = "run") -> None:
    for name in names:
        (folder / f"{run}.checkpoint" / name).mkdir(parents=True)


def make_run(folder: Path) -> None:
    (folder / "model").mkdir(parents=True)
    (folder / "config.yaml").write_text("")


def test_the_last_whole_checkpoint_counts(tmp_path: Path) -> None:
    """By name 10 comes before 9, and a kill leaves what is unfinished."""
    assert find_checkpoint(tmp_path / "run") is None
    make_checkpoint(tmp_path, "9", "10", "11.unfinished", ".lock")
    assert find_checkpoint(tmp_path / "run") == tmp_path / "run.checkpoint" / "10"
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert checkpoint_folder(tmp_path / "link") == tmp_path / "run.checkpoint"


def test_resume_needs_a_checkpoint(tmp_path: Path) -> None:
    """Training from the beginning would silently take as long as before."""
    with pytest.raises(UserError, match=r"run\.checkpoint holds no checkpoint\. Leave --resume out"):
        check_outputs([config(tmp_path, resume=True)])
    make_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"The run in .*run is complete"):
        check_outputs([config(tmp_path, resume=True)])


def test_a_checkpoint_is_not_dropped_unasked(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "1")
    with pytest.raises(
        UserError, match=r"holds a checkpoint of a command that was stopped.*--resume.*--overwrite"
    ):
        check_outputs([config(tmp_path)])
    check_outputs([config(tmp_path, resume=True)])
    check_outputs([config(tmp_path, overwrite=True)])
    assert find_checkpoint(tmp_path / "run"), "the check drops nothing"


def test_of_several_students_some_may_have_no_checkpoint(tmp_path: Path) -> None:
    """When they are stopped, some wait for a core and have none yet, and others are complete."""
    make_checkpoint(tmp_path, "3", run="b")
    make_run(tmp_path / "a")
    configs = [config(tmp_path, name, resume=True) for name in "abc"]
    check_outputs(configs)
    assert [is_finished(config) for config in configs] == [True, False, False]
    assert not is_finished(config(tmp_path, "a"))
    with pytest.raises(UserError, match="not empty"):
        check_outputs([config(tmp_path, "a"), *configs[1:]])


@pytest.mark.parametrize(
    ("text", "steps", "seconds"), [("500", 500, None), ("10m", None, 600), ("0.5m", None, 30)]
)
def test_the_interval_is_steps_or_minutes(text: str, steps: int | None, seconds: float | None) -> None:
    made = config(Path("."), checkpoint_every=text)
    assert (made.checkpoint_steps, made.checkpoint_seconds) == (steps, seconds)
    assert config(Path("."), checkpoint_every=7).checkpoint_steps == 7
    assert checkpoint.checkpoint_folder(Path("x")).name == "x.checkpoint"


@pytest.mark.parametrize("text", ["0", "0m", "-5", "10s", "m", "1e3", "ten", "5.5", "0.0m"])
def test_another_interval_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"checkpoint_every .*500 for steps, or as 10m for minutes"):
        config(Path("."), checkpoint_every=text)


def test_without_an_interval_nothing_is_due() -> None:
    assert (config(Path(".")).checkpoint_steps, config(Path(".")).checkpoint_seconds) == (None, None)
