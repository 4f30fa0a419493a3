"""Everything a person or a script sees. The only module that prints, and the only one that knows rich."""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distilkit.progress import Reporter

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_SECONDS = 30.0  # between progress lines when stderr is not a terminal


class Output(Reporter):
    """Notes and progress on stderr, the result on stdout: a table for people or one JSON document."""

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet, self.as_json = quiet, as_json
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        if quiet or not self._console.is_terminal:
            for library in ("HF_HUB", "HF_DATASETS"):  # their download bars, read when they are imported
                os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
        self._progress: Progress | None = None
        self._bars: dict[str, Any] = {}
        self._last_printed: dict[str, float] = {}

    def __enter__(self) -> "Output":
        if not self.quiet and self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # no help needs it

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None
        if kind is KeyboardInterrupt:  # Typer turns it into exit code 130, without a word
            error("interrupted; no result was written")

    def note(self, message: str) -> None:
        """Print a line on stderr."""
        if not self.quiet:
            self._console.print(message, markup=False)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show progress: a bar on a terminal, plain lines when piped."""
        if self._progress:
            if task not in self._bars:
                self._bars[task] = self._progress.add_task(task, total=total, detail=detail)
            self._progress.update(self._bars[task], completed=done, total=total, detail=detail)
            if done >= total:
                self._progress.remove_task(self._bars.pop(task))
        elif not self.quiet:
            self._print_progress(task, done, total, detail)

    def _print_progress(self, task: str, done: int, total: int, detail: str) -> None:
        last = self._last_printed.setdefault(task, time.monotonic())
        if done >= total:
            del self._last_printed[task]
        elif time.monotonic() - last >= PLAIN_SECONDS:
            self._last_printed[task] = time.monotonic()
            self._console.print(f"{task}: {done:,}/{total:,} {detail}".rstrip(), markup=False)

    def result(self, document: Mapping[str, Any], shown: Table | str) -> None:
        """Print the result on stdout: `document` with `--json`, else what is `shown` unless quiet."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        elif not self.quiet:
            # When piped, as wide as the content needs, so that no cell is cut.
            console = Console(highlight=False, width=None if sys.stdout.isatty() else 500)
            console.print(shown, markup=False, soft_wrap=isinstance(shown, str))


def error(message: str) -> None:
    """Print a mistake of the user's on stderr, without a traceback."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}")
