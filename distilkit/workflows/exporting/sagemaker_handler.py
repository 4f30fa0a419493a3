"""Answer requests on SageMaker: the four functions that its inference toolkit calls.

A request is {"inputs": …, "parameters": {"top_k": …, "threshold": …}}. The inputs are a text, a pair as
{"text": …, "text_pair": …}, or a list of those; parameters may be left out. The answer is a list of
{"label", "score"} by descending score, or for a list of inputs such a list for each. A body of
application/jsonlines holds a request a line.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

JSON, JSON_LINES = "application/json", "application/jsonlines"
ROWS_AT_ONCE = 32  # padded to the longest of them
ITEM = 'a text, or {"text": …, "text_pair": …}'


def model_fn(model_dir: str) -> Any:
    """Load the model with the predict.py beside it."""
    spec = importlib.util.spec_from_file_location("predict", Path(model_dir) / "predict.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model(model_dir)


def input_fn(body: str | bytes, content_type: str) -> list[Any]:
    """Return the requests of a body: one, or with JSON Lines one a line."""
    if _media_type(content_type) == JSON_LINES:
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if _media_type(content_type) == JSON:
        return [json.loads(body)]
    raise ValueError(f"Content-Type {content_type}: send {JSON} or {JSON_LINES}.")


def predict_fn(requests: list[Any], model: Any) -> list[Any]:
    """Return the answer to each request."""
    return [_answer(request, model) for request in requests]


def output_fn(answers: list[Any], accept: str) -> str:
    """Return the answers as JSON: that of the only request, or with JSON Lines one a line."""
    lines = [json.dumps(answer, ensure_ascii=False) for answer in answers]
    if _media_type(accept) == JSON_LINES:
        return "".join(f"{line}\n" for line in lines)
    if _media_type(accept) not in (JSON, "*/*", ""):
        raise ValueError(f"Accept {accept}: {JSON} and {JSON_LINES} can be answered.")
    return lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"


def _media_type(header: str | None) -> str:
    return (header or "").partition(";")[0].strip().lower()


def _answer(request: Any, model: Any) -> Any:
    if not isinstance(request, dict) or not {"inputs"} <= request.keys() <= {"inputs", "parameters"}:
        raise ValueError('A request is {"inputs": …}, and may have "parameters".')
    inputs, parameters = request["inputs"], request.get("parameters") or {}
    if not isinstance(parameters, dict) or not parameters.keys() <= {"top_k", "threshold"}:
        raise ValueError("parameters may hold top_k and threshold.")
    top_k, threshold = parameters.get("top_k"), parameters.get("threshold") or 0
    if not (top_k is None or (type(top_k) is int and top_k > 0)) or type(threshold) not in (int, float):
        raise ValueError("top_k must be a whole number from 1, and threshold a number.")
    items = inputs if isinstance(inputs, list) else [inputs]
    if not items:
        raise ValueError("inputs is an empty list: send at least a text.")
    rows = [_read_item(item, bool(model.manifest["takes_pairs"])) for item in items]
    answers = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        for scores in model.predict(rows[start : start + ROWS_AT_ONCE]).tolist():
            order = sorted(range(len(scores)), key=lambda label: -scores[label])
            classes = [{"label": model.labels[label], "score": scores[label]} for label in order]
            answers.append([entry for entry in classes[:top_k] if entry["score"] >= threshold])
    return answers if isinstance(inputs, list) else answers[0]


def _read_item(item: Any, takes_pairs: bool) -> Any:
    """Return a text, or a tuple of two."""
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, dict) or not {"text"} <= item.keys() <= {"text", "text_pair"}:
        raise ValueError(f"inputs must be {ITEM}, or a list of those.")
    if not all(isinstance(text, str) for text in item.values()):
        raise ValueError(f"inputs must be {ITEM}, or a list of those.")
    if takes_pairs and "text_pair" not in item:
        raise ValueError('This model compares two texts: send {"text": …, "text_pair": …}.')
    return (item["text"], item["text_pair"]) if "text_pair" in item else item["text"]
