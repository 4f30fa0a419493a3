"""Runs and a cache that commit f3919d6 wrote: what users have on their disks must not become unreadable.

`old_runs` holds a tiny BERT teacher, a BiLSTM distilled from it at alpha 0.5, the teacher's cached logits,
their data, and `baseline.json`, the result of evaluating both. Nothing in it was edited, and it is made again
only when a file format changes on purpose.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Call

from distilkit import DistillConfig, Run, TrainConfig

DATA = ("--dataset", "sst2", "--data-dir", "data")
EVALUATE = ("evaluate", "teacher", "student", *DATA, "--precision", "fp32", "--no-latency")
MEASURED_NOW = ("rows_per_second", "speed_up", "threads", "device")  # differ from turn to turn
REWORDED = ("sentence",)  # for people; scripts read the figures beside it


@pytest.fixture(autouse=True)
def old_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a copy of the folder and use its cache: old runs name their files relative to it."""
    folder = tmp_path / "old"
    shutil.copytree(ROOT / "tests" / "old_runs", folder)
    monkeypatch.setenv("DISTILKIT_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a JSON document by their paths, without what is measured in every turn."""
    if not isinstance(value, dict | list):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    leaves: dict[str, Any] = {}
    for key, item in items:
        if key not in (*MEASURED_NOW, *REWORDED):
            leaves |= flatten(item, f"{name}.{key}")
    return leaves


def read_cache(folder: Path) -> dict[str, bytes]:
    """Return every file of the cache by its path."""
    files = (file for file in (folder / "cache").rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_old_runs_load_with_everything_they_hold() -> None:
    teacher, student = Run.load("teacher"), Run.load("student")
    assert isinstance(teacher.config, TrainConfig)
    assert (teacher.config.model, teacher.config.max_length) == ("bert", 16)
    assert isinstance(student.config, DistillConfig)
    for run in (teacher, student):
        assert len(run.history) == 12
        assert run.metrics["validation"]["accuracy"] == pytest.approx(80 / 104)
        assert run.environment["versions"]["distilkit"] == "0.1.0"
    assert student.environment["loss"].startswith("loss = 0.5 * CE")


def test_old_runs_get_the_figures_that_were_stored(console: Call) -> None:
    """A student read wrongly (weights, vocabulary, temperature, class order) gets other figures."""
    answer = console(*EVALUATE, "--json")
    assert answer.code == 0, answer.err
    stored = json.loads(Path("baseline.json").read_text(encoding="utf-8"))
    old, new = flatten(stored), flatten(json.loads(answer.out))
    assert [name for name in new if name in old] == list(old), "keys may be added, and none may go or move"
    for name, value in old.items():
        is_real = isinstance(value, float)
        assert new[name] == (pytest.approx(value, rel=1e-4, abs=1e-6) if is_real else value), name


def test_an_old_evaluation_serves_as_a_baseline(console: Call) -> None:
    answer = console(*EVALUATE, "--baseline", "baseline.json", "--json")
    assert answer.code == 0, answer.err
    gates = json.loads(answer.out)["gates"]
    assert gates
    assert all(gate["passed"] for gate in gates)


def test_an_old_teacher_is_distilled_from_its_old_cache_alone(console: Call, old_runs: Path) -> None:
    """Changed keys would run the teacher again, which only the time shows; a computed row adds a file."""
    before = read_cache(old_runs)
    assert sum(name.endswith(".safetensors") for name in before) == 1
    answer = console("distill", "--config", "student/config.yaml", "--output-dir", "again")
    assert answer.code == 0, answer.err
    assert read_cache(old_runs) == before
    again, student = Run.load("again"), Run.load("student")
    assert again.environment["teachers"] == student.environment["teachers"]
    assert again.environment["loss"] == student.environment["loss"]


def test_old_runs_are_drawn_with_their_evaluations(console: Call) -> None:
    answer = console("report", "teacher", "student", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert [run["run"] for run in document["runs"]] == ["teacher", "student"]
    assert [len(run["history"]) for run in document["runs"]] == [12, 12]
    assert [len(run["evaluations"]) for run in document["runs"]] == [1, 1]
    assert all(Path(picture).is_file() for picture in document["pictures"])
