"""Data as people have it: each folder of ../shared/cases is read rightly or refused, never silently wrong.

`cases.json` holds, per folder, the options beside `--data-dir` and the right reading: rows, class names, rows
per class and the findings that `train` prints, or how the error begins.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from distilkit import TrainConfig, UserError
from distilkit.config import resolve
from distilkit.data.sources import load_for_training
from distilkit.workflows.findings.early import before_training

FOLDER = Path(os.environ.get("DISTILKIT_CASES", ROOT.parent / "shared" / "cases"))
CASES: dict[str, dict[str, Any]] = json.loads((ROOT / "tests" / "cases.json").read_text(encoding="utf-8"))
MODEL_CASES = json.loads((ROOT / "tests" / "model_cases.json").read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no folder {FOLDER}")


def read_case(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Read a folder as `train` does; return what `cases.json` holds of it."""
    config = resolve(TrainConfig(data_dir=FOLDER / name, model="any", output_dir=Path("any"), **options))
    try:
        data = load_for_training(config, None)
        findings = before_training(config, data, np.ones(1, np.int64), max_length_given=True)
    except UserError as error:
        message = str(error)
        assert len(message) <= 1000
        return {"error": message.replace(f"{FOLDER}/", "").split(". ")[0][:150]}
    counts = {
        split: np.bincount(labels, minlength=len(data.names)).tolist()
        for split, labels in sorted(data.labels_of.items())
    }
    # Every folder has few rows, to keep the folders small.
    checks = sorted({finding.check for finding in findings} - {"few-validation-rows"})
    return {"classes": list(data.names), "rows": counts, "findings": checks}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_read_rightly_or_refused(name: str) -> None:
    expected = dict(CASES[name])
    assert read_case(name, expected.pop("options", {})) == expected


def test_every_folder_is_tried() -> None:
    """A folder that is not in a table proves nothing. `test_model_cases.py` tries models and predictions."""
    folders = {folder.name for folder in FOLDER.iterdir() if folder.is_dir()}
    assert folders - {"models", "predictions"} == CASES.keys()
    models = FOLDER / "models"
    configs = (file for name in ("config.json", "adapter_config.json") for file in models.rglob(name))
    assert {str(file.parent.relative_to(models)) for file in configs} == MODEL_CASES["models"].keys()
    assert {file.name for file in (FOLDER / "predictions").iterdir()} == MODEL_CASES["predictions"].keys()
