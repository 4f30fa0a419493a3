"""The evaluation document is written and read without a change: baselines and scripts depend on its keys."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from distilkit import evaluate
from distilkit.reports.document import EvaluationDocument, describe_error
from distilkit.runs.run import Run


@pytest.fixture(scope="module")
def evaluated() -> dict[str, Any]:
    """Share a document between the tests of this module."""
    return {}


@pytest.fixture
def document(evaluated: dict[str, Any], evaluating: Any, bilstm_runs: Any, teacher_run: Run) -> Any:
    """Evaluate two students and their teacher, with a gate."""
    if not evaluated:
        config = evaluating(*bilstm_runs, teacher_run, fail_over=("parameters=100",))
        evaluated["document"] = evaluate(config).typed_document
    return evaluated["document"]


def test_a_document_is_the_same_after_writing_and_reading(document: EvaluationDocument) -> None:
    """A number that changed its type, or a key its position, would show in every stored evaluation."""
    text = json.dumps(document.as_dict())
    again = EvaluationDocument.model_validate_json(text)
    assert again == document
    assert json.dumps(again.as_dict()) == text


def test_the_keys_are_those_of_the_schema(document: EvaluationDocument) -> None:
    """Python names of fields must not leak into the JSON."""
    values = document.as_dict()
    assert list(values)[:3] == ["schema", "dataset", "split"]
    entry = values["models"][0]
    assert "home" in entry and "in_domain" not in entry
    assert list(entry["per_class"][0]) == ["class", "rows", "precision", "recall", "f1"]
    assert list(entry["calibration"]) == ["bins", "temperature"], "no temperature was fitted"
    assert list(entry["cost"])[-1] == "speed_up"
    assert isinstance(values["gates"][0]["value"], int) and isinstance(values["gates"][0]["threshold"], float)


def test_a_document_that_lacks_rows_is_refused_on_one_line(document: EvaluationDocument) -> None:
    values = document.as_dict()
    values["models"][0]["right"] = "1"
    with pytest.raises(ValidationError) as error:
        EvaluationDocument.model_validate(values)
    assert "has answers to 1 of 8 rows" in describe_error(error.value)
    del values["models"]
    with pytest.raises(ValidationError) as error:
        EvaluationDocument.model_validate(values)
    assert describe_error(error.value) == "models: Field required"
