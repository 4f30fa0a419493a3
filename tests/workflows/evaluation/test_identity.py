"""Figures are attributed to the data that a run was trained on, whatever its folder is called today."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK, SMALL, Notes, rows, write_jsonl

from distilkit import DistillConfig, EvaluateConfig, distill, evaluate
from distilkit.runs.run import Run


@pytest.fixture(scope="module")
def run_of_own_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Train on a person's own data, with class names that do not come in the order of the alphabet."""
    folder = tmp_path_factory.mktemp("own")
    values = [{"text": row["sentence"], "label": ("pos", "neg")[row["label"]]} for row in rows()]
    for split in ("train", "validation", "test"):
        write_jsonl(folder / "reviews" / f"{split}.jsonl", values[len(split) % 3 :])
    options: dict[str, Any] = QUICK | SMALL | {"data_dir": folder / "reviews", "alpha": 1, "epochs": 1}
    return distill(DistillConfig(**options, output_dir=folder / "run")), folder / "reviews"


def in_domain(run: Run, data: Path, **options: Any) -> Any:
    options = {"precision": "fp32", "latency": False} | options
    notes = Notes()
    (score,) = evaluate(EvaluateConfig(models=(str(run.path),), data_dir=data, **options), notes).scores
    return score.in_domain


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("sample", [None, 8])
def test_the_same_data_in_another_folder_is_the_same_data(
    split: str, sample: int | None, run_of_own_data: tuple[Run, Path], tmp_path: Path
) -> None:
    """`evaluate` compared a run's data with itself, under two names."""
    run, data = run_of_own_data
    moved = Path(shutil.copytree(data, tmp_path / "gold"))
    assert in_domain(run, moved, split=split, max_eval_samples=sample) is None


def test_other_data_in_a_folder_of_the_same_name_is_other_data(
    run_of_own_data: tuple[Run, Path], tmp_path: Path
) -> None:
    """Two folders `reviews` were taken for one: the drop in accuracy was not shown."""
    run, _ = run_of_own_data
    values = [{"text": f"{row['sentence']} .", "label": ("pos", "neg")[row["label"]]} for row in rows(1)]
    other = write_jsonl(tmp_path / "reviews" / "validation.jsonl", values).parent
    score = in_domain(run, other)
    assert score.dataset == "reviews"
    assert score.accuracy == run.metrics["validation"]["accuracy"]
    assert score.inputs is not None, "its own data is still where it was"


def test_a_run_is_named_after_the_data_it_was_trained_on_and_not_after_todays_folder(
    run_of_own_data: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a relative `data_dir` the run "was trained on" whatever folder one stood in."""
    run, data = run_of_own_data
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace(str(data), "."))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(data, elsewhere)
    write_jsonl(elsewhere / "validation.jsonl", [{"text": "a film", "label": "pos"}] * 2)
    monkeypatch.chdir(elsewhere)
    assert in_domain(Run.load(copy), data) is None
    values = [{"text": f"{row['sentence']} .", "label": ("pos", "neg")[row["label"]]} for row in rows(1)]
    score = in_domain(Run.load(copy), write_jsonl(tmp_path / "gold" / "validation.jsonl", values).parent)
    assert score.dataset == "reviews"
    assert score.inputs is None, "what lies in today's folder is not what it was trained on"


def test_a_run_that_recorded_nothing_is_compared_by_name(
    run_of_own_data: tuple[Run, Path], tmp_path: Path
) -> None:
    run, data = run_of_own_data
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    environment = Run.load(copy).environment
    del environment["dataset"]["fingerprint"]
    (copy / "environment.json").write_text(json.dumps(environment))
    assert in_domain(Run.load(copy), data) is None
    moved = Path(shutil.copytree(data, tmp_path / "gold"))
    assert in_domain(Run.load(copy), moved).dataset == "reviews"
