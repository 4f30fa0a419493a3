"""Texts stay on disk: what is in memory does not grow with the rows."""

import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import write_jsonl

from distilkit.config import TrainConfig
from distilkit.data.sources import load_for_training
from distilkit.data.text_data import TextData
from distilkit.errors import UserError

ROWS, WORDS = 20_000, 200
MIB = 2**20


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with a parquet of 20,000 long texts, each its own, and the bytes of the texts."""
    folder = tmp_path_factory.mktemp("big")
    texts = [f"{row} " + f"w{row % 97} " * WORDS for row in range(ROWS)]
    table = pa.table({"text": texts, "label": [row % 2 for row in range(ROWS)]})
    pyarrow.parquet.write_table(table, folder / "train.parquet", row_group_size=2000)
    pyarrow.parquet.write_table(table.slice(0, 50), folder / "validation.parquet")
    size = sum(len(text) for text in texts)
    assert size > 10 * MIB
    return folder, size


def load(folder: Path, samples: int | None = None, **options: Any) -> TextData:
    config = TrainConfig(data_dir=folder, output_dir="out", **options)
    return load_for_training(config, samples)


def test_the_texts_of_a_parquet_are_not_held_in_memory(big: tuple[Path, int], scratch: Path) -> None:
    """100,000 reviews held as they are, once more as Python strings, take more than many machines have."""
    folder, size = big
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    data = load(folder)
    assert pa.total_allocated_bytes() - before < size / 10
    assert data.texts("train").first[12_345].startswith("12345 w26 ")
    held = sum(len(text) for text, _ in zip(data.texts("train").first, range(ROWS), strict=False))
    assert held == size
    assert pa.total_allocated_bytes() - before < size / 10, "nor after all of them were read"


def test_a_sample_and_a_held_out_tenth_are_not_copied_into_memory_either(
    big: tuple[Path, int], scratch: Path, tmp_path: Path
) -> None:
    folder, size = big
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "train.parquet").symlink_to(folder / "train.parquet")
    before = pa.total_allocated_bytes()
    data = load(alone, samples=15_000)
    assert len(data.texts("train").first) == 15_000 and len(data.texts("validation").first) == ROWS // 10
    assert pa.total_allocated_bytes() - before < size / 10


def test_no_file_is_left_among_the_temporary_ones(big: tuple[Path, int], scratch: Path) -> None:
    """A gigabyte left by every run would fill the disk; removed too early, the texts would be gone."""
    data = load(big[0])
    assert list(scratch.iterdir()) == []
    assert data.texts("train").first[ROWS - 1].startswith(f"{ROWS - 1} ")


@pytest.mark.parametrize("kind", ["not a parquet", "a column twice", "no label", "an empty text"])
def test_no_file_is_left_after_an_error_either(kind: str, scratch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    table = pa.table({"text": ["good", " " if kind == "an empty text" else "bad"], "label": [0, 1]})
    if kind == "a column twice":
        table = table.append_column("text", pa.array(["x", "y"]))
    if kind == "no label":
        table = table.drop_columns(["label"])
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    if kind == "not a parquet":
        (folder / "train.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError):
        load(folder)
    assert list(scratch.iterdir()) == []


def test_the_text_formats_are_kept_on_disk_too_once_they_are_read(scratch: Path, tmp_path: Path) -> None:
    values = [{"text": f"{row} " + "word " * 200, "label": row % 2} for row in range(5000)]
    size = sum(len(str(value["text"])) for value in values)
    folder = write_jsonl(tmp_path / "data" / "train.jsonl", values).parent
    before = pa.total_allocated_bytes()
    data = load(folder)
    assert pa.total_allocated_bytes() - before < size / 4
    assert len(data.texts("train").first) == 4500
    assert list(scratch.iterdir()) == []


def test_rows_are_the_same_from_disk_as_they_were_in_the_file(scratch: Path, tmp_path: Path) -> None:
    """Pieces put together in another order, or cut short, join texts to other rows' labels."""
    folder = tmp_path / "data"
    folder.mkdir()
    texts = [f"text {row} " + "ünï😀 " * (row % 7) for row in range(3333)]
    table = pa.table({"text": texts, "second": texts[::-1], "label": [row % 3 for row in range(3333)]})
    for split in ("train", "validation"):
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet", row_group_size=500)
    data = load(folder, text_pair_column="second")
    pairs = data.texts("train").second
    assert pairs is not None
    assert list(data.texts("train").first) == texts and list(pairs) == texts[::-1]
    assert data.labels("train").tolist() == [row % 3 for row in range(3333)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_a_second_loading_frees_the_first_ones_file(big: tuple[Path, int], scratch: Path) -> None:
    """The file has no name any more: only closing it gives the disk its space back."""

    def held() -> int:
        maps = Path("/proc/self/maps").read_text()
        return sum("distilkit-" in line and "(deleted)" in line for line in maps.splitlines())

    gc.collect()  # what earlier tests held
    before = held()
    data = load(big[0])
    assert held() > before
    del data
    gc.collect()
    assert held() == before
    assert os.listdir(scratch) == []
