"""OpenMP waits without spinning, and starts no more threads than a container has cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilkit.hardware.openmp import cpu_limit


def settings(environment: dict[str, str], code: str = "import distilkit") -> list[str]:
    """What a new process has as waiting policy and threads after `code`."""
    inherited = {name: value for name, value in os.environ.items() if "OMP" not in name}
    show = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('OMP_NUM_THREADS'))"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}; {show}"],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.split()


def test_waiting_threads_do_not_spin() -> None:
    """Beside one busy process on one of two cores, spinning threads trained up to 15 times more slowly."""
    assert settings({})[0] == "passive"


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"])
def test_a_waiting_policy_of_the_person_is_kept(name: str) -> None:
    assert settings({name: "active"})[0] == ("active" if name == "OMP_WAIT_POLICY" else "None")


def test_nothing_is_set_where_torch_is_loaded_already() -> None:
    """It would change nothing here, and what child processes do by accident."""
    assert settings({}, "import sys; sys.modules['torch'] = None; import distilkit")[0] == "None"


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({"cpu.max": "200000 100000"}, "0::/", 2),
        ({"cpu.max": "150000 100000"}, "0::/", 2),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "max 100000", "a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 4),
        ({"a/cpu.max": "100000 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b", 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/x", 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/x", None),
        ({"cpu.max": "rubbish"}, "0::/../..", None),
        ({}, "", None),
    ],
)
def test_the_limit_of_a_container_is_read(
    files: dict[str, str], groups: str, expected: int | None, tmp_path: Path
) -> None:
    """Unread, 64 threads would share 2 cores, and each would wait for all others at every product."""
    for name, content in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    (tmp_path / "groups").write_text(groups + "\n")
    assert cpu_limit(tmp_path / "cgroup", tmp_path / "groups") == expected
