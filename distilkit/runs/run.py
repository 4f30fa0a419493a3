"""A run: the folder that `train` and `distill` leave behind, written whole or not at all.

config.yaml        resolved; repeats the run
model/             config.json, model.safetensors, tokenizer: the best epoch
history.jsonl      a line per epoch
metrics.json       best epoch, validation metrics, calibration, parameters, bytes, seconds
environment.json   command line, versions, device, seed, data and teacher fingerprints, start and end
evaluation/        what `evaluate` measured, one JSON file per dataset and split
"""

import errno
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distilkit.config import DistillConfig, TrainConfig
from distilkit.config.fields import changed, dump_values, make_config, read_values
from distilkit.errors import UserError

MODEL, CONFIG, METRICS = "model", "config.yaml", "metrics.json"
# What a disk or its owner says no with.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
HISTORY, ENVIRONMENT, EVALUATION = "history.jsonl", "environment.json", "evaluation"
UNFINISHED = ".unfinished"  # ends the names of what is still being written


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder on demand."""

    path: Path

    @classmethod
    def load(cls, path: Path | str) -> "Run":
        """The run in `path`. Raises `UserError` when `path` holds none."""
        run = cls(Path(path))
        missing = [name for name in (CONFIG, METRICS, ENVIRONMENT, MODEL) if not (run.path / name).exists()]
        if missing:
            raise UserError(
                f"{path} is not a run: it has no {missing[0]}. Give a folder that train or distill wrote."
            )
        return run

    @property
    def model_path(self) -> Path:
        """The Hugging Face folder of the best epoch."""
        return self.path / MODEL

    @cached_property
    def config(self) -> TrainConfig | DistillConfig:
        """The resolved configuration the run was made with."""
        values = read_values(self.path / CONFIG)
        config_type: Any = DistillConfig if self.environment.get("command") == "distill" else TrainConfig
        config: TrainConfig | DistillConfig = make_config(config_type, values, source=str(self.path / CONFIG))
        return config

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`."""
        return _read_json(self.path / METRICS)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """`environment.json`."""
        return _read_json(self.path / ENVIRONMENT)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """`history.jsonl`: a dict per epoch, in order."""
        return [_parse(line, self.path / HISTORY) for line in _read(self.path / HISTORY).splitlines()]


def is_run(path: Path) -> bool:
    """Whether `path` looks like a run folder, complete or not."""
    return (path / CONFIG).is_file() and (path / MODEL).is_dir()


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Refuse early, before any work, an `output_dir` that could not receive a run.

    Raises:
        UserError: when it holds something (other than a run that `overwrite` may replace) or cannot be made.
    """

    def check_contents() -> None:
        if not overwrite:
            raise UserError(
                f"--output-dir {output_dir} is not empty. "
                "Name another folder, or replace it with --overwrite."
            )
        if not is_run(output_dir):
            raise UserError(
                f"--output-dir {output_dir} holds no run, so --overwrite will not delete it. "
                "Name another folder."
            )

    check_folder(output_dir, "--output-dir", check_contents)


def check_folder(folder: Path, option: str, check_contents: Callable[[], None]) -> None:
    """Refuse early, before any work, a folder that could not be written.

    Args:
        option: what names it on the command line.
        check_contents: called when something lies in it; raises `UserError` where that must stay.

    Raises:
        UserError: when it must stay as it is or cannot be made.
    """
    try:
        if Path.cwd().is_relative_to(folder.resolve()):
            raise UserError(f"{option} {folder} is the folder you are in. Name a new one.")
        if os.path.ismount(folder):
            raise UserError(f"{option} {folder} is a mount point. Name a folder inside it.")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{option} {folder} is a file. Name a folder that does not exist yet.")
        if folder.is_dir() and any(folder.iterdir()):
            check_contents()
        check_home(folder, option)
    except OSError as error:
        raise UserError(f"{option} {folder} cannot be used: {error.strerror}.") from None


def check_home(place: Path, option: str) -> None:
    """Refuse early a file or folder that could not be made where it is to be.

    Raises:
        UserError: when the nearest folder that is there cannot be written to.
    """
    home = next(parent for parent in place.absolute().parents if parent.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise UserError(f"{option} {place}: {home} is not a folder you can write to.")


@contextmanager
def writing(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to build a run in, which becomes `output_dir` when the block ends well and else disappears.

    Raises:
        UserError: as `check_output_dir`, or when the disk refuses.
    """
    check = partial(check_output_dir, output_dir, overwrite)
    with writing_folder(output_dir, "--output-dir", "run", check) as draft:
        yield draft


@contextmanager
def writing_folder(folder: Path, option: str, what: str, check: Callable[[], None]) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` when the block ends well and else disappears.

    Args:
        option: what names it on the command line.
        what: is built.
        check: raises `UserError` where `folder` must not be replaced; called before and after the work.

    Raises:
        UserError: as `check`, or when the disk refuses.
    """
    check()
    folder = folder.resolve()  # a link keeps pointing at what is replaced
    try:
        draft = _make_draft(folder)
        draft.chmod(0o777 & ~_umask())
        try:
            yield draft
            _sync(draft)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in REFUSALS:
                raise UserError(f"{option} {folder}: {error.strerror}. Nothing was kept.") from None
            raise
        try:
            check()  # somebody may have filled it while we worked
            _move_in(draft, folder)
        except (OSError, UserError) as error:
            raise UserError(f"{error} The {what} is complete and lies in {draft}.") from None
    finally:
        _remove_empty_parents(folder.parent)


# Folders that this process has made for runs. Whoever is the last to leave an empty one removes it: several
# runs may be on their way into it.
_made: set[Path] = set()
_making = threading.Lock()


def _make_draft(output_dir: Path) -> Path:
    home = output_dir.parent
    with _making:
        for parent in [parent for parent in (home, *home.parents) if not parent.exists()][::-1]:
            parent.mkdir(exist_ok=True)
            _made.add(parent)
        return Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", suffix=UNFINISHED, dir=home))


def _remove_empty_parents(folder: Path) -> None:
    with _making:
        for parent in (folder, *folder.parents):
            if parent not in _made or any(parent.iterdir()):
                return
            parent.rmdir()
            _made.discard(parent)


def _umask() -> int:
    with _making:  # it can only be read by setting it, for all threads
        mask = os.umask(0)
        os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _move_in(draft: Path, output_dir: Path) -> None:
    old = draft.with_suffix(".replaced")
    if output_dir.exists():
        output_dir.rename(old)
    try:
        draft.rename(output_dir)
    except BaseException:
        if old.exists():
            old.rename(output_dir)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(file: Path, value: Any) -> None:
    """Write `value` to `file` atomically: readers see the old file or the new one."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write `text` to `file` atomically, its folder made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode("utf-8"))


def write_whole(file: Path, data: bytes) -> None:
    """Write `file` so that others see the old one or all of the new. Its folder must exist."""
    with replacing(file) as draft:
        draft.write_bytes(data)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `file` when the block ends well and else disappears."""
    beside = file.with_name(f".{file.name[:16]}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield beside
        sync(beside)
        beside.replace(file)
    finally:
        with suppress(OSError):
            beside.unlink()


def append_line(file: Path, value: Any) -> None:
    """Append `value` as one line of JSON."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value, ensure_ascii=False) + "\n")


def write_config(folder: Path, config: TrainConfig | DistillConfig) -> None:
    """Write the resolved `config`, from which `--config` repeats the run."""
    # Repeating a run must not replace it: that is said anew each time.
    write_text(folder / CONFIG, dump_values(changed(config, overwrite=False)))


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_environment() -> dict[str, Any]:
    """Command line, versions and git commit, as far as they can be known."""
    packages = ("distilkit", "torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate")
    return {
        "command_line": sys.argv,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the folder the command was typed in, with `+changes` when the tree differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")


def _read_json(file: Path) -> dict[str, Any]:
    return _parse(_read(file), file)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}. The run is damaged; make it anew.") from None


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}. The run is damaged; make it anew.") from None
    if not isinstance(value, dict):
        raise UserError(f"{file} does not hold what a run writes there. The run is damaged; make it anew.")
    return value
