"""Mistakes in paths are found before torch is imported, which takes seconds and half a gigabyte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import rows, write_jsonl

from distilkit import DistillConfig, TrainConfig, UserError
from distilkit.cli.paths import check_paths

HEAVY = {"torch", "transformers", "datasets", "accelerate", "sklearn", "matplotlib"}
REPORT_MODULES = """
import json, sys
sys.argv = ['distilkit', *sys.argv[1:]]
from distilkit.cli.app import main
try:
    main()
except SystemExit as stop:
    print(json.dumps({"code": stop.code, "modules": sorted(sys.modules)}))
"""
DATA = ("-d", "sst2", "--data-dir", "data")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `data`, a full folder, and a model folder `runs/teacher`."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data" / "train.jsonl", rows())
    write_jsonl(tmp_path / "data" / "validation.jsonl", rows(1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.parquet").touch()
    (tmp_path / "full" / "train_1.csv").touch()
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    (tmp_path / "runs" / "teacher" / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "--data-dir", "dota", "-o", "out"), ("--data-dir dota is not there", "mean data?")),
        (("train", "--data-dir", "runs", "-o", "out"), ("no file for train", "teacher")),
        (("train", "--data-dir", "full", "-o", "out"), ("begins like the split train",)),
        (("train", *DATA, "-o", "full"), ("--output-dir full is not empty",)),
        (("distill", *DATA, "-t", "runs/techer", "-o", "out"), ("'runs/techer'", "mean runs/teacher?")),
        (("distill", *DATA, "-t", "runs/x/y/z", "-o", "out"), ("'runs/x/y/z' not found", "Hub id")),
        (("doctor", *DATA, "-t", "runs/techer"), ("'runs/techer'", "mean runs/teacher?")),
        (("distill", *DATA, "-a", "1", "--student", "a/b/c", "-o", "out"), ("'a/b/c' not found",)),
        (
            ("distill", *DATA, "-t", "runs/teacher", "--transfer", "no.txt", "-o", "out"),
            ("--transfer no.txt: there is no such file",),
        ),
        (("evaluate", "runs/techer", *DATA), ("'runs/techer'", "mean runs/teacher?")),
        (("evaluate", "runs/teacher", *DATA, "--baseline", "b.json"), ("--baseline b.json: there is no",)),
        (("evaluate", *DATA, "--predictions", "p.csv"), ("--predictions p.csv: there is no such file",)),
        (("augment", *DATA, "-o", "full/a.parquet"), ("--output full/a.parquet is there already",)),
        (("report", "runs/teacher"), ("runs/teacher is not a run",)),
    ],
    ids=lambda value: " ".join(value[:3]) if len(value) > 2 else None,
)
def test_a_mistake_in_a_path_is_found_before_anything_heavy_is_imported(
    arguments: tuple[str, ...], named: tuple[str, ...], here: Path
) -> None:
    """One import too early, and every misspelt path costs seconds."""
    process = subprocess.run(
        [sys.executable, "-c", REPORT_MODULES, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    result = json.loads(process.stdout)
    assert result["code"] == 2, process.stderr
    for text in named:
        assert text in process.stderr
    assert not HEAVY & set(result["modules"])
    assert len(process.stderr) < 1000


def test_a_teacher_that_nothing_reads_may_be_missing(here: Path) -> None:
    """At alpha 1 a run's config.yaml still names the teacher, which may be gone."""
    options = {"data_dir": "data", "dataset": "sst2", "output_dir": "out", "vocabulary": "words"}
    check_paths(DistillConfig(**options, teacher="gone/for/ever", alpha=1))
    with pytest.raises(UserError, match="gone/for/ever"):
        check_paths(DistillConfig(**options, teacher="gone/for/ever", alpha=0.5))


def test_a_base_model_that_needs_the_hub_leads_to_minilm(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default teacher needs the Hub: where there is none, the way out is not in sight."""
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    config = TrainConfig(dataset="sst2", data_dir="data", output_dir="out")
    with pytest.raises(UserError, match=r"Hub is unreachable\. .*-m minilm.*\.\[demo\]"):
        check_paths(config)
