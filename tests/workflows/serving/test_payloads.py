"""Bodies of requests, good and bad, and the answers to them."""

import json
from typing import Any

import numpy as np
import pytest

from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions
from distilkit.workflows.serving.payloads import Refusal, make_texts, parse_request, render_answer

PREDICTIONS = Predictions(("a", "b", "c"), np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]]))
LIMITS: dict[str, Any] = {"max_items": 3, "max_characters": 10, "wants_pairs": False}


def texts_of(document: Any, **limits: Any) -> Texts:
    return make_texts(parse_request(json.dumps(document).encode()), **LIMITS | limits)


@pytest.mark.parametrize(
    ("inputs", "first", "second"),
    [
        ("a", ["a"], None),
        ("", [""], None),
        (["a", "b"], ["a", "b"], None),
        ({"text": "a"}, ["a"], None),
        ({"text": "a", "text_pair": "b"}, ["a"], ["b"]),
        ({"text": "a", "text_pair": ""}, ["a"], [""]),
        (["a", {"text": "b", "text_pair": None}], ["a", "b"], None),
        ([{"text": "a", "text_pair": "b"}, {"text": "c", "text_pair": "d"}], ["a", "c"], ["b", "d"]),
    ],
)
def test_inputs_are_a_text_a_pair_or_a_list_of_them(
    inputs: Any, first: list[str], second: list[str] | None
) -> None:
    """A list of two texts is two texts: were it a pair, half of the answers would be missing."""
    assert texts_of({"inputs": inputs}) == Texts(first, second)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"inputs": "\\ud800"}', 400, "not JSON"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "recursion"),
        (b"[" * 1_000_000, 400, "recursion"),
        (b'{"inputs": "a"} x', 400, "not JSON"),
        (b"null", 422, "must be an object"),
        (b'["a"]', 422, "must be an object"),
        (b"{}", 422, "inputs must be"),
        (b'{"inputs": null}', 422, "inputs must be"),
        (b'{"inputs": 3}', 422, "inputs must be"),
        (b'{"inputs": NaN}', 422, "inputs must be"),
        (b'{"inputs": true}', 422, "inputs must be"),
        (b'{"inputs": {"text": 1}}', 422, "inputs must be"),
        (b'{"inputs": {"text_pair": "a"}}', 422, "inputs must be"),
        (b'{"inputs": {"text": "a", "more": "b"}}', 422, "inputs must be"),
        (b'{"inputs": ["a", 1e999]}', 422, r"inputs\[1\] must be"),
        (b'{"inputs": ["a", ["b"]]}', 422, r"inputs\[1\] must be"),
        (b'{"inputs": "a", "parameter": {}}', 422, "parameter is unknown"),
        (b'{"inputs": "a", "parameters": {"function": 1}}', 422, "parameters.function is unknown"),
        (b'{"inputs": "a", "parameters": {"top_k": 0}}', 422, "parameters.top_k"),
        (b'{"inputs": "a", "parameters": {"top_k": "1"}}', 422, "parameters.top_k"),
        (b'{"inputs": "a", "parameters": {"top_k": 1.5}}', 422, "parameters.top_k"),
        (b'{"inputs": "a", "parameters": {"top_k": true}}', 422, "parameters.top_k"),
        (b'{"inputs": "a", "parameters": {"top_k": 1' + b"0" * 5000 + b"}}", 400, "out of range"),
        (b'{"inputs": "a", "parameters": {"threshold": NaN}}', 422, "parameters.threshold"),
        (b'{"inputs": "a", "parameters": {"threshold": -1}}', 422, "parameters.threshold"),
        (b'{"inputs": "a", "parameters": []}', 422, "parameters"),
    ],
)
def test_a_bad_body_is_refused_with_a_reason(body: bytes, status: int, reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as refusal:
        parse_request(body)
    assert refusal.value.status == status
    assert len(refusal.value.reason) < 300


@pytest.mark.parametrize(
    ("inputs", "limits", "reason"),
    [
        ([], {}, "empty list"),
        (["a"] * 4, {}, "4 items; at most 3"),
        (["a", "b" * 11], {}, r"inputs\[1\] has 11 characters; at most 10"),
        ({"text": "a" * 6, "text_pair": "b" * 5}, {}, "11 characters"),
        (["a", {"text": "b", "text_pair": "c"}], {}, "all inputs or with none"),
        (["a", "b"], {"wants_pairs": True}, "compares two texts"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_it_reaches_the_model(
    inputs: Any, limits: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refusal, match=reason) as refusal:
        texts_of({"inputs": inputs}, **limits)
    assert refusal.value.status == 422


def answer_to(inputs: Any, **parameters: Any) -> Any:
    request = parse_request(json.dumps({"inputs": inputs, "parameters": parameters}).encode())
    rows = 2 if request.is_batch else 1
    part = Predictions(PREDICTIONS.class_names, PREDICTIONS.probabilities[:rows])
    return json.loads(render_answer(request, part))


def test_a_text_is_answered_with_a_list_and_a_batch_with_a_list_of_lists() -> None:
    first = [{"label": "b", "score": 0.5}, {"label": "c", "score": 0.3}, {"label": "a", "score": 0.2}]
    assert answer_to("x") == first
    assert answer_to({"text": "x", "text_pair": "y"}) == first
    assert answer_to(["x", "y"])[0] == first
    assert [item["label"] for item in answer_to(["x", "y"])[1]] == ["a", "c", "b"]


def test_parameters_leave_out_what_is_unlikely() -> None:
    assert answer_to("x", top_k=1) == [{"label": "b", "score": 0.5}]
    assert len(answer_to("x", top_k=10**99)) == 3
    assert len(answer_to("x", top_k=1.0)) == 1
    assert [item["label"] for item in answer_to("x", threshold=0.3)] == ["b", "c"]
    assert answer_to(["x", "y"], threshold=0.6) == [[], [{"label": "a", "score": 0.7}]]
