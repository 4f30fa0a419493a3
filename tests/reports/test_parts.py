"""A report never replaces other files, and names in plots are short and distinct."""

from pathlib import Path

import pytest

from distilkit import UserError
from distilkit.reports.parts import check_report_dir, short_names


@pytest.mark.parametrize("there", ["notes.txt", "index.html", "plots"])
def test_a_folder_without_a_report_is_refused(there: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    check_report_dir(folder)
    (folder / there).mkdir() if there == "plots" else (folder / there).write_text("<html>mine</html>")
    with pytest.raises(UserError, match=r"--report .* is not empty and holds no report"):
        check_report_dir(folder)
    with pytest.raises(UserError, match=r"-o .* holds no report"):
        check_report_dir(folder, "-o")


def test_a_file_is_refused_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"--report .* is a file"):
        check_report_dir(tmp_path / "a")


def test_short_names_are_distinct() -> None:
    assert short_names(["runs/a"]) == ["a"]
    assert short_names(["runs/a/", "b/c"]) == ["1 a", "2 c"]
    assert short_names(["x/model", "y/model"]) == ["1 x/model", "2 y/model"]
    assert short_names(["same", "same"]) == ["1 same", "2 same"]
    assert len(short_names(["http://127.0.0.1/" + "x" * 90])[0]) <= 40
