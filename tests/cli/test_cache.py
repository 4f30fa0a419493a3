"""`distilkit cache`: what is shown is what is there, and nothing goes that was not named."""

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
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("DISTILKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def full(root: Path) -> Path:
    """A cache with three teachers, of 5, 10 and 15 rows in two shards each."""
    for number, (name, key) in enumerate(KEYS.items(), 1):
        about = {"name": name, "classes": ["bad", "good"], "max_length": 128, "precision": "bf16"}
        store = LogitStore(root, key, about)
        for start in (0, 1):
            keys = [bytes([start, row] * 8) for row in range(5 * number - 4 if start else 4)]
            store.add(keys, np.ones((len(keys), 2), np.float32))
    return root


@pytest.fixture
def call(console: Callable[..., tuple[Any, ...]]) -> Call:
    """`call("list")`: what `distilkit cache list` answers, in this process."""
    return lambda *arguments: Answer(*console("cache", *arguments))


def damage(root: Path, key: str) -> Path:
    """One shard of `key`, with a byte flipped."""
    shard = min((root / "teacher-logits" / key).glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return shard


def files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.is_file())


def test_path_is_one_line_that_a_script_can_use(root: Path, call: Call) -> None:
    assert call("path") == (0, f"{root}\n", "")
    assert call("path", "--json").document == {"schema": "distilkit.cache/1", "path": str(root)}
    assert not root.exists()


def test_an_empty_cache_is_no_mistake(root: Path, call: Call) -> None:
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


def test_verify_is_content_with_what_is_whole(full: Path, call: Call) -> None:
    answer = call("verify")
    assert (answer.code, answer.err) == (0, "")
    assert "6 shards" in answer.out and "all whole" in answer.out


def test_verify_names_what_is_damaged_and_how_to_remove_it_and_exits_with_3(full: Path, call: Call) -> None:
    """A script must see it: a damaged shard is silently computed anew, on every run of a read-only cache."""
    shard = damage(full, KEYS["runs/two"])
    answer = call("verify")
    assert answer.code == 3
    assert "runs/two" in answer.out and shard.name in answer.out and "checksum" in answer.out
    assert "1 of 6 shards" in answer.err and "distilkit cache prune" in answer.err
    as_json = call("verify", "--json")
    assert as_json.code == 3
    assert [one["shard"] for one in as_json.document["damaged"]] == [shard.name]
    quiet = call("verify", "--quiet")
    assert (quiet.code, quiet.out) == (3, "")
    assert "distilkit cache prune" in quiet.err


def test_prune_alone_removes_damage_and_leftovers_and_says_so(full: Path, call: Call) -> None:
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


def test_prune_by_key_removes_those_alone(full: Path, call: Call) -> None:
    one, two, three = KEYS.values()
    answer = call("prune", "--key", one[:12], "--key", three.upper(), "--json")
    assert [(entry["key"], entry["what"]) for entry in answer.document["removed"]] == [
        (one, "entry"),
        (three, "entry"),
    ]
    assert keys_left(call) == [two]


@pytest.mark.parametrize(
    ("prefix", "named"),
    [("c", "no entry"), ("a", "2 entries"), ("", "1 character"), ("*", "no entry"), ("../..", "no entry")],
)
def test_a_key_that_is_unknown_or_fits_several_removes_nothing(
    prefix: str, named: str, full: Path, call: Call
) -> None:
    before = files(full)
    answer = call("prune", "--key", KEYS["runs/[red]three"], "--key", prefix)
    assert (answer.code, answer.out) == (2, "")
    assert f"--key {prefix}" in answer.err or f"--key {prefix!r}" in answer.err
    assert named in answer.err
    assert "distilkit cache list" in answer.err or not prefix
    assert files(full) == before


@pytest.mark.parametrize("days", ["0", "-1", "many", "1.5"])
def test_a_wrong_number_of_days_is_named(days: str, full: Path, call: Call) -> None:
    answer = call("prune", "--unused-days", days)
    assert (answer.code, answer.out) == (2, "")
    assert "--unused-days" in answer.err and days in answer.err


def test_prune_by_disuse_removes_what_is_older(full: Path, call: Call) -> None:
    for key, days in zip(KEYS.values(), (1, 40, 20), strict=True):
        then = time.time() - days * 86_400
        os.utime(full / "teacher-logits" / key / "teacher.json", (then, then))
    call("prune", "--unused-days", "30")
    assert keys_left(call) == [KEYS["runs/one"], KEYS["runs/[red]three"]]


def test_prune_all_leaves_nothing(full: Path, call: Call) -> None:
    answer = call("prune", "--all")
    assert answer.code == 0
    assert answer.out.count("removed: entry") == 3
    assert "removed: entry of runs/[red]three" in answer.out
    assert not files(full)


def test_prune_leaves_alone_what_a_process_computes_and_says_so(full: Path, call: Call) -> None:
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


def test_a_home_that_nobody_has_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILKIT_CACHE", "~nobody-of-this-name/cache")
    answer = call("list")
    assert (answer.code, answer.out) == (2, "")
    assert "DISTILKIT_CACHE" in answer.err


def test_quiet_means_errors_only(full: Path, call: Call) -> None:
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
    """`distilkit cache list` would take seconds."""
    code = "import sys, distilkit.workflows.caching; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
