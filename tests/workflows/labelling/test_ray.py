"""The recipe for Ray in docs/scale.md labels rows as one process does."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import BAD, GOOD, lively, tiny_bert, tiny_tokenizer

from distilkit.data.teacher_files import read_teacher_file
from distilkit.data.texts import Texts
from distilkit.engine.inference.labeller import load_labeller

ROOT = Path(__file__).resolve().parents[3]
TEXTS = [f"{good} {bad} {i}" for i in range(20) for good in GOOD for bad in BAD]


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token into the home folder
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray warns of its own options, and of few rows
def test_the_recipe_writes_what_one_process_computes(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that nobody has run is a guess."""
    monkeypatch.chdir(tmp_path)
    lively(tiny_bert()).save_pretrained("teacher")
    tiny_tokenizer().save_pretrained("teacher")
    Path("texts").mkdir()
    for i, texts in enumerate((TEXTS[:200], TEXTS[200:])):
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), f"texts/{i}.parquet")
    [recipe] = re.findall(r"```py\n(import ray\n.*?)```", (ROOT / "docs/scale.md").read_text(), re.DOTALL)
    for folder in ("teacher", "texts", "answers"):
        recipe = recipe.replace(f'"/shared/{folder}"', repr(str(tmp_path / folder)))
    namespace: dict[str, Any] = {}
    exec(recipe, namespace)
    answers = read_teacher_file("answers", ("text", None), ("negative", "positive"))
    assert sorted(answers.texts.first) == sorted(TEXTS)
    expected = load_labeller("teacher").label_batch(TEXTS)
    np.testing.assert_allclose(answers.find(Texts(TEXTS)).logits, expected, atol=1e-5)
