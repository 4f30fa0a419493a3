"""What is printed: nothing that a name holds steers the terminal, and no result is lost to a bad stdout."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from distilkit import ConsoleReporter
from distilkit.cli import output as module
from distilkit.cli.output import Output, VisibleConsole, make_visible
from distilkit.errors import UserError

NASTY = "\x1b[31mred\x1b[0m \x9b5m [/] [bold] :warning: \x07 \u202egnp.exe \ud83d"
SHOWN = r"\x1b[31mred\x1b[0m \x9b5m [/] [bold] :warning: \x07 \u202egnp.exe \ud83d"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def open_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr(sys, "stderr", made)
    return made


def test_line_breaks_and_tabs_are_no_control_characters_here() -> None:
    assert make_visible("a\n\tb é 長") == "a\n\tb é 長"


@pytest.mark.parametrize("how", ["note", "progress", "text", "cell", "title", "error"])
def test_a_name_is_printed_as_it_is_spelt(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label or path with an escape sequence could clear the screen, or raise `MarkupError`."""
    screen = open_screen(monkeypatch)
    output = Output()
    if how == "note":
        output.note(NASTY)
    elif how == "progress":
        with output:
            output.advance(NASTY, 1, 2, NASTY)
            assert output._progress is not None
            output._progress.refresh()
    elif how == "text":
        output.result({}, NASTY)
    elif how == "error":
        module.error(NASTY)
    else:
        table = Table(title=module.escape(NASTY) if how == "title" else None)
        table.add_column("name")
        table.add_row(NASTY if how == "cell" else "x" * 200)
        output.result({}, table)
    assert SHOWN in screen.getvalue()


def test_progress_without_a_terminal_is_spelt_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "PLAIN_SECONDS", -1.0)
    Output().advance(NASTY, 1, 2)
    assert SHOWN in stream.getvalue()


class Full(io.StringIO):
    """A stream of a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("stdout", [None, Full()], ids=["closed", "full"])
def test_a_result_that_stdout_refuses_is_printed_on_stderr(
    stdout: Any, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of work ended in a traceback, and the figures were nowhere."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(UserError, match=r"stdout cannot be written \((it is closed|No space left)"):
        Output(as_json=as_json).result({"accuracy": 0.75}, "accuracy 0.75")
    shown = stderr.getvalue()
    assert json.loads(shown) == {"accuracy": 0.75} if as_json else shown == "accuracy 0.75\n"


def test_notes_that_stderr_refuses_do_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    output = Output()
    output.note("an epoch")
    output.advance("train", 1, 2)
    module.error("a mistake")


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "é"), ("ascii", "長"), ("latin-1", "😀\ud83d")])
def test_what_an_encoding_lacks_is_escaped(encoding: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`PYTHONIOENCODING=latin-1` lost the answer in a UnicodeEncodeError; JSON must stay JSON."""
    for as_json in (True, False):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        module.escape_unencodable()
        Output(as_json=as_json).result({"label": text}, text)
        sys.stdout.flush()
        shown = raw.getvalue().decode(encoding)
        if as_json:
            assert json.loads(shown) == {"label": text}
        else:
            assert shown.strip() in (
                text,
                make_visible(text).encode(encoding, "backslashreplace").decode(encoding),
            )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["cache", "path"]])
def test_a_full_stdout_is_one_line_and_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distilkit", *arguments]
    with open("/dev/full", "w") as full:
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr and "Exception ignored" not in answer.stderr
    assert answer.stderr.count("error: ") == 1
    assert "stdout" in answer.stderr and "No space left on device" in answer.stderr


def test_a_closed_stdout_is_one_line_and_exit_code_2() -> None:
    script = f"exec {sys.executable} -m distilkit cache path >&-"
    answer = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, text=True, timeout=60)
    assert answer.returncode == 2
    assert "error: stdout cannot be written (it is closed)" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_markup_of_our_own_is_still_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    VisibleConsole(stderr=True, force_terminal=True, color_system="standard").print("[bold red]error:[/]")
    assert "\x1b[1;31merror:" in screen.getvalue()


def test_the_console_reporter_prints_notes_warnings_and_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python users get what the command line prints; stdout stays theirs."""
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    with ConsoleReporter() as console:
        console.note("data: [reviews], 16 rows")
        console.warn("the teacher guesses")
        console.advance("train", 1, 2, "loss 0.5")
        console.advance("train", 2, 2)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "data: [reviews], 16 rows",
        "warning: the teacher guesses",
        "train: 1/2 loss 0.5",
    ]


def test_quiet_prints_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(quiet=True) as console:
        console.warn("the teacher guesses")
        console.advance("train", 1, 2)
    assert capsys.readouterr() == ("", "")
