"""How long work tells of itself. The engine and the workflows speak to a `Reporter`; only the CLI draws."""

from collections.abc import Iterable


class Reporter:
    """Receives what a workflow has to tell while it runs. This one is silent; the CLI's draws on stderr."""

    def note(self, message: str) -> None:
        """Print one line on a finished step: what was loaded, what an epoch gave."""

    def note_all(self, messages: Iterable[str]) -> None:
        """Print several messages."""
        for message in messages:
            self.note(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` units of `task` are finished. Called often, so it must be cheap."""


class NamedReporter(Reporter):
    """Put a name before the messages of one of several students."""

    def __init__(self, name: str, reporter: Reporter) -> None:
        self._name, self._reporter = name, reporter

    def note(self, message: str) -> None:
        """Print one line on a finished step: what was loaded, what an epoch gave."""
        self._reporter.note(f"{self._name}: {message}")

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` units of `task` are finished. Called often, so it must be cheap."""
        self._reporter.advance(f"{self._name}: {task}", done, total, detail)


SILENT = Reporter()
