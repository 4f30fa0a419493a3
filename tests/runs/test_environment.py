"""The facts of the process are read without running what a foreign repository names."""

import subprocess
from pathlib import Path

import pytest

from distilkit.runs.environment import describe_environment


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which the process is."""
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file.txt").write_text("a\n")
    (tmp_path / ".gitattributes").write_text("*.txt filter=mine\n")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "First")
    return tmp_path


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, timeout=60)


def test_the_commit_and_changes_are_recorded(repository: Path) -> None:
    commit = describe_environment()["git_commit"]
    assert commit is not None and len(commit) == 40
    (repository / "file.txt").write_text("other\n")
    assert describe_environment()["git_commit"] == f"{commit}+changes"


def test_programs_that_a_repository_names_are_not_run(repository: Path) -> None:
    """A downloaded folder with a `.git` in it could run anything where one trains in it."""
    program = repository / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {repository}/ran\ncat\n")
    program.chmod(0o755)
    git("config", "core.fsmonitor", str(program))
    git("config", "filter.mine.clean", str(program))
    git("config", "filter.mine.required", "true")
    (repository / "file.txt").write_text("other\n")
    assert str(describe_environment()["git_commit"]).endswith("+changes")
    assert not (repository / "ran").exists()
