"""A folder or a pattern stands for its files, in the order of their names, and for no other."""

from pathlib import Path

import pytest

from distilkit.data.shards import fingerprint_files, is_sharded, list_shards
from distilkit.errors import UserError

FLAG = "--transfer"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As Spark writes a folder, with a file of Python's beside its parts."""
    for name in ("part-1.parquet", "part-0.snappy.parquet", "_SUCCESS", ".part-0.crc", "about.json"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_the_shards_of_a_folder_are_its_parquet_files(folder: Path) -> None:
    """A marker of Spark's, or a JSON of facts, that was read as rows would be an error or more rows."""
    assert [file.name for file in list_shards(str(folder), FLAG)] == [
        "part-0.snappy.parquet",
        "part-1.parquet",
    ]
    for file in folder.glob("*.parquet"):
        file.unlink()
    assert [file.name for file in list_shards(str(folder), FLAG)] == ["about.json"]


def test_a_pattern_stands_for_the_files_that_it_matches(folder: Path) -> None:
    assert [file.name for file in list_shards(f"{folder}/*-1.*", FLAG)] == ["part-1.parquet"]
    (folder / "odd[1].csv").write_text("")
    assert not is_sharded(f"{folder}/odd[1].csv"), "there is a file of that name"
    assert list_shards(f"{folder}/none.csv", FLAG) == [folder / "none.csv"]


def test_nothing_to_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file with columns in this folder"):
        list_shards(str(tmp_path), FLAG)
    with pytest.raises(UserError, match=r"--transfer .*\*.parquet: no file has such a name"):
        list_shards(f"{tmp_path}/*.parquet", FLAG)


def test_the_fingerprint_of_shards_is_that_of_their_bytes(folder: Path) -> None:
    """The cache of a teacher's targets must not serve those of shards that were written again."""
    before = fingerprint_files(str(folder), FLAG)
    assert before == fingerprint_files(f"{folder}/*.parquet", FLAG)
    (folder / "part-1.parquet").rename(folder / "part-2.parquet")
    assert fingerprint_files(str(folder), FLAG) == before
    (folder / "part-2.parquet").write_text("other")
    assert fingerprint_files(str(folder), FLAG) != before
