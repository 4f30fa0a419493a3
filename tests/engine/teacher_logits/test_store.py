"""What was stored is served, to every process and after every accident; what is damaged never is."""

import errno
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PIPE, WarmProcess
from safetensors import safe_open

from distilkit.engine.teacher_logits import maintenance
from distilkit.engine.teacher_logits import store as store_logit_store
from distilkit.engine.teacher_logits.maintenance import entries, prune, verify
from distilkit.engine.teacher_logits.shards import as_keys
from distilkit.engine.teacher_logits.store import LogitStore
from distilkit.runs.cache import cache_root

KEY = "0123456789abcdef" * 4
ABOUT = {"name": "runs/teacher", "classes": ["bad", "good"], "max_length": 32, "precision": "fp32"}


def open_store(root: Path, key: str = KEY) -> LogitStore:
    return LogitStore(root, key, ABOUT)


def keys_of(*numbers: int) -> list[bytes]:
    return [hashlib.md5(str(number).encode()).digest() for number in numbers]


def logits_of(*numbers: int) -> Any:
    return np.array([[number, -number / 3] for number in numbers], np.float32)


def add(store: LogitStore, *numbers: int) -> None:
    store.add(keys_of(*numbers), logits_of(*numbers))


def served(store: LogitStore, *numbers: int) -> list[bool]:
    """Which of these rows are found; what is found must be right to the bit."""
    logits, found = store.find(keys_of(*numbers))
    assert logits.dtype == np.float32
    assert np.array_equal(logits[found], logits_of(*numbers)[found])
    assert np.isnan(logits[~found]).all()
    return [bool(one) for one in found]


def shards(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


def leftovers(root: Path) -> list[Path]:
    return sorted(root.rglob("*.unfinished"))


# Rows -----------------------------------------------------------------------------------------------------


def test_what_was_added_is_found_by_this_and_every_later_process(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert served(store, 1, 2) == [False, False]
    add(store, 1, 2, 3)
    add(store, 4)
    assert served(store, 4, 9, 1, 1, 3) == served(open_store(tmp_path), 4, 9, 1, 1, 3)
    assert served(store, 4, 9, 1, 1, 3) == [True, False, True, True, True]


edge = st.sampled_from([0, 1, 255])
awkward = st.builds(
    lambda head, tail, zeros: bytes(head + [0] * zeros + tail)[:16].ljust(16, b"\0"),
    st.lists(edge, max_size=16),
    st.lists(edge, max_size=16),
    st.integers(0, 16),
)


@given(chunks=st.lists(st.lists(awkward, min_size=1, max_size=9), min_size=1, max_size=6), asked=awkward)
@settings(max_examples=150, deadline=None)
def test_keys_that_begin_or_end_with_zero_bytes_are_all_16_bytes(
    chunks: list[list[bytes]], asked: bytes
) -> None:
    """numpy hides trailing NULs of fixed-width strings: two rows could share one teacher's answer."""
    with tempfile.TemporaryDirectory() as folder:
        store, truth = open_store(Path(folder)), dict[bytes, int]()
        for chunk in chunks:
            for key in chunk:
                truth.setdefault(key, len(truth))
            store.add(chunk, logits_of(*(truth[key] for key in chunk)))
        wanted = [*truth, asked]
        for reader in (store, open_store(Path(folder))):
            logits, found = reader.find(wanted)
            assert found.tolist() == [key in truth for key in wanted]
            assert logits[found, 0].tolist() == [truth[key] for key in wanted if key in truth]


def test_keys_come_as_bytes_or_arrays_and_have_16_bytes(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add(store, 1, 2)
    array = np.frombuffer(b"".join(keys_of(2, 3, 1)), np.uint8).reshape(3, 16)
    assert store.find(array)[1].tolist() == store.find(array.view("S16")[:, 0])[1].tolist()
    assert store.find(array)[1].tolist() == [True, False, True]
    assert store.find([])[0].shape == (0, 2)
    for wrong in ([b"a" * 15, b"a" * 17], np.zeros((2, 15), np.uint8), np.zeros(16, np.uint8)):
        with pytest.raises(ValueError, match="16"):
            as_keys(wrong)


def test_duplicates_are_stored_once_within_a_shard_and_against_those_before(tmp_path: Path) -> None:
    """The first answer stays: a row must not change between two runs."""
    store = open_store(tmp_path)
    store.add(keys_of(1, 2, 1), np.array([[1, 1], [2, 2], [9, 9]], np.float32))
    store.add(keys_of(2, 3), np.array([[8, 8], [3, 3]], np.float32))
    store.add(keys_of(1, 3), np.array([[7, 7], [7, 7]], np.float32))
    assert len(shards(tmp_path)) == 2
    assert entries(tmp_path)[0].rows == 3
    for reader in (store, open_store(tmp_path)):
        assert reader.find(keys_of(1, 2, 3))[0][:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(wrong: float, tmp_path: Path) -> None:
    """A stored NaN would turn every later student's loss into NaN."""
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="not finite"):
        store.add(keys_of(1), np.array([[1, wrong]], np.float32))
    with pytest.raises(ValueError, match="2 classes"):
        store.add(keys_of(1), np.ones((1, 3), np.float32))
    assert not shards(tmp_path)


def test_a_shard_is_plain_safetensors_named_by_its_checksum(tmp_path: Path) -> None:
    """The format is public: other programs may read it."""
    add(open_store(tmp_path), *range(50))
    (shard,) = shards(tmp_path)
    assert shard.stem == hashlib.sha256(shard.read_bytes()).hexdigest()
    with safe_open(shard, framework="numpy") as tensors:
        keys, logits = tensors.get_tensor("keys"), tensors.get_tensor("logits")
    assert (keys.dtype, keys.shape, logits.dtype, logits.shape) == (np.uint8, (50, 16), np.float32, (50, 2))
    assert [bytes(key) for key in keys] == sorted(keys_of(*range(50)))


def test_many_small_chunks_stay_quick_to_search(tmp_path: Path) -> None:
    """A search through every shard would make the lookup of half a million rows take minutes."""
    store = open_store(tmp_path)
    for number in range(100):
        add(store, number)
    assert len(store._segments) <= 7
    assert served(store, *range(101)) == [True] * 100 + [False]
    assert served(open_store(tmp_path), *range(101)) == [True] * 100 + [False]


def test_another_key_is_another_teacher(tmp_path: Path) -> None:
    add(open_store(tmp_path), 1)
    assert served(open_store(tmp_path, "f" * 64), 1) == [False]
    with pytest.raises(ValueError, match="no SHA-256"):
        open_store(tmp_path, "../" * 20)


def test_the_root_is_the_variable_or_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILKIT_CACHE", "~/elsewhere")
    assert cache_root() == Path.home() / "elsewhere"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("DISTILKIT_CACHE")
        else:
            monkeypatch.setenv("DISTILKIT_CACHE", unset)
        assert cache_root().name == "distilkit"


# Damage ---------------------------------------------------------------------------------------------------


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def offset(file: Path, part: str) -> int:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if part in ("keys", "logits"):
        return 8 + length + int(json.loads(data[8 : 8 + length])[part]["data_offsets"][0])
    return {"length": 0, "header": 8 + length // 2, "end": len(data) - 1}[part]


@pytest.mark.parametrize("part", ["length", "header", "keys", "logits", "end"])
def test_a_flipped_byte_anywhere_is_found_and_computed_anew(part: str, tmp_path: Path) -> None:
    """In the logits it would train a student on noise; in the keys on another row's answer."""
    store = open_store(tmp_path)
    add(store, 1, 2)
    bad = shards(tmp_path)[0]
    flip(bad, offset(bad, part))
    add(store, 3)
    assert [check.damage is not None for check in verify(tmp_path) if check.shard == bad.name] == [True]
    later = open_store(tmp_path)
    assert served(later, 1, 2, 3) == [False, False, True]
    assert list(later.damaged) == [bad.name]
    with later.lock():
        add(later, 2, 1)  # the same rows: the good shard gets the damaged one's name
    assert served(open_store(tmp_path), 1, 2, 3) == [True] * 3
    assert not [check for check in verify(tmp_path) if check.damage]


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_a_truncated_shard_is_not_used_and_goes_once_its_rows_are_back(size: int, tmp_path: Path) -> None:
    add(open_store(tmp_path), 1, 2)
    (bad,) = shards(tmp_path)
    bad.write_bytes(bad.read_bytes()[:size])
    store = open_store(tmp_path)
    assert served(store, 1, 2) == [False, False]
    with store.lock():
        add(store, 1)
        add(store, 2)
    assert bad not in shards(tmp_path)
    assert served(open_store(tmp_path), 1, 2) == [True, True]


def test_a_damaged_shard_stays_when_its_rows_could_not_be_computed(tmp_path: Path) -> None:
    """It is evidence until something has taken its place."""
    add(open_store(tmp_path), 1)
    flip(shards(tmp_path)[0], -1)
    store = open_store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.lock():
        raise KeyboardInterrupt
    assert len(shards(tmp_path)) == 1


def forge(folder: Path, data: bytes) -> Path:
    """A file with the right name for its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
    file.write_bytes(data)
    return file


def tensors(keys: list[bytes], logits: Any) -> bytes:
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 16)
    return bytes(safetensors.numpy.save({"keys": rows, "logits": np.asarray(logits, np.float32)}))


def header(**header: Any) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 100


LOW, HIGH = sorted(keys_of(1, 2))
F32 = {"dtype": "F32", "shape": [1, 2], "data_offsets": [16, 24]}
U8 = {"dtype": "U8", "shape": [1, 16], "data_offsets": [0, 16]}
FORGED = {
    "nothing": b"",
    "text": b"not a shard at all",
    "a list": (2).to_bytes(8, "little") + b"[]",
    "deep": (4000).to_bytes(8, "little") + b"[" * 4000,
    "endless header": (2**63).to_bytes(8, "little") + b"{}",
    "no keys": header(logits=F32),
    "wide keys": header(keys=U8 | {"shape": [1, 17], "data_offsets": [0, 17]}, logits=F32),
    "doubles": header(keys=U8, logits=F32 | {"dtype": "F64"}),
    "outside the file": header(keys=U8, logits=F32 | {"data_offsets": [1000, 1008]}),
    "before the file": header(keys=U8 | {"data_offsets": [-16, 0]}, logits=F32),
    "other sizes": header(keys=U8, logits=F32 | {"shape": [2, 2]}),
    "text for numbers": header(keys=U8 | {"shape": "ab"}, logits=F32),
    "fractions": header(keys=U8 | {"shape": [1.0, 16]}, logits=F32),
    "unsorted": tensors([HIGH, LOW], [[1, 2], [3, 4]]),
    "twice the same key": tensors([LOW, LOW], [[1, 2], [3, 4]]),
    "not finite": tensors([LOW], [[1, np.nan]]),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_a_file_with_the_right_checksum_and_the_wrong_content_is_damaged(data: bytes, tmp_path: Path) -> None:
    """A search in keys that do not ascend misses rows, or finds another's."""
    add(open_store(tmp_path), 3)
    file = forge(tmp_path / "teacher-logits" / KEY, data)
    store = open_store(tmp_path)
    assert list(store.damaged) == [file.name]
    assert served(store, 1, 2, 3) == [False, False, True]
    assert [check.shard for check in verify(tmp_path) if check.damage] == [file.name]
    assert [entry.shards for entry in entries(tmp_path)] == [2]
    assert [one.what for one in prune(tmp_path).removed] == ["damaged shard"]
    assert served(open_store(tmp_path), 3) == [True]


def test_a_shard_of_another_number_of_classes_is_not_used(tmp_path: Path) -> None:
    forge(tmp_path / "teacher-logits" / KEY, tensors([LOW], [[1, 2, 3]]))
    store = open_store(tmp_path)
    assert [*store.damaged.values()] == ["it has 3 classes, not 2"]
    assert served(store, 1, 2) == [False, False]


# Killed processes -----------------------------------------------------------------------------------------

WRITER = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = os.environ["TESTS"].split(os.pathsep)
from test_store import add, open_store
from distilkit.engine.teacher_logits import store as logit_store

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

store = open_store(Path(sys.argv[1]))
with store.lock():
    add(store, 1, 2)
"""


def run_writer(root: Path, script: str) -> WarmProcess:
    environment = os.environ | {"TESTS": f"{Path(__file__).parent}{os.pathsep}{ROOT / 'tests'}"}
    return WarmProcess(["-c", WRITER + script, root], env=environment, stdin=PIPE, stdout=PIPE)


def never() -> None:
    raise AssertionError("the lock of a killed process is still held")


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("    die()\n", 0),
        ("    logit_store.Path.replace = die\n    add(store, 3)\n", 1),
        ("    logit_store.os.fsync = die\n    add(store, 3)\n", 1),
    ],
    ids=["between shards", "before the rename", "before the fsync"],
)
def test_after_kill_9_finished_shards_serve_and_half_a_shard_does_not(
    script: str, left: int, tmp_path: Path
) -> None:
    with run_writer(tmp_path, script) as writer:
        assert writer.wait(60) == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == left
    store = open_store(tmp_path)
    assert served(store, 1, 2, 3) == [True, True, False]
    assert not store.damaged
    with store.lock(waiting=never):
        assert not leftovers(tmp_path), "who holds the lock clears up"
        add(store, 3)
    assert served(open_store(tmp_path), 1, 2, 3) == [True] * 3


def test_prune_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    with run_writer(tmp_path, "    logit_store.Path.replace = die\n    add(store, 3)\n") as writer:
        writer.wait(60)
    (left,) = leftovers(tmp_path)
    size = left.stat().st_size
    (removed,) = prune(tmp_path).removed
    assert (removed.key, removed.name, removed.what, removed.bytes) == (KEY, "runs/teacher", "leftover", size)
    assert not leftovers(tmp_path)
    assert served(open_store(tmp_path), 1, 2) == [True, True]


def test_prune_leaves_a_teacher_alone_while_a_process_computes(tmp_path: Path) -> None:
    """Else it would take the half-written shard away from under the writer."""
    script = """
    logit_store.Path.replace = lambda *_: (print("writing", flush=True), sys.stdin.readline(), die())
    add(store, 3)
"""
    with run_writer(tmp_path, script) as writer:
        assert writer.stdout and writer.stdin
        assert writer.stdout.readline() == "writing\n"
        before = sorted(tmp_path.rglob("*"))
        for options in ({}, {"everything": True}, {"keys": [KEY]}):
            pruned = prune(tmp_path, **options)
            assert not pruned.removed
            assert [(one.key, "running process" in one.reason) for one in pruned.kept] == [(KEY, True)]
        assert sorted(tmp_path.rglob("*")) == before
        print(file=writer.stdin, flush=True)
        writer.wait(60)
    assert [one.what for one in prune(tmp_path, everything=True).removed] == ["entry"]
    assert not list((tmp_path / "teacher-logits").iterdir())


def test_waiting_is_told_once_and_what_the_other_wrote_is_there_after_a_refresh(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with run_writer(tmp_path, '    print("locked", flush=True)\n    sys.stdin.readline()\n') as writer:
        assert writer.stdout and writer.stdin
        assert writer.stdout.readline() == "locked\n"
        told: list[int] = []

        def waiting() -> None:
            told.append(1)
            assert writer.stdin
            print(file=writer.stdin, flush=True)

        with store.lock(waiting):
            assert served(store, 1) == [False]
            store.refresh()
            assert served(store, 1, 2) == [True, True]
        assert told == [1]
        writer.wait(60)


def test_who_waits_survives_that_the_folder_is_pruned_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    acquire, tries = store_logit_store.FileLock.acquire, list[int]()

    def pruned_first(lock: Any, *arguments: Any, **options: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            store.folder.rmdir()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return acquire(lock, *arguments, **options)

    monkeypatch.setattr(store_logit_store.FileLock, "acquire", pruned_first)
    with store.lock():
        add(store, 1)
    assert len(tries) == 2
    assert store.refused is None
    assert served(open_store(tmp_path), 1) == [True]


# Readers beside prune -------------------------------------------------------------------------------------


def test_a_reader_keeps_what_it_opened_when_all_is_pruned(tmp_path: Path) -> None:
    add(open_store(tmp_path), *range(2000))
    reader = open_store(tmp_path)
    prune(tmp_path, everything=True)
    assert not shards(tmp_path)
    assert all(served(reader, *range(2000)))
    add(reader, 2001)
    assert served(open_store(tmp_path), 1, 2001) == [False, True]


def test_a_shard_that_vanishes_between_listing_and_opening_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(open_store(tmp_path), 1)
    names = store_logit_store.shard_names
    gone = "a" * 64 + ".safetensors"
    monkeypatch.setattr(store_logit_store, "shard_names", lambda folder: names(folder) | {gone})
    store = open_store(tmp_path)
    assert served(store, 1) == [True]
    assert not store.damaged
    assert [check.damage for check in verify(tmp_path)] == [None]
    assert entries(tmp_path)[0].rows == 1


# Disks that refuse ----------------------------------------------------------------------------------------


def no_fsync(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store_logit_store.os, "fsync", fsync)


def no_files(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only disk: nothing opens for writing, neither a shard nor the lock."""
    path_open, os_open = Path.open, os.open

    def open_path(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "rb" and mode != "r":
            raise OSError(code, os.strerror(code))
        return path_open(path, mode, *arguments, **options)

    def open_os(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(code, os.strerror(code))
        return os_open(path, flags, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_path)
    monkeypatch.setattr(os, "open", open_os)


def no_folders(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", mkdir)


CODES = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM]
CODES += [errno.ENOLCK, errno.ESTALE, errno.EIO, errno.ENOTDIR, errno.ELOOP]


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("refuse", [no_fsync, no_files, no_folders])
def test_a_disk_that_refuses_costs_the_cache_and_not_the_computation(
    refuse: Callable[[int, pytest.MonkeyPatch], None],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hours of a teacher's work must not end in a traceback because a disk is full."""
    add(open_store(tmp_path), 1)
    before = shards(tmp_path)
    store = open_store(tmp_path)
    with monkeypatch.context() as patch:
        refuse(code, patch)
        with store.lock(waiting=never):
            add(store, 2)
            add(store, 3, 2)
        assert store.refused
        assert os.strerror(code) in store.refused
        assert served(store, 1, 2, 3, 4) == [True, True, True, False]
    assert shards(tmp_path) == before
    assert not leftovers(tmp_path)
    add(store, 4)
    assert shards(tmp_path) == before, "what was refused once is not tried again and again"
    assert served(open_store(tmp_path), 1, 2) == [True, False]


def test_a_disk_that_fills_up_later_keeps_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    with store.lock():
        add(store, 1)
        no_fsync(errno.ENOSPC, monkeypatch)
        add(store, 2)
    assert served(store, 1, 2) == [True, True]
    assert served(open_store(tmp_path), 1, 2) == [True, False]


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """`folder` cannot be written by us: root, whom no mode stops, is nobody meanwhile."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that nobody can reach too, which pytest's own does not allow."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_read_only_cache_serves_and_says_that_it_keeps_nothing(open_to_all: Path) -> None:
    add(open_store(open_to_all), 1, 2)
    with without_rights(open_to_all):
        store = open_store(open_to_all)
        assert served(store, 1, 2, 3) == [True, True, False]
        with store.lock(waiting=never):
            add(store, 3)
        assert store.refused
        assert "Permission denied" in store.refused
        assert served(store, 1, 2, 3) == [True] * 3
        assert entries(open_to_all)[0].rows == 2
        assert [check.damage for check in verify(open_to_all)] == [None]
        pruned = prune(open_to_all, everything=True)
        assert not pruned.removed
        assert "Permission denied" in pruned.kept[0].reason
        fresh = open_store(open_to_all, "f" * 64)
        add(fresh, 1)
        assert fresh.refused
        assert served(fresh, 1) == [True]
    assert len(shards(open_to_all)) == 1


def test_a_shard_that_we_may_not_read_is_not_used_and_not_thrown_away(open_to_all: Path) -> None:
    """It may be another user's, and whole."""
    add(open_store(open_to_all), 1)
    with without_rights(open_to_all):
        if os.geteuid() != os.getuid():
            os.seteuid(0)
            shards(open_to_all)[0].chmod(0)
            os.seteuid(65534)
        else:
            shards(open_to_all)[0].chmod(0)
        store = open_store(open_to_all)
        assert served(store, 1) == [False]
        assert ["Permission denied" in reason for reason in store.damaged.values()] == [True]
        assert ["Permission denied" in str(check.damage) for check in verify(open_to_all)] == [True]
    open_store(open_to_all)
    assert not prune(open_to_all).removed


@pytest.mark.parametrize("place", ["a file/cache", "a file", "/proc/distilkit-tests"])
def test_a_root_that_can_be_no_folder_is_a_refusal(place: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    root = tmp_path / place
    store = open_store(root)
    with store.lock(waiting=never):
        add(store, 1)
    assert store.refused
    assert served(store, 1) == [True]
    assert entries(root) == [] == verify(root)
    assert prune(root, everything=True) == maintenance.Pruned((), ())


def test_a_file_where_the_folder_would_be_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "teacher-logits").mkdir()
    (tmp_path / "teacher-logits" / KEY).write_text("mine")
    store = open_store(tmp_path)
    with store.lock(waiting=never):
        add(store, 1)
    assert store.refused
    assert served(store, 1) == [True]
    assert entries(tmp_path) == [] == verify(tmp_path)


# What the CLI asks ----------------------------------------------------------------------------------------


def test_entries_tell_what_teacher_json_says(tmp_path: Path) -> None:
    assert entries(tmp_path / "nowhere") == []
    store = open_store(tmp_path)
    add(store, 1, 2)
    add(store, 3)
    (entry,) = entries(tmp_path)
    assert (entry.key, entry.name, entry.rows, entry.shards) == (KEY, "runs/teacher", 3, 2)
    assert (entry.classes, entry.max_length, entry.precision) == (("bad", "good"), 32, "fp32")
    assert entry.bytes == sum(shard.stat().st_size for shard in shards(tmp_path))
    assert entry.created and entry.created <= entry.last_used


def test_serving_rows_is_a_use_and_asking_in_vain_is_not(tmp_path: Path) -> None:
    """`prune --unused-days` would take away what every run reads."""
    store = open_store(tmp_path)
    add(store, 1)
    about = store.folder / "teacher.json"
    long_ago = time.time() - 10 * 86_400
    os.utime(about, (long_ago, long_ago))
    served(open_store(tmp_path), 2)
    assert about.stat().st_mtime == pytest.approx(long_ago)
    assert not prune(tmp_path, unused_days=11).removed
    served(open_store(tmp_path), 1)
    assert not prune(tmp_path, unused_days=9).removed
    os.utime(about, (long_ago, long_ago))
    assert [one.what for one in prune(tmp_path, unused_days=9).removed] == ["entry"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 5, "classes": 7, "max_length": "x"}', "\udcff"])
def test_a_broken_teacher_json_costs_its_words_alone(text: str, tmp_path: Path) -> None:
    add(open_store(tmp_path), 1)
    about = tmp_path / "teacher-logits" / KEY / "teacher.json"
    about.write_bytes(text.encode("utf-8", "surrogateescape"))
    (entry,) = entries(tmp_path)
    assert (entry.rows, entry.classes, entry.max_length) == (1, None, None)
    assert [check.damage for check in verify(tmp_path)] == [None]
    assert served(open_store(tmp_path), 1) == [True]
    if not text.startswith('{"'):
        add(open_store(tmp_path), 2)
        assert entries(tmp_path)[0].name == "runs/teacher", "the next writer mends it"


def test_foreign_files_are_neither_read_nor_removed(tmp_path: Path) -> None:
    add(open_store(tmp_path), 1)
    folder = tmp_path / "teacher-logits"
    foreign = [folder / "notes.txt", folder / KEY / "notes.txt", folder / "other" / "x.safetensors"]
    foreign += [folder / KEY / "model.safetensors", folder / ("b" * 64)]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    assert [entry.rows for entry in entries(tmp_path)] == [1]
    assert len(verify(tmp_path)) == 1
    assert served(open_store(tmp_path), 1) == [True]
    assert [one.what for one in prune(tmp_path, everything=True).removed] == ["entry"]
    assert all(file.read_text() == "mine" for file in foreign)
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == sorted(foreign)


def test_an_entry_without_a_shard_is_no_entry_and_prune_removes_it(tmp_path: Path) -> None:
    with open_store(tmp_path).lock():
        pass
    assert entries(tmp_path) == []
    assert [one.what for one in prune(tmp_path).removed] == ["entry"]
    assert not list((tmp_path / "teacher-logits").iterdir())


def test_prune_removes_the_named_entry_alone(tmp_path: Path) -> None:
    for key in (KEY, "f" * 64):
        add(open_store(tmp_path, key), 1)
    size = sum(file.stat().st_size for file in (tmp_path / "teacher-logits" / KEY).glob("*.*"))
    (removed,) = prune(tmp_path, keys=[KEY]).removed
    assert (removed.key, removed.what, removed.bytes) == (KEY, "entry", size)
    assert [entry.key for entry in entries(tmp_path)] == ["f" * 64]
    assert prune(tmp_path) == maintenance.Pruned((), ())
