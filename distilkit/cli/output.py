"""Everything a person or a script sees. The only module that prints, and the only one that knows rich."""

import errno
import io
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, RenderableType
from rich.markup import escape

from distilkit.errors import UserError
from distilkit.progress import Reporter
from distilkit.stopping import check_stop

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.text import Text

PLAIN_SECONDS = 30.0  # between progress lines when stderr is not a terminal


# Control characters but for line breaks and tabs, marks that turn the direction of text, and halves of
# characters, which no encoding can write.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def make_visible(text: str) -> str:
    """Return `text` with its control characters as escapes: names and labels must not steer a terminal."""
    return UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


class VisibleConsole(Console):
    """Print strings, also those in tables, as they are: no markup but our own, no emoji, no control codes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> "Text":
        """Return a text to print, its control characters made visible."""
        return super().render_str(make_visible(text), **options)

    def say(self, message: object, **options: Any) -> None:
        """Print what is not needed: where the stream is closed or full, the work goes on."""
        with suppress(OSError):
            self.print(message, **options)


class ConsoleReporter(Reporter):
    """Prints notes, warnings and progress on stderr.

    In a `with` block on a terminal, progress is a bar; elsewhere it is a line every 30 seconds.
    """

    def __init__(self) -> None:
        self._console = VisibleConsole(stderr=True, soft_wrap=True)
        self._progress: Progress | None = None
        self._bars: dict[str, Any] = {}
        self._last_printed: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # no help needs it

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None
            self._bars.clear()

    def note(self, message: str) -> None:
        """Print a line on stderr."""
        self._console.say(message, markup=False)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show progress: a bar on a terminal, plain lines when piped. Stop where that was asked for."""
        check_stop()
        if self._progress:
            task, detail = make_visible(task), make_visible(detail)
            if task not in self._bars:
                self._bars[task] = self._progress.add_task(task, total=total, detail=detail)
            self._progress.update(self._bars[task], completed=done, total=total or done, detail=detail)
            if 0 < total <= done:
                self._progress.remove_task(self._bars.pop(task))
        else:
            self._print_progress(task, done, total, detail)

    def _print_progress(self, task: str, done: int, total: int, detail: str) -> None:
        last = self._last_printed.setdefault(task, time.monotonic())
        if 0 < total <= done:
            del self._last_printed[task]
        elif time.monotonic() - last >= PLAIN_SECONDS:
            self._last_printed[task] = time.monotonic()
            of_total = f"/{total:,}" if total else ""
            self._console.say(f"{task}: {done:,}{of_total} {detail}".rstrip(), markup=False)


class Output(ConsoleReporter):
    """Notes and progress on stderr, the result on stdout: a table for people or one JSON document."""

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        super().__init__()
        self.quiet, self.as_json = quiet, as_json
        if quiet or not self._console.is_terminal:
            for library in ("HF_HUB", "HF_DATASETS"):  # their download bars, read when they are imported
                os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")

    def __enter__(self) -> Self:
        return self if self.quiet else super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, *error_parts: object) -> None:
        super().__exit__(kind, *error_parts)
        if kind is KeyboardInterrupt:  # Typer turns it into exit code 130, without a word
            error("interrupted; no result was written")

    def note(self, message: str) -> None:
        """Print a line on stderr, unless quiet."""
        if not self.quiet:
            super().note(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show progress, unless quiet. Stop where that was asked for."""
        if self.quiet:
            check_stop()
        else:
            super().advance(task, done, total, detail)

    def result(self, document: Mapping[str, Any], shown: RenderableType) -> None:
        """Print the result on stdout: `document` with `--json`, else what is `shown` unless quiet.

        Raises:
            UserError: when stdout is closed or full; the result is then on stderr.
        """
        if self.quiet and not self.as_json:
            return
        try:
            if sys.stdout is None:
                raise OSError(errno.EBADF, "it is closed")
            self._print_result(document, shown)
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # a reader such as `head` has seen enough
        except OSError as error:
            _drop_stdout()
            with suppress(OSError, AttributeError), redirect_stdout(sys.stderr):  # it may be closed too
                self._print_result(document, shown)
            raise UserError(
                f"stdout cannot be written ({error.strerror}), so the result is on stderr."
            ) from None

    def write_rows(self, text: str) -> None:
        """Write rows to stdout, also when quiet: they are what the command is for."""
        if sys.stdout is None:
            raise UserError("stdout is closed. Name a file with --output.")
        sys.stdout.write(text)
        sys.stdout.flush()

    def _print_result(self, document: Mapping[str, Any], shown: RenderableType) -> None:
        if self.as_json:
            text = json.dumps(document, indent=2, ensure_ascii=False)
            if not _can_encode(text, sys.stdout.encoding):
                text = json.dumps(document, indent=2)
            sys.stdout.write(text + "\n")
            return
        # When piped, as wide as the content needs, so that no cell is cut.
        console = VisibleConsole(width=None if sys.stdout.isatty() else 500)
        console.print(shown, markup=False, soft_wrap=isinstance(shown, str))


def _can_encode(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def escape_unencodable() -> None:
    """Write characters that a stream's encoding lacks as escapes, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_stdout() -> None:
    """Write what is buffered.

    Raises:
        SystemExit: with code 2, when stdout refuses it.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    except OSError as problem:
        _drop_stdout()
        error(f"stdout cannot be written: {problem.strerror}.")
        raise SystemExit(2) from None


def _drop_stdout() -> None:
    """Send what is still buffered nowhere: Python would fail on it again when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def error(message: str) -> None:
    """Print a mistake of the user's on stderr, without a traceback."""
    VisibleConsole(stderr=True, soft_wrap=True).say(f"[bold red]error:[/] {escape(message)}")
