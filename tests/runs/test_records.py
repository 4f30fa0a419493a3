"""The files of a run have the keys, the order and the digits that scripts read; older files load."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from distilkit.errors import UserError
from distilkit.runs.folder import append_line
from distilkit.runs.records import EpochRecord, RunMetrics
from distilkit.runs.run import HISTORY, METRICS, Run

LINE = (
    '{"epoch": 1, "step": 2, "learning_rate": 1e-05, "loss": 1.5, "hard_loss": null, "soft_loss": 1.5, '
    '"validation": {"accuracy": 0.5, "loss": 0.6931471824645996}, "improved": true, '
    '"examples_per_second": 937.6615634918552, "seconds": 0.25, "layer_loss": null}'
)


def epoch_record(**changes: Any) -> EpochRecord:
    return EpochRecord.model_validate(json.loads(LINE) | changes)


def test_a_line_of_the_history_is_written_as_before_it_was_typed(tmp_path: Path) -> None:
    """pydantic's own JSON writes 1e-5 and null where json writes 1e-05 and NaN."""
    append_line(tmp_path / HISTORY, epoch_record().as_dict())
    append_line(tmp_path / HISTORY, epoch_record(stage="layers", seconds=math.nan).as_dict())
    first, second = (tmp_path / HISTORY).read_text().splitlines()
    assert first == LINE
    assert second == '{"stage": "layers", ' + LINE[1:].replace('"seconds": 0.25', '"seconds": NaN')
    assert math.isnan(Run(tmp_path).read_history()[1].seconds)
    assert Run(tmp_path).read_history()[0] == epoch_record()


METRICS_OF_A_RUN = {
    "best_epoch": 2,
    "metric": "accuracy",
    "validation": {"accuracy": 1.0},
    "parameters": 10,
    "parameters_without_embeddings": 4,
    "bytes": 40,
    "seconds": 0.32,
}


@pytest.mark.parametrize("calibration", [{}, {"calibration": None}], ids=["not asked for", "none fits"])
def test_an_unset_key_is_not_written_and_a_none_is(calibration: dict[str, None]) -> None:
    """`"calibration": null` says that no temperature fits; without the key none was looked for."""
    document = METRICS_OF_A_RUN | calibration
    assert list(RunMetrics.model_validate(document).as_dict().items()) == list(document.items())


def test_keys_of_another_version_do_not_keep_a_run_from_loading(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(json.dumps(METRICS_OF_A_RUN | {"later": 1}))
    assert Run(tmp_path).read_metrics().best_epoch == 2
    assert Run(tmp_path).metrics["later"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"best_epoch": "second"}', "best_epoch: .*integer"), ("{", "Invalid JSON"), ("[]", "object")],
)
def test_a_damaged_file_names_the_file_and_the_key(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(content)
    with pytest.raises(UserError, match=rf"metrics\.json cannot be read: .*{message}.*train it again"):
        Run(tmp_path).read_metrics()
