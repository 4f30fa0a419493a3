"""A small sweep that trains in moments."""

from pathlib import Path
from typing import Any

import pytest
from conftest import BAD, GOOD, write_jsonl

from distilkit import TrainConfig, train
from distilkit.config import SweepConfig

TINY: dict[str, Any] = {"hidden_size": 4, "embedding_size": 4, "epochs": 2, "vocabulary": "words"}


@pytest.fixture(scope="session")
def sweep_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 rows for training, 16 for validation."""
    folder = tmp_path_factory.mktemp("sweep-data")
    rows = [{"text": text, "label": "good"} for text in GOOD] + [
        {"text": text, "label": "bad"} for text in BAD
    ]
    write_jsonl(folder / "train.jsonl", rows * 6)
    write_jsonl(folder / "validation.jsonl", rows * 2)
    return folder


@pytest.fixture(scope="session")
def sweep_teacher(sweep_data: Path, bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that was fine-tuned on the rows."""
    path = tmp_path_factory.mktemp("sweep-teacher") / "run"
    return train(TrainConfig(data_dir=sweep_data, model=str(bert_dir), epochs=1, output_dir=path)).path


@pytest.fixture
def make_sweep(sweep_data: Path, sweep_teacher: Path, tmp_path: Path) -> Any:
    """A maker of sweep configs on the tiny data."""

    def make(**options: Any) -> SweepConfig:
        defaults = {"data_dir": sweep_data, "teacher": str(sweep_teacher), "output_dir": tmp_path / "sweep"}
        return SweepConfig(**defaults | TINY | options)

    return make
