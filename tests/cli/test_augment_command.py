"""`distilkit augment` as a person types it: the table of counts, the JSON, and what reads the file."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Call

pytest.importorskip("textblob", reason="the extra `augment` is not installed")


def test_the_json_is_the_result_and_the_text_says_the_same(
    console: Call, tmp_path: Path, sst2_dir: Path, mrpc_dir: Path
) -> None:
    output = tmp_path / "deep" / "new.parquet"
    arguments = (
        "augment",
        "-d",
        "sst2",
        "--data-dir",
        str(sst2_dir),
        "-n",
        "8",
        "-s",
        "3",
        "-o",
        str(output),
    )
    answer = console(*arguments, "--json")
    assert answer.code == 0, answer
    document = json.loads(answer.out)
    assert list(document) == [
        "schema",
        "path",
        "dataset",
        "seed",
        "sources",
        "rows",
        "rules",
        "dropped",
        "seconds",
        "rows_per_second",
    ]
    assert (document["sources"], document["seed"], document["dataset"]) == (16, 3, "sst2")
    assert document["rows"] == len(pq.read_table(output)) > 30
    assert sum(document["dropped"].values()) + document["rows"] == 16 * 8
    again = console(*arguments)
    assert (again.code, again.out) == (2, "") and "--overwrite" in again.err
    shown = console(*arguments, "--overwrite")
    assert f"{output}: {document['rows']} rows made of 16" in shown.out
    assert "rows/s" in shown.out and "mask" in shown.out and "dropped: " in shown.out
    assert list(tmp_path.rglob("*")) == [output.parent, output]


def test_a_config_file_repeats_it(console: Call, tmp_path: Path, sst2_dir: Path) -> None:
    config = tmp_path / "augment.yaml"
    config.write_text(
        f"dataset: sst2\ndata_dir: {sst2_dir}\nvariants: 4\np_ngram: 0\noutput: {tmp_path}/a.parquet\n"
    )
    assert console("augment", "--config", str(config), "--quiet") == (0, "", "")
    rules = set(pq.read_table(tmp_path / "a.parquet")["rule"].to_pylist())
    assert rules == {"mask", "pos", "mask+pos"}
