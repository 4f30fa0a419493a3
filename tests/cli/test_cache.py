"""`distilkit cache` shows what is stored, and removes nothing that was not asked for."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from distilkit.cli.app import app
from distilkit.config import CachePruneConfig
from distilkit.config.fields import field_infos, flag
from distilkit.engine.teacher_logits.store import LogitStore

KEYS = {"runs/one": "a1" * 32, "runs/two": "a2" * 32, "runs/[red]three": "b3" * 32}


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        assert document["schema"] == "distilkit.cache/1"
        return document


Call = Callable[..., Answer]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a cache folder that does not exist yet."""
    monkeypatch.setenv("DISTILKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def full(root: Path) -> Path:
    """Fill a cache with three teachers, of 5, 10 and 15 rows in two shards each."""
    for index, (name, key) in enumerate(KEYS.items(), 1):
        about = {"name": name, "classes": ["bad", "good"], "max_length": 128, "precision": "bf16"}
        store = LogitStore(root, key, about)
        for start in (0, 1):
            keys = [bytes([start, row] * 8) for row in range(5 * index - 4 if start else 4)]
            store.add(keys, np.ones((len(keys), 2), np.float32))
    return root


@pytest.fixture
def call(console: Callable[..., tuple[Any, ...]]) -> Call:
    """Return a function that runs `distilkit cache` with its arguments in this process."""
    return lambda *arguments: Answer(*console("cache", *arguments))


def damage(root: Path, key: str) -> Path:
    """Flip a byte in a shard of `key`."""
    shard = min((root / "teacher-logits" / key).glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return shard


def files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.is_file())


def test_path_is_a_single_line_for_scripts(root: Path, call: Call) -> None:
    assert call("path") == (0, f"{root}\n", "")
    assert call("path", "--json").document == {"schema": "distilkit.cache/1", "path": str(root)}
    assert not root.exists()


def test_an_empty_cache_is_not_an_error(root: Path, call: Call) -> None:
    assert "nothing is stored yet" in call("list").out
    assert call("list", "--json").document["entries"] == []
    assert call("verify").code == call("prune").code == call("prune", "--all").code == 0
    assert not root.exists()


def test_list_shows_each_teacher(full: Path, call: Call) -> None:
    shown = call("list")
    assert (shown.code, shown.err) == (0, "")
    lines = [line.split() for line in shown.out.splitlines() if any(name in line for name in KEYS)]
    assert [line[:6] for line in lines] == [
        [name, key[:12], rows, "2", "128", "bf16"]
        for (name, key), rows in zip(KEYS.items(), ("5", "10", "15"), strict=True)
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", line[-1]) for line in lines)
    entries = call("list", "--json").document["entries"]
    assert [entry["key"] for entry in entries] == list(KEYS.values())
    fields = "key name rows classes max_length precision bytes shards created last_used"
    assert list(entries[0]) == fields.split()


def test_list_survives_a_broken_teacher_json(full: Path, call: Call) -> None:
    (full / "teacher-logits" / KEYS["runs/one"] / "teacher.json").write_text("{")
    shown = call("list")
    assert shown.code == 0
    assert re.search(rf"^ *\? +{KEYS['runs/one'][:12]}", shown.out, re.MULTILINE)


def test_verify_accepts_undamaged_shards(full: Path, call: Call) -> None:
    answer = call("verify")
    assert (answer.code, answer.err) == (0, "")
    assert "6 shards" in answer.out and "all whole" in answer.out


def test_verify_lists_damaged_shards_and_the_remedy_and_exits_with_3(full: Path, call: Call) -> None:
    """Scripts need the exit code: every run recomputes a damaged shard of a read-only cache, silently."""
    shard = damage(full, KEYS["runs/two"])
    answer = call("verify")
    assert answer.code == 3
    assert "runs/two" in answer.out and shard.name in answer.out and "checksum" in answer.out
    assert "1 of 6 shards" in answer.err and "distilkit cache prune" in answer.err
    as_json = call("verify", "--json")
    assert as_json.code == 3
    assert [shard["shard"] for shard in as_json.document["damaged"]] == [shard.name]
    quiet = call("verify", "--quiet")
    assert (quiet.code, quiet.out) == (3, "")
    assert "distilkit cache prune" in quiet.err


def test_prune_without_options_removes_and_lists_damage_and_leftovers(full: Path, call: Call) -> None:
    before = files(full)
    shard = damage(full, KEYS["runs/two"])
    left = full / "teacher-logits" / KEYS["runs/one"] / ".x.1.unfinished"
    left.write_bytes(b"12345")
    size = shard.stat().st_size + 5
    answer = call("prune")
    assert answer.code == 0
    assert "leftover of runs/one" in answer.out and "damaged shard of runs/two" in answer.out
    assert f"{size:,} bytes freed" in answer.out
    assert [file for file in files(full) if file.name != ".lock"] == [
        file for file in before if file not in (shard, left) and file.name != ".lock"
    ]
    assert call("verify").code == 0
    assert call("prune", "--json").document == {
        "schema": "distilkit.cache/1", "path": str(full), "removed": [], "kept": [], "bytes": 0,
    }  # fmt: skip


def keys_left(call: Call) -> list[str]:
    return [entry["key"] for entry in call("list", "--json").document["entries"]]


def test_prune_by_key_removes_only_those_entries(full: Path, call: Call) -> None:
    first, second, third = KEYS.values()
    answer = call("prune", "--key", first[:12], "--key", third.upper(), "--json")
    assert [(entry["key"], entry["what"]) for entry in answer.document["removed"]] == [
        (first, "entry"),
        (third, "entry"),
    ]
    assert keys_left(call) == [second]


@pytest.mark.parametrize(
    ("prefix", "message"),
    [("c", "no entry"), ("a", "2 entries"), ("", "1 character"), ("*", "no entry"), ("../..", "no entry")],
)
def test_a_key_that_is_unknown_or_fits_several_removes_nothing(
    prefix: str, message: str, full: Path, call: Call
) -> None:
    before = files(full)
    answer = call("prune", "--key", KEYS["runs/[red]three"], "--key", prefix)
    assert (answer.code, answer.out) == (2, "")
    assert f"--key {prefix}" in answer.err or f"--key {prefix!r}" in answer.err
    assert message in answer.err
    assert "distilkit cache list" in answer.err or not prefix
    assert files(full) == before


@pytest.mark.parametrize("days", ["0", "-1", "many", "1.5"])
def test_a_wrong_number_of_days_is_refused(days: str, full: Path, call: Call) -> None:
    answer = call("prune", "--unused-days", days)
    assert (answer.code, answer.out) == (2, "")
    assert "--unused-days" in answer.err and days in answer.err


def test_prune_by_unused_days_removes_older_entries(full: Path, call: Call) -> None:
    for key, days in zip(KEYS.values(), (1, 40, 20), strict=True):
        last_used = time.time() - days * 86_400
        os.utime(full / "teacher-logits" / key / "teacher.json", (last_used, last_used))
    call("prune", "--unused-days", "30")
    assert keys_left(call) == [KEYS["runs/one"], KEYS["runs/[red]three"]]


def test_prune_all_leaves_nothing(full: Path, call: Call) -> None:
    answer = call("prune", "--all")
    assert answer.code == 0
    assert answer.out.count("removed: entry") == 3
    assert "removed: entry of runs/[red]three" in answer.out
    assert not files(full)


def test_prune_skips_and_lists_entries_that_a_process_is_computing(full: Path, call: Call) -> None:
    key = KEYS["runs/two"]
    script = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print('locked', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", script, str(full / "teacher-logits" / key / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "locked\n"
        answer = call("prune", "--all")
        assert answer.code == 0
        assert f"left alone: runs/two  {key[:12]}, a running process" in answer.out
        assert keys_left(call) == [key]
        process.stdin.close()
    call("prune", "--all")
    assert keys_left(call) == []


def test_an_unknown_home_folder_is_refused(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILKIT_CACHE", "~nobody-of-this-name/cache")
    answer = call("list")
    assert (answer.code, answer.out) == (2, "")
    assert "DISTILKIT_CACHE" in answer.err


def test_quiet_prints_errors_only(full: Path, call: Call) -> None:
    for command in ("path", "list", "verify", "prune"):
        assert call(command, "--quiet") == (0, "", ""), command


def test_help_explains_every_option_of_prune() -> None:
    shown = (
        CliRunner().invoke(app, ["cache", "prune", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    )
    for name, field in field_infos(CachePruneConfig).items():
        assert flag(name) in shown
        assert field.description in shown


def test_importing_the_cache_brings_no_torch() -> None:
    """Otherwise `distilkit cache list` would take seconds."""
    code = "import sys, distilkit.workflows.caching; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
