"""Which workers are alive: a dead one's cells are taken over, a living one's never."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distilkit.workflows.sweeping import leases
from distilkit.workflows.sweeping.leases import DEAD_SECONDS, Lease

HOLD = "import sys, pathlib, time\nfrom distilkit.workflows.sweeping.leases import Lease\n" + (
    "with Lease(pathlib.Path(sys.argv[1])) as lease:\n    print(lease.name, flush=True)\n    time.sleep(60)\n"
)


def test_a_worker_that_ends_leaves_nothing(tmp_path: Path) -> None:
    with Lease(tmp_path) as one, Lease(tmp_path) as two:
        assert one.is_alive(two.name) and two.is_alive(one.name) and one.is_alive(one.name)
        assert one.count_alive() == 2
    assert not list(tmp_path.iterdir())
    with Lease(tmp_path) as three:
        assert not three.is_alive(one.name)


def test_a_killed_worker_is_dead_at_once(tmp_path: Path) -> None:
    """`kill -9` runs no clean-up: after a crash, the same command must go on without waiting for a minute."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    name = process.stdout.readline().strip()
    with Lease(tmp_path) as lease:
        assert lease.is_alive(name)
        process.kill()
        process.wait()
        assert not lease.is_alive(name)
        assert lease.count_alive() == 1
    process.stdout.close()
    assert not list(tmp_path.iterdir()), "what it left is removed"


def test_a_worker_on_another_machine_is_dead_when_it_is_silent(tmp_path: Path) -> None:
    """Locks of other machines may not be seen, so a lock that seems free proves nothing."""
    file = tmp_path / "elsewhere-1-abc.json"
    file.write_text(json.dumps({"machine": "elsewhere", "pid": 1}))
    with Lease(tmp_path) as lease:
        assert lease.is_alive("elsewhere-1-abc")
        long_ago = time.time() - DEAD_SECONDS - 1
        os.utime(file, (long_ago, long_ago))
        assert not lease.is_alive("elsewhere-1-abc")


def test_a_living_worker_touches_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "TOUCH_SECONDS", 0.05)
    with Lease(tmp_path) as lease:
        file = tmp_path / f"{lease.name}.json"
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert file.stat().st_mtime > 1
