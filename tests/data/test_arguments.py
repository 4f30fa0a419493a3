"""Arguments of `predict`: a text that is taken for a file, or a file for a text, gives a wrong answer."""

import io
import sys
from pathlib import Path

import pytest

from distilkit.data.arguments import check_stdin, find_files
from distilkit.errors import UserError


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text\nx\n")
    Path("b.txt.gz").write_bytes(b"")
    Path("sheet.xlsx").write_bytes(b"")
    Path("folder").mkdir()


@pytest.mark.parametrize(
    "texts",
    [
        ["a great film"],
        ["great"],
        ["I like a.csv"],
        ["node.js is great .json"],
        ["and/or"],
        ["x" * 5000],
        ["a\nb"],
        ["3.5"],
        ["great."],
    ],
    ids=lambda texts: texts[0][:12],
)
def test_texts_are_texts(texts: list[str]) -> None:
    assert find_files(texts) == []


def test_files_are_files() -> None:
    assert find_files(["a.csv", "b.txt.gz"]) == [Path("a.csv"), Path("b.txt.gz")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["b.csv"], "b.csv: there is no such file. Did you mean a.csv?"),
        (["reviews.jsonl"], "reviews.jsonl: there is no such file. If it is a text, pipe it to stdin."),
        (["folder"], "folder is a folder. Give its files"),
        (["sheet.xlsx"], "sheet.xlsx: its ending must be one of .txt, .parquet"),
        (["a.csv", "a great film"], "a.csv is a file and 'a great film' is a text. Give texts or files"),
    ],
)
def test_what_is_neither_or_both_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        find_files(arguments)
    assert str(error.value).startswith(message)


def test_a_terminal_or_no_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that waits for a person to type looks as if it hung."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stdin in (Terminal(), None):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UserError, match="there are no texts"):
            check_stdin()
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n"))
    check_stdin()
