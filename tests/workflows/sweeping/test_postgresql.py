"""Workers that share a PostgreSQL database: each cell once, and a dead worker's cells are taken over."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from processes import WarmProcess

from distilkit.progress import SILENT
from distilkit.runs.run import Run
from distilkit.workflows.sweeping.folder import SweepFolder
from distilkit.workflows.sweeping.storage import open_storage

ANYONE = 65534  # PostgreSQL refuses to run as root


def _find_binaries() -> Path | None:
    """Return the folder with the server's programs: on the path, or where Debian puts them."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if program := shutil.which("initdb"):
        folders.insert(0, Path(program).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


BINARIES = _find_binaries()
pytestmark = pytest.mark.skipif(BINARIES is None, reason="PostgreSQL is not installed (no initdb)")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that listens on the loopback interface alone."""
    assert BINARIES
    home = Path(subprocess.check_output(["mktemp", "-d", "/tmp/distilkit-pg-XXXXXX"], text=True).strip())
    user: dict[str, Any] = {"user": ANYONE, "group": ANYONE} if os.geteuid() == 0 else {}
    if user:
        os.chown(home, ANYONE, ANYONE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = home / "data"
    init = [BINARIES / "initdb", "-D", data, "-U", "tester", "--auth=trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(init, check=True, capture_output=True, cwd=home, **user)
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", home, "-F"]
    server = subprocess.Popen(
        [BINARIES / "postgres", "-D", data, *options],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    ready = [BINARIES / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    deadline = time.monotonic() + 60
    while subprocess.run(ready, capture_output=True, check=False).returncode and time.monotonic() < deadline:
        time.sleep(0.1)
    yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    server.terminate()
    server.wait(30)
    shutil.rmtree(home, ignore_errors=True)


def test_three_workers_share_a_grid_and_take_over_from_one_that_is_killed(
    database: str, make_sweep: Any, tmp_path: Path
) -> None:
    folder, config = tmp_path / "sweep", make_sweep()
    options = ["--data-dir", config.data_dir, "-t", config.teacher[0], "--vocabulary", "words", "-o", folder]
    options += ["--hidden-size", 4, "--embedding-size", 4, "-e", 4, "-a", "0,0.5", "-s", "1..8"]
    command = ["-m", "distilkit", "sweep", "-q", *options, "--storage", database]
    workers = [WarmProcess(command) for _ in range(3)]
    while not list((folder / "runs").glob("alpha*")) and any(worker.poll() is None for worker in workers):
        time.sleep(0.02)
    victim = next(worker for worker in workers if worker.poll() is None)
    victim.kill()
    assert sorted(worker.wait() for worker in workers) == [-9, 0, 0]
    runs = [Run.load(path) for path in (folder / "runs").iterdir()]
    assert len(runs) == 24, "8 seeds at alpha 0, 0.5 and 1"
    sweep_folder = SweepFolder.load(folder)
    assert not sweep_folder.failures()
    storage = open_storage(database, sweep_folder, SILENT)
    trials = optuna.load_study(
        study_name=optuna.get_all_study_names(storage)[0], storage=storage
    ).get_trials()
    cells = [trial.user_attrs["cell"] for trial in trials if trial.state.name == "COMPLETE"]
    assert len(cells) == len(set(cells)) <= 24, "no cell is told as complete twice"
    storage.remove_session()  # type: ignore[attr-defined]
    storage.engine.dispose()  # type: ignore[attr-defined]
