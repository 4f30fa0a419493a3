"""Report notes, warnings and progress: engine and workflows speak to a `Reporter`; only the CLI prints."""

import warnings
from collections.abc import Iterable

from distilkit.errors import DistilkitWarning


class Reporter:
    """Receives what a workflow reports while it runs. This one is silent; `ConsoleReporter` prints."""

    def note(self, message: str) -> None:
        """Print one line on a finished step: what was loaded, what an epoch gave."""

    def note_all(self, messages: Iterable[str]) -> None:
        """Print several messages."""
        for message in messages:
            self.note(message)

    def warn(self, message: str) -> None:
        """Print something that a person should know before they trust the result."""
        self.note(f"warning: {message}")

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` units of `task` are finished. Called often, so it must be cheap.

        A `total` of 0 is one that is not known.
        """


class WarningReporter(Reporter):
    """Issue warnings as `DistilkitWarning`, and print nothing else: for callers without a reporter."""

    def warn(self, message: str) -> None:
        """Issue a Python warning."""
        warnings.warn(message, DistilkitWarning, stacklevel=2)


class NamedReporter(Reporter):
    """Put a name before the messages of one of several students."""

    def __init__(self, name: str, reporter: Reporter) -> None:
        self._name, self._reporter = name, reporter

    def note(self, message: str) -> None:
        """Print one line on a finished step: what was loaded, what an epoch gave."""
        self._reporter.note(f"{self._name}: {message}")

    def warn(self, message: str) -> None:
        """Print something that a person should know before they trust the result."""
        self._reporter.warn(f"{self._name}: {message}")

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` units of `task` are finished. Called often, so it must be cheap."""
        self._reporter.advance(f"{self._name}: {task}", done, total, detail)


class DistinctReporter(Reporter):
    """Pass each message on once: steps of one command may read the same data, and note the same of it."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._printed: set[str] = set()

    def note(self, message: str) -> None:
        """Print one line on a finished step, unless it was printed before."""
        if message not in self._printed:
            self._printed.add(message)
            self._reporter.note(message)

    def warn(self, message: str) -> None:
        """Print something that a person should know before they trust the result, unless it was printed."""
        warning = f"warning: {message}"
        if warning not in self._printed:
            self._printed.add(warning)
            self._reporter.warn(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` units of `task` are finished. Called often, so it must be cheap."""
        self._reporter.advance(task, done, total, detail)


def describe_duration(seconds: float) -> str:
    """Return "42 s", "12 min" or "3 h 20 min"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


SILENT = WarningReporter()
