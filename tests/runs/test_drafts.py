"""What killed processes leave beside a run is removed or finished, and never what a living one writes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distilkit.errors import UserError
from distilkit.runs import drafts
from distilkit.runs.drafts import COMPLETE, KEPT, REPLACED, open_draft, settle_leftovers
from distilkit.runs.folder import replacing, write_text, writing_folder

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from distilkit.runs import folder
rename, left = Path.rename, int(sys.argv[2])
def counted(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = counted
with folder.writing_folder(Path(sys.argv[1]), "-o", "run", lambda: None) as draft:
    (draft / "mark").write_text("new")
"""


def write(folder: Path, mark: str) -> None:
    with writing_folder(folder, "-o", "run", lambda: None) as draft:
        (draft / "mark").write_text(mark)


def kill_writer(folder: Path, renames: int) -> None:
    """Write `folder` in another process that is killed after so many renames."""
    command = [sys.executable, "-c", KILLED_WRITER, str(folder), str(renames)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL


def test_the_next_run_removes_what_a_killed_one_left_of_the_same_folder(tmp_path: Path) -> None:
    """Drafts of hours of training would fill the disk, and nobody sees hidden folders."""
    kill_writer(tmp_path / "run", renames=0)
    assert len(os.listdir(tmp_path)) == 1
    settle_leftovers(tmp_path / "run-2")
    assert len(os.listdir(tmp_path)) == 1, "a draft of another run"
    settle_leftovers(tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_of_two_writers_the_last_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One moves in between the two renames of the other, which would end with an error of the system."""
    write(tmp_path / "run", "old")
    rename = Path.rename

    def rename_late(path: Path, target: Path) -> Path:
        if target == tmp_path / "run":
            monkeypatch.setattr(Path, "rename", rename)
            write(target, "of another writer")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    write(tmp_path / "run", "last")
    assert (tmp_path / "run" / "mark").read_text() == "last"
    assert os.listdir(tmp_path) == ["run"]


def test_a_draft_of_a_living_process_stays(tmp_path: Path) -> None:
    with open_draft(tmp_path / "run", is_folder=True) as draft:
        (draft.path / "mark").write_text("half")
        settle_leftovers(tmp_path / "run")
        assert (draft.path / "mark").read_text() == "half"
    settle_leftovers(tmp_path / "run")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_between_the_renames_leaves_what_the_next_run_finishes(renames: int, tmp_path: Path) -> None:
    """With `--overwrite` the old run had a hidden name and the new one too: both looked lost."""
    write(tmp_path / "run", "old")
    kill_writer(tmp_path / "run", renames)
    settle_leftovers(tmp_path / "run")
    if renames == 2:  # the old one was moved away
        assert (tmp_path / "run" / "mark").read_text() == "new"
        assert os.listdir(tmp_path) == ["run"]
    else:
        assert (tmp_path / "run" / "mark").read_text() == "old"


def test_a_kill_before_the_first_move_in_is_finished_too(tmp_path: Path) -> None:
    kill_writer(tmp_path / "run", renames=1)
    settle_leftovers(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
    assert (tmp_path / "run" / "mark").read_text() == "new"


def test_what_was_replaced_is_removed_once_the_new_one_is_in_its_place(tmp_path: Path) -> None:
    """A kill while the old folder is deleted leaves half of it."""
    write(tmp_path / "run", "new")
    with open_draft(tmp_path / "run", is_folder=True) as draft:
        draft.rename(REPLACED)
    settle_leftovers(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]


def test_what_the_user_was_told_of_is_never_removed(tmp_path: Path) -> None:
    write(tmp_path / "run", "old")
    for suffix in (KEPT, COMPLETE):
        with open_draft(tmp_path / "run", is_folder=True) as draft:
            draft.rename(suffix)
    settle_leftovers(tmp_path / "run")
    assert len(os.listdir(tmp_path)) == 3


def test_names_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    """A draft whose name is longer than the run's fails when the teacher has read everything."""
    for name in ("x" * 255, "長" * 85, "é" * 127):
        write(tmp_path / name, "new")
        write_text(tmp_path / f"{name[:-5]}.json", "{}")
    assert len(os.listdir(tmp_path)) == 6


def test_a_file_that_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    with open_draft(tmp_path / "summary.md", is_folder=False) as draft:
        pass
    assert draft.path.exists()
    write_text(tmp_path / "summary.md", "new")
    assert os.listdir(tmp_path) == ["summary.md"]


def test_a_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as draft:
            draft.write_bytes(b"x")
        write(tmp_path / "folder", "new")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_draft_that_was_taken_for_a_dead_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock another process may remove it."""
    calls = []

    def take(descriptor: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            (path,) = tmp_path.iterdir()
            path.rmdir()

    monkeypatch.setattr(drafts.fcntl, "flock", take)
    with open_draft(tmp_path / "run", is_folder=True) as draft:
        assert draft.path.is_dir()
    assert len(calls) == 2


def test_without_locks_nothing_is_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no locks: a living process there cannot be told from a dead one."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(drafts.fcntl, "flock", refuse)
    with open_draft(tmp_path / "run", is_folder=True) as draft:
        settle_leftovers(tmp_path / "run")
        assert draft.path.is_dir()


def test_a_folder_that_vanishes_while_it_is_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"-o .*run: No such file or directory\. Nothing was kept"),
        writing_folder(tmp_path / "run", "-o", "run", lambda: None) as draft,
    ):
        draft.rmdir()
        (draft / "mark").write_text("new")
