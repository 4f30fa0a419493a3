"""The wheel that people install."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy, so that nothing is left in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "distilkit", source / "distilkit", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "-w", "dist"], cwd=source, check=True, timeout=120)
    (built,) = (source / "dist").glob("distilkit-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """A package that setuptools overlooks works from a checkout and fails once installed."""
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "distilkit").rglob("*")
        if path.suffix in (".py", ".html", ".js") or path.name == "py.typed"
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_the_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "distilkit = distilkit.cli.app:main" in wheel.read(entry_points).decode()


def test_every_dependency_is_pinned_for_the_makefile() -> None:
    """A dependency that constraints.txt does not name is another version every day."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in pins if "==" in line}
    names = {re.split(r"[\[>=]", line)[0].lower().replace("_", "-") for line in asked}
    assert names - pinned == set()


def test_the_project_speaks_of_itself_alone() -> None:
    """No machine's paths in what is published."""
    for file in (
        *Path(ROOT).glob("*.*"),
        *(ROOT / "configs").rglob("*.yaml"),
        *(ROOT / "distilkit").rglob("*.py"),
    ):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            assert not any(path in text for path in ("/" + "work/", "/" + "root/", "/" + "tmp/")), file


TYPED_CALLS = """
from pathlib import Path

from distilkit import ConsoleReporter, DistillConfig, EvaluateConfig, Run, TrainConfig, distill, train

teacher: Run = train(TrainConfig(dataset="sst2", model="minilm", output_dir="runs/teacher"))
config = DistillConfig(data_dir="d", teacher="runs/teacher", teacher_weight=1.0, output_dir=Path("runs"))
student: Run = distill(config, ConsoleReporter())
EvaluateConfig(models=["runs/teacher"], data_dir="reviews", report="report", baseline=None)
name: str = config.teacher[0]
folder: Path = config.output_dir
data: Path | None = config.data_dir
"""


def test_type_checkers_take_texts_for_paths_and_a_name_for_several(tmp_path: Path) -> None:
    """The package says that it is typed: the calls of its own README must not be errors."""
    file = tmp_path / "calls.py"
    file.write_text(TYPED_CALLS, encoding="utf-8")
    # With the options and the cache of `make types`, which has read all that is imported here.
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", str(file)],
        env=os.environ | {"MYPYPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert checked.returncode == 0, checked.stdout
