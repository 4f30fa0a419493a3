"""The folder of a search for a student. What is complete in it is not made again.

fit.yaml    the options; limits may change from one command to the next
teacher/    the run of the teacher, where none was given
runs/       a run for each student that was trained, as `distill` writes it
exported/   its forms, as `export` writes them
report/     a page, its picture, and budget.json
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from distilkit.config.budgeting import BudgetConfig
from distilkit.config.fields import dump_values, flag, read_values
from distilkit.errors import UserError, list_names
from distilkit.reports.parts import check_report_dir
from distilkit.runs.exports import is_export
from distilkit.runs.folder import check_folder, write_text
from distilkit.runs.run import Run, is_run

OPTIONS, TEACHER, RUNS, EXPORTED, REPORT, LOCK = (
    "fit.yaml",
    "teacher",
    "runs",
    "exported",
    "report",
    ".lock",
)
# Options that choose among students and change none of them.
NOT_COMPARED = (
    *("output_dir", "student", "max_latency_ms", "max_mb", "min_kept", "try_all", "test"),
    *("device", "precision", "threads", "max_eval_samples"),
)


@dataclass(frozen=True)
class BudgetFolder:
    """A search on disk."""

    path: Path

    @classmethod
    @contextmanager
    def open(cls, config: BudgetConfig) -> Iterator["BudgetFolder"]:
        """Make or continue the search in `config.output_dir`, and keep other commands out of it within.

        Raises:
            UserError: when the folder holds something else, a search with other options, or is in use.
        """
        cls.check(config)
        folder = cls(config.output_dir)
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"--output-dir {folder.path}: another command works in it. Wait for it, or name a new folder."
            ) from None
        try:
            write_text(folder.path / OPTIONS, dump_values(config))
            yield folder
        finally:
            lock.release()

    @classmethod
    def check(cls, config: BudgetConfig) -> None:
        """Refuse, before any work, a folder that cannot hold this search.

        Raises:
            UserError: naming what is in the way.
        """
        path = config.output_dir

        def check_contents() -> None:
            names = {file.name for file in path.iterdir()}
            if OPTIONS not in names and not names <= {LOCK}:
                raise UserError(
                    f"--output-dir {path} holds no search of fit. Name a new folder, or that of a search."
                )

        check_folder(path, "--output-dir", check_contents)
        check_report_dir(path / REPORT, "--output-dir")
        if (path / OPTIONS).is_file():
            _check_same_search(path, config)

    def find_run(self, name: str) -> Run | None:
        """Return the complete run of a student, if there is one."""
        path = self.path / RUNS / name
        return Run.load(path) if is_run(path) else None

    def has_export(self, name: str) -> bool:
        """Return whether a form of a student is exported already."""
        return is_export(self.path / EXPORTED / name)


def _check_same_search(path: Path, config: BudgetConfig) -> None:
    """Refuse to go on with students that were trained in another way.

    Raises:
        UserError: naming the options.
    """
    before = read_values(path / OPTIONS)
    now = config.model_dump(mode="json")
    changed = [
        f"{flag(name)} {_show(before[name])} (now {_show(now[name])})"
        for name in now
        if name in before and name not in NOT_COMPARED and before[name] != now[name]
    ]
    if changed:
        raise UserError(
            f"--output-dir {path} is a search with {list_names(changed)}. Name another folder; only limits "
            "and students may change."
        )


def _show(value: object) -> str:
    return "not given" if value in (None, []) else str(value)
