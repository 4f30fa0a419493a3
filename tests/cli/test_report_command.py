"""`distilkit report` prints the page, the JSON, and what to type after a mistake."""

import json
from pathlib import Path

import pytest
from conftest import Call

from distilkit.reports import plots
from distilkit.runs.run import Run


@pytest.fixture(autouse=True)
def _no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "raster", lambda figure: b"")


def test_it_prints_the_path_of_the_page(
    console: Call, teacher_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = console("report", str(teacher_run.path))
    assert (answer.code, answer.out) == (0, "report/index.html: 1 run, 4 pictures\n")
    assert Path("report/index.html").is_file()
    answer = console("report", str(teacher_run.path), "--quiet")  # an earlier report is replaced
    assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_the_json_has_the_histories_and_the_written_files(
    console: Call, teacher_run: Run, tmp_path: Path
) -> None:
    answer = console("report", str(teacher_run.path), "-o", str(tmp_path / "out"), "--json")
    assert answer.code == 0
    document = json.loads(answer.out)
    assert list(document) == ["schema", "runs", "path", "pictures"]
    assert document["runs"][0]["history"] == teacher_run.history
    assert all(Path(file).is_file() for file in (document["path"], *document["pictures"]))


def test_mistakes_exit_with_2_and_say_what_to_type(console: Call, tmp_path: Path) -> None:
    answer = console("report")
    assert answer.code == 2 and "distilkit report runs/teacher runs/student" in answer.err
    answer = console("report", str(tmp_path), "-o", str(tmp_path / "out"))
    assert answer.code == 2 and "is not a run" in answer.err
    assert not (tmp_path / "out").exists()
