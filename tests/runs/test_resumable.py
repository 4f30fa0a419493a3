"""A file that grows part by part: what is finished outlives a kill, and nothing is lost or written twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Notes
from filelock import FileLock

from distilkit.errors import UserError
from distilkit.runs.resumable import JOURNAL, LOCK, ResumableFile, open_resumable, parts_folder

IDENTITY: dict[str, Any] = {"model": "a", "resumable": True}


class Kill(BaseException):
    """Stands for a process that ends in between."""


def write(output: Path, parts: range, *, stop: int | None = None, **options: Any) -> None:
    """Write the parts that are not there yet, and finish; be killed before the part `stop`."""
    options = {"identity": IDENTITY, "resume": False, "overwrite": False} | options
    with open_resumable(output, options.pop("identity"), Notes(), **options) as file:
        for i in parts[file.state.get("parts", 0) :]:
            if i == stop:
                raise Kill
            file.append(f"part {i}\n".encode(), {"parts": i + 1})
        file.finish()


def expected(count: int) -> str:
    return "".join(f"part {i}\n" for i in range(count))


def test_a_file_is_there_when_it_is_complete_and_its_parts_are_gone(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out.txt"
    write(output, range(3))
    assert output.read_text() == expected(3) and list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_file_is_gone_on_with(tmp_path: Path, stop: int) -> None:
    output = tmp_path / "out.txt"
    with pytest.raises(Kill):
        write(output, range(4), stop=stop)
    assert not output.exists()
    write(output, range(4), resume=True)
    assert output.read_text() == expected(4) and list(tmp_path.iterdir()) == [output]


def test_nothing_is_left_where_no_part_was_finished(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.txt"
    with pytest.raises(Kill):
        write(output, range(4), stop=0)
    assert list(tmp_path.iterdir()) == []


def test_parts_are_kept_with_a_word_unless_they_cannot_be_gone_on_with(tmp_path: Path) -> None:
    output, notes = tmp_path / "out.txt", Notes()
    for resumable in (False, True):
        identity = {"resumable": resumable}
        with (
            pytest.raises(Kill),
            open_resumable(output, identity, notes, resume=False, overwrite=False) as file,
        ):
            file.append(b"a", {})
            raise Kill
        assert parts_folder(output).exists() is resumable
        assert len(notes.notes) == resumable
    assert "--resume" in notes.notes[0] and str(parts_folder(output)) in notes.notes[0]


@pytest.mark.parametrize("torn", [b'{"bytes": 7, "sta', b'{"bytes"', b"\n{"])
def test_what_a_kill_left_half_written_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    """The content may be longer than the journal says, and the journal's last line torn."""
    output = tmp_path / "out.txt"
    with pytest.raises(Kill):
        write(output, range(4), stop=2)
    parts = parts_folder(output)
    with (parts / "content").open("ab") as stream:
        stream.write(b"par")
    with (parts / JOURNAL).open("ab") as stream:
        stream.write(torn)
    write(output, range(4), resume=True)
    assert output.read_text() == expected(4)


@pytest.mark.parametrize("moment", ["before the move", "after the move", "converted", "content left"])
def test_a_kill_while_the_file_is_finished_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    output = tmp_path / "out.txt"
    converts = moment in ("converted", "content left")

    def convert(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes().upper())
        if moment == "converted" and not resumed:
            raise Kill

    replace, unlink = Path.replace, Path.unlink

    def killed_replace(self: Path, target: Any) -> Any:
        if moment == "after the move":
            replace(self, target)
        if self.name == "content":
            raise Kill
        return replace(self, target)

    def killed_unlink(self: Path, missing_ok: bool = False) -> None:
        if self.name == "content":
            raise Kill
        unlink(self, missing_ok)

    resumed = False
    with (
        pytest.raises(Kill),
        monkeypatch.context() as patch,
        open_resumable(output, IDENTITY, Notes(), resume=False, overwrite=False) as file,
    ):
        file.append(b"all", {"parts": 1})
        if moment == "content left":
            patch.setattr(Path, "unlink", killed_unlink)
        elif not converts:
            patch.setattr(Path, "replace", killed_replace)
        file.finish(convert if converts else None)
    resumed = True
    with open_resumable(output, IDENTITY, Notes(), resume=True, overwrite=False) as file:
        assert file.is_complete and file.state == {"parts": 1}
        file.finish(convert if converts else None)
    assert output.read_bytes() == (b"ALL" if converts else b"all") and list(tmp_path.iterdir()) == [output]


def test_parts_of_another_command_are_not_mixed_in(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    with pytest.raises(Kill):
        write(output, range(4), stop=2)
    with pytest.raises(UserError, match=r"another command: it differs in model.*--overwrite"):
        write(output, range(4), identity=IDENTITY | {"model": "b"}, resume=True)
    with pytest.raises(UserError, match=r"Go on with --resume, or drop them with --overwrite"):
        write(output, range(4))
    write(output, range(9, 11), identity=IDENTITY | {"model": "b"}, resume=True, overwrite=True)
    assert output.read_text() == "part 9\npart 10\n"


def test_a_file_that_is_there_is_replaced_only_when_that_is_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    output.write_text("old")
    with pytest.raises(UserError, match=r"there already.*--overwrite"):
        write(output, range(2))
    assert list(tmp_path.iterdir()) == [output]
    with pytest.raises(Kill):
        write(output, range(2), stop=1, overwrite=True)
    assert output.read_text() == "old"
    write(output, range(2), resume=True, overwrite=True)
    assert output.read_text() == expected(2)


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    parts = parts_folder(tmp_path / "out.txt")
    parts.mkdir()
    (parts / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no finished rows"):
        write(tmp_path / "out.txt", range(2), overwrite=True)
    assert (parts / "thesis.txt").read_text() == "mine"


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    parts = parts_folder(tmp_path / "out.txt")
    parts.mkdir()
    with FileLock(parts / LOCK), pytest.raises(UserError, match="another process is writing it"):
        write(tmp_path / "out.txt", range(2))


def test_every_part_is_in_the_journal_as_it_is_written(tmp_path: Path) -> None:
    with open_resumable(tmp_path / "o", IDENTITY, Notes(), resume=False, overwrite=False) as file:
        assert isinstance(file, ResumableFile)
        for i in range(3):
            file.append(b"ab", {"i": i})
            lines = (parts_folder(tmp_path / "o") / JOURNAL).read_text().splitlines()
            assert json.loads(lines[-1]) == {"bytes": 2 * i + 2, "state": {"i": i}} and len(lines) == i + 1
        file.finish()
