"""Facts for `environment.json`: versions, git commit, command line."""

import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict


class ProcessFacts(TypedDict):
    """The part of an `Environment` that does not depend on the training."""

    command_line: list[str]
    versions: dict[str, str | None]
    platform: str
    git_commit: str | None


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_environment() -> ProcessFacts:
    """Return command line, versions and git commit; `None` for a commit that is not there."""
    return {
        "command_line": sys.argv,
        "versions": describe_versions(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def describe_versions() -> dict[str, str | None]:
    """Return the versions of Python and of packages; `None` for a package that is not there."""
    packages = ("distilkit", "torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


@cache
def cpu_name() -> str | None:
    """Return the processor's name, `None` where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the working directory, with `+changes` when tracked files differ from it.

    The repository may be somebody else's: of its own settings, those that name programs for git to run are
    turned off.
    """

    def git(*arguments: str) -> str:
        process = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        return process.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        names = git("config", "--local", "--includes", "--name-only", "--list").splitlines()
        filters = sorted({name.rpartition(".")[0] for name in names if name.startswith("filter.")})
        settings = ["core.fsmonitor=false"]
        for name in filters:
            settings += [f"{name}.clean=", f"{name}.process=", f"{name}.required=false"]
        options = [part for setting in settings for part in ("-c", setting)]
        changes = git("--no-optional-locks", *options, "status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")
